"""The engine inside a Slurm step: started once per node by the elected task, as the job's user.

The SPANK shim hands over descriptors: 3, a socket for the one answer (``c_ext/channel.h``); 4, a
memory file with the request: strings that end with NUL, first ``key=value`` facts of the step, an
empty string, then the job's environment; 5, where the node has a shared store (``broker=1``), the
step's connection to its broker (``c_ext/broker.h``); 6, where the plan may be kept for the next
step (``keep=1``), a memory file with its key (``run.keep``); and 7 (``note=1``), a memory file in
which stands, as long as it works, which process works in which store (``spank_shim/leftovers.h``).
The answer is the namespaces' descriptors and the launch block, or one line and an exit status.

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
from fairlead.shared import ask  # noqa: F401 - launch needs it here, and not without a broker

if TYPE_CHECKING:
    from fairlead.host import running

SOCKET_FD = 3
REQUEST_FD = 4
BROKER_FD = 5
KEY_FD = 6
NOTE_FD = 7
PROTOCOL = "1"


def main() -> int:
    """Serve one step; the return value is for the log only, the answer went through the socket."""
    try:
        fds = _serve(_read(REQUEST_FD))
    except errors.Error as error:
        return _refuse(error)
    except MemoryError:
        return _refuse(errors.SlurmError("no memory for the engine", hint="the job's limit?"))
    except Exception as error:  # noqa: BLE001 - the edge: a defect must still become one line, not a hang
        log.debug(repr(error))
        return _refuse(errors.Error(f"{type(error).__name__}: {error} (at {_place(error)})"))
    kernel.send_outcome(SOCKET_FD, 0, "", fds)
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


def _serve(data: bytes) -> tuple[int, ...]:
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
    ready = prepare.prepare(
        request, config, log.QuietProgress(f"pulling {request.reference}"), broker
    )
    mounts = (*ready.mounts, *upper.mounts(ready.plan, broker))
    pending = keep.begin(_read(KEY_FD), start, ready, request, config) if start else None
    launch_block = block.compile_plan(ready.plan)
    block_fd = _memory_file(launch_block)
    if ready.named and ready.named.joins:
        fds = _join(ready.named.joins, request)
        proven = proof.Proven()
    else:
        fds = namespace.enter(launch_block, mounts, prepare.hooks(ready, request))
        proven = proof.prove(ready.plan, launch_block)
    for note in (*ready.plan.notes, *proven.notes):
        log.note(note)
    if pending:
        keep.publish(pending, proven)
    if noting:
        os.ftruncate(NOTE_FD, 0)
    place = kernel.lib.CHANNEL_BLOCK
    return (*fds[:place], block_fd, *fds[place + 1 :])


def _join(container: running.Running, request: launch.Request) -> tuple[int, ...]:
    """Return the namespaces of a container that runs, which the tasks join."""
    from fairlead.host import running

    return running.open_process(container, request.unshare).fds


def read_facts(fd: int) -> dict[str, str]:
    """Return the facts in a file, which are its ``key=value`` strings."""
    return _pairs(_read(fd))


def _read(fd: int) -> bytes:
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

    told = {key for key in ("workdir", "entrypoint", "writable", "mpi") if facts.get(key)}
    told |= {"image"} if inner is None and request.reference else set()
    return environment.applied(request, config, name, frozenset(told))


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
