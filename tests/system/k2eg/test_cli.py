"""K10: PVs from the shell, directly and through K2EG; and what the doctor says of broker and gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from badger_k2eg.k2eg.environment import APP_NAME_VARIABLE, ENVIRONMENT_VARIABLE, FOLDER_VARIABLE
from badger_k2eg.testing.ports import free_port
from tests.rig.pace import pace

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
WAYS = {"direct": [], "k2eg": ["--via", "k2eg"]}
ONE_OF_THEM = ["direct", pytest.param("k2eg", marks=pytest.mark.extended)]


@pytest.fixture
def run(gateway: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith("BADGER_K2EG_") and not name.endswith("_DIR")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, str(gateway.folder))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, gateway.environment_name)
    monkeypatch.setenv(APP_NAME_VARIABLE, "cli")
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "20")  # a busy machine may need more than the usual three seconds
    return lambda *words: subprocess.run(command(*words), capture_output=True, text=True, timeout=150)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "badger_k2eg.cli", *words]


@pytest.mark.parametrize("way", ONE_OF_THEM)
def test_get(run: Run, soft_ioc: Any, way: str) -> None:
    dbl, enum, gone = soft_ioc.pv("DBL"), soft_ioc.pv("ENUM"), soft_ioc.pv("NOBODY")
    shown = run("get", *WAYS[way], dbl, enum)
    assert shown.returncode == 0 and "1.500" in shown.stdout and "mm" in shown.stdout and "on (1)" in shown.stdout
    told = json.loads(run("get", "--json", *WAYS[way], f"pva://{dbl}", enum).stdout)
    assert told[f"pva://{dbl}"]["value"] == 1.5 and told[f"pva://{dbl}"]["severity"] == "NO_ALARM"
    assert told[enum]["label"] == "on"
    failed = run("get", "--timeout", "1.5", *WAYS[way], dbl, gone)
    assert failed.returncode == 1 and "1.500" in failed.stdout
    assert failed.stderr.startswith(f"{gone}: ") and len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_put(run: Run, soft_ioc: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free, enum, text, dbl = (soft_ioc.pv(name) for name in ("FREE", "ENUM", "STR", "DBL"))
    done = run("put", *WAYS[way], free, "2.5", enum, "auto", text, "5")
    assert done.returncode == 0, done.stderr
    told = json.loads(run("get", "--json", free, enum, text).stdout)
    assert [told[pv]["value"] for pv in (free, enum, text)] == [2.5, 2, "5"]
    refused = run("put", *WAYS[way], free, "3", dbl, "99")
    assert refused.returncode == 3 and "drive limits" in refused.stderr
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    only = run("put", "--json", *WAYS[way], free, "3")
    assert only.returncode == 3 and json.loads(only.stdout)[free]["outcome"] == "skipped"
    monkeypatch.delenv("BADGER_K2EG_READ_ONLY")
    assert run("put", *WAYS[way], free, "1", enum, "on", text, "hello").returncode == 0


HOLDER = """
import sys, time
from badger_k2eg.run.pv_locks import locks
locks().take(sys.argv[1:], run="their-run")
print("READY", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("way", ONE_OF_THEM)
def test_a_put_is_locked_and_on_record(
    run: Run, soft_ioc: Any, way: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    free = soft_ioc.pv("FREE")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, free], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "READY\n"
        refused = run("put", *WAYS[way], free, "7")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (3, 1)
        assert f"(process {holder.pid}, run their-run, since " in refused.stderr
        assert run("put", "--force", *WAYS[way], f"pva://{free}", "8").returncode == 0
    finally:
        holder.kill()
        holder.communicate()
    assert run("put", *WAYS[way], free, "1").returncode == 0
    told = [
        json.loads(line)
        for line in run("log", "query", "--pv", free, "--pv", f"pva://{free}", "--json").stdout.splitlines()
    ]
    assert [each["name"] for each in told if each["kind"] == "event"] == ["forced"]
    ends = [(each["asked"], each["data"]["before"], each["outcome"]) for each in told if each["kind"] == "setpoint"]
    assert ends[0][::2] == (7, "blocked") and ends[1:] == [(8, ends[0][1], "applied"), (1, 8.0, "applied")]


@pytest.mark.parametrize("way", ONE_OF_THEM)
def test_monitor(run: Run, soft_ioc: Any, way: str) -> None:
    count = soft_ioc.pv("COUNT")
    told = run("monitor", "--json", "--count", "3", *WAYS[way], count)
    values = [json.loads(line)["value"] for line in told.stdout.splitlines()]
    assert told.returncode == 0 and len(values) == 3 and values == sorted(values)


def test_monitor_ends_with_ctrl_c(run: Run, soft_ioc: Any) -> None:
    process = subprocess.Popen(command("monitor", "--via", "k2eg", soft_ioc.pv("STATIC")), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"7.0" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0
    process.stdout.close()


@pytest.mark.parametrize("way", ONE_OF_THEM)
def test_snapshot(run: Run, soft_ioc: Any, way: str) -> None:
    static = soft_ioc.pv("STATIC")
    told = run("snapshot", "--json", "--window", "0.3", *WAYS[way], static)
    assert told.returncode == 0 and json.loads(told.stdout)[static]["value"] == 7.0


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["get", "a b"], 2, "malformed"),
        (["get", "http://X"], 2, "unknown scheme"),
        (["get"], 2, "URI"),
        (["get", "--via", "k2eg", "X.HIHI"], 2, "fields"),
        (["get", "--environment", "gatewai", "X"], 2, "did you mean 'gateway'"),
        (["get", "--app-name", "x", "X"], 2, "--via k2eg"),
        (["put", "X"], 2, "VALUE"),
        (["put", "X", "1", "X", "2"], 2, "twice"),
    ],
)
def test_mistakes_are_one_line(run: Run, words: list[str], code: int, reason: str) -> None:
    done = run(*words)
    assert done.returncode == code and reason in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_doctor_tells_of_broker_and_gateway(
    run: Run, gateway: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def findings() -> dict[str, dict[str, str]]:
        return {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)["findings"]}

    told = findings()
    assert {told[what]["status"] for what in ("K2EG", "K2EG broker", "K2EG gateway")} == {"good"}
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "gone.ini").write_text(f"[DEFAULT]\nkafka_broker_url = {address}\nk2eg_cmd_topic = cmd\n")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "gone")
    began = time.monotonic()
    told = findings()
    assert told["K2EG broker"]["status"] == "bad" and address in told["K2EG broker"]["text"]
    assert time.monotonic() - began < 30.0 * pace()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "nowhere")
    assert "nowhere" in findings()["K2EG"]["text"]
