"""Ways to reach PVs, one module each; none imports another. ``open_backend`` finds one by its scheme, or the gateway.

Nothing heavy is imported until a backend is asked for: a listing of plugins stays fast and offline.
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

    :ivar folder: of the ini files; None for the usual ones (see ``k2eg.environment``).
    """

    environment: str
    app_name: str
    folder: str | None = None


#: A scheme, or the gateway that serves every scheme.
Way = str | ThroughK2eg


def open_backend(way: Way) -> Backend:
    """Make the backend of a way. It opens nothing yet: that happens at its first use.

    :raises MissingExtra: when the package for it is not installed.
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
    """Tell which client ``open_backend`` would open: interfaces with the same one share it.

    A mock in the place of p4p's ``Context`` is another client than p4p's own; and a client keeps the addresses that
    stood in the environment when it was opened, so that with others it is another one, too.
    """
    if isinstance(way, ThroughK2eg):
        from ..k2eg.environment import FOLDER_VARIABLE

        return way, os.environ.get(FOLDER_VARIABLE)
    if way == "pva":
        from . import pva

        return way, id(pva.Context), _addresses("EPICS_PVA_")
    return way, _addresses("EPICS_CA_")


def _addresses(prefix: str) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in os.environ.items() if name.startswith(prefix))
