"""A supervised child process: start, wait for READY, kill, freeze, thaw, restart, and never an orphan.

It is the life-cycle of every real part of a test (IOC, PVAccess server, broker, gateway); the part itself calls
`exit_with_parent` and `announce_ready`.

The parent starts no thread, so that tests may count threads and fork: the child writes to an anonymous file, which is
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
"""The line by which a child announces that it can be used."""

_POLL = 0.005
_LAST_OUTPUT = 8000
_ROOT = str(Path(__file__).parents[2])

_children: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class ChildFailed(RuntimeError):
    """A child process ended, or did not become ready in time; the message contains its output."""


class ChildProcess:
    """A child process that prints READY when it can be used.

    The child is killed by `close`, at the exit of the interpreter, and, as long as it calls `exit_with_parent`, when
    its parent ends in any other way. In a process forked from the owner every method that would signal the child does
    nothing.

    :param arguments: what follows the Python interpreter, e.g. `["-m", "package.module", "X"]`.
    :param environment: the whole environment of the child.
    :param name: for error messages.
    :param ready_timeout: seconds to wait for READY, at the first start and at each restart.
    :param ready: the first word of the line that announces it.
    :raises ChildFailed: if it ends before that, or the time is over.
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
        """True while the process runs, also while it is stopped."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """The last of what the child printed, standard output and error together."""
        if self._output is None or self._output.closed:
            return ""
        # pread does not move the offset, which the child shares.
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
        """Freeze the child (SIGSTOP): its sockets stay open, nothing answers. Return when it is frozen."""
        if os.getpid() != self._owner or self._frozen:
            return
        os.kill(self.pid, signal.SIGSTOP)
        # Its threads stop a moment later. If this process ended in between, a stopped orphan would remain: see _start.
        os.waitpid(self.pid, os.WUNTRACED)
        self._frozen = True

    def cont(self) -> None:
        """Continue a frozen child (SIGCONT)."""
        if os.getpid() != self._owner:
            return
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def restart(self) -> None:
        """Kill the child and start it again with the same arguments; return when it is ready."""
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
            # A group of its own, in this session: Ctrl-C at the terminal is for this process alone, and a child that is
            # *stopped* when this process ends gets SIGHUP and SIGCONT from the kernel (POSIX: an orphaned group).
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
            # Checked before the output is read: a child that has ended writes no more.
            ended = not self.alive
            if any(line.split(" ")[0] == self._ready for line in self.output.splitlines()):
                return
            if ended:
                code = self._process.returncode if self._process else None
                raise ChildFailed(
                    f"{self._name} ended with code {code} before it was ready; it printed:\n{self.output}"
                )
            if time.monotonic() > until:
                raise ChildFailed(f"{self._name} was not ready in {self._ready_timeout} s; it printed:\n{self.output}")
            time.sleep(_POLL)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a child: this process's without EPICS_* variables, plus these; it finds this package.

    :param extra: added last.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EPICS_")}
    path = os.pathsep.join(filter(None, [_ROOT, kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, **extra}


def exit_with_parent(directory: Path | None = None, *, whole_group: bool = False) -> None:
    """End this process, a child, when its standard input closes, which is when its parent has ended.

    :param directory: removed then, as the parent no longer can.
    :param whole_group: whether the children of this process end as well.
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
    """Tell the parent of this process, a child, that it can be used."""
    print(READY, flush=True)


def skip_build_tools() -> None:
    """Keep setuptools_dso from importing setuptools, which takes 0.1 s; called in a child, before softioc or p4p.

    Both need `setuptools_dso.runtime` alone, but the `__init__` of the package imports the whole build system.
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
