"""The error of a PV that does not answer, in words that Badger's window knows. Imports badger.errors."""

from __future__ import annotations

from badger.errors import BadgerInterfaceChannelError

from ..core.errors import ReadError, ReadTimeout


class ChannelNotFound(ReadTimeout, BadgerInterfaceChannelError):
    """A PV does not answer. Also Badger's own error for that, by which its window tells the user in plain words."""


def in_badgers_words(error: ReadError) -> ReadError:
    """Make an error that Badger's window knows, where there is one for it."""
    if not isinstance(error, ReadTimeout):
        return error
    return ChannelNotFound(str(error), error.partial, error.errors).with_traceback(error.__traceback__)
