"""``lock``: one writer for each PV among the processes of this host.

A lock is a file in a directory that the users of the host share; the kernel frees it when its owner dies, however that
happens. One registry in each process: threads share what it holds, and each take is counted. A forked child holds
nothing; its parent keeps everything. Imports filelock; knows no run and no control system.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import filelock
from pydantic import BaseModel, ConfigDict

from ..core import clock, fork, futures
from ..core.deadline import Deadline
from ..core.errors import ControlError, LockRefused, SettingsError
from ..core.model import PvAddress
from ..core.owner import Owner, this_owner
from ..core.settings import family

#: Seconds between two tries while another has a lock.
_POLL = 0.05
#: Seconds that a refusal takes at least: whoever looks at a lock holds it for an instant.
_GRACE = 0.03
_LONGEST_FILE_NAME = 200


class LockSettings(BaseModel):
    """Options of the locks: ``BADGER_K2EG_LOCK_DIR``, or ``lock_dir`` in the ini file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Not that of ``tempfile``, which may be each user's own.
    dir: Path = Path("/tmp/badger-k2eg-locks")


@dataclass(slots=True)
class _Held:
    file: filelock.FileLock
    owner: Owner
    inode: tuple[int, int]
    count: int = 0


class Locks:
    """The locks that this process holds in one directory.

    :param directory: made at the first lock, for every user of the host.
    """

    def __init__(self, directory: Path) -> None:
        """Hold nothing yet, and make nothing."""
        self.directory = directory
        self._held: dict[str, _Held] = {}
        self._lock = fork.Lock()
        fork.register(self)

    def take(
        self, pvs: Iterable[str], timeout: float = 0.0, *, run: str = "", deadline: Deadline | None = None
    ) -> None:
        """Lock all of these PVs, or none; each take needs a ``give``.

        :param timeout: seconds to wait for whoever has one of them; 0 does not wait, -1 waits for ever.
        :param run: for the information of those who are refused.
        :param deadline: ends the wait earlier.
        :raises LockRefused: (a TimeoutError) naming the owner.
        :raises SettingsError: when the directory cannot be used.
        :raises CallCancelled: when the deadline was cancelled.
        """
        names = _names(pvs)
        patience = (deadline or Deadline()).child(timeout if timeout == -1 else max(timeout, _GRACE))
        while (refused := self._try(names, run)) is not None:
            patience.check("locking")
            if patience.expired:
                owner = self.owner(refused)
                who = owner or "somebody, who has just let go of it"
                raise LockRefused(f"{refused} is locked by {who}", refused)
            futures.sleep(min(_POLL, patience.remaining()), patience)

    def give(self, pvs: Iterable[str]) -> None:
        """Undo one take."""
        with self._lock:
            for name in _names(pvs):
                if (held := self._held.get(name)) is None:
                    continue
                held.count -= 1
                if held.count <= 0:
                    self._free(name)

    @contextlib.contextmanager
    def holding(
        self, pvs: Iterable[str], timeout: float = 0.0, *, run: str = "", deadline: Deadline | None = None
    ) -> Iterator[None]:
        """Hold the locks of these PVs; as ``take``."""
        names = list(pvs)
        self.take(names, timeout, run=run, deadline=deadline)
        try:
            yield
        finally:
            self.give(names)

    def _try(self, names: list[str], run: str) -> str | None:
        """Lock all or none.

        :returns: the one that another process has.
        """
        taken: list[str] = []
        with self._lock:
            for name in names:
                if name not in self._held:
                    if (held := self._locked(name, run)) is None:
                        for other in taken:
                            self._free(other)
                        return name
                    self._held[name] = held
                    taken.append(name)
            for name in names:
                self._held[name].count += 1
        return None

    def _locked(self, name: str, run: str) -> _Held | None:
        path = self.path(name)
        owner = this_owner(run)
        try:
            self._make_directory()
            # Not of one thread: the run may be ended by another one than began it.
            file = filelock.FileLock(path, mode=0o666, thread_local=False)
            file.acquire(blocking=False)
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
            try:
                os.write(descriptor, json.dumps({"pv": name, **asdict(owner)}).encode())
                about = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except filelock.Timeout:
            return None
        except OSError as error:
            raise SettingsError(
                f"option lock_dir: locks cannot be kept in {self.directory}: {error.strerror or error}; "
                "name another folder by BADGER_K2EG_LOCK_DIR"
            ) from None
        return _Held(file, owner, (about.st_dev, about.st_ino))

    def _make_directory(self) -> None:
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            # For every user of the host, whatever the umask; who cannot change it has not made it.
            with contextlib.suppress(PermissionError):
                self.directory.chmod(0o777)

    def _free(self, name: str) -> None:
        held = self._held.pop(name)
        if not self._taken_away(name, held):
            with contextlib.suppress(OSError):
                os.truncate(self.path(name), 0)
        held.file.release(force=True)

    def _taken_away(self, name: str, held: _Held) -> bool:
        try:
            about = os.stat(self.path(name))
        except FileNotFoundError:
            return True
        return (about.st_dev, about.st_ino) != held.inode

    def lost(self, pvs: Iterable[str]) -> list[str]:
        """Name those that this process held and that somebody has unlocked by force."""
        with self._lock:
            return [n for n in _names(pvs) if (held := self._held.get(n)) is not None and self._taken_away(n, held)]

    def owner(self, pv: str) -> Owner | None:
        """Tell who has locked a PV; None when it is free, also after its owner has died."""
        (name,) = _names([pv])
        with self._lock:
            if (held := self._held.get(name)) is not None:
                return held.owner
            path = self.path(name)
            try:
                text = path.read_text(encoding="utf-8")
                probe = filelock.FileLock(path, mode=0o666, thread_local=False)
                probe.acquire(blocking=False)
                probe.release()
            except FileNotFoundError:
                return None
            except (filelock.Timeout, PermissionError):
                return _read(text)
        return None

    def unlock(self, pv: str) -> Owner | None:
        """Take a PV's lock away from whoever has it; its owner finds out at its next set.

        :returns: who had it; None when it was free.
        :raises ControlError: when that is not allowed.
        """
        owner = self.owner(pv)
        if owner is not None:
            (name,) = _names([pv])
            try:
                self.path(name).unlink(missing_ok=True)
            except OSError as error:
                raise ControlError(f"{name}: the lock of {owner} cannot be removed: {error.strerror}") from None
        return owner

    def locked(self) -> dict[str, Owner]:
        """List every PV of the directory that is locked, with its owner."""
        found = {}
        for path in sorted(self.directory.glob("*.lock")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                name = str(json.loads(path.read_text(encoding="utf-8"))["pv"])
                if (owner := self.owner(name)) is not None:
                    found[name] = owner
        return found

    def left_behind(self) -> dict[str, Owner]:
        """List every PV of the directory whose owner died without letting go, with that owner. It is free."""
        found = {}
        for path in sorted(self.directory.glob("*.lock")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                text = path.read_text(encoding="utf-8")
                name = str(json.loads(text)["pv"])
                if self.owner(name) is None:
                    found[name] = _read(text)
        return found

    def path(self, name: str) -> Path:
        """Give the file that stands for a PV."""
        text = quote(name, safe=":")
        if len(text) > _LONGEST_FILE_NAME:
            text = hashlib.sha256(name.encode()).hexdigest()
        return self.directory / f"{text}.lock"

    def before_fork(self) -> None:
        """Do nothing: the lock around the registry is prepared by itself."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: the parent keeps its locks."""

    def after_fork_in_child(self) -> None:
        """Hold nothing; the parent's locks stay locked (filelock closes the copies of its files)."""
        self._held = {}


def _names(pvs: Iterable[str]) -> list[str]:
    """Give the PVs' own names, sorted: two who lock in the same order never wait for each other."""
    return sorted({PvAddress.parse(pv).own_name for pv in pvs})


def _read(text: str) -> Owner:
    try:
        told = json.loads(text)
        return Owner(**{key: told[key] for key in ("user", "host", "pid", "run", "since")})
    except (ValueError, TypeError, KeyError):
        # It has the lock, and has not yet written who it is.
        return Owner(since=clock.time())


_registries: dict[Path, Locks] = {}


def locks(directory: Path | None = None) -> Locks:
    """Give this process's registry.

    :param directory: by default that of the settings.
    """
    directory = directory or family("lock_", LockSettings).dir
    if directory not in _registries:
        _registries.setdefault(directory, Locks(directory))
    return _registries[directory]


def lock(pvs: Iterable[str] | str, timeout: float = 0.0) -> contextlib.AbstractContextManager[None]:
    """Hold the only right to write these PVs.

    ::

        with lock(["QUAD:1:BCTRL", "QUAD:2:BCTRL"], timeout=5):
            ...

    Everybody can still read them; a set by another process of this host is BLOCKED. All are locked, or none.

    :param timeout: seconds to wait for whoever has one; 0 does not wait, -1 waits for ever.
    :raises LockRefused: (a TimeoutError) naming the owner, its host and its run.
    """
    return locks().holding([pvs] if isinstance(pvs, str) else pvs, timeout)


def locked_by(pvs: Iterable[str] | str) -> str:
    """Tell who has locked one of these PVs: the first owner, or '' when all are free."""
    registry = locks()
    owners = (registry.owner(pv) for pv in ([pvs] if isinstance(pvs, str) else pvs))
    return next((str(owner) for owner in owners if owner is not None), "")
