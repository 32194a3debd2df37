"""The hub: where the nodes of a step meet before any rank runs, in a process of their srun's.

srun's side of the plugin (``spank_shim/hub_start.c``) opens a listening socket, exports its port
and a cookie to the step, and starts this, with the facts of the step as standard input, the socket
as descriptor 3, and as 4 a pipe that ends with srun. On each node the task that builds the
container connects first thing (``spank_shim/gate.c``), from then on tells how far it is, and waits
for one word before a rank may run.

Messages are lines of at most 4,096 bytes: a topic and words, with one space between.

    node → hub
    hello 1 COOKIE INDEX NAME NODES   first of all: protocol, cookie in hex, the node's number in
                                  the step, its name, the step's host list
    image DONE TOTAL              bytes of the image that are here, of how many (0: not known)
    phases NAME=MICROSECONDS ...  how long what took
    ready MICROSECONDS FACTS      the container stands, so long after the task began; FACTS are
                                  KEY=VALUE with tabs between: what must be the same on all nodes
    failed STATUS LINE            it cannot be had: the ranks' exit status, the line for the user
    left                          the step is being cancelled: there is nothing to say
    need, fetched, have ...       which blobs the node lacks, and has fetched: ``hub_blobs``

    hub → node
    go                            run the ranks
    stop STATUS                   end them with this status and say nothing: the hub has spoken
    fetch, wait, part, have ...   who fetches them, and how they come: ``hub_blobs``

After ``go`` or ``stop`` the hub's direction is shut down, which a
task notices while its engine is at work; a direction that ends without a word means that each node
is on its own again.

Rules:
- A topic is an entry of ``TOPICS``: a function of the hub, the node and the rest of the line; it
  answers with ``hub.tell``. What the answers mean is decided in pure modules (``hub_gate``,
  ``hub_progress``, ``hub_report``).
- Everything that comes is hostile: lines, connections without the cookie and their number are
  bounded, and nothing of it is printed unescaped. Who has the cookie can lie about a node of this
  step, which is the user's own.
- The hub alone speaks: one line for the step, whatever happened on how many nodes.
- It ends when every node was told and has hung up, and with srun.
- It starts while the step starts: nothing here is imported that costs a millisecond.
"""

from __future__ import annotations

import os
import select
import time
from _operator import _compare_digest
from collections.abc import Callable
from typing import TYPE_CHECKING

from fairlead import errors
from fairlead.run import hub_gate, hub_progress

if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812 - a class

    from fairlead.run import hub_blobs

LISTENER_FD = 3
LIFE_FD = 4
LINE_MAX = 4096
PROTOCOL = "1"
HELLO_S = 10.0  # for a connection to show the cookie
STRANGERS = 64  # connections that have not, beyond the step's number of nodes
TICK_S = 0.5


class Node:
    """One connection; ``seen`` is what is known of the node that it belongs to."""

    __slots__ = ("accepted_at", "buffer", "out", "seen", "socket", "told", "waits")

    def __init__(self, socket: Socket, now: float) -> None:
        self.socket, self.accepted_at = socket, now
        self.buffer, self.out, self.told, self.waits = b"", b"", False, False
        self.seen: hub_gate.Seen | None = None


