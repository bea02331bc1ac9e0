"""Coverage that lives through a fork, registered before anything of the package is loaded; and the rig of the suite.

What is registered first, comes first.
"""

from __future__ import annotations

import contextlib
import os
import threading

pytest_plugins = ["tests.rig.fixtures", "tests.rig.left_out", "tests.rig.parts", "tests.rig.sharing"]


def _renew_lock_of_coverage() -> None:
    """Open what a child may inherit locked: another thread of its parent was entering a line, and is not here."""
    with contextlib.suppress(ImportError):
        import coverage

        collector = getattr(coverage.Coverage.current(), "_collector", None)
        if getattr(collector, "data_lock", None) is not None:
            collector.data_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_of_coverage)
