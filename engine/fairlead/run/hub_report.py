"""The start report: how long which node took for what before its ranks ran (--container-report).

JSON, one object; times in seconds:

    format      1
    job, step   numbers
    image       the reference, as it was settled at submission
    nodes       per node, in the step's order: node, kept (from a kept plan, without the engine),
                phases {NAME: s}, stood (the container stood, after the task began), exec (the
                ranks may run: stood, and the wait for the other nodes)
    phases      per phase, of the nodes that had it: min, median, max, slowest (a node's name)

Rules:
- A phase that a node had not is left out: with the image in the store nothing is fetched.
- ``fetch`` and ``convert`` run at the same time: layers are unpacked while they arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairlead.run.hub_gate import Meeting, Seen

PHASES = ("resolve", "fetch", "convert", "inject", "mount", "prove")
_ALL = (*PHASES, "exec")


def give(facts: dict[str, str], meeting: Meeting, now: float) -> None:
    """Print the report, or write it to its file."""
    from fairlead.run import hub

    found = report(facts, meeting, now)
    wanted = facts["report"]
    if wanted == "text":
        for line in lines(found):
            hub.say(line)
        return
    import json

    text = json.dumps(found, separators=(",", ":"))
    if wanted == "json":
        import os

        os.write(2, f"{text}\n".encode())
        return
    try:
        with open(wanted, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        hub.say(f"warning: cannot write the start report {wanted}: {error.strerror}")


def report(facts: dict[str, str], meeting: Meeting, now: float) -> dict[str, object]:
    """Return the report as JSON has it."""
    nodes = sorted(meeting.seen.values(), key=lambda node: node.index)
    rows = [_row(node, now) for node in nodes]
    return {
        "format": 1,
        "job": int(facts["job"]),
        "step": int(facts["step"]),
        "image": facts.get("ref", ""),
        "nodes": rows,
        "phases": {name: summed for name in _ALL if (summed := _summed(name, rows))},
    }


def _row(node: Seen, now: float) -> dict[str, object]:
    stood = node.took_us / 1e6
    return {
        "node": node.name,
        "kept": "resolve" not in node.phases,
        "phases": {name: node.phases[name] / 1e6 for name in PHASES if name in node.phases},
        "stood": stood,
        "exec": round(stood + max(0.0, now - node.ready_at), 6),
    }


def _summed(name: str, rows: list[dict[str, object]]) -> dict[str, object] | None:
    """Return what a phase took over all nodes that had it, None if none had."""
    had = sorted((taken, str(row["node"])) for row in rows if (taken := _of(name, row)) is not None)
    if not had:
        return None
    middle = len(had) // 2
    median = had[middle][0] if len(had) % 2 else (had[middle - 1][0] + had[middle][0]) / 2
    return {
        "min": had[0][0],
        "median": round(median, 6),
        "max": had[-1][0],
        "slowest": had[-1][1],
    }


def _of(name: str, row: dict[str, object]) -> float | None:
    if name == "exec":
        name, table = "exec", row
    else:
        found = row["phases"]
        table = found if isinstance(found, dict) else {}
    taken = table.get(name)
    return taken if isinstance(taken, float) else None


def lines(found: dict[str, object]) -> list[str]:
    """Return the report as lines for people."""
    nodes, phases = found["nodes"], found["phases"]
    count = len(nodes) if isinstance(nodes, list) else 0
    texts = [
        f"start of step {found['job']}.{found['step']} on {count} node{'s' if count > 1 else ''}",
        f"  {'phase':<8} {'min':>9} {'median':>9} {'max':>9}  slowest",
    ]
    if isinstance(phases, dict):
        texts += [
            f"  {name:<8} {_s(of['min'])} {_s(of['median'])} {_s(of['max'])}  {of['slowest']}"
            for name, of in phases.items()
        ]
    return texts


def _s(seconds: float) -> str:
    return f"{seconds:>8.3f}s"
