"""One line of progress for a step, however many nodes fetch its image.

Rules:
- Nothing for the first second, nothing where srun is quiet, nothing where no node fetches.
- On a terminal the line stays in its place and vanishes at the end; elsewhere it is a line every
  five seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fairlead import errors

if TYPE_CHECKING:
    from fairlead.run.hub_gate import Meeting

LOOK_S = 0.25  # thousands of nodes are not looked through at each word of one
FIRST_S = 1.0
EVERY_S = 5.0


class Line:
    """Where the progress of a step is shown."""

    def __init__(self, reference: str, *, quiet: bool) -> None:
        self._reference, self._quiet = reference, quiet
        self._terminal = not quiet and os.isatty(2)
        self._look_at = self._next_at = 0.0
        self._shown = False

    def show(self, meeting: Meeting, now: float) -> None:
        """Show how far the nodes are, if it is time to."""
        if self._quiet or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        text = told(meeting)
        if not text:
            return
        self._next_at = self._next_at or now + FIRST_S
        if now < self._next_at:
            return
        self._next_at = now if self._terminal else now + EVERY_S
        line = told_of(self._reference, text, _width() if self._terminal else 0)
        self._write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._shown = True

    def clear(self) -> None:
        """Take the line away from a terminal."""
        if self._shown and self._terminal:
            self._write("\r\x1b[K")
        self._shown = False

    def _write(self, text: str) -> None:
        try:
            os.write(2, text.encode(errors="surrogateescape"))
        except OSError:
            self._quiet = True


def told_of(reference: str, text: str, width: int) -> str:
    """Return the line, where it has a width cut in the image's name and not in what is told."""
    name, _, digest = errors.one_line(reference).partition("@")
    # Of a name that stands beside its digest the tag says more.
    name = name if ":" in name.rpartition("/")[2] or not digest else f"{name}@{digest[:19]}"
    room = width - len("fairlead: pulling : ") - len(text)
    if width and len(name) > room:
        name = f"...{name[3 - room :]}" if room > 3 else ""
    line = f"fairlead: pulling {name}: {errors.one_line(text)}"
    return line[:width] if width else line


def _width() -> int:
    try:
        return (os.get_terminal_size(2).columns or 80) - 1
    except OSError:
        return 79


def told(meeting: Meeting) -> str:
    """Return how far the nodes are; empty where none fetches."""
    fetching = [node for node in meeting.seen.values() if node.state == "here" and node.total]
    if not fetching:
        return ""
    ready = sum(node.state == "ready" for node in meeting.seen.values())
    slowest = min(fetching, key=lambda node: (node.done / node.total, node.index))
    share = min(100, 100 * slowest.done // slowest.total)
    return (
        f"image ready on {ready}/{meeting.expected} nodes, {slowest.name}: {share} % of "
        f"{_size(slowest.total)}"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:,.0f} MB"
