"""Readers, producers and topics on Kafka, and a broker for laptops and tests.

The only importer of confluent_kafka; knows nothing of PVs or K2EG.

::

    broker <- TopicReader    one consumer: chosen topics from explicit positions, no group
           <- GroupConsumer  one consumer: shares the records of a topic with the other members of its group
           <- Producer       writes records; reports each delivery in a thread of its own
           <- Topics         looks up topics and their ends, creates and deletes them

One thread owns each consumer and is the only one that touches it. Every wait is bounded, by a `Deadline` or by the
options in `KafkaConnection`. Every failure is a `KafkaError` that names the broker or the topic. A fork leaves the
parent's handles as they are; in the child each object starts without one, and an inherited handle is never touched (a
librdkafka handle in a forked child hangs when it is used or closed).
"""

from __future__ import annotations

from .connection import KafkaConnection
from .embedded import EmbeddedBroker
from .group_consumer import GroupConsumer
from .producer import Producer
from .reader import TopicReader
from .records import BrokerTrouble, Delivery, KafkaRecord, Start
from .topics import Created, Topics

__all__ = [
    "BrokerTrouble",
    "Created",
    "Delivery",
    "EmbeddedBroker",
    "GroupConsumer",
    "KafkaConnection",
    "KafkaRecord",
    "Producer",
    "Start",
    "TopicReader",
    "Topics",
]
