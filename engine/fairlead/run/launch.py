"""From a request to a plan: read what the plan depends on, decide, and hand a value back.

This is the one path that every door takes: the Slurm step, ``fairlead run`` and ``fairlead plan``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fairlead import config as settings
from fairlead import errors, jsontext, kernel, log
from fairlead.host import facts
from fairlead.image import reference, registries
from fairlead.plan import edits as plan_edits
from fairlead.plan import gpu, pyxis
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch_request
from fairlead.run import injection, ranks, view
from fairlead.shared import site
from fairlead.store import fetch, layers, layout, meaning

if TYPE_CHECKING:
    from fairlead.host import witness
    from fairlead.plan import cuda
    from fairlead.run import named, neighbours
    from fairlead.store.spread import Spread

_ETC_FILE_LIMIT = 1 << 20
PRELOAD = "/etc/ld.so.preload"


class Ready(NamedTuple):
    """A launch that can be made.

    Attributes:
        plan: what it will do.
        mounts: the detached mounts that the plan's layers call ``mount:N``.
        image: what it was made for,
        name: as it was asked for, and
        facts: on which node.
        injection: name in the node's shared store of what the last of the mounts is, or empty.
        may_be_kept: its devices and hooks depend on nothing that a kept plan would not know.
        named: of a launch with a name, what is known of the container; None of any other.
        seen: files that it was made from, beyond those that every launch is.
    """

    plan: launch_plan.Plan
    mounts: tuple[int, ...]
    image: fetch.Image
    facts: facts.Facts
    name: reference.Reference
    injection: str = ""
    may_be_kept: bool = True
    named: named.Named | None = None
    seen: tuple[witness.Seen, ...] = ()


def prepare(
    request: launch_request.Request,
    config: settings.Config,
    progress: log.Progress | None = None,
    broker: int = -1,
    others: neighbours.Neighbours | None = None,
) -> Ready:
    """Make the image ready and return the plan of the launch.

    Args:
        request: what was asked for.
        config: the settings.
        progress: hears how far the image is.
        broker: the step's connection to the broker of the node's shared store, -1 without one.
        others: the step's other nodes, with which the image is fetched.

    Raises:
        errors.Error: anything that the user can be told; nothing is left half done.
    """
    refuse_root()
    pyxis.check_pmi(launch_request.check(request))
    request = _ruled(request, config)
    if any(volume.source.startswith("/dev/") for volume in request.volumes):
        from fairlead.plan import devices

        request = devices.of_volumes(request)
    store = layout.open_store(config)
    if request.name or request.save:
        from fairlead.run import named

        request = named.wanted(request)
    if request.name or request.save:
        # Its changes lie above a tree of this user's, which the shared store has not.
        claimed, request = named.claim(request, config, store)
        ready = _ready(request, config, store, progress, -1, others)
        return named.settle(claimed, ready, store)
    return _ready(request, config, store, progress, broker, others)


def _ready(
    request: launch_request.Request,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
    broker: int,
    others: neighbours.Neighbours | None,
) -> Ready:
    name = meaning.of(request.reference, config, request.cwd)
    image, mounts = _together(name, config, store, progress, broker, others)
    log.phase("inject")
    trees = any(volume.kind == "image" for volume in request.volumes)
    if trees:
        from fairlead.run import volumes

        request = volumes.ready(request, config, store, progress)
    files, shared = view.View(image.place, image.rootfs), None
    if mounts:
        again = site.name_of(image.digest)
        files = view.View(image.place, "", lambda: kernel.broker_mount(broker, again))
        shared = injection.Shared(broker, again, image.chain, len(mounts))
    texts = _identity_texts(files)
    brought = injection.decide(request, image.reference, files, store, config, shared)
    brought = injection.with_world(request, config, brought, texts)
    brought = brought._replace(
        notes=(*brought.notes, *ranks.copying(request, config, store.path("host")))
    )
    candidates = (request.cwd,) if request.cwd else ()
    source = launch_plan.Source(
        str(name) if name.digest else image.pinned,
        image.config,
        tuple(f"mount:{n}" for n in reversed(range(len(mounts)))) or (*image.over, image.rootfs),
        *texts[:2],
    )
    node = facts.read(request.environ, candidates)
    more, may_be_kept = _edits(request, image, config, files)
    seen: tuple[witness.Seen, ...] = ()
    if request.slurm_inside:
        from fairlead.run import clients

        of_slurm, seen = clients.edits(request)
        more = plan_edits.joined(more, of_slurm)
    plan = launch_plan.make(source, request, node, brought, more)
    if any(hook.stage == "precreate" for hook in plan.hooks):
        from fairlead.run import precreate

        plan = precreate.applied(plan, request)
    if brought.mount >= 0:
        mounts = (*mounts, brought.mount)
    # What a squashfs file was unpacked to is in no basis.
    return Ready(
        plan, mounts, image, node, name, brought.shared, may_be_kept and not trees, seen=seen
    )


def _ruled(request: launch_request.Request, config: settings.Config) -> launch_request.Request:
    """Return a request with what the site adds to it; raises for what the site forbids."""
    limits = config.forbidden_mounts or config.allowed_mounts or config.forbidden_targets
    if not (config.locked or config.site_mounts or limits):
        return request
    from fairlead.run import rules

    return rules.request(request, config)


def wish(
    request: launch_request.Request, image: fetch.Image, config: settings.Config
) -> gpu.Wish | None:
    """Return the GPUs that a launch wants."""
    of_file = ((name, text) for name, text, _ in request.templates if "$" not in text)
    asked = (*of_file, *request.variables)
    return gpu.wish(request.gpu or config.gpu, request.environ, asked, image.config.env)


def _told(request: launch_request.Request, image: fetch.Image) -> cuda.Told:
    """Return the variables in which users and images speak of NVIDIA's driver."""
    from fairlead.plan import cuda

    of_file = ((name, text) for name, text, _ in request.templates if "$" not in text)
    names = (name for name in request.environ if name.startswith("NVIDIA_"))
    job = {name: request.environ[name] for name in names}
    return cuda.Told({**job, **dict(of_file), **dict(request.variables)}, dict(image.config.env))


