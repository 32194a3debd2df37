"""The engine's end of the step's one exchange: a line out, a line in, on a descriptor it was given.

``run.hub`` has the table of messages. The elected task of a node connects and says ``hello``; while
the engine works the connection is its; whether the ranks may go is the task's to hear again.

Rules:
- Nothing here fails a launch: once the hub is gone, nothing is sent and nothing comes. The task
  that waits for ``go`` has the words for that.
- Lines are sent whole, by whichever thread has one to send.
- Once the root is entered nothing is imported: what is sent then needs what is loaded.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from fairlead import log

LINE_MAX = 4096  # bytes, with the newline; the task and the hub have the same bound
EVERY_S = 0.25
_LAST = {"go", "stop"}


class Exchange:
    """A connection to the hub in srun."""

    def __init__(self, fd: int) -> None:
        self._fd, self._lock, self._rest = fd, allocate_lock(), b""
        self.took: dict[str, tuple[int, int]] = {}  # phase → when it began and ended, ns

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
        task's, which ends this process where it comes before the engine's answer; here it is seen,
        and left where it is. One thread at a time.
        """
        import select

        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        poll = select.poll()
        while self._fd >= 0:
            poll.register(self._fd, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3
            if not poll.poll(left):
                return None
            begun = len(self._rest)
            line, newline, _ = (self._rest + _peek(self._fd)).partition(b"\n")
            words = tuple(line.decode(errors="surrogateescape").split(" "))
            if newline and words[0] in _LAST:
                self._fd = -1
                return words
            self._rest = b"" if newline else line
            missing = len(line) + len(newline) - begun
            if missing <= 0 or len(line) > LINE_MAX or not _take(self._fd, missing):
                self._fd = -1
            elif newline:
                return words
        return None

    def is_open(self) -> bool:
        """Tell whether the hub was there when something was last sent or received."""
        return self._fd >= 0

    def tell_phases(self) -> None:
        """Tell how long each phase of the launch took until now (``log.phase``)."""
        begun = log.phases
        ends = [*(began for _, began in begun[1:]), time.monotonic_ns()]
        took = {name: (began, end) for (name, began), end in zip(begun, ends, strict=True)}
        pulled = min((began for began, _ in self.took.values()), default=0)
        if pulled and "resolve" in took:  # it ends where the layers begin to come
            took["resolve"] = (took["resolve"][0], pulled)
        took |= self.took
        words = (f"{name}={(end - began) // 1000}" for name, (began, end) in took.items())
        self.send("phases", *words)


def _peek(fd: int) -> bytes:
    """Return what the hub has sent, which stays unread."""
    import _socket

    socket = _socket.socket(fileno=fd)
    try:
        return socket.recv(LINE_MAX, _socket.MSG_PEEK)
    except OSError:
        return b""
    finally:
        socket.detach()


def _take(fd: int, count: int) -> bool:
    """Read what was seen."""
    try:
        return len(os.read(fd, count)) == count
    except OSError:
        return False


class Progress:
    """Progress that goes to the hub (``log.Progress``), and how long fetch and unpack took."""

    def __init__(self, hub: Exchange) -> None:
        self._hub, self._lock = hub, allocate_lock()
        self._total: dict[str, int] = {}
        self._phase: dict[str, str] = {}
        self._done = 0
        self._next = time.monotonic()

    def start(self, key: str, label: str, total: int | None) -> None:
        """Begin an item."""
        with self._lock:
            self._phase[key] = "convert" if label.startswith("unpack") else "fetch"
            if self._phase[key] == "fetch":
                self._total[key] = total or 0
                now = time.monotonic_ns()
                self._hub.took.setdefault("fetch", (now, now))

    def advance(self, key: str, count: int) -> None:
        """Add bytes; tell the hub at most one sum per interval."""
        with self._lock:
            now = time.monotonic_ns()
            phase = self._phase.get(key, "fetch")
            self._hub.took[phase] = (self._hub.took.get(phase, (now, now))[0], now)
            self._done += count if phase == "fetch" else 0
            if now < self._next * 1e9:
                return
            self._next = now / 1e9 + EVERY_S
            done, total = self._done, sum(self._total.values())
        self._hub.send("image", done, total)

    def finish(self, key: str) -> None:
        """End an item; its bytes stay counted."""
        return