class Hub:
    """The connections of one step, and what was decided."""

    def __init__(self, facts: dict[str, str], listener: Socket, settings: Settings) -> None:
        self.facts, self.settings = facts, settings
        self.expected = int(facts["nodes"])
        self.nodes: dict[int, Node] = {}  # by descriptor
        self.meeting = hub_gate.Meeting(self.expected, settings.timeout_s)
        self.progress = hub_progress.Line(facts.get("ref", ""), quiet=facts.get("quiet") == "1")
        self._listener, self._epoll = listener, select.epoll()
        self._strangers: dict[int, Node] = {}  # in the order in which they came
        self._decision: hub_gate.Decision | None = None
        self._blobs: hub_blobs.Blobs | None = None
        self._by_index: dict[int, Node] = {}
        listener.setblocking(False)
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(LIFE_FD, 0)  # its end is always told

    def serve(self) -> None:
        """Serve until every node was told and has hung up, or srun has ended."""
        while not (self._decision and not self.nodes and self._has_met_all()):
            due_s = self._blobs.wait_s() if self._blobs else None
            for fd, _ in self._epoll.poll(TICK_S if due_s is None else min(TICK_S, due_s), 1024):
                if fd == LIFE_FD:
                    self.progress.clear()
                    return
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self.nodes:
                    self._exchange(self.nodes[fd])
            now = time.monotonic()
            self._forget_strangers(now)
            if self._blobs:
                self._blobs.tick()
            if self._decision is None:
                self._decide(now)

    def tell(self, node: Node, *words: object) -> None:
        """Send a node one message; it waits here as long as the node does not take it."""
        node.out += " ".join(map(str, words)).encode(errors="surrogateescape") + b"\n"
        self._flush(node)

    def shut(self, node: Node) -> None:
        """End the hub's direction of a connection."""
        try:
            node.socket.shutdown(1)  # SHUT_WR
        except OSError:
            self._hang_up(node)

    def _has_met_all(self) -> bool:
        return len(self.meeting.seen) >= self.expected

    def _accept(self) -> None:
        from _socket import socket

        for _ in range(256):
            try:
                fd, _address = self._listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError:  # out of descriptors, or it is gone already
                return
            node = Node(socket(fileno=fd), time.monotonic())
            node.socket.setblocking(False)
            self.nodes[fd] = self._strangers[fd] = node
            self._epoll.register(fd, select.EPOLLIN)
            if len(self._strangers) > self.expected + STRANGERS:
                self._hang_up(next(iter(self._strangers.values())))
            if fd in self.nodes:
                self._exchange(node)

    def _forget_strangers(self, now: float) -> None:
        for node in list(self._strangers.values()):
            if now - node.accepted_at < HELLO_S:
                return
            self._hang_up(node)

    def _exchange(self, node: Node) -> None:
        """Take what a node sent, and send what waits for it."""
        try:
            data = node.socket.recv(65536)
        except BlockingIOError:
            self._flush(node)
            return
        except OSError:
            data = b""
        *lines, node.buffer = (node.buffer + data).split(b"\n")
        for line in lines:
            if node.socket.fileno() >= 0 and not node.told:
                self._take(node, line)
        if not data or len(node.buffer) > LINE_MAX:
            self._hang_up(node)

    def _take(self, node: Node, line: bytes) -> None:
        topic, _, rest = line.decode(errors="surrogateescape").partition(" ")
        if len(line) >= LINE_MAX or (node.seen is None and topic != "hello"):
            self._hang_up(node)
            return
        try:
            if topic in TOPICS:
                TOPICS[topic](self, node, rest)
        except ValueError:  # a number that is none
            self._hang_up(node)

    def _hang_up(self, node: Node) -> None:
        fd = node.socket.fileno()
        if fd < 0:
            return
        self._epoll.unregister(fd)
        self.nodes.pop(fd)
        self._strangers.pop(fd, None)
        node.socket.close()
        if node.seen is not None:
            self.settled(node)
        if node.seen is not None and not node.told:
            self.meeting.gone(node.seen, time.monotonic())

    def _flush(self, node: Node) -> None:
        fd = node.socket.fileno()
        if fd < 0 or not node.out:
            return
        waited = node.waits
        try:
            node.out = node.out[node.socket.send(node.out) :]
        except BlockingIOError:
            pass
        except OSError:
            node.out = b""  # its end will be read
        node.waits = bool(node.out)
        if node.waits != waited:
            self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if node.waits else 0))
        if node.told and not node.out:
            self.shut(node)

    def _decide(self, now: float) -> None:
        self._decision = decision = self.meeting.decide(now, gate=self.settings.gate)
        if decision is None:
            self.progress.show(self.meeting, now)
            return
        self.progress.clear()
        if decision.line:
            say(decision.line)
        elif not decision.status and self.facts.get("report"):
            from fairlead.run import hub_report

            hub_report.give(self.facts, self.meeting, now)
        for node in list(self.nodes.values()):
            if node.seen is not None and not node.told:
                self._announce(node)

    def _announce(self, node: Node) -> None:
        """Tell a node what was decided; it says nothing more that matters."""
        if self._decision is None:
            return
        node.told = True
        if self._decision.status < 0:  # without a gate a failing node speaks for itself
            self.shut(node)
        elif self._decision.status:
            self.tell(node, "stop", self._decision.status)
        else:
            self.tell(node, "go")

    def hello(self, node: Node, rest: str) -> None:
        """Let a connection be that of a node."""
        protocol, cookie, index, name, nodes = (*rest.split(" "), "", "", "", "", "")[:5]
        right = _compare_digest(
            cookie.encode(errors="surrogateescape"), self.facts["cookie"].encode()
        )
        if not right or protocol != PROTOCOL or node.seen is not None:
            self._hang_up(node)
            return
        self._strangers.pop(node.socket.fileno(), None)
        node.seen = self.meeting.hello(int(index), name, nodes, time.monotonic())
        if node.seen is None:  # no number of this step's, or one that is taken
            self._hang_up(node)
            return
        self._by_index[node.seen.index] = node
        if self._decision is not None:
            self._announce(node)

    def blobs(self) -> hub_blobs.Blobs:
        """Return who fetches what; nothing, in a step that finds its image."""
        if self._blobs is None:
            from fairlead.run import hub_blobs

            self._blobs = hub_blobs.Blobs(self.expected, self._tell_index)
            for index, node in self._by_index.items():
                if node.seen is None or node.seen.state != "here":
                    self._blobs.settled(index)
        return self._blobs

    def settled(self, node: Node) -> None:
        """Note that a node fetches nothing more."""
        if self._blobs is not None and node.seen is not None:
            self._blobs.settled(node.seen.index)

    def _tell_index(self, index: int, line: str) -> None:
        node = self._by_index[index]
        if not node.told:
            self.tell(node, line)

    def ready(self, node: Node, rest: str) -> None:
        """Note that a node's container stands; without a gate its ranks may run."""
        if node.seen is None:
            return
        took_us, _, facts = rest.partition(" ")
        self.meeting.ready(node.seen, _count(took_us), facts, time.monotonic())
        self.settled(node)
        if not self.settings.gate:
            node.told = True
            self.tell(node, "go")


