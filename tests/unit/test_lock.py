"""One writer for each PV among the processes of this host, whoever dies and whoever forks."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import PvAddress
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import CallCancelled, LockRefused, SetpointBlocked, SettingsError
from badger_k2eg.journal import Journal
from badger_k2eg.run.pv_locks import Locks, lock, locked_by, locks
from badger_k2eg.testing.virtual_clock import VirtualClock

HOLDER = """
import sys, time
from pathlib import Path
from badger_k2eg.run.pv_locks import Locks
held = Locks(Path(sys.argv[1]))
held.take(sys.argv[2:], run="their-run")
print("READY", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@contextmanager
def another_process(folder: Path, *pvs: str) -> Iterator[subprocess.Popen[str]]:
    """A process of somebody else's that holds locks."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *pvs], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def in_fork(work: Callable[[], bool]) -> bool:
    """Whether the work says yes in a forked child."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def is_refused(registry: Locks, pv: str) -> bool:
    try:
        registry.take([pv])
    except LockRefused:
        return True
    return False


def test_a_refusal_names_owner_host_and_run(folder: Path) -> None:
    ours = Locks(folder)
    with another_process(folder, "QUAD:1", "QUAD:2") as other:
        began = clock.monotonic()
        with pytest.raises(LockRefused) as caught:
            ours.take(["QUAD:1"])
        assert clock.monotonic() - began < 2
        assert isinstance(caught.value, TimeoutError)
        for word in ("QUAD:1", str(other.pid), "their-run", os.uname().nodename):
            assert word in str(caught.value)
        assert "their-run" in str(ours.owner("QUAD:2"))
        # The value of a record is the same PV by every name of it.
        assert ours.owner("pva://QUAD:1.VAL") == ours.owner("QUAD:1")


def test_all_or_none(folder: Path) -> None:
    ours = Locks(folder)
    with another_process(folder, "B"):
        with pytest.raises(LockRefused, match="^B is locked by"):
            ours.take(["A", "B", "C"])
        assert (ours.owner("A"), ours.owner("C")) == (None, None)


@pytest.mark.parametrize("order", [["QUAD:1", "QUAD:10"], ["QUAD:10", "QUAD:1"]], ids="+".join)
def test_the_pv_that_is_locked_is_blamed_and_no_other(order: list[str], journal: Journal) -> None:
    """Its name may be the beginning of another's."""
    control = Control(MemoryBackend(dict.fromkeys(order, 0.0)), Settings())
    run.Attachment().attach(control)
    with another_process(locks().directory, "QUAD:10"):
        with pytest.raises(LockRefused) as refused:
            locks().take(order)
        assert refused.value.pv == "QUAD:10"
        assert pickle.loads(pickle.dumps(refused.value)).pv == "QUAD:10"
        with pytest.raises(SetpointBlocked) as caught:
            control.set(dict.fromkeys(order, 1.0))
        report = caught.value.report
        assert report["QUAD:10"].message.startswith("QUAD:10 is locked by")
        assert report["QUAD:1"].message == "not sent, because another setpoint of the call was refused"
    assert control.set(dict.fromkeys(order, 1.0)).ok
    run.end()


def test_free_when_the_owner_is_killed(folder: Path) -> None:
    ours = Locks(folder)
    with another_process(folder, "A") as other:
        assert is_refused(ours, "A")
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert ours.owner("A") is None
        ours.take(["A"])
    ours.give(["A"])


def test_waiting_for_it(folder: Path, virtual_clock: VirtualClock) -> None:
    ours = Locks(folder)
    with another_process(folder, "A") as other:
        with pytest.raises(LockRefused):
            ours.take(["A"], timeout=0.2)
        virtual_clock.later(0.3, other.kill)
        with ours.holding(["A"], timeout=-1):
            assert ours.owner("A") is not None
        assert ours.owner("A") is None


def test_a_wait_can_be_cancelled(folder: Path, virtual_clock: VirtualClock) -> None:
    deadline = Deadline()
    with another_process(folder, "A"):
        virtual_clock.later(0.2, deadline.cancel)
        with pytest.raises(CallCancelled):
            Locks(folder).take(["A"], timeout=-1, deadline=deadline)


def test_takes_are_counted_and_shared_by_threads(folder: Path) -> None:
    ours = Locks(folder)
    ours.take(["A"])
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(not is_refused(ours, "A")))
    thread.start()
    thread.join()
    assert taken == [True]
    ours.give(["A"])
    assert ours.owner("A") is not None
    ours.give(["A"])
    assert ours.owner("A") is None


