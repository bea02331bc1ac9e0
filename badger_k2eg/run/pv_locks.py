"""``lock``: one writer for each PV among the processes of this host.

A lock is a file in a directory that the users of the host share; the kernel frees it when its owner dies, however that
happens. There is one registry in each process: threads share the locks that it holds, and each take is counted. A
forked child holds nothing; its parent keeps everything. The only importer of filelock; independent of runs and of
control systems.
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
#: Seconds before a refusal, at least: a process that looks at a lock holds it for an instant.
_GRACE = 0.03
_LONGEST_FILE_NAME = 200
_LOST = "its lock was taken away (badger-k2eg unlock --force): another process may set it"


class LockSettings(BaseModel):
    """Options of the locks: ``BADGER_K2EG_LOCK_DIR``, or ``lock_dir`` in the ini file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Not the directory of ``tempfile``, which may be different for each user.
    dir: Path = Path("/tmp/badger-k2eg-locks")


@dataclass(slots=True)
class _Held:
    """A lock that this process holds.

    :ivar inode: device and inode of its file, by which its removal is noticed.
    :ivar count: how often it was taken.
    """

    file: filelock.FileLock
    owner: Owner
    inode: tuple[int, int]
    count: int = 0


class Locks:
    """The locks that this process holds in one directory.

    :param directory: created at the first lock, for every user of the host.
    """

    def __init__(self, directory: Path) -> None:
        """Keep the directory; it is not created yet."""
        self.directory = directory
        self._held: dict[str, _Held] = {}
        self._lock = fork.Lock()
        fork.register(self)

    def take(
        self, pvs: Iterable[str], timeout: float = 0.0, *, run: str = "", deadline: Deadline | None = None
    ) -> None:
        """Lock all of these PVs, or none; each take needs a ``give``.

        :param timeout: seconds to wait for another process that holds one of them; 0 does not wait, -1 waits for ever.
        :param run: told to those who are refused.
        :param deadline: ends the wait earlier.
        :raises LockRefused: (a TimeoutError) naming the PV and the owner of its lock.
        :raises SettingsError: when the directory cannot be used.
        :raises CallCancelled: when the deadline was cancelled.
        """
        names = _names(pvs)
        patience = (deadline or Deadline()).child(timeout if timeout == -1 else max(timeout, _GRACE))
        while (refused := self._try(names, run)) is not None:
            patience.check("locking")
            if patience.expired:
                owner = self.owner(refused)
                who = owner or "another process, which has just released it"
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
    def holding(self, pvs: Iterable[str], timeout: float = 0.0) -> Iterator[None]:
        """Hold the locks of these PVs while the context is open.

        :param timeout: as for ``take``, which also tells what is raised.
        """
        names = list(pvs)
        self.take(names, timeout)
        try:
            yield
        finally:
            self.give(names)

    def claim(self, run: str = "") -> Claim:
        """Return a claim, which holds no lock yet.

        :param run: told to those who are refused.
        """
        return Claim(self, run)

    def _try(self, names: list[str], run: str) -> str | None:
        """Lock all or none.

        :returns: the PV that another process has locked, if there is one.
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
        """Lock one PV, and write the owner into the file; return None when another process has it."""
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
                "set BADGER_K2EG_LOCK_DIR to another directory"
            ) from None
        return _Held(file, owner, (about.st_dev, about.st_ino))

    def _make_directory(self) -> None:
        """Create the directory, for every user of the host."""
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            # For every user of the host, whatever the umask. Without permission, another user has created it.
            with contextlib.suppress(PermissionError):
                self.directory.chmod(0o777)

    def _free(self, name: str) -> None:
        """Release a lock, and empty its file unless that has become another's."""
        held = self._held.pop(name)
        if not self._taken_away(name, held):
            with contextlib.suppress(OSError):
                os.truncate(self.path(name), 0)
        held.file.release(force=True)

    def _taken_away(self, name: str, held: _Held) -> bool:
        """Return whether the file of a lock was removed or replaced."""
        try:
            about = os.stat(self.path(name))
        except FileNotFoundError:
            return True
        return (about.st_dev, about.st_ino) != held.inode

    def lost(self, pvs: Iterable[str]) -> list[str]:
        """Return those of the PVs that this process has locked and that were unlocked by force."""
        with self._lock:
            return [n for n in _names(pvs) if (held := self._held.get(n)) is not None and self._taken_away(n, held)]

    def owner(self, pv: str) -> Owner | None:
        """Return the owner of the lock of a PV; None when it is free, also after its owner has died."""
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
        """Remove the lock of a PV, whoever holds it; its owner notices at its next set.

        :returns: the owner; None when it was free.
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
        """Return every PV of the directory that is locked, with its owner."""
        found = {}
        for path in sorted(self.directory.glob("*.lock")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                name = str(json.loads(path.read_text(encoding="utf-8"))["pv"])
                if (owner := self.owner(name)) is not None:
                    found[name] = owner
        return found

    def left_behind(self) -> dict[str, Owner]:
        """Return every PV whose owner died without releasing its lock, with that owner; the PV is free."""
        found = {}
        for path in sorted(self.directory.glob("*.lock")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                text = path.read_text(encoding="utf-8")
                name = str(json.loads(text)["pv"])
                if self.owner(name) is None:
                    found[name] = _read(text)
        return found

    def path(self, name: str) -> Path:
        """Return the lock file of a PV."""
        text = quote(name, safe=":")
        if len(text) > _LONGEST_FILE_NAME:
            text = hashlib.sha256(name.encode()).hexdigest()
        return self.directory / f"{text}.lock"

    def before_fork(self) -> None:
        """Do nothing: the lock around the registry prepares itself for the fork."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: the parent keeps its locks."""

    def after_fork_in_child(self) -> None:
        """Forget the locks, which stay with the parent (filelock closes the copies of its files)."""
        self._held = {}


