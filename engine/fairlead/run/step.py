"""The engine inside a Slurm step: started once per node by the elected task, as the job's user.

The SPANK shim hands over descriptors: 3, a socket for the one answer (``c_ext/channel.h``); 4, a
memory file with the request: strings that end with NUL, first ``key=value`` facts of the step, an
empty string, then the job's environment; 5, where the node has a shared store (``broker=1``), the
step's connection to its broker (``c_ext/broker.h``); 6, where the plan may be kept for the next
step (``keep=1``), a memory file with its key (``run.keep``); 7, where the step's nodes meet in srun
(``gate=1``), the connection to its hub (``run.hub``); and 8 (``note=1``), a memory file in which
stands, as long as it works, which process works in which store (``spank_shim/leftovers.h``). The
answer is the namespaces' descriptors, the launch block, and what must be the same on the other
nodes; or one line and an exit status.

Rules:
- Nothing survives this process: the namespaces live on in the descriptors that it sends.
- The process environment is the shim's short white-list, never the job's: user-set LD_* and PYTHON*
  stay data.
- The answer is sent exactly once, whatever happens.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fairlead import config as settings
from fairlead import errors, kernel, log
from fairlead.host import facts as host_facts
from fairlead.host import witness
from fairlead.image import reference
from fairlead.plan import pyxis
from fairlead.plan import request as launch
from fairlead.run import block, namespace, proof, upper
from fairlead.run import launch as prepare
from fairlead.run import same as same_on_nodes
from fairlead.shared import ask  # noqa: F401 - launch needs it here, and not without a broker

if TYPE_CHECKING:
    from fairlead.host import running
    from fairlead.plan import plan as launch_plan
    from fairlead.run import exchange, neighbours

SOCKET_FD = 3
REQUEST_FD = 4
BROKER_FD = 5
KEY_FD = 6
EXCHANGE_FD = 7
NOTE_FD = 8
PROTOCOL = "2"


def main() -> int:
    """Serve one step; the return value is for the log only, the answer went through the socket."""
    try:
        fds, same = _serve(read(REQUEST_FD))
    except errors.Error as error:
        return _refuse(error)
    except MemoryError:
        return _refuse(errors.SlurmError("no memory for the engine", hint="the job's limit?"))
    except Exception as error:  # noqa: BLE001 - the edge: a defect must still become one line, not a hang
        log.debug(repr(error))
        return _refuse(errors.Error(f"{type(error).__name__}: {error} (at {_place(error)})"))
    kernel.send_outcome(SOCKET_FD, 0, same, fds)
    return 0


def _refuse(error: errors.Error) -> int:
    kernel.send_outcome(SOCKET_FD, error.status, error.line(), None)
    return error.status


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return (
        f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
    )


def _serve(data: bytes) -> tuple[tuple[int, ...], str]:
    log.phase("resolve")
    facts, environ = parse(data)
    if facts.get("nodeid") != "0":
        log.set_quiet(True)  # every node would say the same
    # --export=NONE leaves no HOME; settings and credentials are still the user's.
    if "HOME" not in os.environ:
        os.environ["HOME"] = host_facts.user().home
    job = witness.Environment(environ)
    start = None
    if facts.get("keep") == "1":
        from fairlead.run import basis, keep

        start = basis.begin(job)
    config = settings.load()
    request, config = launch_from(facts, job, config)
    noting = facts.get("note") == "1"
    if noting:
        os.pwrite(NOTE_FD, b"%d %s" % (os.getpid(), os.fsencode(config.store)), 0)
    broker = BROKER_FD if facts.get("broker") == "1" else -1
    if not (request.name or request.save):
        upper.check(request, broker)
    hub, progress = _met(facts, request.reference)
    others = _neighbours(hub, request, config)
    ready = prepare.prepare(request, config, progress, broker, others)
    mounts = (*ready.mounts, *upper.mounts(ready.plan, broker))
    pending = keep.begin(read(KEY_FD), start, ready, request, config) if start else None
    found = prepare.hooks(ready, request)
    launch_block = block.compile_plan(ready.plan, found.after if found else "")
    block_fd = _memory_file(launch_block)
    same = same_on_nodes.text(request, config, ready) if hub else ""
    log.phase("mount")
    if ready.named and ready.named.joins:
        fds = _join(ready.named.joins, request)
        proven = proof.Proven()
    elif found and found.after:
        fds, proven = _enter_watched(ready.plan, launch_block, mounts, found)
    else:
        fds = namespace.enter(launch_block, mounts, found.around if found else None)
        log.phase("prove")
        proven = proof.prove(ready.plan, launch_block)
    for note in (*ready.plan.notes, *proven.notes):
        log.note(note)
    if pending:
        keep.publish(pending, proven)
    if hub:
        hub.tell_phases()
    if noting:
        os.ftruncate(NOTE_FD, 0)
    place = kernel.lib.CHANNEL_BLOCK
    return (*fds[:place], block_fd, *fds[place + 1 :]), same


def _met(facts: dict[str, str], name: str) -> tuple[exchange.Exchange | None, log.Progress]:
    """Return the connection to the step's hub, if there is one, and who hears of progress."""
    if facts.get("gate") != "1":
        return None, log.QuietProgress(f"pulling {name}")
    from fairlead.run import exchange

    hub = exchange.Exchange(EXCHANGE_FD)
    return hub, exchange.Progress(hub)


