"""Kill, or fail, a command at every Nth of its system calls; afterwards nothing may be wrong.

For each point a fresh store is prepared, the command is run and killed there (SIGKILL before the
call, in all its threads) or one call fails (ENOSPC, EDQUOT, EIO, EROFS; only calls on the store).
Then ``again`` must succeed without any help, and ``verify`` must find nothing: no damage, no stale
staging, no stale lock. A command that fails, rather than being killed, must say so in one line.

Without --command the scenarios of a user's store are swept. With it any command can be, for example
one that fills a site store::

    tests/faults/sweep --kills 10000
    tests/faults/sweep --kills 500 --prepare CMD --command CMD --again CMD --verify CMD

In the commands {store} is the point's directory (also in FAIRLEAD_STORE), {image} an image in a
registry of the sweep's own, {digest} the same by its digest and {other} another one. Those that
begin with a word of ``INSIDE`` run in a fork of this interpreter, which has imported everything
already: no time and no points are spent on that.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engine"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import tracer
from images import image, layer, program, push, symlink
from real_registry import docker_registry

from fairlead.cli import main as fairlead
from fairlead.shared import check as shared_check
from fairlead.shared import gc as shared_gc
from fairlead.shared import keeper
from fairlead.shared.wire import PROTOCOL, Wire
from fairlead.store.layout import Store

LIMIT_S = 60
AT, LINK, PATH, FD = "at", "link", "path", "fd"
# How a call names its file. Source: arch/x86/entry/syscalls/syscall_64.tbl
CALLS = {
    0: ("read", FD), 1: ("write", FD), 17: ("pread64", FD), 18: ("pwrite64", FD), 20: ("writev", FD),
    73: ("flock", FD), 74: ("fsync", FD), 75: ("fdatasync", FD), 77: ("ftruncate", FD),
    82: ("rename", PATH), 83: ("mkdir", PATH), 84: ("rmdir", PATH), 87: ("unlink", PATH),
    90: ("chmod", PATH), 91: ("fchmod", FD), 217: ("getdents64", FD), 257: ("openat", AT),
    258: ("mkdirat", AT), 263: ("unlinkat", AT), 265: ("linkat", AT), 88: ("symlink", LINK), 266: ("symlinkat", LINK),
    280: ("utimensat", AT), 306: ("syncfs", FD), 316: ("renameat2", AT),
}  # fmt: skip
WRITES = {"write", "pwrite64", "writev", "ftruncate", "openat", "mkdir", "mkdirat", "linkat", "symlinkat"}  # fmt: skip
CHANGES = WRITES | {"rename", "renameat2", "rmdir", "unlink", "unlinkat", "chmod", "fchmod", "utimensat"}  # fmt: skip
NAMES = {name for name, _ in CALLS.values()}
ERRORS = (
    (errno.ENOSPC, WRITES | {"rename", "renameat2", "fsync"}),
    (errno.EDQUOT, WRITES),
    (errno.EIO, NAMES),
    (errno.EROFS, CHANGES - {"write", "pwrite64", "writev"}),
)


class Scenario(NamedTuple):
    """What is killed, and what must hold afterwards; each a command, prepare may be empty."""

    name: str
    prepare: str
    command: str
    again: str
    verify: str
    share: int  # of the points, in percent
    environ: tuple[tuple[str, str], ...] = ()


PULL, CHECK = "fairlead pull --quiet {image}", "fairlead store check"
KEEP = "keeper {store} {digest}"
SCENARIOS = (
    Scenario("pull", "", PULL, PULL, CHECK, 40),
    Scenario("keeper", "", KEEP, KEEP, "check-site {store}", 20),
    # Room must be made from another image.
    Scenario(
        "evict",
        "fairlead pull --quiet {other}",
        PULL,
        PULL,
        CHECK,
        20,
        (("FAIRLEAD_STORE_QUOTA", "900K"),),
    ),
    Scenario("gc", PULL, "fairlead store gc --all", PULL, CHECK, 10),
    Scenario("rm", PULL, "fairlead rm {image}", PULL, CHECK, 10),
)


class Point(NamedTuple):
    """One run: at which call of the scenario what happens; error 0 means SIGKILL."""

    scenario: int
    call: int
    error: int


class Sweep(NamedTuple):
    """What all points of a sweep have in common."""

    scenarios: tuple[Scenario, ...]
    root: str
    images: dict[str, str]


class Counter:
    """Counts calls, remembers those on the store, and acts at one of them."""

    def __init__(self, store: str, at: int = 0, error: int = 0) -> None:
        self._store, self._at, self._error = store, at, error
        self.total = 0
        self.on_store: list[tuple[int, str]] = []  # how many calls on the store before, its name

    def judge(self, call: tracer.Call) -> int:
        self.total += 1
        if not self._error and self._at:
            return tracer.KILL if self.total == self._at else tracer.GO
        name, how = CALLS.get(call.number, ("", ""))
        if name and self._is_on_store(call, how):
            self.on_store.append((self.total, name))
            if self._error and len(self.on_store) == self._at:
                return self._error
        return tracer.GO

    def _is_on_store(self, call: tracer.Call, how: str) -> bool:
        if how == FD:
            return call.file(0).startswith(self._store)
        if how == PATH:
            return call.text(0).startswith(self._store)
        if how == LINK:  # the target comes first
            path = call.text(1) if call.number == 88 else os.path.join(call.file(1), call.text(2))
        else:
            path = os.path.join(call.file(0), call.text(1))
        return path.startswith(self._store)


# -- one point -------------------------------------------------------------------------------------


def start(words: list[str], environ: dict[str, str], output: str) -> int:
    """Run a command in this (forked) process, with its output in a file."""
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.environ.update(environ)
    signal.alarm(LIMIT_S)
    if words[0] not in INSIDE:
        os.execvp(words[0], words)
    status = INSIDE[words[0]](words[1:])
    sys.stdout.flush()
    return status


def keep(words: list[str]) -> int:
    """Be the storekeeper of a site store for one image; a child plays the step's engine."""
    store, name = words
    engine, ours = (fcntl.fcntl(one.detach(), fcntl.F_DUPFD, 10) for one in socket.socketpair())
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os._exit(_engine(Wire(engine), name))
    os.close(engine)
    os.dup2(ours, keeper.SOCKET_FD)
    os.close(ours)
    status = keeper.main([store, "1000", "7"], frozenset)
    return max(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _engine(wire: Wire, name: str) -> int:
    wire.send(protocol=PROTOCOL, image=name, suspect=False)
    while (message := wire.receive()) is not None:
        if "error" in message:
            print(f"fairlead: error [{message['error'][0]}]: {message['error'][1]}", flush=True)
            return 125
        if "done" in message:
            return 0
        if "login" in message:
            wire.send(header=None)
    return 1


def check_site_store(words: list[str]) -> int:
    """Check a site store, whoever owns it, and that the grant that was asked for is there."""
    store = Store(words[0])
    found = list(shared_check.run(store, repair=False))
    for finding in found:
        print(finding.kind, finding.path, finding.why)
    granted = [grant for grant in shared_gc.grants(store) if grant.grant]
    print(f"{len(granted)} grants")
    return int(bool(found) or len(granted) != 1)


# Commands that need no exec.
INSIDE: dict[str, Callable[[list[str]], int]] = {
    "fairlead": fairlead.main,
    "keeper": keep,
    "check-site": check_site_store,
}


def untraced(words: list[str], environ: dict[str, str], output: str) -> int:
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = start(words, environ, output)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Place:
    """A fresh store for one point."""

    def __init__(self, sweep: Sweep, scenario: Scenario, name: str) -> None:
        self.folder = tempfile.mkdtemp(prefix=f"{name}.", dir=sweep.root)  # points may come twice
        self.store, self.output = f"{self.folder}/store", f"{self.folder}/output"
        os.chmod(self.folder, 0o755)
        self._names = {**sweep.images, "store": self.store}
        self.environ = {
            "FAIRLEAD_STORE": self.store,
            "FAIRLEAD_SITE_CONFIG": f"{self.folder}/none",
            "FAIRLEAD_SITE_STORE": f"{self.folder}/none",
            "HOME": self.folder,
            **dict(scenario.environ),
        }

    def words(self, command: str) -> list[str]:
        return [word.format(**self._names) for word in shlex.split(command)]

    def run(self, command: str) -> int:
        return untraced(self.words(command), self.environ, self.output)

    def trace(self, command: str, counter: Counter) -> int:
        words = self.words(command)
        return tracer.run(lambda: start(words, self.environ, self.output), counter.judge)

    def said(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return Path(self.output).read_text(errors="replace")
        return ""


def bad(sweep: Sweep, point: Point) -> str:
    """Do one point; returns what was wrong, or nothing."""
    scenario = sweep.scenarios[point.scenario]
    kind = errno.errorcode[point.error] if point.error else "SIGKILL"
    name = f"{scenario.name}-{kind}-{point.call}"
    place = Place(sweep, scenario, name)
    why = _bad(place, scenario, point)
    if why:
        return f"{name}: {why}\n{place.said()}"
    shutil.rmtree(place.folder)
    return ""


def _bad(place: Place, scenario: Scenario, point: Point) -> str:
    if scenario.prepare and place.run(scenario.prepare) != 0:
        return "could not be prepared"
    status = place.trace(scenario.command, Counter(place.store, point.call, point.error))
    if point.error:
        lines = [line for line in place.said().splitlines() if "error [" in line]
        code = os.waitstatus_to_exitcode(status)
        if code not in {0, 1, 125}:
            return f"ended with {code}"
        if len(lines) != (code == 125) or any("[internal]" in line for line in lines):
            return f"ended with {code} and {len(lines)} lines"
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        return f"ended by signal {os.WTERMSIG(status)}"
    if place.run(scenario.again) != 0:
        return "did not succeed afterwards"
    return "was not clean afterwards" if place.run(scenario.verify) != 0 else ""


# -- all points ------------------------------------------------------------------------------------


def points(sweep: Sweep, kills: int, failures: int) -> Iterator[tuple[str, list[Point]]]:
    """Yield each scenario's line and points, spread evenly over the calls of an undisturbed run."""
    for number, scenario in enumerate(sweep.scenarios):
        place = Place(sweep, scenario, f"{scenario.name}-count")
        if scenario.prepare and place.run(scenario.prepare) != 0:
            raise SystemExit(f"{scenario.prepare}: {place.said()}")
        counter = Counter(place.store)
        status = os.waitstatus_to_exitcode(place.trace(scenario.command, counter))
        if status != 0:
            raise SystemExit(f"{scenario.command}: {status}: {place.said()}")
        shutil.rmtree(place.folder)
        calls = range(1, counter.total + 1)
        chosen = [Point(number, call, 0) for call in spread(calls, kills * scenario.share // 100)]
        pairs = [
            Point(number, at, error)
            for at, (_, name) in enumerate(counter.on_store, 1)
            for error, names in ERRORS
            if name in names
        ]
        chosen += spread(pairs, failures * scenario.share // 100)
        yield (
            f"{scenario.name}: {counter.total} calls, {len(counter.on_store)} on the store",
            chosen,
        )


def spread(values: list[Point] | range, count: int) -> list:
    """Return count of the values, evenly spread; each again and again if there are fewer."""
    return [values[index * len(values) // count] for index in range(count)] if values else []


_sweep: list[Sweep] = []  # a worker's own, set once when it starts


def _ready(sweep: Sweep) -> None:
    """Import in a worker all that the commands will, by running them once."""
    _sweep[:] = [sweep]
    for scenario in sweep.scenarios:
        place = Place(sweep, scenario, f"{scenario.name}-warm-{os.getpid()}")
        os.environ.update(place.environ)
        keep = os.dup(1)
        sink = os.open(place.output, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(sink, 1)
        for command in filter(None, (scenario.prepare, scenario.command, scenario.verify)):
            words = place.words(command)
            if words[0] == "fairlead":  # the others' modules are imported above
                with contextlib.suppress(SystemExit):
                    fairlead.main(words[1:])
        sys.stdout.flush()
        os.dup2(keep, 1)
        os.close(keep)
        os.close(sink)
        shutil.rmtree(place.folder)
        for name in dict(scenario.environ):
            del os.environ[name]


def _bad_here(point: Point) -> str:
    return bad(_sweep[0], point)


def sweep_all(sweep: Sweep, kills: int, failures: int, workers: int) -> int:
    """Do the whole sweep; returns how many points were bad."""
    started = time.monotonic()
    _ready(sweep)
    chosen: list[Point] = []
    for line, more in points(sweep, kills, failures):
        print(line, flush=True)
        chosen += more
    wrong = 0
    with multiprocessing.get_context("fork").Pool(workers, _ready, (sweep,)) as pool:
        for why in pool.imap_unordered(_bad_here, chosen, chunksize=4):
            if why:
                wrong += 1
                print(f"BAD {why}", flush=True)
    killed = sum(not point.error for point in chosen)
    took_s = time.monotonic() - started
    print(
        f"faults: {killed} kills and {len(chosen) - killed} failing calls in {took_s:.0f} s, "
        f"{wrong} bad"
    )
    return wrong


@contextlib.contextmanager
def images_of(registry: str) -> Iterator[dict[str, str]]:
    """Push two small images with every kind of entry; yields their names."""
    names = {}
    for key, seed in (("image", b"1"), ("other", b"2")):
        built = image(
            [
                layer({"bin/sh": program(b"#!"), "etc/a": seed * 5000, "lib": symlink("usr/lib")}),
                layer({"etc/.wh.a": b"", "usr/lib/x": seed * 300_000}, "zstd"),
                layer({"data": os.urandom(150_000)}, "none"),
            ]
        )
        digest = push(registry, f"sweep/{key}", "1", built)
        names[key] = f"{registry}/sweep/{key}:1"
        names["digest"] = f"{registry}/sweep/{key}@{digest}"
    yield names


def main(argv: list[str]) -> int:
    """Run from the command line; the exit status is 1 if a point was bad."""
    parser = argparse.ArgumentParser(prog="sweep", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="kill points in all")
    parser.add_argument("--errors", type=int, default=200, metavar="N", help="failing calls in all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    for name in ("prepare", "command", "again", "verify"):
        parser.add_argument(f"--{name}", metavar="CMD", default="")
    arguments = parser.parse_args(argv)
    scenarios = SCENARIOS
    if arguments.command:
        again = arguments.again or arguments.command
        verify = arguments.verify or "true"
        scenarios = (Scenario("command", arguments.prepare, arguments.command, again, verify, 100),)
    with tempfile.TemporaryDirectory(prefix="fairlead-sweep-") as root:
        os.chmod(root, 0o755)
        data = Path(root) / "registry"
        data.mkdir()
        with docker_registry(data) as registry, images_of(registry) as names:
            sweep = Sweep(scenarios, root, names)
            return int(sweep_all(sweep, arguments.kills, arguments.errors, arguments.workers) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