def test_a_forked_child_holds_nothing_and_its_parent_everything(folder: Path) -> None:
    ours = Locks(folder)
    ours.take(["A"])
    assert in_fork(lambda: is_refused(ours, "A"))
    assert in_fork(lambda: "their" not in str(ours.owner("A")) and not is_refused(ours, "B"))
    # The end of a child has not freed it.
    with another_process(folder, "B"):
        assert in_fork(lambda: is_refused(Locks(folder), "A"))
    ours.give(["A"])
    assert in_fork(lambda: not is_refused(ours, "A"))


def test_unlocked_by_force(folder: Path) -> None:
    ours, theirs = Locks(folder), Locks(folder)
    ours.take(["A"])
    assert ours.lost(["A"]) == []
    assert in_fork(lambda: theirs.unlock("A") is not None)
    assert ours.lost(["A"]) == ["A"]
    with another_process(folder, "A"):
        ours.give(["A"])
        # What was given back was no longer ours.
        assert "their-run" in str(ours.owner("A"))
    assert ours.unlock("A") is None


def test_every_user_of_the_host_may_use_them(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        Locks(folder).take(["A:B/C"])
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o666
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777


def test_a_place_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="lock_dir: locks cannot be kept in .*BADGER_K2EG_LOCK_DIR"):
        Locks(tmp_path / "file").take(["A"])


def addresses(*names: str) -> list[PvAddress]:
    return [PvAddress.parse(name) for name in names]


def test_a_claim_locks_all_or_none(folder: Path) -> None:
    ours = Locks(folder)
    with another_process(folder, "QUAD:10"), ours.claim("our-run") as claim:
        assert claim.add(addresses("FIRST")) == {}
        refused = claim.add(addresses("QUAD:1", "QUAD:10", "QUAD:2"))
        # By its name, and not by how that begins.
        assert list(refused) == addresses("QUAD:10")
        assert refused[PvAddress.parse("QUAD:10")].startswith("QUAD:10 is locked by")
        assert (ours.owner("QUAD:1"), ours.owner("QUAD:2")) == (None, None)
        # It keeps what it had before.
        assert "our-run" in str(ours.owner("FIRST"))
    assert ours.locked() == {}


def test_a_claim_by_force_locks_what_is_free(folder: Path) -> None:
    ours = Locks(folder)
    with another_process(folder, "B"):
        with ours.claim() as claim:
            assert list(claim.add(addresses("A", "B", "C"), force=True)) == addresses("B")
            assert ours.locked().keys() == {"A", "B", "C"}
            # What it has it does not take again.
            assert claim.add(addresses("A", "C")) == {}
        assert ours.locked().keys() == {"B"}


def test_a_claim_notices_that_a_lock_was_taken_away(folder: Path) -> None:
    ours = Locks(folder)
    with ours.claim() as claim:
        claim.add(addresses("A"))
        assert ours.unlock("A") is not None
        assert "its lock was taken away" in claim.add(addresses("A", "B"))[PvAddress.parse("A")]
        assert ours.owner("B") is None


def test_by_the_names_for_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(folder))
    assert locked_by(["A", "B"]) == ""
    with lock(["B"]):
        assert f"process {os.getpid()}" in locked_by(["A", "B"])
        assert list(locks().locked()) == ["B"]
        assert in_fork(lambda: is_refused(locks(), "B"))
    assert locked_by("B") == ""
