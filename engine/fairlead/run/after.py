"""Run ``poststop`` hooks when a container has ended.

Nothing of Fairlead is left by then, so somebody has to stay for them, where there are any:

    fairlead run    the process that was started waits for the command, its child
    a step          slurmstepd starts ``python -I -m fairlead.run.after`` when its last task on the
                    node has ended: as the user, in a pid namespace that ends with it
                    (spank_shim/after.c). What is to be run came with the launch block
    a launch that   a child of the engine, which waits for the outcome
    fails

Rules:
- They run on the host, as the user, in the order of their files. One that fails is a warning, as
  the runtime specification wants it, and the next one runs.
- All of them together have ``LIMIT_S``: a step must not hang in its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable

from fairlead import errors, jsontext, log
from fairlead.host import hooks
from fairlead.run import block
from fairlead.run import hooks as run_hooks

LIMIT_S = 30.0
BLOCK_FD = 3
# What a terminal sends to parent and child alike; what somebody else sends is handed on.
_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_HANDED_ON = (
    *(signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    *(signal.SIGWINCH, signal.SIGCONT),
)


def document(prepared: run_hooks.Prepared) -> str:
    """Return what is to be run in the end, as text; empty: nothing."""
    wanted = [list(hook) for hook in prepared.hooks if hook.stage in run_hooks.AFTER]
    return json.dumps([wanted, *prepared[1:]]) if wanted else ""


def run(text: str) -> None:
    """Run the hooks of a document; what goes wrong is told, and changes nothing."""
    try:
        _run(text)
    except OSError as error:
        log.warning(f"poststop hooks did not run: {error}")


def _run(text: str) -> None:
    wanted, config, identity, annotations = jsontext.loads(text)
    prepared = run_hooks.Prepared(
        tuple(
            hooks.Hook(stage, path, tuple(args), tuple(env), timeout_s, origin)
            for stage, path, args, env, timeout_s, origin in wanted
        ),
        config,
        identity,
        annotations,
    )
    until = time.monotonic() + LIMIT_S
    bundle = tempfile.mkdtemp(prefix="fairlead-bundle-")
    try:
        with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        state = run_hooks.state(prepared, bundle, "stopped")
        for hook in prepared.hooks:
            _one(hook, state, until - time.monotonic())
    finally:
        shutil.rmtree(bundle, ignore_errors=True)


def _one(hook: hooks.Hook, state: bytes, left_s: float) -> None:
    try:
        if left_s <= 0:
            raise run_hooks.failed(hook, f"no time is left ({LIMIT_S:g} s for all)")
        limit = min(float(hook.timeout_s), left_s)
        run_hooks.run(run_hooks.checked(hook), state, timeout_s=limit)
    except errors.HookError as failure:
        log.warning(f"{failure.message} ({failure.hint})")


def stay(text: str) -> None:
    """Return in a child, which becomes the command; this process runs the hooks after it.

    It ends as the child did.
    """
    child = os.fork()
    if child == 0:
        return
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:  # locks among them, which end when the command executes
            with contextlib.suppress(OSError):
                os.close(fd)
    for number in _OF_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    for number in _HANDED_ON:
        signal.signal(number, lambda given, _: os.kill(child, given))
    status = os.waitpid(child, 0)[1]
    for number in (*_OF_TERMINAL, *_HANDED_ON):
        signal.signal(number, signal.SIG_IGN)
    run(text)
    if os.WIFSIGNALED(status):
        _die_of(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _die_of(number: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its own
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def on_failure(text: str) -> Callable[[bool], None]:
    """Return what is to be told whether the container stands; if not, its hooks run at once.

    This process is in the container's namespaces when it knows; a child is not.
    """
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tells)
        if not os.read(told, 1):
            run(text)
        os._exit(0)
    os.close(told)

    def tell(stands: bool) -> None:
        if stands:
            os.write(tells, b"1")
        os.close(tells)
        os.waitpid(child, 0)

    return tell


def main() -> int:
    """Run what a launch block says."""
    data = os.pread(BLOCK_FD, os.fstat(BLOCK_FD).st_size, 0)  # who wrote it left its end as place
    run(block.after(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
