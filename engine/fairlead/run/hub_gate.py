"""May the ranks of a step run? Decided from what its nodes said. Pure but for what it collects.

Rules:
- Ranks run when the containers of all nodes stand and are of one kind: image, MPI, settings,
  engine (``run.same`` says what is compared).
- One node that fails stops the step. Others that fail within a second are told of in the same line.
- A node that does not come is waited for only after another one has come: how long a step waits in
  the queue, or for a prolog that is the same everywhere, is not counted.
- What a line shows of a node is bounded and escaped by who prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fairlead.run import hostlist

TOGETHER_S = 1.0  # for others to fail, too
VALUE_MAX = 120  # characters of a value that a line shows
NODES_MAX = 200  # and of a host list
NAME_MAX = 64
# In this order: where several differ, the first is most often why the others do.
WORDS = {
    "engine": "the engine's release",
    "settings": "settings",
    "request": "what was asked for",
    "image": "the image",
    "mpi": "MPI",
    "glibc": "the MPI's glibc",
}
_REMEDIES = {
    "engine": "install one release on all nodes",
    "settings": "let one file of settings lie on all nodes; fairlead config shows what counts",
    "request": "let the same environment file lie on all nodes",
    "image": "name the image with its digest",
    "mpi": "install the same MPI on all nodes, or use --container-mpi=image",
    "glibc": "install the same MPI on all nodes, or use --container-mpi=image",
}


class Seen:
    """What is known of a node: ``state`` is here, ready, failed, gone or left."""

    __slots__ = (
        "done", "facts", "index", "line", "name", "phases", "ready_at", "state", "status",
        "took_us", "total",
    )  # fmt: skip

    def __init__(self, index: int, name: str) -> None:
        self.index, self.name, self.state = index, name, "here"
        self.done = self.total = self.took_us = self.status = 0
        self.line, self.facts, self.ready_at = "", "", 0.0
        self.phases: dict[str, int] = {}


class Decision(NamedTuple):
    """``status`` 0: go; above: stop with it, ``line`` being for the user; below: no gate."""

    status: int
    line: str = ""


class Meeting:
    """The nodes of a step, as they come."""

    def __init__(self, expected: int, timeout_s: float) -> None:
        self.expected, self._timeout_s = expected, timeout_s
        self.seen: dict[int, Seen] = {}
        self.nodes = ""  # the step's host list
        self._begun_at = self._broken_at = 0.0
        self._settled = 0

    def hello(self, index: int, name: str, nodes: str, now: float) -> Seen | None:
        """Return a node that came; None for a number that is not this step's, or is taken."""
        if not 0 <= index < self.expected or index in self.seen:
            return None
        self._begun_at = self._begun_at or now
        self.nodes = self.nodes or nodes
        self.seen[index] = Seen(index, name[:NAME_MAX] or f"node {index}")
        return self.seen[index]

    def ready(self, node: Seen, took_us: int, facts: str, now: float) -> None:
        """Note that a node's container stands."""
        if self._settle(node, "ready"):
            node.took_us, node.facts, node.ready_at = took_us, facts, now

    def failed(self, node: Seen, status: int, line: str, now: float) -> None:
        """Note that a node's container cannot be had."""
        if self._settle(node, "failed"):
            node.status, node.line = status if 0 < status < 256 else 125, line
            self._broken_at = self._broken_at or now

    def left(self, node: Seen, now: float) -> None:
        """Note that the step is being cancelled on a node."""
        self._settle(node, "left")
        node.state = "left"
        self._broken_at = self._broken_at or now

    def gone(self, node: Seen, now: float) -> None:
        """Note that a node hung up; one that was ready is gone, too, as its rank will not come."""
        if node.state in {"here", "ready"}:
            self._settle(node, "gone")
            node.state = "gone"
            self._broken_at = self._broken_at or now

    def _settle(self, node: Seen, state: str) -> bool:
        if node.state != "here":
            return False
        node.state = state
        self._settled += 1
        return True

    def decide(self, now: float, *, gate: bool) -> Decision | None:
        """Return what becomes of the step, None while that is open."""
        if not gate:
            return Decision(0 if not self._broken_at else -1) if self._all_settled() else None
        if self._broken_at:
            if not self._all_settled() and now < self._broken_at + TOGETHER_S:
                return None
            return self._stop()
        if self._all_settled():
            return _compared(self.seen.values())
        late = self._begun_at and now > self._begun_at + self._timeout_s
        if late and len(self.seen) < self.expected:
            return Decision(125, self._missing())
        return None

    def _all_settled(self) -> bool:
        return self._settled == self.expected

    def _stop(self) -> Decision:
        """Return the one line for all that is broken."""
        failed = [node for node in self.seen.values() if node.state == "failed"]
        status = max((node.status for node in failed), default=125)
        if failed:
            return Decision(status, _failure(failed, self.expected))
        gone = [node.name for node in self.seen.values() if node.state == "gone"]
        if any(node.state == "left" for node in self.seen.values()) or not gone:
            return Decision(125)
        what = "ended before its container stood" if len(gone) == 1 else "ended before theirs stood"
        return Decision(
            125,
            f"error [gate]: {_names(gone)}: {what} (killed? out of memory? see slurmd's log)",
        )

    def _missing(self) -> str:
        try:
            names = hostlist.expand(self.nodes, self.expected)
        except ValueError:
            names = ()
        lacking = [index for index in range(self.expected) if index not in self.seen]
        known = len(names) == self.expected
        who = _names(names[index] if known else f"node {index}" for index in lacking)
        return (
            f"error [gate]: {who}: did not come within {self._timeout_s:g} s of the first node "
            "(is the plugin there, and is srun's host reachable from there? see gate_timeout)"
        )


