"""From a request to a plan: read what the plan depends on, decide, and hand a value back.

This is the one path that every door takes: the Slurm step, ``fairlead run`` and ``fairlead plan``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import fairlead
from fairlead import config as settings
from fairlead import errors, jsontext, kernel, log
from fairlead.host import facts
from fairlead.image import reference
from fairlead.plan import plan as launch_plan
from fairlead.plan import proof
from fairlead.plan import request as launch_request
from fairlead.run import ranks, view
from fairlead.shared import site
from fairlead.store import fetch, layers, layout

if TYPE_CHECKING:
    from fairlead.host import mpi, pmi
    from fairlead.host.index import Index
    from fairlead.plan import inject
    from fairlead.run import stage

T = TypeVar("T")
_ETC_FILE_LIMIT = 1 << 20
PRELOAD = "/etc/ld.so.preload"


class Ready(NamedTuple):
    """A launch that can be made.

    Attributes:
        plan: what it will do.
        mounts: the detached mounts that the plan's layers call ``mount:N``.
        image: what it was made for, and
        facts: on which node.
    """

    plan: launch_plan.Plan
    mounts: tuple[int, ...]
    image: fetch.Image
    facts: facts.Facts


def prepare(
    request: launch_request.Request,
    config: settings.Config,
    progress: log.Progress | None = None,
    broker: int = -1,
) -> Ready:
    """Make the image ready and return the plan of the launch.

    Args:
        request: what was asked for.
        config: the settings.
        progress: hears how far the image is.
        broker: the step's connection to the broker of the node's shared store, -1 without one.

    Raises:
        errors.Error: anything that the user can be told; nothing is left half done.
    """
    refuse_root()
    launch_request.check(request)
    name = reference.parse(
        request.reference, default_registry=config.default_registry, cwd=request.cwd
    )
    store = layout.open_store(config)
    image, mounts = _image(name, config, store, progress, broker)
    files = view.View(image.place, image.rootfs)
    if mounts:
        again = site.name_of(image.digest)
        files = view.View(image.place, "", lambda: kernel.broker_mount(broker, again))
    texts = _identity_texts(files)
    injection = _with_world(
        request, config, _injection(request, image.reference, files, store, config), texts
    )
    injection = injection._replace(
        notes=(*injection.notes, *ranks.copying(request, config, store.path("host")))
    )
    candidates = (request.cwd,) if request.cwd else ()
    source = launch_plan.Source(
        image.pinned,
        image.config,
        tuple(f"mount:{n}" for n in reversed(range(len(mounts)))) or (*image.over, image.rootfs),
        *texts[:2],
    )
    node = facts.read(request.environ, candidates)
    return Ready(launch_plan.make(source, request, node, injection), mounts, image, node)


def _image(
    name: reference.Reference,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
    broker: int,
) -> tuple[fetch.Image, tuple[int, ...]]:
    """Return the image and, from the node's shared store, its layers as mounts, lowest first."""
    if broker >= 0 and not name.transport and _is_for_all(name, config):
        image = fetch.pull(name, config, store, policy=config.pull, progress=progress, tree=False)
        mounts = _shared_mounts(broker, name, image, config, store, progress)
        if mounts:
            return image, mounts
    image = fetch.pull(name, config, store, policy=config.pull, progress=progress)
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
) -> tuple[int, ...]:
    """Return an image's layers as mounts; none where it has no layers or the store cannot serve."""
    from fairlead.shared import ask

    if not image.config.diff_ids:
        return ()  # an empty root is a directory of the user's
    may = config.pull != "never"
    try:
        return ask.mounts(broker, name, image.digest, config, may_ask=may, progress=progress)
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


def asks_host_mpi(request: launch_request.Request) -> bool:
    """Tell whether the host's MPI has a say in a launch."""
    return request.mpi == "host" or (request.mpi == "auto" and _is_rank(request.environ))


def _is_for_all(name: reference.Reference, config: settings.Config) -> bool:
    """Tell whether the storekeeper, which reads the site's settings only, can reach a registry.

    A registry without TLS that the user alone allows serves the user's own store.
    """
    host, _ = reference.split_host(name.registry)
    own = config.origins["insecure_registries"] not in {"default", settings.SITE_FILE}
    listed = {name.registry, host} & set(config.insecure_registries)
    return not (own and listed)


def asks_image_mpi(request: launch_request.Request) -> bool:
    """Tell whether what the image has of MPI has a say in a launch."""
    return request.mpi == "host" or _is_rank(request.environ)


