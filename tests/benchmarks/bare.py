"""The floor under a request over Kafka: a client of confluent-kafka alone, and a responder that only asks p4p.

Both are as lean as can be: nothing is batched or wrapped, no thread is started, and an answer is the values alone. Run
as `python -m tests.benchmarks.bare BOOTSTRAP TOPIC REPLY_TOPIC` the module is the responder.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.processes import ChildProcess, announce_ready, clean_environment, exit_with_parent

_PATIENCE = 10.0
_LEAN: Mapping[str, Any] = {"socket.nagle.disable": True}


class End:
    """Writes to one topic and reads another, of one partition, from now on."""

    def __init__(self, bootstrap: str, reads: str, writes: str) -> None:
        servers = {"bootstrap.servers": bootstrap, **_LEAN}
        self._writes = writes
        self._producer = Producer({**servers, "linger.ms": 0})
        self._consumer = Consumer({**servers, "group.id": "bare", "enable.auto.commit": False})
        _, end = self._consumer.get_watermark_offsets(TopicPartition(reads, 0), timeout=_PATIENCE)
        self._consumer.assign([TopicPartition(reads, 0, end)])

    def send(self, content: Any) -> None:
        self._producer.produce(self._writes, json.dumps(content))
        self._producer.poll(0)

    def receive(self, patience: float = _PATIENCE) -> Any:
        """Give what comes next, or None."""
        message = self._consumer.poll(patience)
        if message is None:
            return None
        assert message.error() is None, message.error()
        return json.loads(message.value())

    def close(self) -> None:
        self._consumer.close()


class Bare(End):
    """The client."""

    def ask(self, *requests: Sequence[str], how: str = "get") -> list[list[float]]:
        """Send requests all at once, each for some PVs, and wait for their answers."""
        for request in requests:
            self.send([how, *request])
        answers = [self.receive() for _ in requests]
        assert None not in answers, f"the bare responder has answered {len(answers) - answers.count(None)} requests"
        return answers


class BareResponder(ChildProcess):
    """The responder in a child process.

    :param epics: the EPICS_* variables with which it reaches the PVs.
    """

    topic, reply_topic = "bare-requests", "bare-replies"

    def __init__(self, broker: Broker, epics: Mapping[str, str]) -> None:
        for topic in (self.topic, self.reply_topic):
            broker.create_topic(topic)
        self._bootstrap = broker.bootstrap
        super().__init__(
            ["-m", __name__, broker.bootstrap, self.topic, self.reply_topic],
            environment=clean_environment(epics),
            name="bare responder",
        )

    def client(self) -> Bare:
        return Bare(self._bootstrap, self.reply_topic, self.topic)


def main() -> None:
    """Answer until the parent is gone."""
    from p4p.client.thread import Context

    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "reply_topic"):
        parser.add_argument(name)
    options = parser.parse_args()
    exit_with_parent()
    end = End(options.bootstrap, options.topic, options.reply_topic)
    context = Context("pva")

    def first(pv: str) -> float:
        heard = threading.Event()
        values: list[float] = []
        with context.monitor(pv, lambda value: (values.append(float(value)), heard.set())):
            assert heard.wait(_PATIENCE), pv
        return values[0]

    announce_ready()
    while True:
        if (request := end.receive(1.0)) is None:
            continue
        how, *pvs = request
        if how == "monitor":
            end.send([first(pv) for pv in pvs])
        else:
            end.send([float(value) for value in context.get(pvs, timeout=_PATIENCE)])


if __name__ == "__main__":
    main()
