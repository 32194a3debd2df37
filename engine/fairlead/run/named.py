"""A launch under a name: join the container if it runs, else take up what was kept of it.

    auto      join it if it runs, take it up if it was kept, else make it
    create    make it anew; what was kept is forgotten
    exec      join it; it must run
    no_exec   as auto, and never join

Rules:
- One overlay at a time lies over an upper directory: the kernel does not keep a second one away.
  The container's lock is held until it stands, and from then on its processes show that it runs
  (``host.running``); in the moment between, its ``holder`` does.
- A kept container belongs to one image, by digest; another one is refused, never laid below.
- What jobs that have ended left is removed here, on this node, by the next launch under a name.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from fairlead import config as settings
from fairlead import errors, keys, log
from fairlead.host import running
from fairlead.image import reference
from fairlead.plan import pyxis
from fairlead.plan import request as launch_request
from fairlead.run import launch
from fairlead.store import containers, fetch, layout, meaning
from fairlead.store.layout import Store

MODES = ("auto", "create", "exec", "no_exec")
_STARTS_S, _POLL_S = 10.0, 0.05


class Named(NamedTuple):
    """A container that was claimed.

    Attributes:
        container: its place.
        lock: a descriptor that nobody else has; ends when this process executes.
        kept: what was known of it, None for a new one.
        joins: the container that runs under this name, None if this launch makes it.
        holder: the process that becomes it, this one or in a step the task that waits for it.
        save: where it is to be saved in the end; empty: nowhere.
    """

    container: containers.Container
    lock: int
    kept: containers.Kept | None
    joins: running.Running | None
    holder: int
    save: str


def key_of(request: launch_request.Request) -> tuple[str, str]:
    """Return the key and the mode of a request's container."""
    name, _, mode = request.name.partition(":")
    step = request.step
    job = step.job_id if step and (request.scope == "job" or not name) else "0"
    if not name:
        return f"{job}.{pyxis.SAVED}{step.step_id if step else os.getpid()}", "create"
    return f"{job}.{name}", mode or "auto"


def wanted(request: launch_request.Request) -> launch_request.Request:
    """Return the request as it is on this node: the first one saves, and a task that waits for it.

    Raises:
        errors.UsageError: there is no such task.
    """
    step = request.step
    if request.save and step is not None and step.multi_prog:
        raise errors.UsageError("--container-save: not with --multi-prog", hint="leave one out")
    if request.save and step is not None and step.node_index > 0:
        return request._replace(save="")
    return request


def claim(
    request: launch_request.Request, config: settings.Config, store: Store
) -> tuple[Named, launch_request.Request]:
    """Claim a container; return it, and the request with the image that it is for.

    Raises:
        errors.ContainerError: it runs and may not be joined, does not run and must, or was made
            from another image.
    """
    if request.reference.startswith(pyxis.NAME_ALONE):
        request = request._replace(reference="")
    key, mode = key_of(request)
    forget_ended(store, key)
    lock = containers.hold(store, key, make=True)
    container = containers.at(store, key)
    kept = containers.read(container)
    runs = _wait(key, kept)
    name = key.partition(".")[2]
    # One that hides its environment is not told from other programs, but its mounts are there.
    pid = containers.mounted().get(key) if runs is None and kept is not None else None
    if pid is not None:
        raise errors.ContainerError(
            f"{name}: runs already, as process {pid}, and cannot be joined", hint="end it first"
        )
    if runs is not None and mode in {"create", "no_exec"}:
        raise errors.ContainerError(
            f"{name}: runs already, as process {runs.pid}",
            hint="join it with fairlead exec, or the mode exec, or end it first",
        )
    if runs is None and mode == "exec":
        raise errors.ContainerError(
            f"{name}: does not run on {os.uname().nodename}", hint="start it, or leave exec out"
        )
    if runs is not None and request.save:
        raise errors.ContainerError(
            f"{name}: runs already, as process {runs.pid}, and can be saved only by the step that "
            "makes it",
            hint="save it later, with fairlead commit",
        )
    if runs is None and mode != "create" and kept is not None:
        _check_size(container, config, store)
    if mode == "create" or kept is None:
        containers.empty(store, container)
        kept = None
    if kept is None and not request.reference:
        containers.remove(store, container)
        raise containers.missing(key)
    holder = os.getppid() if request.step else os.getpid()
    found = Named(container, lock, kept, runs, holder, request.save)
    return found, request._replace(reference=_reference(request, config, found))


