"""Export of a run as one zip file: its lines, tables, attached files, a manifest, and a checksum of each.

``records.ndjson`` has its lines as they are in the journal, so an export is a journal of one run (``opened``); no other
member is ever written to disk. Checksums detect damage; they are not signatures: whoever forges the file can compute
them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import JournalError
from ..core.printable import json_text
from ..core.records import SCHEMA, BadLine, NewerSchema, Record, RecordKind, encode, from_line
from . import segments
from .annotate import ATTACHMENTS, attached, sha256
from .index import Index
from .journal import Journal
from .lookup import Reader
from .naming import file_name
from .query import Query
from .recorded_run import RecordedRun, all_runs

logger = logging.getLogger("badger_k2eg")

FORMAT = "badger-k2eg run"
RECORDS = "records.ndjson"
MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
#: An export may unpack to this many bytes, or to ``_DENSEST`` times its own size if that is more: no run is packed as
#: densely as a file made to fill a disk.
LARGEST = 256 << 20
_DENSEST = 100
_LONGEST_MANIFEST = 16 << 20
#: Raised for a member that is missing, damaged, encrypted, or compressed by an unsupported method.
_UNREADABLE = (KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
_PUT_COLUMNS = (
    "line", "time", "kind", "evaluation", "pv", "asked", "value", "unit", "severity", "outcome", "attempt", "duration",
    "message",
)  # fmt: skip
_VALUE_COLUMNS = ("line", "time", "evaluation", "pv", "name", "value", "unit", "severity", "stamp", "message")


def export(journal: Journal, run: RecordedRun, file: Path) -> Path:
    """Write a run into a zip file, and return the file.

    :raises OSError: when it cannot be written; then the file does not exist.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            sums: dict[str, dict[str, Any]] = {}
            for name, content in _contents(journal, run):
                digest, size = hashlib.sha256(), 0
                with archive.open(name, "w", force_zip64=True) as target:
                    for block in content:
                        target.write(block)
                        digest.update(block)
                        size += len(block)
                sums[name] = {"sha256": digest.hexdigest(), "bytes": size}
            manifest = json_text(about(run) | {"files": sums}, indent=1).encode()
            archive.writestr(MANIFEST, manifest)
            lines = {name: entry["sha256"] for name, entry in sums.items()}
            lines[MANIFEST] = hashlib.sha256(manifest).hexdigest()
            archive.writestr(CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in lines.items()))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def about(run: RecordedRun) -> dict[str, Any]:
    """Return the description of a run in its manifest, as plain JSON."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "package": __version__,
        "exported": time_text(None),
        "run": run.id,
        "name": run.name,
        "started": time_text(run.started_ns),
        "ended": time_text(run.ended_ns) if run.ended_ns is not None else None,
        "reason": run.reason,
        "host": run.first.host,
        "user": run.first.user,
        "evaluations": run.evaluation_count,
        "best": run.best,
        "parent": run.parent,
        "tags": run.tags,
        "notes": [{"time": time_text(n.time_ns), "user": n.user, "text": n.message} for n in run.notes],
        "manifest": encode(run.manifest),
    }


def time_text(time_ns: int | None) -> str:
    """Return a time in ISO 8601, UTC, to the microsecond; None is now."""
    moment = datetime.now(UTC) if time_ns is None else datetime.fromtimestamp(time_ns // 1000 / 1e6, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _contents(journal: Journal, run: RecordedRun) -> Iterator[tuple[str, Iterable[bytes]]]:
    yield RECORDS, (text + b"\n" for text in run.texts())
    yield "evaluations.csv", _evaluations(run)
    puts = (RecordKind.PUT, RecordKind.SETPOINT)
    yield "puts.csv", _table(_PUT_COLUMNS, run.records(Query(kinds=puts)))
    for name, kind in (("baseline", RecordKind.BASELINE), ("reads", RecordKind.READ), ("samples", RecordKind.SAMPLE)):
        yield f"{name}.csv", _table(_VALUE_COLUMNS, run.records(Query(kinds=(kind,))))
    names: set[str] = set()
    for record in run.attachments:
        try:
            content = attached(journal.directory, record).read_bytes()
        except (OSError, JournalError) as error:
            # The run itself is worth exporting; runs verify reports it too.
            logger.warning("attachment %s is not in the export: %s", record.name, reason(error))
            continue
        name = file_name(record.name or "")
        # A second attachment of that name: the line was written by hand.
        name = name if name not in names else f"{record.line}-{name}"
        names.add(name)
        yield f"{ATTACHMENTS}/{name}", [content]


def _table(columns: Iterable[str], records: Iterable[Record]) -> Iterator[bytes]:
    columns = list(columns)
    yield _row(columns)
    for record in records:
        found = record.as_dict() | {"time": time_text(record.time_ns)}
        yield _row([_cell(found.get(column)) for column in columns])


def _evaluations(run: RecordedRun) -> Iterator[bytes]:
    evaluations = run.evaluations()
    asked = list(dict.fromkeys(pv for each in evaluations for pv in each.asked))
    read = list(dict.fromkeys(name for each in evaluations for name in each.readings))
    yield _row(["evaluation", "began", "ended", "ok", *(f"asked {pv}" for pv in asked), *(f"read {n}" for n in read)])
    for each in evaluations:
        ended = "" if each.ended_ns is None else time_text(each.ended_ns)
        values = [each.asked.get(pv) for pv in asked] + [each.readings.get(name) for name in read]
        yield _row([each.number, time_text(each.began_ns), ended, each.ok, *(_cell(encode(v)) for v in values)])


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping) and "$float" in value:
        return value["$float"]
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _row(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


# -- verifying and reading --------------------------------------------------------------------------------------------


def verify_run(journal: Journal, run: RecordedRun) -> list[str]:
    """Check every line of a run in the journal, and its attached files; return a text for each fault."""
    wrong = [f"line {number} {words}" for number, words in _bad_lines(run.texts())]
    if run.open and run.alive is False:
        wrong.append("the run has no end: its process died")
    for record in run.attachments:
        try:
            path = attached(journal.directory, record)
            if sha256(path) != (record.data or {}).get("sha256"):
                wrong.append(f"{path}: its checksum does not match")
        except (OSError, JournalError) as error:
            wrong.append(f"attachment {record.name}: {reason(error)}")
    return wrong


def reason(error: Exception) -> str:
    """Return why a file cannot be read."""
    return getattr(error, "strerror", None) or str(error)


def verify_export(file: Path) -> list[str]:
    """Check every file of an export against its checksums; return a text for each fault.

    :raises JournalError: when it is not an export, or unpacks to too much.
    :raises OSError: when it cannot be read.
    """
    with _zip(file) as archive:
        manifest = _manifest(archive, file)
        wrong = []
        try:
            with archive.open(CHECKSUMS) as member:
                sums = member.read(_LONGEST_MANIFEST).decode(errors="replace")
        except _UNREADABLE:
            sums = ""
        if f"{hashlib.sha256(archive.read(MANIFEST)).hexdigest()}  {MANIFEST}\n" not in sums:
            wrong.append(f"{MANIFEST}: its checksum does not match")
        for name, entry in manifest["files"].items():
            try:
                with archive.open(name) as member:
                    digest = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type] # it suffices
                if digest != entry["sha256"]:
                    wrong.append(f"{name}: its checksum does not match")
            except (*_UNREADABLE, TypeError):
                wrong.append(f"{name}: is missing, or damaged")
        known = {MANIFEST, CHECKSUMS, *manifest["files"]}
        wrong += [f"{name}: does not belong to the export" for name in archive.namelist() if name not in known]
        if RECORDS not in manifest["files"]:
            wrong.append(f"{RECORDS}: is missing")
        if not wrong:
            with archive.open(RECORDS) as lines:
                wrong += [f"{RECORDS}: line {number} {words}" for number, words in _bad_lines(lines)]
    return wrong


def _bad_lines(texts: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    last = 0
    for text in texts:
        try:
            record = from_line(text)
        except (BadLine, NewerSchema) as error:
            yield last + 1, f"cannot be read: {error}"
            continue
        if not record.intact:
            yield record.line, "was edited by hand: its checksum does not match"
        elif record.line <= last:
            yield record.line, f"comes after line {last}"
        last = max(last, record.line)


@contextmanager
def opened(file: Path) -> Iterator[RecordedRun]:
    """Open a run in an export, as in a journal; attached files stay in the export.

    :raises JournalError: when it is not an export, or unpacks to too much.
    """
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-") as folder, _zip(file) as archive:
        _manifest(archive, file)
        try:
            with archive.open(RECORDS) as lines, (Path(folder) / segments.name_of(1, 0)).open("wb") as segment:
                shutil.copyfileobj(lines, segment)
        except _UNREADABLE:
            raise JournalError(f"{file}: its {RECORDS} is missing, or damaged") from None
        index = Index(Path(folder), None, whole=False)
        try:
            found = all_runs(Reader(index))
            if not found:
                raise JournalError(f"{file}: contains no run")
            yield found[0]
        finally:
            index.close()


@contextmanager
def _zip(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            # zipfile unpacks no more of a member than its declared size.
            size, unpacked = file.stat().st_size, sum(member.file_size for member in archive.infolist())
            if unpacked > max(LARGEST, _DENSEST * size):
                raise JournalError(
                    f"{file}: was not read: its {size} bytes would unpack to {unpacked}, more than any run has"
                )
            yield archive
    except zipfile.BadZipFile as error:
        raise JournalError(f"{file}: is not an export of a run, or is damaged: {error}") from None


def _manifest(archive: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    try:
        if archive.getinfo(MANIFEST).file_size > _LONGEST_MANIFEST:
            raise ValueError("too long for a manifest")
        found: dict[str, Any] = json.loads(archive.read(MANIFEST))
        if found["format"] != FORMAT or not isinstance(found["files"], dict):
            raise ValueError("another format")
        if type(found["schema"]) is not int:
            raise ValueError("no schema")
    except (*_UNREADABLE, ValueError, TypeError, RecursionError):
        raise JournalError(f"{file}: is not an export of a run: it has no {MANIFEST} of one") from None
    if found["schema"] > SCHEMA:
        newer = f"schema {found['schema']}, and this version knows {SCHEMA}"
        raise JournalError(f"{file}: a newer version of badger-k2eg wrote it ({newer}); update this one")
    return found
