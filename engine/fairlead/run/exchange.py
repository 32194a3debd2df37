"""The engine's end of the step's one exchange: a line out, a line in, on a descriptor it was given.

``run.hub`` has the table of messages. The elected task of a node connects and says ``hello``; while
the engine works the connection is its; whether the ranks may go is the task's to hear again.

Rules:
- Nothing here fails a launch: once the hub is gone, nothing is sent and nothing comes. The task
  that waits for ``go`` has the words for that.
- Lines are sent whole, by whichever thread has one to send.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_MAX = 4096  # bytes, with the newline; c_ext and the hub have the same bound


class Exchange:
    """A connection to the hub in srun."""

    def __init__(self, fd: int) -> None:
        from _thread import allocate_lock

        self._fd, self._lock, self._rest = fd, allocate_lock(), b""

    def send(self, topic: str, *words: object) -> bool:
        """Send one message; tell whether the hub is still there.

        Words hold no space and no newline, the last one may hold spaces.
        """
        line = " ".join([topic, *map(str, words)]).encode(errors="surrogateescape")
        rest = memoryview(line[: LINE_MAX - 1].replace(b"\n", b" ") + b"\n")
        with self._lock:
            try:
                while rest and self._fd >= 0:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:
                self._fd = -1
            return self._fd >= 0

    def receive(self, timeout_s: float | None = None) -> tuple[str, ...] | None:
        """Return the hub's next message as words; None when none came in time, or it is gone.

        Only for who has asked the hub something: the last message, ``go`` or ``stop``, is the
        task's, and comes after the engine has ended. One thread at a time.
        """
        return next(self._messages(timeout_s), None)

    def is_open(self) -> bool:
        """Tell whether the hub was there when something was last sent or received."""
        return self._fd >= 0

    def _messages(self, timeout_s: float | None) -> Iterator[tuple[str, ...]]:
        import select
        import time

        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._fd >= 0:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                yield tuple(line.decode(errors="surrogateescape").split(" "))
                continue
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3
            if not poll.poll(left):
                return
            try:
                data = os.read(self._fd, LINE_MAX)
            except OSError:
                data = b""
            self._rest += data
            if not data or len(self._rest) > 2 * LINE_MAX:
                self._fd = -1