def _check_size(container: containers.Container, config: settings.Config, store: Store) -> None:
    """Refuse a container that holds more than it may.

    Raises:
        errors.SpaceError
    """
    if not config.named_size:
        return
    from fairlead.store import fingerprint, room

    limit = keys.size_bytes(config.named_size, room.limits(store, config).total) or 0
    held = fingerprint.disk_bytes(container.upper)
    if held > limit:
        raise errors.SpaceError(
            f"{container.key.partition('.')[2]}: holds {held / 1e6:,.1f} MB, more than named_size "
            f"({config.named_size}, by {config.origins['named_size']})",
            hint="fairlead commit keeps it as an image; make it anew with the mode create",
        )


def _wait(key: str, kept: containers.Kept | None) -> running.Running | None:
    """Return the container that runs under a key; one that is just starting is waited for.

    Raises:
        errors.ContainerError: it does not come up.
    """
    deadline = time.monotonic() + _STARTS_S
    while True:
        runs = next((item for item in running.all_of() if item.name == key), None)
        if runs is not None or kept is None or not _lives(kept.holder):
            return runs
        if time.monotonic() > deadline:
            pid = kept.holder.split()[1]
            raise errors.ContainerError(
                f"{key.partition('.')[2]}: process {pid} is to become it, and does not",
                hint="end that process, or try again",
            )
        time.sleep(_POLL_S)


def _lives(holder: str) -> bool:
    """Tell whether a process is still the one that it was, and is on its way into a container."""
    words = holder.split()
    if len(words) != 3 or words[0] != layout.boot_id() or int(words[1]) == os.getpid():
        return False
    try:
        if layout.start_time(words[1]) != words[2]:
            return False
        with open(f"/proc/{words[1]}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except OSError:
        return False


def _reference(request: launch_request.Request, config: settings.Config, found: Named) -> str:
    """Return the image to launch: the kept one by its digest, where there is one."""
    if found.kept is None:
        return request.reference
    name = found.container.key.partition(".")[2]
    if request.reference:
        asked = meaning.of(request.reference, config, request.cwd)
        if asked.identity not in found.kept.names:
            raise errors.ContainerError(
                f"{name}: was made from {found.kept.reference}, not from {asked.identity}",
                hint=f"make it anew with {name}:create, or choose another name",
            )
    return found.kept.pinned if _is_in_registry(found.kept) else found.kept.reference


def _is_in_registry(kept: containers.Kept) -> bool:
    return reference.parse(kept.reference, cwd="/").transport == ""


def settle(found: Named, ready: launch.Ready, store: Store) -> launch.Ready:
    """Make the plan one for a kept container, and note what it lays over the image.

    Raises:
        errors.ContainerError: its image has changed on the disk.
        errors.StoreError, errors.SpaceError: it cannot be noted.
    """
    kept, image = found.kept, ready.image
    if kept is not None and kept.chain != image.chain:
        raise errors.ContainerError(
            f"{found.container.key.partition('.')[2]}: {kept.reference} has changed since",
            hint="make it anew with the mode create",
        )
    own = (*image.over, image.rootfs)
    plan = ready.plan
    if found.joins is None:
        before = kept or _new(image)
        points = {mount.destination.strip("/") for mount in plan.mounts}
        laid = {layer for layer in plan.layers if layer not in own}
        note = before._replace(
            layers=own,
            points=tuple(sorted({*before.points, *points})),
            injected=tuple(sorted({*before.injected, *laid})),
            save=found.save,
            holder=f"{layout.boot_id()} {found.holder} {layout.start_time(str(found.holder))}",
        )
        containers.write(store, found.container, note)
    where = (found.container.path, found.container.key, *(("save",) if found.save else ()))
    reason = f"kept for the container {found.container.key}"
    plan = plan._replace(upper="kept", upper_size="", upper_reason=reason, kept=where)
    return ready._replace(plan=plan, named=found)


def _new(image: fetch.Image) -> containers.Kept:
    name = reference.parse(image.reference, cwd="/").name
    digests = dict.fromkeys(filter(None, (image.digest, image.target)))
    names = (image.reference, *(f"{name}@{digest}" for digest in digests))
    return containers.Kept(image.reference, image.pinned, image.chain, names)


def forget_ended(store: Store, own: str = "") -> None:
    """Remove what was kept for jobs that have ended, as far as Slurm says which ones live."""
    others = [item for item in containers.all_of(store) if item.job and item.key != own]
    job = own.partition(".")[0]
    if not any(str(item.job) != job for item in others):
        return
    from fairlead.host import jobs

    living = jobs.living()
    if living is None:
        return
    names = {item.name for item in running.all_of()}
    for container in others:
        if container.job not in living and str(container.job) != job and container.key not in names:
            try:
                lock = containers.hold(store, container.key)
            except errors.ContainerError:
                continue
            log.debug(f"container {container.key}: its job has ended; removed")
            containers.remove(store, container)
            os.close(lock)
