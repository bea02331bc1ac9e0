"""A policy that is there holds: what is found at its place, and cannot be read whole, is an error; nothing is set."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from badger_k2eg.core import settings
from badger_k2eg.core.settings import Settings, load
from badger_k2eg.errors import SettingsError

GOOD = "[badger_k2eg]\nmax_step = 0.5\n"
PLACES = ["policy", "further policy", "own ini", "named ini"]
POLICIES = PLACES[:2]

Place = Callable[[str], Path]


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("BADGER_K2EG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(settings, "SYSTEM_POLICY", tmp_path / "etc" / "policy.ini")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """Give the path at which a source is looked for, in a folder that is there."""

    def find(source: str) -> Path:
        path = {
            "policy": tmp_path / "etc" / "policy.ini",
            "further policy": tmp_path / "further" / "policy.ini",
            "own ini": tmp_path / "config" / "badger-k2eg" / "badger-k2eg.ini",
            "named ini": tmp_path / "named" / "options.ini",
        }[source]
        if source == "further policy":
            monkeypatch.setenv("BADGER_K2EG_POLICY", str(path))
        if source == "named ini":
            monkeypatch.setenv("BADGER_K2EG_CONFIG", str(path))
        path.parent.mkdir(parents=True)
        return path

    return find


def refusal(path: Path) -> str:
    """Load; what is wrong must be told in one line that names the file."""
    with pytest.raises(SettingsError) as caught:
        load()
    text = str(caught.value)
    assert str(path) in text and "\n" not in text, text
    return text


WRONG = {
    "an unknown section": (
        "[Badger_k2eg]\nmax_step = 0.5\n",
        "unknown section [Badger_k2eg]; did you mean [badger_k2eg]?",
    ),
    "another section beside ours": (
        f"{GOOD}[limits]\nQUAD:1 = 0..1\n",
        "unknown section [limits]; options belong in [badger_k2eg]",
    ),
    "a misspelt section beside ours": (f"{GOOD}[badger-k2eg]\nread_only = yes\n", "did you mean [badger_k2eg]?"),
    "the defaults' section": (
        "[DEFAULT]\nmax_step = 0.5\n",
        "[DEFAULT] has no effect; move its options to [badger_k2eg]",
    ),
    "defaults beside ours": (f"[DEFAULT]\nread_only = yes\n{GOOD}", "[DEFAULT] has no effect"),
    "the same key among the defaults": (f"[DEFAULT]\nmax_step = 0.5\n{GOOD}", "[DEFAULT] has no effect"),
    "no section": ("max_step = 0.5\n", "line 1 is outside any section; write [badger_k2eg] on a line of its own"),
    "a wrong name": ("[badger_k2eg]\nmaxstep = 0.5\n", "there is no option 'maxstep'; did you mean 'max_step'?"),
    "a key twice": (f"{GOOD}max_step = 5\n", "line 3: 'max_step' appears twice in [badger_k2eg]"),
    "a key twice, in capitals": (f"{GOOD}Max_Step = 5\n", "line 3: 'max_step' appears twice in [badger_k2eg]"),
    "our section twice": (f"{GOOD}{GOOD}", "line 3: section [badger_k2eg] appears twice"),
    "a name without a value": ("[badger_k2eg]\nread_only\n", "line 2 is neither a [section] nor NAME = VALUE"),
    "an option behind the section": ("[badger_k2eg] read_only = yes\n", "line 1"),
    "an option behind our second section": (f"{GOOD}[badger_k2eg] read_only = yes\n", "[badger_k2eg] read_only"),
    "an indented option": (f"{GOOD}  put_rate = 3\n", "put_rate is indented, and so a part of max_step"),
    "an indented option after an empty line": (f"{GOOD}\n\tread_only: yes\n", "read_only is indented"),
    "a broken section": ("[badger_k2eg\nmax_step = 0.5\n", "line 1"),
}


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize(("text", "reason"), WRONG.values(), ids=list(WRONG))
def test_what_says_nothing_where_it_stands_is_an_error(place: Place, source: str, text: str, reason: str) -> None:
    path = place(source)
    path.write_text(text)
    assert reason in refusal(path)


@pytest.mark.parametrize("source", POLICIES)
@pytest.mark.parametrize("text", ["", "\n\n", "; nothing\n# at all\n"], ids=["empty", "blank", "comments"])
def test_a_policy_without_its_section_is_an_error(place: Place, source: str, text: str) -> None:
    path = place(source)
    path.write_text(text)
    assert "there is no section [badger_k2eg]; write" in refusal(path)


@pytest.mark.parametrize("source", PLACES[2:])
def test_an_empty_file_of_the_users_own_says_nothing(place: Place, source: str) -> None:
    place(source).write_text("; max_step = 0.5\n")
    assert load() == Settings()


@pytest.mark.parametrize("source", PLACES)
def test_what_is_good_holds(place: Place, source: str) -> None:
    path = place(source)
    for text in (
        GOOD,
        "\ufeff" + GOOD.replace("\n", "\r\n"),
        GOOD.upper().replace("BADGER_K2EG", "badger_k2eg"),
        "# ours\n[badger_k2eg] ; not theirs\n  max_step = 0.5\n",
        "[badger_k2eg]\nmax_step =\n  *=0.5,\n  # of these\n  Q:1=0.5\n",
    ):
        path.write_text(text, encoding="utf-8", newline="")
        assert load().step_of("Q:1") == 0.5, text


def a_folder(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_folder_that_is_a_dangling_link(path: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(path.parent.with_name("gone"))


def a_folder_that_is_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text(GOOD)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def a_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(GOOD.encode() + b"allow = \xff\n")


def text_of_sixteen_bits(path: Path) -> None:
    path.write_text(GOOD, encoding="utf-16")


THINGS = {
    a_folder: "is a folder",
    a_dangling_link: "gone, which does not exist",
    a_link_to_itself: "cannot be read",
    a_folder_that_is_a_dangling_link: "gone, which does not exist",
    a_folder_that_is_a_file: "cannot be read",
    a_fifo: "is not a regular file",
    a_device: "is not a regular file",
    a_socket: "is not a regular file",
    bytes_that_are_no_text: "is not UTF-8",
    text_of_sixteen_bits: "is not UTF-8",
}


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("make", THINGS, ids=lambda make: make.__name__)
def test_what_is_there_and_no_readable_file_is_an_error(
    place: Place, source: str, make: Callable[[Path], None]
) -> None:
    path = place(source)
    make(path)
    assert THINGS[make] in refusal(path)


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_file_that_we_may_not_read_is_an_error(
    place: Place, source: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced, because to root nothing is forbidden; below as somebody else."""
    path = place(source)
    path.write_text(GOOD)
    original = getattr(os, call) if call == "stat" else open

    def denied(file: object, *words: object, **named: object) -> object:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(file, *words, **named)  # type: ignore[operator]

    monkeypatch.setattr("os.stat" if call == "stat" else "io.open", denied)
    if call == "open":
        monkeypatch.setattr("builtins.open", denied)
    assert "cannot be read (Permission denied); make it readable for this user" in refusal(path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def told_to_nobody() -> str:
    """What a user with no rights at all is told; empty where all is well."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
            try:
                load()
            except SettingsError as error:
                os.write(writing, str(error).encode())
            except BaseException as error:
                os.write(writing, f"crashed: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("source", PLACES)
def test_another_users_secret_file_is_an_error(source: str, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(open_folder / "config"))
    monkeypatch.setattr(settings, "SYSTEM_POLICY", open_folder / "etc" / "policy.ini")
    assert told_to_nobody() == ""
    path = {
        "policy": open_folder / "etc" / "policy.ini",
        "own ini": open_folder / "config" / "badger-k2eg" / "badger-k2eg.ini",
    }.get(source, open_folder / "more" / "file.ini")
    path.parent.mkdir(parents=True)
    path.write_text(GOOD)
    if variable := {"further policy": "BADGER_K2EG_POLICY", "named ini": "BADGER_K2EG_CONFIG"}.get(source):
        monkeypatch.setenv(variable, str(path))
    assert told_to_nobody() == ""
    path.chmod(0o600)
    assert told_to_nobody().startswith(f"{path}: cannot be read (Permission denied)")
    path.chmod(0o644)
    path.parent.chmod(0o700)
    assert told_to_nobody().startswith(f"{path}: cannot be read (Permission denied)")


def test_what_is_truly_absent_says_nothing() -> None:
    assert load() == Settings()


def test_nothing_is_set_under_a_policy_that_cannot_be_read(place: Place) -> None:
    from badger_k2eg.backends.memory import MemoryBackend
    from badger_k2eg.badger_app.interface import ControlInterface

    class Interface(ControlInterface):
        name = "of_this_test"
        scheme = "pva"

    memory = MemoryBackend({"QUAD:1": 1.0})
    path = place("policy")
    path.write_text("[policy]\nread_only = yes\n")
    interface = Interface(context=memory)
    for call in (lambda: interface.set_values({"QUAD:1": 2.0}), lambda: interface.get_values(["QUAD:1"])):
        with pytest.raises(SettingsError, match=r"policy\.ini"):
            call()
    assert memory.puts == []
    path.write_text(GOOD)
    interface.set_values({"QUAD:1": 1.5})
    assert memory.puts == [("QUAD:1", 1.5)]


def test_while_listing_it_is_a_warning(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from badger_k2eg.badger_app import interface

    monkeypatch.setattr("badger_k2eg.badger_app.interface_options._warned", set())
    path = place("policy")
    path.mkdir()
    with caplog.at_level("WARNING", "badger_k2eg"):

        class Loaded(interface.ControlInterface):
            name = "loaded"
            scheme = "pva"

    (record,) = caplog.records
    assert record.getMessage() == f"{path}: is a folder; put a regular file there, or remove it"
    with pytest.raises(SettingsError, match="is a folder"):
        _ = Loaded().settings