def _neighbours(
    hub: exchange.Exchange | None, request: launch.Request, config: settings.Config
) -> neighbours.Neighbours | None:
    """Return the nodes to fetch an image with, where the step has several and the hub is there."""
    if hub is None or request.step is None or request.step.nodes < 2 or config.spread == "off":
        return None
    from fairlead.run import neighbours

    return neighbours.Neighbours(hub, request.step, config, request.environ)


def _enter_watched(
    plan: launch_plan.Plan, launch_block: bytes, mounts: tuple[int, ...], found: prepare.Hooks
) -> tuple[tuple[int, ...], proof.Proven]:
    """Enter the container; if that fails, what was to be run in the end is run now."""
    from fairlead.run import after

    tell = after.on_failure(found.after)
    stands = False
    try:
        fds = namespace.enter(launch_block, mounts, found.around)
        proven = proof.prove(plan, launch_block)
        stands = True
    finally:
        tell(stands)
    return fds, proven


def _join(container: running.Running, request: launch.Request) -> tuple[int, ...]:
    """Return the namespaces of a container that runs, which the tasks join."""
    from fairlead.host import running

    return running.open_process(container, request.unshare).fds


def read(fd: int) -> bytes:
    """Return what a descriptor of the plugin's holds, and close it."""
    with open(fd, "rb") as file:
        return file.read()


def parse(data: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Split the request into the step's facts and the job's environment.

    Raises:
        errors.SlurmError: the request is cut short or of another protocol version.
    """
    head, separator, tail = data.partition(b"\0\0")
    facts = _pairs(head)
    if not separator or facts.get("protocol") != PROTOCOL:
        raise errors.SlurmError(
            f"the plugin speaks protocol {facts.get('protocol', '?')}, the engine {PROTOCOL}",
        )
    return facts, _pairs(tail)


def _pairs(data: bytes) -> dict[str, str]:
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if item)
    return {name: value for name, separator, value in pairs if separator}


def launch_from(
    facts: dict[str, str], environ: Mapping[str, str], config: settings.Config
) -> tuple[launch.Request, settings.Config]:
    """Return the request of a step, and the settings; an environment file changes both.

    Raises:
        errors.EdfError: the file cannot be had, or something is wrong with it.
    """
    request = request_from(facts, environ, config)
    inner = reference.environment(request.reference)
    name = facts.get("environment") or inner
    if name is None:
        return request, config
    from fairlead.run import environment

    told = {
        key
        for key in ("workdir", "entrypoint", "writable", "mpi", "slurm_inside")
        if facts.get(key)
    }
    told |= {"image"} if inner is None and request.reference else set()
    digest = facts.get("environment_digest", "")
    return environment.applied(request, config, name, frozenset(told), digest)


def request_from(
    facts: dict[str, str], environ: Mapping[str, str], config: settings.Config
) -> launch.Request:
    """Return the request of a step."""
    step = launch.Step(
        job_id=facts.get("jobid", "0"),
        step_id=facts.get("stepid", "0"),
        node_index=int(facts.get("nodeid", "0")),
        nodes=int(facts.get("nnodes", "1")),
        tasks=int(facts.get("ntasks", "1")),
        local_tasks=int(facts.get("local_tasks", "1")),
        script=facts.get("script", ""),
        multi_prog=facts.get("multi_prog") == "1",
        helper=facts.get("helper", ""),
    )
    request = launch.Request(
        reference=facts.get("ref", ""),
        command=(facts["command"],) if facts.get("command") else (),
        environ=environ,
        cwd=facts.get("cwd", ""),
        mpi=config.mpi,
        mount_home=config.mount_home,
        writable=config.writable,
        upper=config.upper,
        upper_size=config.upper_size,
        step=step,
        slurm_inside=config.slurm_inside,
    )
    return pyxis.apply(request, facts)


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("fairlead-block", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
    )
    return fd


if __name__ == "__main__":
    sys.exit(main())
