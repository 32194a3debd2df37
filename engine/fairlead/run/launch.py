"""From a request to a plan: read what the plan depends on, decide, and hand a value back.

This is the one path that every door takes: the Slurm step, ``fairlead run`` and ``fairlead plan``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

import fairlead
from fairlead import config as settings
from fairlead import errors, kernel, log
from fairlead.host import facts
from fairlead.image import reference
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch_request
from fairlead.store import fetch, layers, layout

_ETC_FILE_LIMIT = 1 << 20


class Decision(NamedTuple):
    """A plan with what it was made of."""

    plan: launch_plan.Plan
    image: fetch.Image
    facts: facts.Facts


def prepare(
    request: launch_request.Request, config: settings.Config, progress: log.Progress | None = None
) -> Decision:
    """Make the image ready in the store and decide the launch.

    Raises:
        errors.Error: anything that the user can be told; nothing is left half done.
    """
    refuse_root()
    launch_request.check(request)
    name = reference.parse(request.reference, default_registry=config.default_registry)
    store = layout.open_store(config)
    image = fetch.pull(name, config, store, policy=config.pull, progress=progress)
    # Until this process ends or executes; from then on the mount itself shows that it is in use.
    layers.hold(store, image.chain)
    _check_group(image.rootfs)
    injection = _injection(request, image, store)
    candidates = (request.cwd,) if request.cwd else ()
    passwd, group = _identity_texts(image.rootfs)
    source = launch_plan.Source(
        f"{image.reference}@{image.digest}", image.config, image.rootfs, passwd, group
    )
    node = facts.read(request.environ, candidates)
    return Decision(launch_plan.make(source, request, node, injection), image, node)


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


def _injection(
    request: launch_request.Request, image: fetch.Image, store: layout.Store
) -> launch_plan.Injection:
    """Decide whose MPI runs and make the layer that brings it.

    Index and layer are kept beside the image's tree and vanish with it; what is known of the
    host's MPI is kept in the store's ``host`` directory.

    Raises:
        errors.MpiError: the host's MPI was asked for and does not fit.
    """
    if not asks_host_mpi(request):
        return launch_plan.Injection(variables=_pmix_client(request.environ))
    from fairlead.host import index, mpi
    from fairlead.plan import inject
    from fairlead.run import stage

    place = os.path.dirname(image.rootfs)
    found = index.load(image.rootfs, os.path.join(place, "mpi.json"))
    profiles = mpi.profiles(request.environ, store.path("host"))
    verdict = inject.decide(request.mpi, found, profiles)
    if request.mpi == "host" and verdict.refused:
        raise errors.MpiError(f"the host's MPI cannot run in {image.reference}: {verdict.refused}")
    name = f"mpi-{fairlead.__version__}-{stage.key(verdict)}"
    staged = stage.compose(verdict, found, image.rootfs, os.path.join(place, name))
    notes = verdict.warnings
    if verdict.choice == "image":
        notes = (*verdict.reasons[:1], *notes)
    variables = (*((name, None) for name in staged.unset), *staged.env)
    if verdict.choice == "image":
        variables = _pmix_client(request.environ)
    return launch_plan.Injection(staged.directory, variables, notes, staged.report)


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


def _pmix_client(environ: Mapping[str, str]) -> tuple[tuple[str, str | None], ...]:
    """Return what the image's own PMIx client needs to meet Slurm's server without complaint.

    The server offers munge and native security; a client built without munge prints ten lines per
    rank before it takes the other (mpi.md section 2).
    """
    offered = environ.get("PMIX_SECURITY_MODE", "").split(",")
    if "native" not in offered or "PMIX_MCA_psec" in environ:
        return ()
    return (("PMIX_MCA_psec", "native"),)


def _identity_texts(rootfs: str) -> tuple[str, str]:
    """Read the image's passwd and group, hostile files: regular, bounded, inside the tree only."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _read_regular(root, "/etc/passwd"), _read_regular(root, "/etc/group")
    finally:
        os.close(root)


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
