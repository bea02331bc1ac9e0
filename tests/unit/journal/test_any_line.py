"""Whatever a line was edited or forged into: every command ends in order, and the other lines are read."""

from __future__ import annotations

import json
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from badger_k2eg import cli
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.journal import Journal
from badger_k2eg.journal.segments import listed

K = RecordKind
RUN = "20260101-120000-aaaa"
COMMANDS = (
    "runs list", "runs list --json", "runs list --tag charge=0..1", f"runs show {RUN}", f"runs show {RUN} --json",
    f"runs diff {RUN} other", f"runs diff {RUN} now --at start", f"runs verify {RUN}", f"runs restore {RUN} --dry-run",
    f"runs restore {RUN} --dry-run --to best --force", f"runs restore {RUN} --yes", f"runs export {RUN} --force",
    f"runs verify {RUN}.zip", f"log show {RUN}", f"log show {RUN} --eval 1", "log query", "log query --json",
    "log query --level warning", f"runs note {RUN} x", "log reindex",
)  # fmt: skip


def record(journal: Journal, run: str) -> None:
    about: dict[str, Any] = {"run": run, "evaluation": 1}
    begin = journal.write(Record(kind=K.RUN_BEGIN, run=run, process=2**31 - 1, data={"way": "pva"})).start
    profile = {"kind": "float", "bits": 64, "signed": True, "array": False, "limits": [-9, 9]}
    journal.write(*(Record(kind=K.BASELINE, run=run, pv=pv, value=1.0, data={"profile": profile}) for pv in "AB"))
    start = journal.write(Record(kind=K.EVALUATION_BEGIN, **about)).start
    validators = {"A": [{"kind": "within", "readback": "A", "tolerance": 0.5}]}
    data = {"setpoints": {"A": 2.0, "B": 3.0}, "validators": validators}
    call = journal.write(Record(kind=K.SET_BEGIN, data=data, **about)).start
    for pv, asked in {"A": 2.0, "B": 3.0}.items():
        applied = {"asked": asked, "value": asked, "severity": 0, "outcome": Outcome.APPLIED, "duration": 0.1}
        journal.write(Record(kind=K.PUT, pv=pv, attempt=1, **applied, **about))
        journal.write(Record(kind=K.SETPOINT, pv=pv, **applied, **about))
    journal.write(Record(kind=K.SET_END, begin=call, **about), Record(kind=K.READ, name="f", value=0.5, **about))
    journal.write(Record(kind=K.EVALUATION_END, begin=start, data={"f": 0.5}, **about), Record(kind=K.BEST, **about))
    journal.write(Record(kind=K.TAG, run=run, name="charge", value=0.5), Record(kind=K.NOTE, run=run, message="n"))
    journal.write(Record(kind=K.LINK, run=run, data={"parent": "other"}))
    attached = {"path": f"attachments/{run}/a.txt", "bytes": 1, "sha256": "0"}
    journal.write(Record(kind=K.ATTACH, run=run, name="a.txt", data=attached))
    journal.write(Record(kind=K.RUN_END, run=run, begin=begin, name="success"))


_deep: Any = 1.0
for _ in range(300):
    _deep = [_deep]
_json = st.recursive(
    st.sampled_from([
        None, True, False, 0, 1, -1, 10**18, 2**63, -(10**30), 10**400, 1e308, -0.0, 5e-324, float("nan"), float("inf"),
        "", "A", "B", RUN, "../../etc/x", "/etc/x", "a\0b", "\udcff", "\x1b[31m", "[/b]", "run.end", "put", "best", "9",
        _deep,
    ])
    | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["setpoints", "validators", "profile", "parent", "path", "A", "kind", "way"])
                      | st.sampled_from(["limits", "choices", "bits", "signed", "array", "$float", "$array", "dtype"])
                      | st.sampled_from(["shape", "$bytes", "environment", "sha256", "error", "precision", "tag"])
                      | st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip
_KEYS = st.sampled_from([
    "v", "line", "time", "kind", "level", "run", "evaluation", "begin", "pv", "asked", "value", "unit", "severity",
    "stamp", "outcome", "attempt", "duration", "name", "message", "data", "host", "user", "process",
])  # fmt: skip


def text_of(found: dict[str, Any], *, forged: bool) -> bytes:
    """Write a line, with the checksum that it had, or with one that fits: that is no signature."""
    crc = found.pop("crc")
    body = json.dumps(found)[:-1].encode()
    return b'%b,"crc":"%b"}' % (body, b"%08x" % zlib.crc32(body) if forged else crc.encode())


@pytest.fixture(scope="module")
def whole() -> Iterator[list[bytes]]:
    """The lines of a journal with two runs."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        for run in (RUN, "other"):
            record(journal, run)
        journal.close()
        yield listed(Path(folder))[0].path.read_bytes().splitlines()


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        memory = MemoryBackend({"A": 2.0, "B": 3.0})
        patch.setattr("badger_k2eg.control.connect", lambda way: memory)
        patch.setattr(memory, "close", lambda: None)
        patch.setenv("BADGER_K2EG_TIMEOUT", "0.2")
        yield


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), forged=st.booleans())
@pytest.mark.usefixtures("machine")
def test_every_command_ends_in_order(whole: list[bytes], data: Any, forged: bool) -> None:
    rows = whole[:]
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.integers(1, len(rows) - 1))
        changes = data.draw(st.dictionaries(_KEYS, _json, min_size=1, max_size=2))
        try:
            rows[row] = text_of({**json.loads(rows[row]), **changes}, forged=forged)
        except (ValueError, UnicodeError):
            continue
    run_all(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": []},
        {"line": "1"},
        {"line": 2**61},
        {"pv": 5},
        {"begin": -1},
        {"time": float("nan")},
        {"time": 10**30},
        {"run": "../../x"},
        {"run": "/x\0"},
        {"pv": "\udcff"},
        {"host": "\udcff"},
        {"asked": 10**400, "value": 10**400},
        {"asked": [[1], [2, 3]], "value": _deep},
        {"value": {"$array": "AAAA", "dtype": "O", "shape": [1]}},
        {"duration": {"$float": "nan"}},
        {"name": "../../../x"},
    ],
)
@pytest.mark.usefixtures("machine")
def test_every_second_line_of_this_kind_ends_in_order(whole: list[bytes], changes: dict[str, Any]) -> None:
    for odd in (0, 1):
        rows = whole[:1]
        for row, text in enumerate(whole[1:]):
            edited = text_of({**json.loads(text), **changes}, forged=row % 4 < 2)
            rows.append(edited if row % 2 == odd else text)
        run_all(rows, "runs plot last" if "asked" in changes else "runs list")


def run_all(rows: list[bytes], *more: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        place = Path(folder) / "deep" / "deeper" / "journal"
        for made in (place, here := Path(folder) / "deep" / "deeper" / "here"):
            made.mkdir(parents=True)
        patch.setenv("BADGER_K2EG_JOURNAL_DIR", str(place))
        patch.setenv("BADGER_K2EG_LOCK_DIR", str(Path(folder) / "locks"))
        patch.chdir(here)
        (place / "000000000001-20260101T120000Z.ndjson").write_bytes(b"\n".join(rows) + b"\n")
        (here / "note.txt").write_text("x")
        for words in (*COMMANDS, *more, "runs attach last note.txt"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done = CliRunner().invoke(cli.main, words.split(), prog_name="badger-k2eg")
            assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exc_info)
            assert done.exit_code in (0, 1, 2, 3), (words, done.output)
            assert "Traceback" not in done.output
        outside = {path for path in Path(folder).rglob("*") if path.is_file()}
        assert all(path.is_relative_to(place) or path.parent in (here, Path(folder) / "locks") for path in outside)