def _names(names: Iterable[str]) -> str:
    text = hostlist.fold(names)
    return text if len(text) <= NODES_MAX else f"{text[: NODES_MAX - 3]}..."


def _failure(failed: list[Seen], expected: int) -> str:
    """Return the line of most of the nodes that failed; which nodes, unless all did so."""
    groups: dict[str, list[str]] = {}
    for node in sorted(failed, key=lambda node: node.index):
        groups.setdefault(node.line, []).append(node.name)
    line, names = max(groups.items(), key=lambda group: len(group[1]))
    if len(names) == expected:
        return line
    head, separator, rest = line.partition("]: ")
    others = len(failed) - len(names)
    more = f" ({others} other{'s' if others > 1 else ''} failed otherwise)" if others else ""
    text = f"{_names(names)}: {rest}" if separator else f"{_names(names)}: {line}"
    return f"{head}{separator}{text}{more}" if separator else f"{text}{more}"


def _compared(nodes: Iterable[Seen]) -> Decision:
    """Return whether all nodes have the same facts, and if not, the line that says which differ."""
    values: dict[str, dict[str, list[str]]] = {}
    by_index = sorted(nodes, key=lambda node: node.index)
    if len({node.facts for node in by_index}) <= 1:
        return Decision(0)
    tables = [(node.name, _table(node.facts)) for node in by_index]
    for key in {key: 0 for _, table in tables for key in table}:
        for name, table in tables:
            values.setdefault(key, {}).setdefault(table.get(key, ""), []).append(name)
    differing = {key: groups for key, groups in values.items() if len(groups) > 1}
    if not differing:
        return Decision(0)
    key = min(differing, key=_rank)
    kind, _, setting = key.partition(".")
    groups = sorted(differing[key].items(), key=lambda group: -len(group[1]))
    shown = "; ".join(f"{_names(names)}: {_value(value)}" for value, names in groups[:3])
    more = f"; and {len(groups) - 3} more" if len(groups) > 3 else ""
    what = f"the setting {setting}" if setting else WORDS.get(kind, kind)
    remedy = _REMEDIES.get(kind, "let all nodes be set up alike")
    return Decision(
        125, f"error [gate]: the step's nodes differ in {what}: {shown}{more} ({remedy})"
    )


def _rank(key: str) -> int:
    kind = key.partition(".")[0]
    return list(WORDS).index(kind) if kind in WORDS else len(WORDS)


def _value(value: str) -> str:
    value = value or "(none)"
    return value if len(value) <= VALUE_MAX else f"{value[: VALUE_MAX - 3]}..."


def _table(facts: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in facts.split("\t") if item)
    return {name: value for name, _, value in pairs}
