"""Ends contained steps in many ways, at random moments, and measures how soon nothing is left of them.

``tests/slurm/kill_sweep --kills 200`` is the whole of it; ``test_death.py`` does a few of each way. Every step
asks for an image that no store has, from a registry that hangs, dawdles or is quick, so that a random moment may be
any: the digest is asked for, blobs are fetched, layers converted, mounted, the tasks run. What is measured is the
time from the kill until the node is as before: ``remains``.

    WAYS      how a step ends: (step) → None; LookupError if there is nothing to kill just now
    kill      one of them: a Result
    table     results → text                                                                      pure
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jobs
import psutil
import remains
from installation import plugin_words, site_lists

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import faulty_registry as faults
import images

BUSYBOX = "/bin/busybox"
MOMENTS = ("resolve", "pull", "convert", "any")
# The tasks of a slurmstepd that was killed end with it; what they have started does not (conf/epilog.sh).
COMMANDS = (("sleep", "300"), ("sh", "-c", "sleep 300; true"))


class Step(NamedTuple):
    """A contained step that is under way."""

    name: str  # of its job
    srun: Any

    def number(self) -> str:
        """Its job's number."""
        shown = jobs.run("squeue", "-h", f"--name={self.name}", "-o", "%A").stdout.split()
        if not shown:
            raise LookupError("the job")
        return str(shown[0])


class Result(NamedTuple):
    """What came of one kill."""

    way: str
    moment: str
    phase: str
    store: str
    seconds: float
    left: tuple[str, ...]
    again: str  # what the next step with the same image said, empty if all was well


# -- ways to die -----------------------------------------------------------------------------------


def scancel(*options: str, step: str = "") -> Callable[[Step], None]:
    """scancel of the job, or of the step."""

    def end(victim: Step) -> None:
        jobs.run("scancel", *options, victim.number() + step)

    return end


def of_srun(number: signal.Signals, times: int = 1) -> Callable[[Step], None]:
    """A signal to srun."""

    def end(victim: Step) -> None:
        for _ in range(times):
            victim.srun.send_signal(number)
            time.sleep(0.1 if times > 1 else 0)

    return end


def of_process(mark: str, *, then: bool = False, by_name: bool = False) -> Callable[[Step], None]:
    """SIGKILL for all processes of a kind: as the OOM killer, or a crash, ends them.

    Some are not what the step hangs on: it goes on without them, and is cancelled ``then``.
    """

    def end(victim: Step) -> None:
        found = remains.pids(mark, by_name=by_name)
        if not found:
            raise LookupError(mark)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if then:
            jobs.run("scancel", victim.number())

    return end


def time_limit(victim: Step) -> None:
    """What slurmctld does when a job's time is over, without the minute that it may take to look."""
    jobs.run("scancel", "--signal=TERM", "--full", victim.number())
    time.sleep(0.2)
    jobs.run("scancel", "--signal=KILL", "--full", victim.number())


WAYS: dict[str, Callable[[Step], None]] = {
    "scancel job": scancel(),
    "scancel step": scancel(step=".0"),
    "scancel --signal=KILL": scancel("--signal=KILL"),
    "scancel --signal=TERM": scancel("--signal=TERM"),
    "TERM, then KILL": time_limit,
    "Ctrl-C twice": of_srun(signal.SIGINT, 2),
    "srun: SIGTERM": of_srun(signal.SIGTERM),
    "srun: SIGKILL": of_srun(signal.SIGKILL),
    "engine: SIGKILL": of_process("engine.py"),
    "task: SIGKILL": of_process("fairlead-init"),
    "broker: SIGKILL, scancel": of_process("fairlead-broker", then=True),
    "storekeeper: SIGKILL, scancel": of_process("keeper.py", then=True),
    "slurmstepd: SIGKILL": of_process("slurmstepd", by_name=True),
}


# -- one kill --------------------------------------------------------------------------------------


def make_image() -> images.Image:
    """An image that no store has yet; its largest layer takes a while to convert."""
    with open(BUSYBOX, "rb") as file:
        busybox = images.program(file.read())
    fresh = uuid.uuid4().hex
    programs = {"bin/": images.folder(), "bin/busybox": busybox}
    programs |= {
        f"bin/{name}": images.symlink("busybox") for name in ("sh", "cat", "sleep", "true")
    }
    many = {f"many/{n}": f"{fresh} {n}".encode() for n in range(4000)}
    return images.image([
        images.layer({**programs, "id": fresh.encode()}),
        images.layer({"many/": images.folder(), **many}),
        images.layer({"noise": os.urandom(300_000)}, "none"),
    ])  # fmt: skip