def _injection(
    request: launch_request.Request,
    image: str,
    files: view.View,
    store: layout.Store,
    config: settings.Config,
) -> launch_plan.Injection:
    """Decide whose MPI runs, make the layer that brings it, and say what will become of its ranks.

    Index and layer are kept in the image's place and vanish with it; what is known of the
    host's MPI is kept in the store's ``host`` directory.

    Raises:
        errors.MpiError: the host's MPI was asked for and does not fit, or the ranks of an MPI that
            was asked for would not become one world.
        errors.ConfigError: the settings name an MPI that this host does not have.
    """
    if not asks_image_mpi(request):
        foreseen = ranks.outlook(request, config, ())
        return launch_plan.Injection(
            variables=foreseen.variables, proof=proof.Proof(refusals=foreseen.refusals)
        )
    from fairlead.host import mpi
    from fairlead.plan import inject

    found, abilities = _known(files)
    offered: tuple[mpi.Profile, ...] = ()
    if asks_host_mpi(request):
        offered = mpi.profiles(request.environ, store.path("host"), mpi.choice(config))
    glibc = {
        profile.identity: _on_glibc(files, found, profile)
        for profile in inject.asks_more(found, offered)
    }
    verdict = inject.decide(
        request.mpi, found, offered, cross_major=config.mpi_cross_major, glibc=glibc
    )
    if request.mpi == "host" and verdict.refused:
        raise errors.MpiError(f"the host's MPI cannot run in {image}: {verdict.refused}")
    verdict, staged = _staged(request, files, found, verdict)
    running = ranks.candidates(found, verdict.profiles, dict(abilities))
    foreseen = ranks.outlook(request, config, running)
    if staged is None:
        asked = request.mpi == "image"
        notes = (*(() if asked else verdict.reasons[:1]), *verdict.warnings, *foreseen.notes)
        return launch_plan.Injection(
            "",
            foreseen.variables,
            notes,
            (*verdict.reasons, *foreseen.report),
            proof=ranks.to_prove(config, foreseen, trace=bool(running), injected=False),
        )
    # An image may hold another class of MPI that was not replaced: its programs load their own.
    whole = {item.abi_class for item in found.libraries} == {
        profile.abi_class for profile in verdict.profiles
    }
    return launch_plan.Injection(
        staged.directory,
        (*((name, None) for name in staged.unset), *staged.env, *ranks.of_host(foreseen)),
        (*verdict.warnings, *foreseen.notes),
        (*staged.report, *foreseen.report),
        proof=ranks.to_prove(config, foreseen, trace=True, injected=whole),
    )


def _staged(
    request: launch_request.Request, files: view.View, found: Index, verdict: inject.Verdict
) -> tuple[inject.Verdict, stage.Staged | None]:
    """Return the layer that brings the host's MPI, and the verdict that became of it.

    Where a library of the host cannot be put into the image, ``auto`` means the image's own MPI.

    Raises:
        errors.MpiError: the host's was asked for.
    """
    from fairlead.plan import inject
    from fairlead.run import stage

    if verdict.choice != "host":
        return verdict, None
    target = f"{files.place}/mpi-{fairlead.__version__}-{stage.key(verdict)}"
    staged = stage.ready(target, verdict)
    if staged is None:
        try:
            files.read(lambda rootfs: stage.compose(verdict, found, rootfs, target))
        except errors.MpiError as error:
            if request.mpi == "host":
                raise
            return inject.Verdict(
                "image", (), (f"the image's own MPI runs: {error.message}",)
            ), None
        staged = _made(stage.ready(target, verdict), target)
    return verdict, staged


def _known(files: view.View) -> tuple[Index, pmi.Abilities]:
    """Return what the image has of MPI, found out once."""
    from fairlead.host import index, pmi

    kept, clients = f"{files.place}/mpi.json", f"{files.place}/pmi.json"
    found, abilities = index.cached(kept), pmi.cached(clients)
    if found is None or abilities is None:
        files.read(lambda rootfs: pmi.load(rootfs, index.load(rootfs, kept), clients))
        found, abilities = index.cached(kept), pmi.cached(clients)
    return _made(found, kept), _made(abilities, clients)


def _with_world(
    request: launch_request.Request,
    config: settings.Config,
    injection: launch_plan.Injection,
    texts: tuple[str, str, str, str],
) -> launch_plan.Injection:
    """Add the world check, where the step has a world to lose."""
    world = ranks.check(
        request,
        config,
        injected=injection.proof.injected,
        preload=texts[2],
        musl=bool(texts[3]),
    )
    return injection._replace(world=world)


def _on_glibc(files: view.View, found: Index, profile: mpi.Profile) -> inject.Glibc:
    """Return how an installation of the host runs on the image's glibc."""
    from fairlead.run import fit

    kept = fit.path(files.place, profile)
    answer = fit.cached(kept)
    if answer is None:
        files.read(lambda rootfs: fit.keep(rootfs, profile, found, kept))
        answer = _made(fit.cached(kept), kept)
    return answer


def _made(found: T | None, path: str) -> T:
    if found is None:
        raise errors.StoreError(f"{path}: cannot be kept", hint="check the space left there")
    return found


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


def _is_rank(environ: Mapping[str, str]) -> bool:
    """Tell whether a launcher (srun with PMI, mpirun) started this as a rank of an MPI job.

    A program that is alone gains nothing from the host's MPI and may lose: OpenMPI 4 wants its own
    orted for a singleton.
    """
    return not environ.keys().isdisjoint(("PMIX_RANK", "PMI_FD", "PMI_RANK", "PMI2_RANK"))


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
        found = _made(_kept_identity(kept), kept)
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
