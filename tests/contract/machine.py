"""The machine that the suite plays on: the same logical PVs, whatever way leads to them.

A ``Machine`` is all that a test knows of a transport. One class for each way; a new one (k2eg) says how a Control is
made, where the PVs are, and, in ``lacks``, what it cannot give and why.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from badger_k2eg.backends import ThroughK2eg, Way
from badger_k2eg.backends.memory import Fault
from badger_k2eg.control import Control, connect
from badger_k2eg.core import clock
from badger_k2eg.core.backend import Backend, Gate, NullSink, Sink
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Limits, PutResult, PvAddress, SetReport
from badger_k2eg.core.settings import parse, resolve
from tests.rig.waiting import eventually

if TYPE_CHECKING:
    from badger_k2eg.testing.gateway import GatewayProcess
    from badger_k2eg.testing.soft_ioc import Part, SoftIoc
    from tests.rig.fault_server import FaultServer

    from .memory_machine import SimulatedMachine

#: Seconds for whatever must happen in the end, on a machine as loaded as may be.
PATIENCE = 15.0

#: What a machine may lack. A test says what it needs: ``@pytest.mark.needs("faults")``.
FEATURES = {
    "faults": "puts that are lost, late, half done or not answered",
    "silent clip": "a PV that clips a put without a word, and without limits to know it by",
    "structures": "tables, and scalars that are no EPICS record's (bool, int64, uint8)",
    "long texts": "texts longer than a record's 39 bytes",
    "rights": "write access known before a put",
    "completion": "put completion: an answer when the record has finished processing",
    "process": "a server in a process of its own, to be killed, restarted and stopped",
    "sizes": "sizes known before a put: bits of a number, length of an array or a text",
    "unsent": "whether a put has left for the server or not",
    "fields": "fields of a record",
    "aliases": "records that have aliases, and names that are written in every way that an IOC takes",
    "prompt": "an update seen within 20 ms, every one of them",
}


class Machine:
    """The PVs of ``ioc_records`` and ``fault_server`` by their short names, over one transport."""

    name: ClassVar[str]
    #: What it cannot give: feature -> reason.
    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self._controls: list[Control] = []

    @classmethod
    def has(cls, feature: str) -> bool:
        """Whether the transport can give this (see ``FEATURES``)."""
        assert feature in FEATURES, feature
        return feature not in cls.lacks

    def pv(self, name: str) -> str:
        """Give the whole name of a logical PV."""
        raise NotImplementedError

    def pvs(self, *names: str) -> list[str]:
        return [self.pv(name) for name in names]

    @property
    def way(self) -> Way:
        """What leads to the PVs; a spawned child can be given it."""
        return self.name

    def backend(self) -> Backend:
        """Connect to the PVs, for one control."""
        return connect(self.way)

    def control(self, *, sink: Sink | None = None, gate: Gate | None = None, **options: Any) -> Control:
        """Make a control with these options; it has already heard of every PV asked for so far.

        Without that, a timeout of half a second would also have to last for finding the server.
        """
        options = {"timeout": 3.0, "retry_delay": 0.2} | options
        settings = resolve([parse(options, lambda name: f"option {name}")])
        control = Control(self.backend(), settings, sink=sink, gate=gate)
        self._controls.append(control)
        self.warm(control)
        return control

    def warm(self, control: Control) -> None:
        """Find the servers of the PVs asked for so far."""

    def look(self, name: str) -> Any:
        """Read a PV past all of our code; plain values, an enum as its index."""
        raise NotImplementedError

    def move(self, name: str, value: Any) -> None:
        """Change a PV past all of our code, as somebody else would."""
        raise NotImplementedError

    def lower(self, name: str, high: float) -> None:
        """Lower the upper drive limit of a record past all of our code."""
        raise NotImplementedError

    def break_output(self, name: str) -> None:
        """Let the output of a record fail: it takes what is put, and answers with an error."""
        raise NotImplementedError

    def arrived(self, name: str) -> int:
        """Count the puts that reached one of the fault PVs since the reset."""
        raise NotImplementedError

    def vanish(self) -> None:
        """Take the server away."""
        raise NotImplementedError

    def come_back(self) -> None:
        """Bring it back with its first values."""
        raise NotImplementedError

    def close(self) -> None:
        """Put everything back as it was."""
        self.close_controls()

    def close_controls(self) -> None:
        for control in self._controls:
            control.close()
            control.backend.close()
        self._controls.clear()


#: First values of the IOC's records that a test may change.
INITIAL: dict[str, Any] = {
    "DBL": 1.5, "FREE": 1.0, "INT": 42, "INTFREE": 7, "STR": "hello", "LSTR": "a long string " * 5, "ENUM": 1,
    "BOOL": 1, "WF": [1.0, 2.5, -3.25], "IWF": [1, 2, 3], "F32WF": [0.5, 1.5], "SWF": ["one", "two", "three"],
    "Q[1]": 1.0, "Q1": 1.0, "B{IOC-1}Val": 1.0,
    "VALID": 1.0, "SETTLE": 0.1, "RAMP:SP": 0.0, "STICK:SP": 0.0, "NOISY:SP": 0.0,
} | {f"SP:{i:03d}": 0.0 for i in range(100)}  # fmt: skip
INITIAL |= {f"{name}:{kind}": 4.0 for name in ("PLAIN", "SHARED", "CALC", "QUANT", "FAILING") for kind in "LF"} | {
    "LONG": 0
}

#: Served by the fault server; everything else by the IOC.
FAULTS = {
    "TABLE", "NOANSWER", "LATE", "LOST", "LOSTONCE", "APPLIEDONCE", "HALF", "REFUSE", "CLAMP", "DELAYED", "READONLY",
    "TRUNC", "U8", "I64", "FLOAT32", "FLAG", "TEXT", "ARR", "PULSE", "IMAGE",
}  # fmt: skip

# Two records share a short name with a PV of the fault server.
_RENAMED = {"F32WF": "F32", "FLOAT32": "F32"}


class Independent:
    """A p4p client that has nothing to do with our code."""

    def __init__(self) -> None:
        self._open: Any = None
        # p4p hangs in a child that was forked beside an open context, whoever forks in this session.
        os.register_at_fork(before=self.close)

    @property
    def _context(self) -> Any:
        from p4p.client.thread import Context

        if self._open is None:
            self._open = Context("pva", nt=False)
        return self._open

    def close(self) -> None:
        """Put it down: before a fork, and where a server has been started again (a new channel is found sooner)."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def get(self, pv: str) -> Any:
        value = self._context.get(pv, timeout=PATIENCE).value
        if hasattr(value, "index") and hasattr(value, "choices"):
            return value.index
        if hasattr(value, "todict"):
            return {name: plain(column) for name, column in value.todict(None, dict).items()}
        return plain(value)

    def put(self, values: Mapping[str, Any], field: str = "value") -> None:
        if values:
            self._context.put(list(values), [{field: value} for value in values.values()], timeout=PATIENCE)


def plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


class IocMachine(Machine):
    """A real IOC, and over PVAccess the fault server."""

    #: One for all tests: a context of its own for each would cost more than the tests.
    independent: ClassVar[Independent] = Independent()

    def __init__(self, ioc: SoftIoc, faults: FaultServer | None = None) -> None:
        super().__init__()
        self.ioc, self.faults = ioc, faults
        self._used: set[str] = set()
        self._broken: set[str] = set()
        self._commands = 0
        self.independent.put({ioc.pv("SETTLE"): INITIAL["SETTLE"]})
        if faults is not None:
            self.independent.put({faults.pv("RESET"): 1})

    def _server(self, name: str) -> Part:
        if name.removeprefix("PUTS:") not in FAULTS:
            return self.ioc
        assert self.faults is not None, f"{name} is the fault server's: mark the test with needs"
        return self.faults

    def pv(self, name: str) -> str:
        if name == "CMD" and name not in self._used:
            self._commands = self.independent.get(self.ioc.pv("CMD:COUNT"))
        self._used.add(name)
        return self._server(name).pv(_RENAMED.get(name, name))

    def warm(self, control: Control) -> None:
        known = [name for name in self._used if not name.startswith("NOBODY")]
        updates = control.updates([self.pv(name) for name in known], Deadline(PATIENCE))
        assert updates or not known

    def look(self, name: str) -> Any:
        return self.independent.get(self.pv(name))

    def move(self, name: str, value: Any) -> None:
        self.independent.put({self.pv(name): value}, "value.index" if name in ("ENUM", "BOOL") else "value")

    def lower(self, name: str, high: float) -> None:
        self.independent.put({f"{self.pv(name)}.DRVH": high})

    def break_output(self, name: str) -> None:
        # Into a field that nobody may write; until then it is in no alarm.
        self._broken.add(name)
        self.independent.put({f"{self.pv(name)}.OUT": ""})
        self.independent.put({self.pv(name): INITIAL[name]})
        self.independent.put({f"{self.pv(name)}.OUT": self.ioc.pv("SRC.NAME")})

    def arrived(self, name: str) -> int:
        if name == "CMD":
            return int(self.look("CMD:COUNT")) - self._commands
        return int(self.look(f"PUTS:{name}"))

    @property
    def server_runs(self) -> bool:
        """Whether it does, or is stopped; and not killed."""
        return "pid" in repr(self.ioc)

    def vanish(self) -> None:
        self.ioc.kill()

    def come_back(self) -> None:
        self.ioc.restart()
        self.independent.close()

    def close(self) -> None:
        super().close()
        if self.faults is not None and self._used & FAULTS:
            self.independent.put({self.faults.pv("RESET"): 1})
        self.independent.put({f"{self.pv(name)}.OUT": "" for name in self._broken})
        self._set_back({name for name in self._used if name in INITIAL})

    def as_new(self) -> None:
        """Set back what other tests than those of this suite have left in the IOC, which they share."""
        self._set_back(set(INITIAL))

    def _set_back(self, names: set[str]) -> None:
        """Give the records their first values, and wait until what follows them has arrived."""
        # Not faster: a ramp of the IOC that ends in its first step leaves the step of an older one pending.
        at_once = {"SETTLE": 0.0, "RAMP:RATE": 100.0}
        usual = {"SETTLE": INITIAL["SETTLE"], "RAMP:RATE": 1.0}
        enums = names & {"ENUM", "BOOL"}
        self.independent.put({self.ioc.pv(name): value for name, value in at_once.items()})
        self.independent.put({self.pv(name): INITIAL[name] for name in sorted(names - enums - set(at_once))})
        self.independent.put({self.pv(name): INITIAL[name] for name in enums}, "value.index")
        for name in names:
            if name.startswith(("SP:", "RAMP:SP")):
                readback = self.ioc.pv(name.replace("SP", "RB"))
                eventually(functools.partial(self.independent.get, readback), 0.0)
        self.independent.put({self.ioc.pv(name): value for name, value in usual.items()})


