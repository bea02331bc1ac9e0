"""Backends, the ways to reach PVs; none imports another. ``open_backend`` opens one by its scheme, or the gateway's.

Heavy packages are imported only when a backend is opened, so that listing plugins is fast and offline.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.backend import Backend


@dataclass(frozen=True, slots=True)
class ThroughK2eg:
    """PVs of every scheme, through the K2EG gateways of an environment.

    :ivar folder: the folder of the ini files; None for the default (see ``k2eg.environment``).
    """

    environment: str
    app_name: str
    folder: str | None = None


#: A scheme, or the gateway that serves every scheme.
Way = str | ThroughK2eg


def open_backend(way: Way) -> Backend:
    """Return the backend of a way. It connects at its first use.

    :raises MissingExtra: when its package is not installed.
    :raises SettingsError: for a K2EG environment that cannot be read.
    """
    if isinstance(way, ThroughK2eg):
        from ..k2eg.client import K2egClient
        from .k2eg import K2egBackend

        return K2egBackend(K2egClient(way.environment, way.app_name, folder=way.folder))
    scheme = way
    if scheme == "pva":
        from . import pva

        if pva.is_mocked():
            from .foreign_context import ContextBackend

            return ContextBackend(pva.Context("pva", useenv=True))
        return pva.PvaBackend()
    if scheme == "ca":
        from . import ca

        opened: Backend = ca.open_backend()
        return opened
    raise ValueError(f"no backend for {scheme!r}")


def identity(way: Way) -> Hashable:
    """Return a key for the client that ``open_backend`` would open: interfaces with the same key share a client.

    A mock in place of p4p's ``Context`` has another key than p4p's own. So has another set of EPICS addresses in the
    environment, as a client keeps those with which it was opened.
    """
    if isinstance(way, ThroughK2eg):
        from ..k2eg.environment import FOLDER_VARIABLE

        return way, os.environ.get(FOLDER_VARIABLE)
    if way == "pva":
        from . import pva

        return way, id(pva.Context), _addresses("EPICS_PVA_")
    return way, _addresses("EPICS_CA_")


def _addresses(prefix: str) -> frozenset[tuple[str, str]]:
    """Return the EPICS settings in the environment that a client reads when it is opened."""
    return frozenset((name, value) for name, value in os.environ.items() if name.startswith(prefix))
