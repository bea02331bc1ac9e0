"""The Kafka room: readers, writers, topics, and a broker for laptops and tests.

The only importer of confluent_kafka; knows no PV and no K2EG. Imports deadline, errors and fork.

::

    broker <- Reader       one thread, one consumer, explicit positions, no group
           <- GroupReader  one thread, one consumer, shares the records of a topic with the others of its group
           <- Writer       one producer; delivery reports in a thread of its own
           <- Topics       is there such a topic, make it, where does it end

Every wait is bounded, by a `Deadline` or by the options in `KafkaConnection`. What goes wrong is a `KafkaError`, which
names the broker or the topic. After a fork the parent goes on; in the child each of them is as newly made, and what it
inherited is never touched (a librdkafka handle in a forked child hangs when it is used or closed).
"""

from __future__ import annotations

from .connection import KafkaConnection
from .embedded import EmbeddedBroker
from .group_consumer import GroupReader
from .producer import Writer
from .reader import Reader
from .records import BrokerTrouble, Delivery, KafkaRecord, Start
from .topics import Created, Topics

__all__ = [
    "BrokerTrouble",
    "Created",
    "Delivery",
    "EmbeddedBroker",
    "GroupReader",
    "KafkaConnection",
    "KafkaRecord",
    "Reader",
    "Start",
    "Topics",
    "Writer",
]
