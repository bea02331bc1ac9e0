"""The development gateway: PVs of any backend for K2EG clients, over a Kafka command topic.

It speaks the wire of slaclab/k2eg by ``k2eg.codec`` without that gateway's silent faults. Imports control, kafka and
the codec; no EPICS or Kafka client library, and nothing of Badger::

    gateway               Gateway: commands -> pool -> answers
    gets, puts            commands for single PVs, with K2EG's error codes
    pv_access             addresses, updates and error codes of PVs
    command_pool          the threads for commands
    monitors              PV -> topic
    one_shot_snapshots    a value of each PV within a window
    recurring_snapshots   iterations until stopped
    snapshot_messages     the messages of an iteration and their numbers
    scheduler             one thread for everything that is due at a time
    publisher             the codec and a bounded queue to Kafka

Read-only unless its ``Control`` may write.
"""

from .gateway import COMMAND_PARTITIONS, GROUP, Gateway
from .snapshot_messages import Revision

__all__ = ["COMMAND_PARTITIONS", "GROUP", "Gateway", "Revision"]
