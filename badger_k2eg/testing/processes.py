"""A supervised child process: start, wait for READY, kill, freeze, thaw, restart, and never an orphan.

Owns the life-cycle of every real part a test runs (IOC, PVAccess server, broker, gateway) and the two calls such a
part makes itself, `exit_with_parent` and `announce_ready`. Knows nothing of EPICS or Kafka; imports only the standard
library.

No thread is started here, so that tests may count threads and fork: the child writes to an anonymous file, which is
polled until the line READY appears.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READY = "READY"
"""The line by which a child says that it can be used."""

_POLL = 0.005
_LAST_OUTPUT = 8000
_ROOT = str(Path(__file__).parents[2])

_children: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class ChildFailed(RuntimeError):
    """A child process ended, or did not become ready in time; the message carries what it printed."""


class ChildProcess:
    """One child process that says READY when it can be used.

    The child is killed by `close`, at the exit of the interpreter, and, as long as it calls `exit_with_parent`, when
    its parent dies in any other way. A process forked from the owner has no power over the child: there every method
    that would signal it does nothing.

    :param arguments: what follows the Python interpreter, e.g. `["-m", "package.module", "X"]`.
    :param environment: the whole environment of the child.
    :param name: for error messages.
    :param ready_timeout: seconds to wait for READY, at the first start and at each restart.
    :param ready: the first word of the line by which it says so.
    :raises ChildFailed: if it ends first or the time is over.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        name: str = "child",
        ready_timeout: float = 60.0,
        ready: str = READY,
    ) -> None:
        """Start the child and wait until it is ready."""
        self._command = [sys.executable, *arguments]
        self._environment = None if environment is None else dict(environment)
        self._name = name
        self._ready_timeout = ready_timeout
        self._ready = ready
        self._owner = os.getpid()
        self._frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        #: Seconds from the start of the process to READY, of the last start.
        self.ready_after = 0.0
        self._start()

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self.alive and self._process else "not running"
        return f"<{type(self).__name__} {self._name}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id.

        :raises ChildFailed: once closed or killed.
        """
        if self._process is None:
            raise ChildFailed(f"{self._name} is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (a stopped one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """The last of what the child printed, standard output and error together."""
        if self._output is None or self._output.closed:
            return ""
        # pread leaves the offset, which the child shares, where it is.
        size = os.fstat(self._output.fileno()).st_size
        start = max(0, size - _LAST_OUTPUT)
        return os.pread(self._output.fileno(), size - start, start).decode(errors="replace")

    def kill(self) -> None:
        """End the child with SIGKILL and wait for its end; it can be restarted."""
        process = self._process
        if process is None or os.getpid() != self._owner:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None
        self._frozen = False

    def stop(self) -> None:
        """Freeze the child (SIGSTOP): its sockets stay open, nothing answers. Returns when it is frozen."""
        if os.getpid() != self._owner or self._frozen:
            return
        os.kill(self.pid, signal.SIGSTOP)
        # All its threads stand still only a moment later. To die in between would leave a stopped orphan: see _start.
        os.waitpid(self.pid, os.WUNTRACED)
        self._frozen = True

    def cont(self) -> None:
        """Let a frozen child go on (SIGCONT)."""
        if os.getpid() != self._owner:
            return
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def restart(self) -> None:
        """Kill the child and start it again with the same arguments; returns when it is ready."""
        self.kill()
        self._start()

    def close(self) -> None:
        """Kill the child and forget it. Idempotent."""
        if os.getpid() != self._owner:
            return
        self.kill()
        _children.discard(self)
        if self._output is not None:
            self._output.close()

    def _start(self) -> None:
        if self._output is not None:
            self._output.close()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the child)
        began = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._environment,
            # A group of its own, in our session: Ctrl-C at the terminal is ours alone, and a child that is *stopped*
            # when we die gets SIGHUP and SIGCONT from the kernel (POSIX: a newly orphaned group).
            process_group=0,
        )
        _children.add(self)
        try:
            self._wait_ready(began + self._ready_timeout)
        except BaseException:
            self.close()
            raise
        self.ready_after = time.monotonic() - began

    def _wait_ready(self, until: float) -> None:
        while True:
            # Asked before the output is read: an ended child has written all it ever will.
            ended = not self.alive
            if any(line.split(" ")[0] == self._ready for line in self.output.splitlines()):
                return
            if ended:
                code = self._process.returncode if self._process else None
                raise ChildFailed(f"{self._name} ended with code {code} before it was ready; it said:\n{self.output}")
            if time.monotonic() > until:
                raise ChildFailed(f"{self._name} was not ready in {self._ready_timeout} s; it said:\n{self.output}")
            time.sleep(_POLL)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Give the environment for a child: ours without any EPICS_* variable, plus these; it finds this package.

    :param extra: added last.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EPICS_")}
    path = os.pathsep.join(filter(None, [_ROOT, kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, **extra}


def exit_with_parent(directory: Path | None = None, *, whole_group: bool = False) -> None:
    """Called in the child: end the process as soon as its standard input closes, which is when its parent is gone.

    :param directory: removed then, as the parent no longer can.
    :param whole_group: end the children of this process as well.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        if whole_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


def announce_ready() -> None:
    """Called in the child: tell the parent that this part can be used."""
    print(READY, flush=True)


def skip_build_tools() -> None:
    """Called in the child, before softioc or p4p: keep setuptools_dso from importing setuptools, 0.1 s of start.

    Both need only `setuptools_dso.runtime`, but the package's `__init__` imports the whole build system.
    """
    name = "setuptools_dso"
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
    runtime = importlib.import_module(f"{name}.runtime")
    package.__dict__.update({key: value for key, value in vars(runtime).items() if not key.startswith("_")})


@atexit.register
def _kill_all() -> None:
    for child in list(_children):
        child.close()
