"""Progress bars that cost nothing until there is progress: rich is imported with the first item."""

from __future__ import annotations

from fairlead import log


class LazyProgress:
    """Stands in for ``progress.BarProgress`` until the first item starts."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bars: log.Progress | None = None

    def _real(self) -> log.Progress:
        if self._bars is None:
            from fairlead.cli import progress

            self._bars = progress.bars(self._label)
        return self._bars

    def start(self, key: str, label: str, total: int | None) -> None:
        """Begin an item."""
        self._real().start(key, label, total)

    def advance(self, key: str, count: int) -> None:
        """Add bytes to an item."""
        self._real().advance(key, count)

    def finish(self, key: str) -> None:
        """End an item."""
        self._real().finish(key)