def _edits(
    request: launch_request.Request,
    image: fetch.Image,
    config: settings.Config,
    files: view.View,
) -> tuple[plan_edits.Edits, bool]:
    """Return what the site's variables, GPUs, devices that were asked for, and hooks bring.

    And whether a plan with it may be kept: a kept one is made by C, which looks at no device and
    runs no hook.
    """
    found = plan_edits.NONE
    may_be_kept = not request.devices
    wanted = wish(request, image, config)
    if wanted is not None and any(map(os.path.exists, (*facts.GPU_PLACES, *config.cdi_dirs))):
        from fairlead.run import gpu as run_gpu

        may_be_kept = False
        told = _told(request, image)
        found = run_gpu.edits(wanted, request.environ, config, files, told)
    elif wanted is not None:
        found = gpu.absent(wanted)
    if config.site_env or config.site_mounts:
        from fairlead.run import rules

        of_site = rules.variables(config, request.environ, image.config.env)
        found = plan_edits.joined(of_site, found)
        request = rules.without_own(request, config)
    if request.devices:
        from fairlead.run import devices

        found = plan_edits.joined(found, devices.edits(request, config))
    if any("nvidia" in hook.path for hook in found.hooks):
        from fairlead.run import gpu as run_gpu

        found = run_gpu.with_hooks_done(found, files, _told(request, image))
    if config.hooks_dirs:
        from fairlead.host import hooks
        from fairlead.plan import hooks as plan_hooks

        chosen = plan_hooks.chosen(hooks.read(config.hooks_dirs), request)
        may_be_kept = may_be_kept and not chosen
        found = plan_edits.joined(plan_edits.Edits(hooks=chosen), found)
    return found, may_be_kept


class Hooks(NamedTuple):
    """A launch's hooks, ready to run.

    Attributes:
        around: called before and after the root is entered, with the path that it has before.
        after: what is to be run when the container has ended (``run.after``); empty: nothing.
    """

    around: tuple[Callable[[str], None], Callable[[str], None]]
    after: str


def hooks(ready: Ready, request: launch_request.Request) -> Hooks | None:
    """Return a launch's hooks; None without any, and where a container is joined.

    Raises:
        errors.HookError: one cannot run.
    """
    if not ready.plan.hooks or (ready.named and ready.named.joins):
        return None
    from fairlead.run import after
    from fairlead.run import hooks as run_hooks

    prepared = run_hooks.prepare(ready.plan, request)
    around = (
        lambda rootfs: run_hooks.before_entering(prepared, rootfs),
        lambda rootfs: run_hooks.inside(prepared, rootfs),
    )
    return Hooks(around, after.document(prepared))


def _together(
    name: reference.Reference,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
    broker: int,
    others: neighbours.Neighbours | None,
) -> tuple[fetch.Image, tuple[int, ...]]:
    """Return what ``_image`` does; nothing is left between the nodes then."""
    try:
        return _image(name, config, store, progress, broker, others)
    finally:
        if others is not None:
            others.close()


