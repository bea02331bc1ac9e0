"""Real parts for tests: an IOC, a server with faults, and the pytest plugin that starts them.

Owns nothing itself. The parts are imported by their module (`badger_k2eg.testing.soft_ioc`, ...); nothing beyond the
standard library is imported before a part is started.
"""
