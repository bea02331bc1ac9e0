"""Ids of runs and names of attachments are never paths; a forged line costs that line."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from badger_k2eg.core.records import BadLine, NewerSchema, Record, RecordKind, from_line
from badger_k2eg.errors import JournalError
from badger_k2eg.journal import Journal, annotate
from badger_k2eg.journal.export import LARGEST, export, opened, verify_export, verify_run
from badger_k2eg.journal.naming import file_name, inside
from badger_k2eg.journal.segments import listed

K = RecordKind
EVIL = [
    *("../../etc/x", "/etc/x", "..", ".", "", "a/b", "a\\b", "C:x", "a\0b", "\x1b[31m", "a\nb", "-rf", ".hidden", " x"),
    *("\u202e", "\udcff", "%2e", "x" * 5000, "con:", "CON?", "*"),
]


@pytest.mark.parametrize("text", EVIL)
def test_every_text_has_a_name_in_its_folder(text: str, tmp_path: Path) -> None:
    name = file_name(text)
    (tmp_path / "in").mkdir()
    (inside(tmp_path / "in", name)).write_text("x")
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_usual_names_stay_and_no_two_texts_have_the_same() -> None:
    for name in ("20260101-120000-aaaa", "result 1.tar.gz", "µ-Messung.txt", "a_b+c.h5"):
        assert file_name(name) == name
    assert len({file_name(text) for text in [*EVIL, "%2F", "/", "x" * 5001]}) == len(EVIL) + 3


def test_inside_follows_links(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    for names in (("..", "x"), ("out", "x"), ("a\0b",), ("/x",)):
        with pytest.raises(JournalError, match="leads out of"):
            inside(tmp_path / "in", *names)


@pytest.mark.parametrize("run", [text for text in EVIL if text])
def test_a_forged_id_writes_nothing_outside(
    run: str, journal: Journal, record_run: Callable[..., str], tmp_path: Path
) -> None:
    record_run(run)
    (file := tmp_path / "note.txt").write_text("x")
    (found,) = journal.runs()
    copy = annotate.attach(journal, found, file)
    assert copy.parent.parent == journal.directory / "attachments"
    (found,) = journal.runs()
    assert annotate.attach(journal, found, file) == copy
    assert verify_run(journal, found) == []
    made = export(journal, found, tmp_path / f"{file_name(found.id)}.zip")
    assert verify_export(made) == []
    with opened(made) as again:
        assert again.id == found.id and len(again.evaluations()) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"journal", "note.txt", made.name}


def test_a_folder_of_attachments_that_leads_elsewhere(
    journal: Journal, record_run: Callable[..., str], tmp_path: Path
) -> None:
    run = journal.run(record_run("r"))
    (file := tmp_path / "note.txt").write_text("x")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (journal.directory / "attachments").mkdir()
    (journal.directory / "attachments" / "r").symlink_to(elsewhere)
    with pytest.raises(JournalError, match="leads out of"):
        annotate.attach(journal, run, file)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", [*EVIL, None])
def test_a_forged_attachment_has_a_name_in_the_export(
    name: str | None, journal: Journal, record_run: Callable[..., str], tmp_path: Path
) -> None:
    run = record_run("r")
    (journal.directory / "attachments" / "r").mkdir(parents=True)
    (journal.directory / "attachments" / "r" / "x").write_text("x")
    data = {"path": "attachments/r/x", "sha256": annotate.sha256(journal.directory / "attachments" / "r" / "x")}
    journal.write(*[Record(kind=K.ATTACH, run=run, name=name, data=data)] * 2)
    for path in ("../x", "/etc/passwd", "a\0b", ["x"], "attachments/r/none"):
        journal.write(Record(kind=K.ATTACH, run=run, name="y", data={"path": path}))
    made = export(journal, journal.run(run), tmp_path / "r.zip")
    assert verify_export(made) == []
    with zipfile.ZipFile(made) as archive:
        names = [each for each in archive.namelist() if each.startswith("attachments/")]
    assert len(set(names)) == 2 and names[0] == f"attachments/{file_name(name or '')}"
    assert all(each.count("/") == 1 for each in names)
    assert len(verify_run(journal, journal.run(run))) == 5
    with pytest.raises(JournalError, match="is not an attachment of this journal"):
        annotate.attached(journal.directory, Record(kind=K.ATTACH, data={"path": "a\0b"}))


@pytest.mark.parametrize("damage", ["manifest", "schema", "files", "records", "no records", "entry", "nothing"])
def test_an_export_that_somebody_edited_is_told_in_words(
    damage: str, journal: Journal, record_run: Callable[..., str], tmp_path: Path
) -> None:
    made = export(journal, journal.run(record_run("r")), tmp_path / "r.zip")
    with zipfile.ZipFile(made) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(parts["manifest.json"])
    if damage == "manifest":
        manifest = [manifest]
    elif damage == "schema":
        manifest["schema"] = "1"
    elif damage == "files":
        manifest["files"] = [1]
    elif damage == "entry":
        manifest["files"]["puts.csv"] = 5
    elif damage == "no records":
        del parts["records.ndjson"]
    elif damage == "records":
        parts["records.ndjson"] = b"[" * 100_000 + b"\n\xff\xfe\n"
    parts["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    for look in (verify_export, lambda file: opened(file).__enter__()):
        try:
            found = look(made)
        except JournalError as error:
            assert str(made) in str(error) and "\n" not in str(error)
        else:
            assert damage in ("nothing", "entry") or isinstance(found, list)


def forge(path: Path, row: int, old: bytes, new: bytes) -> None:
    """Edit a line, and make its checksum anew."""
    rows = path.read_bytes().splitlines()
    body = rows[row].rpartition(b',"crc"')[0].replace(old, new)
    rows[row] = b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))
    path.write_bytes(b"\n".join(rows) + b"\n")
    assert new in rows[row]


@pytest.mark.parametrize("number", [b"5", b"9000", b"4611686018427387904", b"0"])
def test_a_forged_number_costs_that_line(number: bytes, journal: Journal) -> None:
    journal.write(*(Record(kind=K.NOTE, message=f"{i}") for i in range(10)))
    journal.close()
    forge(listed(journal.directory)[0].path, 3, b'"line":4', b'"line":' + number)
    found = [record.message for record in journal.records() if record.kind is K.NOTE]
    assert found == [f"{i}" for i in range(10) if i != 2]
    journal.write(Record(kind=K.NOTE, message="next"))
    assert [record.line for record in journal.records()][-1] == 12


def test_an_end_that_was_edited_closes_nothing_else(journal: Journal, record_run: Callable[..., str]) -> None:
    record_run("first", end=None)
    begin = journal.run("first").event.start
    record_run("second")
    journal.write(Record(kind=K.SET_END, run="second", begin=begin), Record(kind=K.RUN_END, run="second", begin=begin))
    assert journal.run("first").open


@pytest.mark.parametrize(
    "text",
    [
        b'"data":[1]', b'"pv":5', b'"begin":-1', b'"time":NaN', b'"severity":7', b'"process":1e3', b'"name":{}',
        b'"line":9223372036854775808', b'"run":null', b'"duration":"long"', b'"duration":true', b'"v":0', b'"v":1e400',
        b'"duration":1' + b"0" * 400, b'"value":{"$array":"","dtype":"O","shape":[1]}', b'"value":{"$float":[]}',
        b'"value":' + b"[" * 101 + b"]" * 101, b'"value":' + b"[" * 99_999 + b"]" * 99_999,
        b'"value":1' + b"0" * 5000, b'"value":{"$array":5,"dtype":"<f8","shape":[1]}', b'"level":"loud"',
    ],
)  # fmt: skip
def test_a_line_of_a_wrong_type_is_none(text: bytes) -> None:
    body = b'{"v":1,"line":1,"time":1,"kind":"note",' + text
    line = b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))
    with pytest.raises((BadLine, NewerSchema)):
        from_line(line)


@pytest.mark.parametrize("member", ["records.ndjson", "attachments/zeros"])
def test_an_export_that_would_fill_the_disk_is_not_read(
    member: str, journal: Journal, record_run: Callable[..., str], tmp_path: Path
) -> None:
    made = export(journal, journal.run(record_run("r")), tmp_path / "r.zip")
    (bomb := tmp_path / "bomb.zip").touch()
    with zipfile.ZipFile(made) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in whole.namelist():
            if name != member:
                archive.writestr(name, whole.read(name))
        with archive.open(member, "w") as zeros:
            for _ in range(LARGEST // 2**20 + 1):
                zeros.write(bytes(2**20))
    assert bomb.stat().st_size < LARGEST / 100
    for look in (verify_export, lambda file: opened(file).__enter__()):
        with pytest.raises(
            JournalError, match=r"bomb.zip: was not read: its \d+ bytes would unpack to \d+, more"
        ) as told:
            look(bomb)
        assert "\n" not in str(told.value)


def test_a_manifest_too_long_to_be_one_is_not_read(
    journal: Journal, record_run: Callable[..., str], tmp_path: Path
) -> None:
    made = export(journal, journal.run(record_run("r")), tmp_path / "r.zip")
    with zipfile.ZipFile(made) as whole, zipfile.ZipFile(tmp_path / "long.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", whole.read("manifest.json") + b" " * 2**24)
        archive.writestr("records.ndjson", whole.read("records.ndjson"))
    with pytest.raises(JournalError, match=r"it has no manifest.json of one"):
        verify_export(tmp_path / "long.zip")