def _image(
    name: reference.Reference,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
    broker: int,
    others: neighbours.Neighbours | None,
) -> tuple[fetch.Image, tuple[int, ...]]:
    """Return the image and, from the node's shared store, its layers as mounts, lowest first."""
    spread = others.open if others is not None else None
    if broker >= 0 and not name.transport and _is_for_all(name, config):
        image = fetch.pull(
            name, config, store, policy=config.pull, progress=progress, tree=False, spread=spread
        )
        mounts = _shared_mounts(broker, name, image, config, store, progress, spread)
        if mounts:
            return image, mounts
    image = fetch.pull(name, config, store, policy=config.pull, progress=progress, spread=spread)
    # Until this process ends or executes; from then on the mount itself shows that it is in use.
    layers.hold(store, image.chain)
    if image.rootfs.startswith(f"{image.place}/"):  # else a directory of the user's, as it is
        _check_group(image.rootfs)
    return image, ()


def _shared_mounts(
    broker: int,
    name: reference.Reference,
    image: fetch.Image,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
    spread: Callable[[layout.Store], Spread | None] | None,
) -> tuple[int, ...]:
    """Return an image's layers as mounts; none where it has no layers or the store cannot serve."""
    from fairlead.shared import ask

    if not image.config.diff_ids:
        return ()  # an empty root is a directory of the user's
    may = config.pull != "never"
    try:
        return ask.mounts(
            broker,
            name,
            image.digest,
            config,
            target=image.target,
            may_ask=may,
            progress=progress,
            store=store,
            spread=spread,
        )
    except ask.Unusable as why:
        log.warning(f"the node's shared store cannot be used ({why}); using {store.root}")
        return ()


def refuse_root() -> None:
    """Raise for the one user whose mistakes no namespace contains.

    Raises:
        errors.RootError.
    """
    if os.geteuid() == 0:
        raise errors.RootError("containers do not run as root")


def _is_for_all(name: reference.Reference, config: settings.Config) -> bool:
    """Tell whether the storekeeper, which reads the site's settings only, can reach a registry.

    A registry without TLS that the user alone allows serves the user's own store.
    """
    host, _ = reference.split_host(name.registry)
    sites = {"default", config.sarus_json, *settings.site_files(os.environ)}
    own = config.origins["insecure_registries"] not in sites
    listed = {name.registry, host} & set(config.insecure_registries)
    return not (own and listed) and _is_led_as_by_site(name, config)


def _is_led_as_by_site(name: reference.Reference, config: settings.Config) -> bool:
    """Tell whether the user's own registries.conf, if there is one, leads where the site's does."""
    own = set(registries.files(config, os.environ))
    if not any(
        map(os.path.exists, own.difference(registries.files(config, os.environ, site=True)))
    ):
        return True
    from fairlead.image import mirrors

    return mirrors.places(config, os.environ).is_as_by_site(name)


def _check_group(rootfs: str) -> None:
    """Refuse a tree that was unpacked under another group than the launch has.

    The container maps one uid and one gid; a tree of another gid could be read there, but every
    write below one of its directories would fail with EOVERFLOW.
    """
    group = os.stat(rootfs).st_gid
    if group != os.getegid():
        raise errors.StoreError(
            f"{rootfs}: was unpacked under group {group}, this runs under {os.getegid()}",
            hint="let the store's path hold %g, or run under that group",
        )


def _identity_texts(files: view.View) -> tuple[str, str, str, str]:
    """Read the image's passwd, group and ld.so.preload, and whether its loader is musl's ("musl").

    Hostile files: regular, bounded, inside the tree only.
    """
    if files.rootfs:
        return _read_identity(files.rootfs)
    kept = f"{files.place}/identity.json"
    found = _kept_identity(kept)
    if found is None:
        files.read(lambda rootfs: _keep_identity(rootfs, kept))
        found = view.made(_kept_identity(kept), kept)
    return found


def _kept_identity(path: str) -> tuple[str, str, str, str] | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            passwd, group, preload, libc = jsontext.loads(file.read())
    except (OSError, ValueError):
        return None
    return str(passwd), str(group), str(preload), str(libc)


def _keep_identity(rootfs: str, path: str) -> None:
    import json

    new = f"{path}.{os.getpid()}"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(_read_identity(rootfs), file)
    os.rename(new, path)


def _read_identity(rootfs: str) -> tuple[str, str, str, str]:
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return (
            _read_regular(root, "/etc/passwd"),
            _read_regular(root, "/etc/group"),
            _read_regular(root, PRELOAD),
            "musl" if _has(root, f"/lib/ld-musl-{os.uname().machine}.so.1") else "",
        )
    finally:
        os.close(root)


def _has(root: int, path: str) -> bool:
    try:
        os.close(kernel.open_in_root(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def _read_regular(root: int, path: str) -> str:
    try:
        fd = kernel.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _ETC_FILE_LIMIT:
            log.warning(f"the image's {path} is no regular file of at most 1 MiB and is ignored")
            return ""
        return os.read(fd, _ETC_FILE_LIMIT).decode(errors="surrogateescape").replace("\0", "")
    finally:
        os.close(fd)
