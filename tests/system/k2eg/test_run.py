"""A run through K2EG whose broker dies in the middle of it: what is known of each write, and the way back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from badger_k2eg import run
from badger_k2eg.backends import ThroughK2eg
from badger_k2eg.control import Control, connect
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import ControlError
from badger_k2eg.journal import Journal
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import SoftIoc
from tests.rig.pace import pace

pytestmark = pytest.mark.kafka


def test_the_broker_dies_in_the_middle(
    gateway: GatewayProcess, broker: Broker, soft_ioc: SoftIoc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not broker.has_faults:
        pytest.skip("this broker cannot be taken down: run with --k2eg-broker=embedded or --k2eg-broker=kafka")
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    way = ThroughK2eg(gateway.environment_name, "dying", str(gateway.folder))
    control = run.Attachment().attach(Control(connect(way), Settings(timeout=2.0, retry_delay=0.2)))
    pv = soft_ioc.pv("FREE")
    start = control.get([pv], None)[pv]
    assert control.set({pv: start + 1.0}).ok
    broker.down()
    try:
        began = time.monotonic()
        with pytest.raises(ControlError) as caught:
            control.set({pv: start + 2.0})
        assert time.monotonic() - began < 20.0 * pace()
        # Nothing is claimed that is not known; what was never looked at cannot have been sent.
        report = getattr(caught.value, "report", None)
        assert report is not None
        assert report[pv].outcome in (Outcome.BLOCKED, Outcome.NOT_SENT, Outcome.UNKNOWN)
        run.end(run.Reason.FAILED, "the broker is gone")
    finally:
        broker.up()
    recorded = Journal.open().run("last")
    assert recorded.reason == "failed"
    assert [each.ok for each in recorded.evaluations()] == [True, False]
    # The client finds the broker again by itself.
    until = time.monotonic() + 30.0
    while True:
        try:
            present = control.get([pv])[pv]
            break
        except ControlError:
            assert time.monotonic() < until
    assert present == start + 1.0
    restore = Restore(control, Journal.open(), "last")
    restore.run()
    assert [(step.pv, step.fate) for step in restore.steps] == [(pv, Fate.RESTORED)]
    assert control.get([pv])[pv] == start
    control.close()
    control.backend.close()
