"""The README's code blocks run as they stand, one after the other, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from badger_k2eg.settings import Options

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("badger", reason="the README's examples need Badger: pip install 'badger-k2eg[badger]'")
    from badger_k2eg.backends.memory import MemoryBackend

    namespace: dict[str, object] = {}
    for number, block in enumerate(BLOCKS, 1):
        before = set(namespace)
        exec(compile(block, f"README.md, block {number}", "exec"), namespace)  # noqa: S102
        for name in set(namespace) - before:
            if name.startswith("test_"):
                namespace[name](MemoryBackend())  # type: ignore[operator]
    assert len(BLOCKS) >= 9
    # What the text says is printed is what is printed.
    assert "QUAD:2:BCTRL = 99.0: 99 is outside its drive limits, -5 to 5 kG" in capsys.readouterr().out


def test_every_setting_is_in_the_table() -> None:
    settings = README.read_text(encoding="utf-8").split("### Settings")[1].split("### Errors")[0]
    table = set(re.findall(r"^\| `(\w+)`", settings, re.MULTILINE))
    assert table == set(Options.model_fields)


def test_the_error_tree_is_complete() -> None:
    from badger_k2eg import errors

    own = [item for item in vars(errors).values() if isinstance(item, type) and item.__module__ == errors.__name__]
    named = {error.__name__ for error in own}
    tree = README.read_text(encoding="utf-8").split("### Errors")[1].split("## Why")[0]
    assert {name for name in named if not re.search(rf"\b{name}\b", tree)} == set()


def test_the_make_targets_exist() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
