"""``python -m badger_k2eg.cli``: the command, also where its script is not on the path."""

from . import main

if __name__ == "__main__":
    main(prog_name="badger-k2eg")
