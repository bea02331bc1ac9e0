"""The development gateway: PVs of any backend for K2EG clients, over a Kafka command topic.

It speaks the wire of slaclab/k2eg by ``k2eg.codec`` and does not share its silent faults. Imports control, kafka and
the codec; no EPICS client of its own, no Kafka client of its own, nothing of Badger::

    core        Gateway: commands -> workers -> answers
    gets, puts  of single PVs, in K2EG's codes; access: how PVs are reached
    workers     threads for them
    monitors    PV -> topic
    snapshots   one-shot
    recurring   until stopped; iterations: the messages and their numbers
    clock       one thread for all that has its time
    publisher   the codec and a bounded queue to Kafka

Read-only unless its ``Control`` may write.
"""

from .gateway import COMMAND_PARTITIONS, GROUP, Gateway
from .snapshot_messages import Revision

__all__ = ["COMMAND_PARTITIONS", "GROUP", "Gateway", "Revision"]
