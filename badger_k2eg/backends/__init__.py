"""Ways to reach PVs, one module each; none imports another. ``open_backend`` finds one by its scheme.

Nothing heavy is imported until a backend is asked for: a listing of plugins stays fast and offline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backend import Backend


def open_backend(scheme: str) -> Backend:
    """Make the backend of a scheme. It opens nothing yet: that happens at its first use.

    :raises MissingExtra: when the package for it is not installed.
    """
    if scheme == "pva":
        from . import pva

        if pva.is_mocked():
            from .context import ContextBackend

            return ContextBackend(pva.Context("pva", useenv=True))
        return pva.PvaBackend()
    if scheme == "ca":
        from . import ca

        opened: Backend = ca.open_backend()
        return opened
    raise ValueError(f"no backend for {scheme!r}")


def identity(scheme: str) -> object:
    """Tell which client ``open_backend`` would open: interfaces with the same one share it.

    A mock in the place of p4p's ``Context`` is another client than p4p's own.
    """
    if scheme == "pva":
        from . import pva

        return scheme, id(pva.Context)
    return scheme
