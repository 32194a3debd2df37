"""Progress bars for a person at a terminal: one for what is fetched, one for what is unpacked.

Rules:
- Items are summed up by the first word of their label: sixty layers do not make sixty bars.
- No thread: the bars are drawn by whoever reports progress, at most ten times a second. A launch
  unshares its user namespace next, which a live thread would forbid (user_namespaces(7)).
- When every item has ended the bars are removed and the terminal is as before.
"""

from __future__ import annotations

import atexit
import threading
import time

from rich import console
from rich import progress as rich_progress

from fairlead import log

_EVERY_S = 0.1


def bars(label: str) -> log.Progress:
    """Return progress that draws on stderr; label is the image's name."""
    return _Bars(label)


class _Bars:
    def __init__(self, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self._items: dict[str, str] = {}  # key -> word
        self._open: set[str] = set()
        self._total: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._tasks: dict[str, rich_progress.TaskID] = {}
        self._drawn = 0.0
        self._bars: rich_progress.Progress | None = None
        atexit.register(self._stop)  # an error in between must not leave the cursor hidden

    def start(self, key: str, label: str, total: int | None) -> None:
        """Begin or restart an item."""
        word = label.partition(" ")[0]
        with self._lock:
            if key in self._items:
                self._open.add(key)
                return
            self._items[key] = word
            self._open.add(key)
            self._total[word] = self._total.get(word, 0) + (total or 0)
            self._draw()

    def advance(self, key: str, count: int) -> None:
        """Add bytes to an item."""
        with self._lock:
            word = self._items.get(key, "fetch")
            self._done[word] = self._done.get(word, 0) + count
            self._draw()

    def finish(self, key: str) -> None:
        """End an item; the last one takes the bars away."""
        with self._lock:
            self._open.discard(key)
            if not self._open:
                self._stop()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._drawn < _EVERY_S:
            return
        self._drawn = now
        if self._bars is None:
            self._bars = _columns()
            self._bars.start()
        for word, total in self._total.items():
            if word not in self._tasks:
                self._tasks[word] = self._bars.add_task(
                    f"{self._label}: {word}", total=total or None
                )
            done = self._done.get(word, 0)
            self._bars.update(self._tasks[word], completed=done, total=total or None)
        self._bars.refresh()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()


def _columns() -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
