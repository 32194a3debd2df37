"""Lines for people, on stderr: errors, warnings, notes, and progress.

Rules:
- One event, one line, prefixed ``fairlead:``; every control character from outside is escaped.
- In a job (stderr is no terminal) progress is one quiet line per stage, at most one every few
  seconds.
- Nothing here imports rich: a progress bar is asked for by the verbs that show one (``cli``), never
  at launch.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Protocol

from fairlead import errors

_verbose = bool(os.environ.get("FAIRLEAD_VERBOSE"))
_quiet = False
_said = 0


def set_verbose(verbose: bool) -> None:
    """Turn debug lines on or off for this process."""
    global _verbose  # noqa: PLW0603 - one switch per process, set once by the command line
    _verbose = verbose


def set_quiet(quiet: bool) -> None:
    """Keep warnings, notes and progress to ourselves: on all nodes of a step but the first."""
    global _quiet  # noqa: PLW0603 - likewise
    _quiet = quiet


def is_verbose() -> bool:
    """Tell whether debug lines are printed."""
    return _verbose


def said() -> int:
    """Return how many warnings and notes there were so far, those that were kept quiet too."""
    return _said


def _write(text: str) -> None:
    try:
        os.write(2, f"fairlead: {errors.one_line(text)}\n".encode(errors="surrogateescape"))
    except OSError:  # a closed stderr must not turn into another failure
        return


def _say(text: str) -> None:
    global _said  # noqa: PLW0603 - one process, one launch
    _said += 1
    if not _quiet:
        _write(text)


def error(failure: errors.Error) -> None:
    """Print the one line of a failure."""
    _write(failure.line())


def warning(text: str) -> None:
    """Print a line for something that the user should know and that does not stop the work."""
    _say(f"warning: {text}")


def note(text: str) -> None:
    """Print a line of information."""
    _say(text)


def debug(text: str) -> None:
    """Print a line only with --verbose."""
    if _verbose:
        _write(f"debug: {text}")


phases: list[tuple[str, int]] = []  # for a start report: name, and when it began (monotonic ns)


def phase(name: str) -> None:
    """Note that a launch has come to its next phase."""
    phases.append((name, time.monotonic_ns()))


class Progress(Protocol):
    """Where long work reports to: quiet lines here, bars in ``cli.progress``."""

    def start(self, key: str, label: str, total: int | None) -> None:
        """Begin or restart an item; total in bytes, None when unknown."""

    def advance(self, key: str, count: int) -> None:
        """Add count bytes to an item; called from several threads."""

    def finish(self, key: str) -> None:
        """End an item."""


class QuietProgress:
    """Progress for logs: a line when work takes over a second, then one every five seconds."""

    def __init__(self, label: str, *, first_s: float = 1.0, every_s: float = 5.0) -> None:
        from _thread import allocate_lock  # threading costs a launch two milliseconds

        self._clock = time.monotonic
        self._label, self._every_s = label, every_s
        self._lock = allocate_lock()
        self._next = self._clock() + first_s
        self._total: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def start(self, key: str, label: str, total: int | None) -> None:
        """Begin an item."""
        with self._lock:
            self._total[key], self._done[key] = total or 0, 0

    def advance(self, key: str, count: int) -> None:
        """Add bytes; print at most one line per interval."""
        with self._lock:
            self._done[key] = self._done.get(key, 0) + count
            now = self._clock()
            if now < self._next:
                return
            self._next = now + self._every_s
            done, total = sum(self._done.values()), sum(self._total.values())
        share = (
            f"{min(100, 100 * done // total)} % of {total / 1e6:,.0f} MB"
            if total
            else f"{done / 1e6:,.0f} MB"
        )
        note(f"{self._label}: {share}")

    def finish(self, key: str) -> None:
        """End an item; its bytes stay counted."""
        return


def main_stream_is_terminal() -> bool:
    """Tell whether stderr is a terminal that a person watches."""
    return sys.stderr is not None and sys.stderr.isatty()