def _failed(hub: Hub, node: Node, rest: str) -> None:
    status, _, line = rest.partition(" ")
    if node.seen is not None:
        hub.meeting.failed(node.seen, int(status), line, time.monotonic())
        hub.settled(node)
    if not hub.settings.gate:
        node.told = True
        hub.shut(node)


def _count(text: str) -> int:
    """Return a number that arithmetic bears, whatever was sent."""
    return min(max(0, int(text)), 1 << 60)


def _image(_hub: Hub, node: Node, rest: str) -> None:
    done, _, total = rest.partition(" ")
    if node.seen is not None:
        node.seen.done, node.seen.total = _count(done), _count(total)


def _phases(_hub: Hub, node: Node, rest: str) -> None:
    for item in rest.split(" ")[:16]:
        name, _, took_us = item.partition("=")
        if node.seen is not None and len(node.seen.phases) < 16:
            node.seen.phases[name[:16]] = _count(took_us)


def _left(hub: Hub, node: Node, _rest: str) -> None:
    if node.seen is not None:
        hub.meeting.left(node.seen, time.monotonic())


def _of_blobs(topic: str) -> Callable[[Hub, Node, str], None]:
    def hear(hub: Hub, node: Node, rest: str) -> None:
        if node.seen is not None:
            hub.blobs().heard(node.seen.index, (topic, *rest.split()))

    return hear


TOPICS: dict[str, Callable[[Hub, Node, str], None]] = {
    "hello": Hub.hello,
    "image": _image,
    "phases": _phases,
    "ready": Hub.ready,
    "failed": _failed,
    "left": _left,
    # As in hub_blobs.TOPICS, which is not loaded before somebody needs something.
    **{
        topic: _of_blobs(topic)
        for topic in (
            *("need", "all", "done", "leave"),
            *("fetched", "part", "piece", "have", "alone"),
        )
    },
}


class Settings:
    """What of the settings concerns the hub."""

    __slots__ = ("gate", "timeout_s")

    def __init__(self, *, gate: bool, timeout_s: float) -> None:
        self.gate, self.timeout_s = gate, timeout_s


def say(line: str) -> None:
    """Print one line for the step."""
    try:
        os.write(2, f"fairlead: {errors.one_line(line)}\n".encode(errors="surrogateescape"))
    except OSError:
        return  # a closed stderr must not turn into another failure


def main() -> int:
    """Serve one step."""
    from _socket import socket

    with open(0, "rb") as file:
        pairs = (os.fsdecode(item).partition("=") for item in file.read().split(b"\0") if item)
    facts = {name: value for name, separator, value in pairs if separator}
    Hub(facts, socket(fileno=LISTENER_FD), _settings()).serve()
    return 0


def _settings() -> Settings:
    """Read the settings; what is wrong with them each node says, too."""
    from fairlead import config

    try:
        found = config.load()
    except errors.Error:
        return Settings(gate=True, timeout_s=60.0)
    return Settings(gate=found.gate, timeout_s=float(found.gate_timeout))