def slow_down(registry: faults.FaultyRegistry, built: images.Image, moment: str) -> None:
    """Let the registry stretch a moment of the launch."""
    last = built.layer_digests[-1]
    if moment == "resolve":
        registry.fault("/manifests/", faults.stall(0), method="GET")
    if moment == "pull":
        registry.fault(last, faults.trickle(60_000), method="GET")


def phase_now() -> str:
    """What the step is doing, as far as its processes show."""
    if any(" sleep " in f" {line} " for line in remains.processes()):
        return "run"
    if remains.pids("keeper.py"):
        return "storekeeper"
    return "engine" if remains.pids("engine.py") else "launch"


@contextlib.contextmanager
def store_of(kind: str) -> Iterator[None]:
    """Let steps use the shared store, or each user their own."""
    with plugin_words() if kind == "own" else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def registry() -> Iterator[faults.FaultyRegistry]:
    """A registry that the site lists."""
    with faults.FaultyRegistry() as server, site_lists(server.host):
        yield server


def kill(
    server: faults.FaultyRegistry,
    way: str,
    moment: str,
    store: str,
    chance: random.Random,
    *,
    again: bool = True,
) -> Result:
    """Start a step, end it in that way at a random moment, wait until nothing is left; run the image again."""
    built = make_image()
    name = server.add("kill/sweep", uuid.uuid4().hex, built)
    slow_down(server, built, moment)
    before = remains.mounts()
    with store_of(store):
        victim = Step(f"kill-{uuid.uuid4().hex[:8]}", None)
        command = COMMANDS[0 if way.startswith("slurmstepd") else chance.randrange(len(COMMANDS))]
        words = (
            "-N1",
            "-n2",
            f"--job-name={victim.name}",
            f"--container={name}",
            *command,
        )
        victim = victim._replace(srun=jobs.start("srun", *words, FAIRLEAD_RESOLVE="start"))
        try:
            jobs.wait_for(lambda: jobs.run("squeue", "-h", f"--name={victim.name}").stdout, 60)
            time.sleep(chance.uniform(0, 1.5))
            phase = phase_now()
            way = _end(way, victim)
            begun = time.monotonic()
            left = _wait(before)
            seconds = time.monotonic() - begun
        finally:
            _tidy(victim)
        server.heal()
        complaint = _complaint(name) if again else ""
    return Result(way, moment, phase, store, seconds, tuple(left), complaint)


def _complaint(name: str) -> str:
    """What a step of the image says that must not, empty if it runs."""
    result = jobs.run("srun", f"--container={name}", "cat", "/id", timeout=300)
    words = ("error", "warning")
    fine = result.returncode == 0 and not any(word in result.stderr for word in words)
    return "" if fine else f"rc {result.returncode}: {result.stderr}"


def _end(way: str, victim: Step) -> str:
    """End a step; where there is nothing to kill at this moment, by scancel."""
    deadline = time.monotonic() + 0.5
    while True:
        try:
            WAYS[way](victim)
        except LookupError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            jobs.run("scancel", f"--name={victim.name}")
            return f"{way} (too late: scancel)"
        return way


def _wait(before: frozenset[str]) -> list[str]:
    deadline = time.monotonic() + remains.LIMIT_S
    while left := remains.everything(before):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


def _tidy(victim: Step) -> None:
    jobs.run("scancel", f"--name={victim.name}")
    with contextlib.suppress(ProcessLookupError):
        victim.srun.kill()
    victim.srun.communicate()
    for line in remains.processes():  # so that one kill's remains are not the next one's
        with contextlib.suppress(psutil.Error):
            psutil.Process(int(line.split()[1])).kill()
    jobs.wait_for(lambda: not jobs.run("squeue", "-h", f"--name={victim.name}").stdout, 120)


# -- what came of it -------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least that share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def table(results: list[Result]) -> str:
    """One line per way, and one for all."""
    lines = [f"{'way':40} {'kills':>5} {'p50 s':>7} {'p99 s':>7} {'max s':>7} {'left':>5}"]
    ways = sorted({result.way for result in results})
    for way in [*ways, "all"]:
        some = [result for result in results if way in {result.way, "all"}]
        times = [result.seconds for result in some]
        left = sum(bool(result.left or result.again) for result in some)
        figures = (
            f"{statistics.median(times):7.2f} {percentile(times, 0.99):7.2f} {max(times):7.2f}"
        )
        lines.append(f"{way:40} {len(some):5} {figures} {left:5}")
    return "\n".join(lines)