class PvaMachine(IocMachine):
    name = "pva"
    lacks: ClassVar[Mapping[str, str]] = {"rights": "PVAccess does not tell of write access before a put"}


class CaMachine(IocMachine):
    name = "ca"
    lacks: ClassVar[Mapping[str, str]] = {
        "faults": "an IOC answers every put: there is no Channel Access server here that loses one",
        "silent clip": "every record that clips says its limits over Channel Access",
        "long texts": "over Channel Access the IOC shows them as arrays of bytes",
        "structures": "Channel Access knows neither tables nor bool, int64 or uint8",
    }


class K2egMachine(IocMachine):
    """The same servers behind the gateway, which reaches them over PVAccess."""

    name = "k2eg"
    lacks: ClassVar[Mapping[str, str]] = {
        "rights": "the gateway does not tell of write access before a put",
        "completion": "K2EG knows no put completion: such a PV is read back",
        "sizes": "no type travels over K2EG: the server refuses what is too wide or too long, or a read-back tells",
        "unsent": "a gateway has the put all the same, and nothing takes it back",
        "aliases": "K2EG knows no fields, so the name of a record cannot be asked for",
        "fields": "K2EG drops the field and uses the record: they are refused",
        "prompt": "an update takes two more hops, and what seems to have arrived is read before it is believed",
    }

    def __init__(self, ioc: SoftIoc, faults: FaultServer | None, gateway: GatewayProcess) -> None:
        super().__init__(ioc, faults)
        self.gateway = gateway

    @property
    def way(self) -> Way:
        return ThroughK2eg(self.gateway.environment_name, "contract", str(self.gateway.folder))


class MemoryMachine(Machine):
    """The same PVs in memory."""

    name = "memory"
    lacks: ClassVar[Mapping[str, str]] = {
        "completion": "memory has nothing to wait for",
        "process": "memory is no process",
        "aliases": "a PV in memory is no record",
    }

    def __init__(self, simulated: SimulatedMachine) -> None:
        super().__init__()
        self.simulated = simulated
        self.memory = simulated.memory

    def pv(self, name: str) -> str:
        return f"MEM:{name}"

    def backend(self) -> Backend:
        return connect("pva", self.memory)

    def look(self, name: str) -> Any:
        return self.memory.value(self.pv(name))

    def move(self, name: str, value: Any) -> None:
        self.memory.post(self.pv(name), value)

    def break_output(self, name: str) -> None:
        self.memory.fault(self.pv(name), Fault.FAILING)

    def lower(self, name: str, high: float) -> None:
        self.memory.post(self.pv(name), self.look(name), limits=Limits(-high, high))

    def arrived(self, name: str) -> int:
        return [pv for pv, _ in self.memory.puts].count(self.pv(name))

    def vanish(self) -> None:
        self.simulated.vanish()

    def come_back(self) -> None:
        self.simulated.come_back()

    def close(self) -> None:
        super().close()
        self.memory.close()


# -- helpers of the tests ---------------------------------------------------------------------------------------


class Recorder(NullSink):
    """A sink that keeps what it is told, and may do something about it."""

    def __init__(self, on_attempt: Callable[[PutResult], None] = lambda result: None) -> None:
        self.attempts: list[PutResult] = []
        self.times: list[float] = []
        self.reports: list[SetReport] = []
        self._on_attempt = on_attempt

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        for result in results.values():
            self.attempts.append(result)
            self.times.append(clock.monotonic())
            self._on_attempt(result)

    def set_finished(self, report: SetReport) -> None:
        self.reports.append(report)


def later(seconds: float, action: Callable[[], object]) -> threading.Thread:
    """Do something after a while, by the clock of the test, in a thread of its own."""

    def run() -> None:
        clock.sleep(seconds)
        action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


class Running:
    """A call in a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.value: Any = None
        self.ended_at = 0.0
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:  # handed to the test's own thread
            self.error = error
        finally:
            self.ended_at = clock.monotonic()

    def result(self, seconds: float = PATIENCE) -> Any:
        """Wait for its end; raise what it raised."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still running after {seconds} s"
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()
