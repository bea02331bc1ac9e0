"""Reach EPICS PVs over PVAccess, Channel Access or K2EG, and say truthfully what happened.

What is named here is the public interface, together with the modules ``badger_k2eg.errors``, ``badger_k2eg.k2eg.dml``,
``badger_k2eg.procedures`` and ``badger_k2eg.testing``. Everything else is private, and may change in any release; but
a test may patch ``badger_k2eg.backends.pva.Context`` (the client) and ``badger_k2eg.core.futures.sleep`` (the pauses).

Importing the package imports none of it: a name is looked up where it lives when it is first used. Type checkers read
``__init__.pyi``, which has the same names; a test compares the two.
"""

import importlib

__version__ = "0.1.0"

_MODULES = {
    # PVs, read and set
    "control": ["Control"],
    "control.reader": ["Reader"],
    "backends": ["ThroughK2eg"],
    "backends.router": ["connect"],
    "backends.memory": ["MemoryBackend"],
    "core.model": ["Outcome", "PutResult", "Reading", "SetReport", "Severity", "timestamp"],
    "core.settings": ["Settings"],
    "core.units": ["Quantity", "parse_unit", "unit"],
    "core.futures": ["Future", "background", "first_completed", "gather", "sleep"],
    "control.validators": ["all_of", "reaches", "wait_for_readback", "within"],
    # what is tuned
    "tuning": ["Buffer", "Condition", "Expression", "Knob", "Observable", "Skew"],
    # runs, and the record of them
    "run": ["Attachment", "running"],
    "run.pv_locks": ["lock", "locked_by"],
    "run.restore": ["Restore"],
    "journal": ["Journal", "Query", "RecordedRun"],
    "core.records": ["RecordKind"],
    # the K2EG client
    "k2eg.client": ["K2egClient"],
    "k2eg.snapshots": ["SnapshotProperties"],
    # Badger
    "badger_app.environment": ["ControlEnvironment"],
    "badger_app.interface": ["ControlInterface", "K2egInterface"],
    "badger_app.replay": ["ReplayInterface"],
    "badger_app.headless": ["HeadlessRun", "load_routine", "open_badger"],
    "plugins": ["plugin_root"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(["errors", *_HOMES])


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "errors":
        return importlib.import_module(".errors", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
