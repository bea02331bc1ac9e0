"""The K2EG client: PVs through a gateway that takes its commands from Kafka.

::

    dml -> client -> monitors, snapshots -> gets_and_puts -> requests, pv_types -> environment, codec

``environment``, ``codec`` (messages, without I/O) and ``client`` are public. Imports ``kafka`` and ``core``.
"""
