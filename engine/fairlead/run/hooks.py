"""Run OCI hooks while a container is built.

::

    the plan is made                      precreate (run.precreate)                  on the host
    namespaces made, root built at ROOT   prestart, createRuntime, createContainer   beside the host
    root entered                          startContainer                             inside
    the container has ended               poststop (run.after)                       on the host

Hooks of the second line see the host's files as the engine does, in the container's own mount
namespace, and ROOT (``root.path`` of the bundle's ``config.json``): what they write or mount below
it is there for the container, and for nobody else.

Rules:
- A hook runs as the user. In the container's user namespace it has every capability, by which it
  may mount; none on the host. A ``startContainer`` hook is a program of the image and has none.
- A hook gets the state on stdin and the environment that its file gives, and nothing else: no
  descriptor, no variable of the job.
- One that fails, or is not done in time, ends the launch; what it said last is told.
- What is needed here is loaded before the namespace is entered: nothing is imported afterwards.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import NamedTuple

from fairlead import errors, kernel, log
from fairlead.host import hooks, owned
from fairlead.plan import hooks as plan_hooks
from fairlead.plan import oci
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch_request

BEFORE = ("precreate",)
OUTSIDE = ("prestart", "createRuntime", "createContainer")
INSIDE = ("startContainer",)
AFTER = ("poststop",)
MAX_OUTPUT = 8192


class Prepared(NamedTuple):
    """Hooks, ready to run: each program looked at, the bundle's configuration made."""

    hooks: tuple[hooks.Hook, ...]
    config: dict[str, object]
    identity: str
    annotations: dict[str, str]


def prepare(plan: launch_plan.Plan, request: launch_request.Request) -> Prepared:
    """Check the hooks of a plan and make what they are given.

    Raises:
        errors.HookError: one cannot run at its moment, or others than root could change it.
    """
    plan_hooks.check(plan.hooks)
    ready = tuple(hook if hook.stage in INSIDE else checked(hook) for hook in plan.hooks)
    step = request.step
    place = f"{step.job_id}.{step.step_id}.{step.node_index}" if step else str(os.getpid())
    annotations = dict(request.annotations)
    config = oci.config(plan, request.environ)
    config["annotations"] = {**config["annotations"], **annotations}
    return Prepared(ready, config, f"fairlead-{place}", annotations)


def checked(hook: hooks.Hook) -> hooks.Hook:
    """Return a hook of the host's with the path to which its own leads.

    Raises:
        errors.HookError: others than root could change it.
    """
    return hook._replace(path=owned.program(hook.path, errors.HookError))


def before_entering(prepared: Prepared, rootfs: str) -> None:
    """Run what runs before the root is entered.

    Raises:
        errors.HookError
    """
    bundle = f"{os.path.dirname(rootfs)}/bundle"
    os.mkdir(bundle, 0o700)
    config = {**prepared.config, "root": {"path": rootfs, "readonly": False}}
    with open(f"{bundle}/config.json", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(config, file)
    os.chdir(bundle)
    for stage in OUTSIDE:
        for hook in prepared.hooks:
            if hook.stage == stage:
                run(hook, state(prepared, bundle, "creating"), lend=True)


def inside(prepared: Prepared, rootfs: str) -> None:
    """Run what runs in the container, right before its command.

    Raises:
        errors.HookError
    """
    bundle = f"{os.path.dirname(rootfs)}/bundle"
    for hook in prepared.hooks:
        if hook.stage in INSIDE:
            run(hook, state(prepared, bundle, "created"), lend=False)
    kernel.lend_capabilities(lend=False)


def state(prepared: Prepared, bundle: str, status: str) -> bytes:
    """Return the state of the runtime specification (runtime.md, "State")."""
    table = {
        "ociVersion": prepared.config["ociVersion"],
        "id": prepared.identity,
        "status": status,
        "bundle": bundle,
        "annotations": prepared.annotations,
    }
    if status != "stopped":
        table["pid"] = os.getpid()
    return json.dumps(table).encode()


def run(
    hook: hooks.Hook,
    data: bytes,
    *,
    lend: bool | None = None,
    timeout_s: float | None = None,
    answer: int = -1,
) -> None:
    """Run a hook and wait for its end.

    Args:
        hook: the hook.
        data: what it gets on stdin.
        lend: whether it has the capabilities that this process has in its user namespace; None: on
            the host, where there are none.
        timeout_s: if not the hook's own.
        answer: a file for its stdout; -1: what it prints is told if it fails, as its stderr is.

    Raises:
        errors.HookError: it failed, or was not done in time.
    """
    if lend is not None:
        kernel.lend_capabilities(lend=lend)
    given = os.memfd_create("fairlead-state", os.MFD_CLOEXEC)
    with open(given, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(given, 0, os.SEEK_SET)
    said, says = os.pipe()
    try:
        child = _start(hook, given, says if answer < 0 else answer, says)
    except OSError as error:
        os.close(said)
        raise failed(hook, error.strerror or "cannot be started") from error
    finally:
        os.close(says)
        os.close(given)
    try:
        status, output = _wait(
            hook, child, said, hook.timeout_s if timeout_s is None else timeout_s
        )
    finally:
        os.close(said)
    if os.WIFSIGNALED(status):
        raise failed(hook, f"ended by signal {os.WTERMSIG(status)}", output)
    if os.WEXITSTATUS(status):
        raise failed(hook, f"exit status {os.WEXITSTATUS(status)}", output)
    log.debug(f"hook {hook.path} ({hook.stage}): done")


def _start(hook: hooks.Hook, given: int, out: int, says: int) -> int:
    """Start a hook; the process is its session's leader, so that all of it can be killed."""
    pairs = (item.partition("=") for item in hook.env)
    inherited = [
        (os.POSIX_SPAWN_CLOSE, fd)
        for fd in map(int, os.listdir("/proc/self/fd"))
        if fd > 2 and _is_inherited(fd)
    ]
    return os.posix_spawn(
        hook.path,
        hook.args,
        {name: value for name, _, value in pairs},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, given, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, says, 2),
            *inherited,
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _is_inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the descriptor of the listing itself
        return False


def _wait(hook: hooks.Hook, child: int, said: int, timeout_s: float) -> tuple[int, bytes]:
    """Return a hook's wait status and the end of what it said; kill it when its time is over."""
    handle = os.pidfd_open(child)
    os.set_blocking(said, False)
    watch = select.poll()
    watch.register(handle, select.POLLIN)
    watch.register(said, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    output = b""
    try:
        while True:
            ready = {fd for fd, _ in watch.poll(max(0.0, deadline - time.monotonic()) * 1000)}
            # A hook may leave a process that has its output open: what counts is that it ended.
            more = _read(said) if said in ready or handle in ready else b""
            if said in ready and not more:
                watch.unregister(said)
            output = (output + more)[-MAX_OUTPUT:]
            if handle in ready:
                return os.waitpid(child, 0)[1], output
            if time.monotonic() >= deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise failed(hook, f"not done after {timeout_s:g} s and killed", output)
    finally:
        os.close(handle)


def _read(said: int) -> bytes:
    try:
        return os.read(said, 65536)
    except BlockingIOError:
        return b""


def failed(hook: hooks.Hook, why: str, output: bytes = b"") -> errors.HookError:
    """Return the error of a hook that failed, with the last line that it printed."""
    lines = output.decode(errors="replace").strip().split("\n")
    said = f": {lines[-1].strip()[:400]}" if lines[-1] else ""
    return errors.HookError(
        f"{hook.stage} hook {hook.path}: {why}{said}", hint=f"it is named by {hook.origin}"
    )