class Claim:
    """The locks that one writer holds: for a call, or a run from its first set to its end. A context manager.

    One thread at a time may use it.
    """

    def __init__(self, registry: Locks, run: str) -> None:
        """Keep the registry; nothing is locked yet."""
        self._registry = registry
        self._run = run
        self._names: list[str] = []

    def add(self, addresses: Iterable[PvAddress], *, force: bool = False) -> dict[PvAddress, str]:
        """Lock more PVs, those that are called by an alias by both names: all of them, or none.

        :param force: whether to lock all the same those that can be locked, when others cannot.
        :returns: the PVs that may not be written, and why.
        :raises SettingsError: when the directory of the locks cannot be used.
        """
        wanted = sorted(dict.fromkeys(addresses), key=lambda address: address.own_name)
        lost = set(self._registry.lost(name for address in wanted for name in address.names))
        refused = {address: _LOST for address in wanted if lost.intersection(address.names)}
        before = len(self._names)
        try:
            for address in wanted if force or not refused else ():
                new = [name for name in address.names if name not in self._names]
                if address in refused or not new:
                    continue
                try:
                    self._registry.take(new, run=self._run)
                except LockRefused as error:
                    refused[address] = str(error)
                else:
                    self._names += new
        except BaseException:
            self._give_since(before)
            raise
        if refused and not force:
            self._give_since(before)
        return refused

    def _give_since(self, count: int) -> None:
        """Release all locks but the first ``count``."""
        self._registry.give(self._names[count:])
        del self._names[count:]

    def close(self) -> None:
        """Release all locks."""
        self._give_since(0)

    def __enter__(self) -> Claim:
        """Return the claim itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release all locks."""
        self.close()


def _names(pvs: Iterable[str]) -> list[str]:
    """Return the PVs' own names, sorted: two that lock in the same order never wait for each other."""
    return sorted({PvAddress.parse(pv).own_name for pv in pvs})


def _read(text: str) -> Owner:
    """Return the owner that a lock file names."""
    try:
        told = json.loads(text)
        return Owner(**{key: told[key] for key in ("user", "host", "pid", "run", "since")})
    except (ValueError, TypeError, KeyError):
        # It holds the lock, and has not written its name yet.
        return Owner(since=clock.time())


_registries: dict[Path, Locks] = {}


def locks(directory: Path | None = None) -> Locks:
    """Return the registry of this process.

    :param directory: by default that of the settings.
    """
    directory = directory or family("lock_", LockSettings).dir
    if directory not in _registries:
        _registries.setdefault(directory, Locks(directory))
    return _registries[directory]


def lock(pvs: Iterable[str] | str, timeout: float = 0.0) -> contextlib.AbstractContextManager[None]:
    """Hold the sole permission to write these PVs while the context is open.

    ::

        with lock(["QUAD:1:BCTRL", "QUAD:2:BCTRL"], timeout=5):
            ...

    Every process can still read them; a set by another process of this host is BLOCKED. All are locked, or none.

    :param timeout: seconds to wait for another process that holds one of them; 0 does not wait, -1 waits for ever.
    :raises LockRefused: (a TimeoutError) naming the owner, its host and its run.
    """
    return locks().holding([pvs] if isinstance(pvs, str) else pvs, timeout)


def locked_by(pvs: Iterable[str] | str) -> str:
    """Return the owner of the lock of one of these PVs, the first that is locked; '' when all are free."""
    registry = locks()
    owners = (registry.owner(pv) for pv in ([pvs] if isinstance(pvs, str) else pvs))
    return next((str(owner) for owner in owners if owner is not None), "")
