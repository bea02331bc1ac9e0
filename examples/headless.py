"""A routine without Badger's window, from Python: `python examples/headless.py [ROUTINE.yaml [FOLDER]]`.

By default it tunes the machine of `badger-k2eg ioc demo`.
"""

import sys
from pathlib import Path

from badger_k2eg import HeadlessRun, load_routine, open_badger


def show(evaluation) -> None:
    """Print an evaluation; called after each one."""
    print(evaluation.number, evaluation.variables, evaluation.objectives, "best" if evaluation.best else "")


def main(file: str = str(Path(__file__).parent / "routines" / "neldermead.yaml"), folder: str = "badger-runs") -> None:
    """Run it, and leave the machine at the best point."""
    open_badger(Path(folder))
    routine = load_routine(file)
    run = HeadlessRun(routine, evaluations=15, target=0.12, at_end="best")
    run.run(show)
    print(f"{run.reason}: from {run.start.outputs} to {run.end.outputs}; {run.archive}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
