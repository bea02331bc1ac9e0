"""Badger's missing half: reach EPICS PVs over PVAccess, Channel Access or K2EG, and say truthfully what happened.

This file owns the version and nothing else: ``import badger_k2eg`` stays cheap, every room is imported by its own name.
"""

__version__ = "0.1.0"
