"""Badger's side: the only importer of badger and xopt. Raises MissingExtra on import without the extra ``badger``.

Everything below this folder runs without Badger, its window toolkit and torch.
"""

from ..core.errors import MissingExtra

try:
    # Cheap: this is Badger's top level alone, without Qt.
    import badger  # noqa: F401
except ImportError:
    raise MissingExtra("Badger's side of badger-k2eg", "badger") from None
