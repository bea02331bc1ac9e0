"""What README.md says is so: its python runs, its commands and options exist, its tables and trees are complete."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from badger_k2eg.cli import main
from badger_k2eg.core.settings import FAMILIES, Options

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *(path for place in ("examples", "interfaces", "environments") for path in ROOT.glob(f"{place}/*/*.md")),
]
TEXT = README.read_text(encoding="utf-8")


def _python(guide: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


BLOCKS = _python(README)
_MAKE = re.compile(r"^(?:\S+=\S+ )*make ([a-z-]+)", re.MULTILINE)
#: This one needs a gateway, and has a test of its own.
CLIENT = next(block for block in BLOCKS if "K2egClient(" in block)


@pytest.mark.badger
def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    from badger_k2eg.backends.memory import MemoryBackend

    namespace: dict[str, object] = {}
    of_tests: list[MemoryBackend] = []
    try:
        for number, block in enumerate(BLOCKS, 1):
            if block is CLIENT:
                continue
            before = set(namespace)
            exec(compile(block, f"README.md, block {number}", "exec"), namespace)  # noqa: S102
            for name in set(namespace) - before:
                if name.startswith("test_"):
                    of_tests.append(MemoryBackend())
                    namespace[name](of_tests[-1])  # type: ignore[operator]
    finally:
        # One that goes on would go by the clock of the tests that follow, too.
        for machine in [*of_tests, *namespace.values()]:
            if isinstance(machine, MemoryBackend):
                machine.close()
    assert len(BLOCKS) >= 15
    # What the text says is printed is what is printed.
    printed = capsys.readouterr().out
    expected = [said for block in BLOCKS if block is not CLIENT for said in re.findall(r"print\(.*\)  # (.*)", block)]
    missing = [said for said in expected if "or nearly" not in said and said not in printed]
    assert len(expected) >= 8
    assert missing == []


@pytest.mark.parametrize(
    ("example", "says"), [("record", "[('QUAD:SET', 3.0, 1.0)]"), ("kafka", "b'hello'")], ids=["record", "kafka"]
)
def test_other_guides_run(example: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = _python(ROOT / "examples" / example / "README.md")
    exec(compile(block, f"examples/{example}/README.md", "exec"), {})  # noqa: S102
    assert says in capsys.readouterr().out


def test_the_client_of_k2eg_runs(broker: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("softioc", reason="the machine of the example needs pip install 'badger-k2eg[demo]'")
    from badger_k2eg.testing.gateway import GatewayProcess
    from examples.virtual_injector.part import VirtualInjector

    with VirtualInjector() as machine:
        epics = machine.client_environment
        with GatewayProcess("--allow-write", "*", epics=epics, broker=broker) as gateway:
            block = CLIENT.replace("INJ:", machine.pv("")).replace('"desk"', f'"{gateway.environment_name}"')
            block = block.replace('folder="k2eg"', f"folder={str(gateway.folder)!r}")
            namespace: dict[str, Any] = {}
            exec(compile(block, "README.md, the client of K2EG", "exec"), namespace)  # noqa: S102
    assert all(isinstance(tree["value"], float) for tree in namespace["values"].values())
    assert capsys.readouterr().out.startswith("0.1\n")


def test_every_setting_is_in_the_table() -> None:
    from badger_k2eg.backends.replay.source import ReplaySettings
    from badger_k2eg.journal import JournalSettings
    from badger_k2eg.run.pv_locks import LockSettings
    from badger_k2eg.run.settings import RunSettings
    from badger_k2eg.run.status_pvs import StatusSettings

    families = {
        "journal_": JournalSettings,
        "lock_": LockSettings,
        "replay_": ReplaySettings,
        "run_": RunSettings,
        "status_": StatusSettings,
    }
    assert set(families) == set(FAMILIES)
    settings = TEXT.split("### Settings")[1].split("### Errors")[0]
    table = set(re.findall(r"^\| `(\w+)`", settings, re.MULTILINE))
    assert table == {
        *Options.model_fields,
        *(prefix + option for prefix, model in families.items() for option in model.model_fields),
    }


def test_the_error_tree_is_complete() -> None:
    from badger_k2eg.core import errors

    tree = re.search(r"```text\n(.*?)```", TEXT.split("### Errors")[1], re.DOTALL)[1]  # type: ignore[index]
    own = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.ControlError)]
    assert {error.__name__ for error in own if not re.search(rf"\b{error.__name__}\b", tree)} == set()
    # It is the one of the module.
    told = ast.get_docstring(ast.parse(Path(errors.__file__).read_text(encoding="utf-8")))
    assert told is not None
    assert tree.rstrip() in textwrap.dedent(told.split("::\n\n")[1].split("\n\nEach")[0])


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {target for guide in GUIDES for target in _MAKE.findall(_code(guide))}
    assert {"demo", "test", "test-all"} <= targets
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist_with_these_options(guide: Path) -> None:
    for words in _commands(guide):
        _check(words)


def test_a_wrong_command_is_found() -> None:
    with pytest.raises(AssertionError, match="runn"):
        _check(["runn", "file.yaml"])
    with pytest.raises(AssertionError, match="--evals"):
        _check(["log", "show", "--evals", "3"])
    assert sum(1 for _ in _commands(README)) > 40


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_exist(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    places = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    files = [place for place in places if not place.startswith("http")]
    assert [place for place in files if not (guide.parent / place).exists()] == []
    headings = {_anchor(heading) for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _code(guide: Path) -> str:
    """Everything in a guide that is code."""
    text = guide.read_text(encoding="utf-8")
    fenced = r"^```(?:bash|console)\n(.*?)^```"
    blocks = re.findall(fenced, text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *(code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose))])


def _commands(guide: Path) -> Iterator[list[str]]:
    """The words behind each ``badger-k2eg``."""
    for line in _code(guide).splitlines():
        if line.startswith("badger-k2eg:"):
            continue  # what it printed
        for call in re.findall(r"(?<![\w./'\[-])badger-k2eg (?!-)([^|)]*)", line.split("  #")[0]):
            yield shlex.split(call.strip().rstrip("&"))


def _check(words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        found = command.get_command(context, rest[0])
        assert found is not None, f"there is no command {rest[0]!r} in {words}"
        command, rest = found, rest[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    if words[0] == "rerun":
        known |= {name for option in main.get_command(context, "run").params for name in option.opts}  # type: ignore[union-attr]
    unknown = {word.split("=")[0] for word in rest if word.startswith("-")} - known - {"--help", "-h"}
    assert not unknown, f"{words}: there is no {', '.join(unknown)}"
