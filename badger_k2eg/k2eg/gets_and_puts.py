"""Reads and writes of PVs over a link: many at once, an outcome for each. Imports link, values and below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..core.deadline import Deadline
from ..core.errors import ControlError, KafkaError, OperationError, OperationTimeout, PvError
from .codec import Get, Message, Put, PvUri, Reply, ValueReply, check_uri, encode_put_value
from .link import Link, MakeCommand
from .pv_types import Known, TypeBook, put_fields

# The gateway's own timeout of a get or put: whether the put was sent to the PV, or is still to come, it does not say.
_GATEWAY_TIMEOUT = -3

Answer = tuple[Message, bytes] | OperationTimeout | KafkaError


class Calls:
    """Gets and puts. Outcomes are values here; the client raises them."""

    def __init__(self, link: Link) -> None:
        """Know no types yet."""
        self._link = link
        self.types = TypeBook()

    def get_many(self, uris: Sequence[str], deadline: Deadline) -> dict[str, Mapping[str, Any] | ControlError]:
        """Read PVs, all at once.

        :returns: for each its tree, or what went wrong.
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
        if isinstance(message, ValueReply):
            if message.pv != uri.name:
                return OperationError(0, f"answered with the value of {message.pv}", f"get of {uri.text}")
            self.types.learn(uri.name, message.tree, raw)
            return message.tree
        return _error(uri, "get", message)

    def put_many(self, values: Mapping[str, Any], deadline: Deadline) -> dict[str, ControlError | None]:
        """Write PVs, all at once, each once. The order of their writes is not defined.

        :returns: for each None, or what went wrong.
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
            answers[uri] = _put_answer(names[uri], answer)
        return {uri: answers[uri] for uri in values}

    def _known(self, names: Mapping[str, PvUri], deadline: Deadline, answers: dict[str, Any]) -> dict[str, Known]:
        """Find the types of PVs; those that have not been read yet are read now."""
        unread = [uri for uri, check in names.items() if self.types.known(check.name) is None]
        for uri, answer in self.get_many(unread, deadline).items():
            if isinstance(answer, OperationTimeout):
                answers[uri] = OperationTimeout(f"before the put: {answer}", answer.culprit, sent=False)
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


def _error(uri: PvUri, what: str, message: Message) -> ControlError:
    if not isinstance(message, Reply):
        return OperationError(0, f"answered with a {type(message).__name__}", f"{what} of {uri.text}")
    if message.error == _GATEWAY_TIMEOUT and "timeout" in (message.message or "").lower():
        words = f"{what} of {uri.text}: nobody serves it, or it does not answer"
        return OperationTimeout(f"{words} (gateway: {message.message})", "pv")
    return OperationError(message.error, message.message or "", f"{what} of {uri.text}")


def _put_answer(uri: PvUri, answer: Answer) -> ControlError | None:
    if isinstance(answer, Exception):
        return answer
    message = answer[0]
    if isinstance(message, Reply) and message.error == 0:
        return None
    error = _error(uri, "put", message)
    if isinstance(error, OperationError) and "cancelled" in error.message.lower():
        # The channel was lost under it: nobody knows what became of it.
        return OperationTimeout(str(error), "pv")
    return error
