"""The K2EG client: PVs through a gateway that takes its commands from Kafka.

``environment``, ``codec`` (messages, without I/O) and ``client`` are public. Imports ``kafka`` and what lies below it.
"""
