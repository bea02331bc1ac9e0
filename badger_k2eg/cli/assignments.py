"""``--set NAME=VALUE``: how the parameters of an environment are said on the command line."""

from __future__ import annotations

from collections.abc import Sequence

import click


def assignments(context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    """Read the words of an option that may be repeated.

    :raises click.BadParameter: for one that is not NAME=VALUE.
    """
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", context, parameter)
        pairs[name.strip()] = value.strip()
    return pairs
