"""Keep a plan for the next launch: one file per key, in a directory of this user's on this node.

::

    /var/tmp/fairlead-plans-UID/     0700, a real directory of this user
      HHHHHHHHHHHHHHHH               an entry; the name is the hash of its key

Rules:
- C reads what is written here (``c_ext/plan_cache.h``) and trusts nothing but the owner.
- A plan is kept only if its reference holds a digest (a tag is asked for at each launch), if C
  makes the same launch block of it that Python made, and if nothing was said to the user that a
  later launch would not hear; and never for a launch with devices that were asked for, or hooks,
  which C does not run.
- A plan is prepared before its namespace is entered and written after it was proven there
  (``run.proof``): a launch from a kept plan proves nothing again.
- An entry is written whole under another name and renamed. Old ones go: more than a day, or more
  than 256 of them.
- Nothing that fails here fails a launch: without the cache it takes a moment longer.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import NamedTuple

from fairlead import config as settings
from fairlead import kernel, log
from fairlead.host import witness
from fairlead.image import reference
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch_request
from fairlead.run import basis, block, entry, launch, proof

MAX_AGE_S = 3600  # for what no file shows: a user's groups in a directory server
MAX_KEPT = 256
FORGET_AFTER_S = 86400


class Pending(NamedTuple):
    """A plan that may be kept once it is proven; ``folder`` is an open descriptor."""

    folder: int
    key: bytes
    expires_s: int
    grounds: basis.Basis
    plan: launch_plan.Plan


def begin(
    key: bytes,
    start: basis.Start,
    ready: launch.Ready,
    request: launch_request.Request,
    config: settings.Config,
) -> Pending | None:
    """Prepare to keep a plan for the next launch with the same key; None if it is not kept.

    Before the namespace is entered, where the files still are those of the host.
    """
    if not _may_be_kept(request, config) or not ready.may_be_kept:
        return None
    grounds = basis.collect(start, ready, request, config)
    if grounds is None:
        return None
    expires_s = int(time.clock_gettime(time.CLOCK_BOOTTIME)) + MAX_AGE_S
    data = entry.compile_entry(key, expires_s, grounds, ready.plan)
    if data is None or not _reproduces(data, ready, request):
        return None
    try:
        folder = _open(kernel.plan_directory())
    except OSError as error:
        log.debug(f"plan not kept: {error}")
        return None
    return Pending(folder, key, expires_s, grounds, ready.plan)


def publish(pending: Pending, proven: proof.Proven) -> bool:
    """Keep a plan that was proven in its container; tell whether it was kept.

    What the proof hangs on is added to what is checked before the plan is used again, its notes to
    what is said.
    """
    try:
        grounds = pending.grounds._replace(
            files=tuple(dict.fromkeys((*pending.grounds.files, *proven.seen))),
            notes=(*pending.grounds.notes, *proven.notes),
        )
        data = entry.compile_entry(pending.key, pending.expires_s, grounds, pending.plan)
        if data is None or not proven.certain:
            return False
        _write(pending.folder, f"{kernel.plan_hash(pending.key):016x}", data)
    except OSError as error:
        log.debug(f"plan not kept: {error}")
        return False
    finally:
        os.close(pending.folder)
    return True


def _may_be_kept(request: launch_request.Request, config: settings.Config) -> bool:
    """Tell whether the next launch may do without asking anybody."""
    if not config.plan_cache or log.said() or log.is_verbose():
        return False
    if request.volumes and (config.forbidden_mounts or config.allowed_mounts):
        return False  # where a source leads, anybody may change
    if request.name or request.save:  # what is kept of them decides
        return False
    step = request.step
    if step is not None and (step.script or step.multi_prog):
        return False
    if any(volume.kind == "image" for volume in request.volumes):
        return False  # whose tree in the store C does not hold
    name = reference.parse(
        request.reference, default_registry=config.default_registry, cwd=request.cwd
    )
    return name.digest is not None and not name.transport


def _reproduces(data: bytes, ready: launch.Ready, request: launch_request.Request) -> bool:
    """Tell whether C, given the entry, would do now what this launch does."""
    body = entry.body(data)
    environ = witness.plain(request.environ)
    changed = kernel.plan_check(body, environ)
    if changed is not None:
        log.debug(f"plan not kept: {changed} is changing")
        return False
    try:
        return kernel.plan_expand(body, environ) == block.compile_plan(ready.plan)
    except OSError as error:
        log.debug(f"plan not kept: {error}")
        return False


def _open(directory: str) -> int:
    """Open the directory of the plans; raises OSError, also for one that is another's."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(folder)
        raise PermissionError(f"{directory}: is not this user's alone")
    return folder


def _write(folder: int, name: str, data: bytes) -> None:
    """Write an entry; raises OSError. By descriptor: the path may be another in the container."""
    staged = f"{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(staged, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(data)
    os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
    _forget(folder)


def _forget(folder: int) -> None:
    """Remove old entries and what a killed process left half written."""
    aged = []
    for name in os.listdir(folder):
        try:
            aged.append((os.lstat(name, dir_fd=folder).st_mtime, name))
        except FileNotFoundError:
            continue  # another launch was faster
    aged.sort(reverse=True)
    oldest = time.time() - FORGET_AFTER_S
    for number, (modified, name) in enumerate(aged):
        if number >= MAX_KEPT or modified < oldest:
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                continue
