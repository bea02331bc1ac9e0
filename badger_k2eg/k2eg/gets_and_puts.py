"""Gets and puts through a gateway: many PVs at once, an outcome for each. Imports requests and pv_types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..core.deadline import Deadline
from ..core.errors import ControlError, KafkaError, OperationError, OperationTimeout, PvError
from .codec import Get, Message, Put, PvUri, Reply, ValueReply, check_uri, encode_put_value
from .pv_types import Known, TypeBook, put_fields
from .requests import Link, MakeCommand

# A gateway answers this when the PV has not answered it. Whether a put had been sent by then, it does not say. It also
# answers this to a put whose value is not a map; the values sent here always are.
_GATEWAY_TIMEOUT = -3

Answer = tuple[Message, bytes] | OperationTimeout | KafkaError


class GetsAndPuts:
    """Gets and puts over a link. Errors are values here; the client raises them."""

    def __init__(self, link: Link) -> None:
        """Know no PV types yet."""
        self._link = link
        self.types = TypeBook()

    def get_many(self, uris: Sequence[str], deadline: Deadline) -> dict[str, Mapping[str, Any] | ControlError]:
        """Read PVs at the same time.

        :returns: the tree of each PV, or its error.
        """
        answers: dict[str, Any] = {}
        names = {uri: check for uri in uris if (check := _checked(uri, answers)) is not None}
        commands = {uri: (partial(Get, pv_name=uri), f"get of {uri}") for uri in names}
        for uri, answer in self._link.exchange(commands, deadline).items():
            answers[uri] = self._value(names[uri], answer)
        return {uri: answers[uri] for uri in uris}

    def _value(self, uri: PvUri, answer: Answer) -> Mapping[str, Any] | ControlError:
        if isinstance(answer, Exception):
            return answer
        message, raw = answer
        what = f"get of {uri.text}"
        if not isinstance(message, ValueReply):
            return _error(what, message)
        if message.pv != uri.name:
            return OperationError(0, f"answered with the value of {message.pv}", what)
        self.types.learn(uri.name, message.tree, raw)
        return message.tree

    def put_many(self, values: Mapping[str, Any], deadline: Deadline) -> dict[str, ControlError | None]:
        """Write PVs at the same time, each once, in no defined order.

        :returns: for each PV None, or its error.
        """
        answers: dict[str, Any] = {}
        names = {uri: check for uri in values if (check := _checked(uri, answers)) is not None}
        commands: dict[str, tuple[MakeCommand, str]] = {}
        for uri, known in self._known(names, deadline, answers).items():
            try:
                packed = encode_put_value(put_fields(uri, values[uri], known))
            except PvError as error:
                answers[uri] = error
            else:
                commands[uri] = (partial(Put, pv_name=uri, value=packed), f"put to {uri}")
        for uri, answer in self._link.exchange(commands, deadline).items():
            answers[uri] = _put_answer(uri, answer)
        return {uri: answers[uri] for uri in values}

    def _known(self, names: Mapping[str, PvUri], deadline: Deadline, answers: dict[str, Any]) -> dict[str, Known]:
        """Return the types of PVs, reading those that are not known yet."""
        unread = [uri for uri, check in names.items() if self.types.known(check.name) is None]
        for uri, answer in self.get_many(unread, deadline).items():
            if isinstance(answer, OperationTimeout):
                answers[uri] = OperationTimeout(str(answer), answer.culprit, sent=False, what="before the put")
            elif isinstance(answer, ControlError):
                answers[uri] = answer
        known = {uri: self.types.known(check.name) for uri, check in names.items() if uri not in answers}
        return {uri: what for uri, what in known.items() if what is not None}


def _checked(uri: str, answers: dict[str, Any]) -> PvUri | None:
    try:
        return check_uri(uri)
    except PvError as error:
        answers[uri] = error
        return None


def _put_answer(uri: str, answer: Answer) -> ControlError | None:
    if isinstance(answer, Exception):
        return answer
    message = answer[0]
    if isinstance(message, Reply):
        if message.error == 0:
            return None
        if message.is_cancellation:
            # The channel was lost while the put was under way: what became of it is unknown.
            return OperationTimeout(f"{message.message} (error {message.error})", "pv", what=f"put to {uri}")
    return _error(f"put to {uri}", message)


def _error(what: str, message: Message) -> ControlError:
    if not isinstance(message, Reply):
        return OperationError(0, f"answered with a {type(message).__name__}", what)
    if message.error == _GATEWAY_TIMEOUT:
        words = f" (gateway: {message.message})" if message.message else ""
        return OperationTimeout(f"nobody serves it, or it does not answer{words}", "pv", what=what)
    return OperationError(message.error, message.message or "", what)
