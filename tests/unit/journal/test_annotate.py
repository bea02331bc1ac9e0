"""What is said of a run afterwards, and finding runs by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from badger_k2eg.errors import JournalError, NoSuchRecord
from badger_k2eg.journal import Journal, JournalSettings, annotate
from badger_k2eg.journal.query import TagFilter, all_fit
from badger_k2eg.journal.settings import network_file_system


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ("charge", True),
        ("energy", False),
        ("charge=0.25", True),
        ("charge=0.250", True),
        ("charge=0.2..0.25", True),
        ("charge=..0.2", False),
        ("charge=0.2..", True),
        ("charge>0.25", False),
        ("charge>=0.25", True),
        ("charge<1e3", True),
        ("operator=Ada", True),
        ("operator=A*", True),
        ("operator=B*", False),
        ("operator>3", False),
        ("operator = Ada", True),
    ],
)
def test_conditions_on_tags(words: str, fits: bool) -> None:
    tags: dict[str, str | float] = {"charge": 0.25, "operator": "Ada"}
    assert TagFilter.parse(words).fits(tags) is fits
    assert all_fit([TagFilter.parse("charge"), TagFilter.parse(words)], tags) is fits


@pytest.mark.parametrize("words", ["", "=3", "charge>much", "charge=1..x"])
def test_a_condition_that_is_none(words: str) -> None:
    with pytest.raises(NoSuchRecord, match="is not a tag condition|the range of a tag needs numbers"):
        TagFilter.parse(words)


def test_numbers_stay_numbers() -> None:
    assert [annotate.tag_value(text) for text in ("0.25", "-3", "Ada", "nan", "1e3")] == [
        0.25,
        -3.0,
        "Ada",
        "nan",
        1000.0,
    ]


def test_a_tag_that_is_not_there_cannot_be_taken_off(journal: Journal, record_run: Callable[..., str]) -> None:
    run = journal.run(record_run("r"))
    with pytest.raises(NoSuchRecord, match="run r has no tag 'x'; it has none"):
        annotate.tag(journal, run, "x", None)


def test_links_do_not_go_in_a_circle(journal: Journal, record_run: Callable[..., str]) -> None:
    for name in "abc":
        record_run(name, 1)
    annotate.link(journal, journal.run("b"), journal.run("a"))
    annotate.link(journal, journal.run("c"), journal.run("b"))
    for child, parent in (("a", "c"), ("a", "a"), ("b", "c")):
        with pytest.raises(JournalError, match="a run cannot be its own ancestor"):
            annotate.link(journal, journal.run(child), journal.run(parent))
    assert [journal.run(name).parent for name in "abc"] == [None, "a", "b"]


def test_files_are_attached_whole_and_once(
    journal: Journal, record_run: Callable[..., str], tmp_path: Path, folder: Path
) -> None:
    run = journal.run(record_run("r"))
    file = tmp_path / "screen.png"
    file.write_bytes(b"picture")
    copy = annotate.attach(journal, run, file)
    assert copy == folder / "attachments" / "r" / "screen.png" and copy.read_bytes() == b"picture"
    assert annotate.attach(journal, journal.run("r"), file) == copy
    (line,) = journal.run("r").attachments
    assert line.data == {"path": "attachments/r/screen.png", "bytes": 7, "sha256": annotate.sha256(file)}
    file.write_bytes(b"another")
    with pytest.raises(JournalError, match=r"run r already has a different file screen.png"):
        annotate.attach(journal, journal.run("r"), file)
    assert [path.name for path in copy.parent.iterdir()] == ["screen.png"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/ada/x", "nfs4"), ("/home", "nfs4"), ("/homes", None), ("/my disk/x", "cifs"), ("/", None)],
)
def test_a_network_file_system_is_known(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nfiler:/h /home nfs4 rw 0 0\n//s/d /my\\040disk cifs rw 0 0\n")
    assert network_file_system(Path(path), mounts) == kind
    assert network_file_system(Path(path), tmp_path / "none") is None


def test_on_a_network_file_system_there_is_one_warning_and_the_index_is_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("badger_k2eg.journal.settings.network_file_system", lambda path: "nfs4")
    monkeypatch.setattr("badger_k2eg.journal.writer.network_file_system", lambda path: "nfs4")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    for _ in range(2):
        journal = Journal(folder)
        journal.begin_mark("shot")
        assert len(list(journal.records())) > 1
        assert journal.index_path is not None and not journal.index_path.is_relative_to(folder)
        journal.close()
    (warning,) = caplog.records
    assert warning.getMessage() == f"the journal in {folder} is on nfs4: its locks must work between hosts"


def test_settings_come_from_variables_and_the_ini_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from badger_k2eg.core.settings import load
    from badger_k2eg.errors import SettingsError
    from badger_k2eg.journal import settings

    monkeypatch.delenv("BADGER_K2EG_JOURNAL_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert settings.load().directory == tmp_path / "state" / "badger-k2eg" / "journal"
    ini = tmp_path / "ini"
    ini.write_text(
        "[badger_k2eg]\ntimeout = 7\njournal_dir = /srv/a\njournal_segment_size = 8M\njournal_keep_days=30\n"
    )
    monkeypatch.setenv("BADGER_K2EG_CONFIG", str(ini))
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", "/srv/b")
    found = settings.load()
    assert (found.directory, found.segment_size, found.keep_days) == (Path("/srv/b"), 8 << 20, 30.0)
    assert load().timeout == 7.0, "they are no options of an interface, and do not disturb those"
    for name, value, words in (
        ("JOURNAL_DRI", "x", "there is no option 'dri'; did you mean 'dir'?"),
        ("JOURNAL_SEGMENT_SIZE", "big", "'big' is not a size; write a number of bytes, or 64M, 10G"),
        ("JOURNAL_ON_ERROR", "cry", "Input should be 'continue' or 'raise'"),
    ):
        with monkeypatch.context() as patch, pytest.raises(SettingsError) as error:
            patch.setenv(f"BADGER_K2EG_{name}", value)
            settings.load()
        assert str(error.value).startswith(f"environment variable BADGER_K2EG_{name}") and words in str(error.value)
    policy = tmp_path / "policy"
    policy.write_text("[badger_k2eg]\njournal_dir = /srv/c\n")
    monkeypatch.setenv("BADGER_K2EG_POLICY", str(policy))
    with pytest.raises(SettingsError, match="journal_dir: a policy file holds restrictions only"):
        load()


@pytest.mark.parametrize(("text", "size"), [("64M", 64 << 20), ("1.5 GiB", 3 << 29), ("10", 10), ("2kB", 2048)])
def test_sizes(text: str, size: int) -> None:
    assert JournalSettings(segment_size=text).segment_size == size  # type: ignore[arg-type]
