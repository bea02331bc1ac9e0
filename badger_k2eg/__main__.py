"""``python -m badger_k2eg``: the command ``badger-k2eg``, also where its script is not on the path."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="badger-k2eg")
