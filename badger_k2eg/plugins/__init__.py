"""Badger's plugin root in an installed package: a wheel has ``interfaces/`` and ``environments/`` next to this file.

In a clone this folder holds nothing else: there the clone itself is the plugin root (``badger_k2eg.plugin_root``).
"""
