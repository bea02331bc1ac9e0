"""Real parts for tests: IOCs, Kafka brokers, K2EG gateways, a virtual clock, and the pytest plugin that starts them.

The parts are imported by their module (`badger_k2eg.testing.soft_ioc`, ...).
"""
