"""What a plan was made from, as a value: while it is still so, the same request has the same plan.

The key (``c_ext/plan_key.h``) holds what a launch knows before anything is looked up: the
request, this boot, the user. Everything else is here:

    settings              the site's and the user's files
    environment file      it, those it inherits from, and where they were looked for
    what images may run   registries.conf and policy.json, the site's and the user's, and their keys
    user, groups          /etc/passwd, /etc/group, /etc/nsswitch.conf; what a directory server says
                          has no file and is covered by the entry's age
    host                  which places, devices and PMIx directories there are
    environment           what was asked of it (``witness.Environment``)
    image                 its record, configuration, tree, and the files of it that were read
    host's MPI            where it was looked for, every file that was looked at, the staged layer
    proof                 the command and its libraries, where they lie in directories of the host
                          (``run.proof``); whether ranks can copy from each other; the world check
    GPUs                  where they are wanted: that no driver of one is there
    hooks                 the site's directories of OCI hooks, and the files in them
    engine                its package, which an update replaces

Rules:
- ``begin`` comes before the settings are read: a file that changes in between then counts as
  changed. What is known only afterwards is looked at by ``collect``, which asks the node once more
  and gives nothing where the answer has changed.
- What a decision looks at belongs here; a test watches every path that a launch touches.
- What cannot be said for certain gives no basis, and the plan is not kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import fairlead
from fairlead import config as settings
from fairlead import kernel
from fairlead.host import cma, facts, mpi, slurm, witness
from fairlead.image import policy, registries
from fairlead.plan import request as launch_request
from fairlead.run import injection, launch, ranks
from fairlead.run import same as same_on_nodes
from fairlead.shared import site
from fairlead.store import blobs, layers, layout, records, trust

NAME_SERVICE = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")


class Start(NamedTuple):
    """What was looked at before the first decision."""

    files: tuple[witness.Seen, ...]
    mpi: tuple[witness.Seen, ...]


class Basis(NamedTuple):
    """The grounds of a plan.

    Attributes:
        files: paths, with what was seen.
        asked, presence, prefixes: as in ``witness.Environment``.
        same: templates that have one meaning.
        holds: directories that must not be removed before the container stands.
        image: name in the node's shared store, where the layers come from there, and
        injection: of the host's MPI for it, where that does, too.
        notes: what the user is told at each launch.
        compared: what must be the same on the other nodes of a step (``run.same``).
    """

    files: tuple[witness.Seen, ...]
    asked: tuple[tuple[str, str | None], ...] = ()
    presence: tuple[tuple[str, bool], ...] = ()
    prefixes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    same: tuple[tuple[str, str], ...] = ()
    holds: tuple[str, ...] = ()
    image: str = ""
    notes: tuple[str, ...] = ()
    injection: str = ""
    compared: str = ""


def begin(job: Mapping[str, str], own: Mapping[str, str] = os.environ) -> Start:
    """Look at the files that every decision hangs on.

    Args:
        job: the environment of the launch; nothing is noted.
        own: this process's.
    """
    variables = witness.plain(job)
    package = os.path.dirname(fairlead.__file__)
    seen = [witness.file(path) for path in settings.files(own)]
    config = settings.load(own)  # for where the site keeps the others
    policies = (
        *registries.files(config, own),
        *registries.folders(config, own),
        *policy.files(config, own),
    )
    paths = (
        *policies,
        *NAME_SERVICE,
        *slurm.configuration(variables),
        f"{package}/__init__.py",
        kernel.EXTENSION,
    )
    seen += [witness.file(path) for path in paths]
    return Start(tuple(seen), mpi.searched(variables))


def collect(
    start: Start,
    ready: launch.Ready,
    request: launch_request.Request,
    config: settings.Config,
) -> Basis | None:
    """Return the basis of a decision, or None where it cannot be told.

    Args:
        start: from ``begin``.
        ready: what is to be kept.
        request: its environment a ``witness.Environment``, all questions asked.
        config: the settings that it was made with.
    """
    environ = request.environ
    if not isinstance(environ, witness.Environment):
        return None
    store = layout.Store(config.store.rstrip("/"))
    keys = _keys(ready, config)
    if keys is None:
        return None
    files = [*keys, *start.files, *request.seen, *ready.seen]
    files += [*_image(store, ready), *_node(ready.facts, request)]
    steps, same = _pmix(environ)
    files += steps
    if ranks.tries_copying(request, config):
        files.append(cma.basis(store.path("host")))
    if injection.asks_image_mpi(request):
        files += [
            witness.file(f"{ready.image.place}/{name}") for name in ("mpi.json", "pmi-2.json")
        ]
    if injection.asks_host_mpi(request):
        looked_at = mpi.basis(environ, store.path("host"), mpi.choice(config))
        if looked_at is None:
            return None
        files += [*start.mpi, *looked_at, *_staged(ready)]
    files += _hooks(config)
    if launch.wish(request, ready.image, config) is not None:  # and there is none
        files += [witness.place(path) for path in (*facts.GPU_PLACES, *config.cdi_dirs)]
    candidates = (request.cwd,) if request.cwd else ()
    if facts.read(environ, candidates) != ready.facts:
        return None
    return Basis(
        files=tuple(dict.fromkeys(files)),
        asked=tuple(environ.asked.items()),
        presence=tuple(environ.presence.items()),
        prefixes=tuple(environ.prefixes.items()),
        same=same,
        holds=() if ready.mounts else (layers.path(store, ready.image.chain),),
        image=site.name_of(ready.image.digest) if ready.mounts else "",
        notes=ready.plan.notes,
        injection=ready.injection,
        compared=same_on_nodes.text(request, config, ready),
    )


def _keys(ready: launch.Ready, config: settings.Config) -> tuple[witness.Seen, ...] | None:
    """Look at the keys that policy names for the image; None where they are changing."""
    paths = trust.key_files(ready.name, config, os.environ)
    seen = tuple(witness.file(path) for path in paths)
    now = trust.demands(ready.name, config, os.environ).name if paths else ""
    return seen if now in {"", ready.image.policy} else None


def _image(store: layout.Store, ready: launch.Ready) -> Iterable[witness.Seen]:
    """Look at what stands for the image in the store; nothing below is ever changed in place."""
    image = ready.image
    yield witness.file(store.root)
    yield witness.file(store.path("version"))
    yield witness.file(records.path(store, image.reference))
    yield witness.file(blobs.path(store, image.config.digest))
    if ready.mounts:
        return  # its layers are the broker's, who says whether they are still there
    etc = f"{image.rootfs}/etc"
    yield witness.file(image.rootfs)
    # Not through the image's own symbolic links, which would lead about on the host.
    yield witness.file(etc, nofollow=True)
    if not os.path.islink(etc):
        for name in ("passwd", "group", "ld.so.preload"):
            yield witness.file(f"{etc}/{name}", nofollow=True)


def _node(node: facts.Facts, request: launch_request.Request) -> Iterable[witness.Seen]:
    places = {node.user.home, *facts.PLACES, request.cwd} - {""}
    yield from (witness.place(path) for path in sorted(places))
    yield witness.file(facts.FABRIC_DIRECTORY)
    for path in (*(path for path, _, _ in facts.DEVICES), *facts.fabric_devices()):
        yield witness.place(path, nofollow=True)
    if request.step is not None:
        yield witness.place(ranks.library())


def _hooks(config: settings.Config) -> Iterable[witness.Seen]:
    """Look at the site's hooks, of which none applied."""
    for directory in config.hooks_dirs:
        yield witness.file(directory)
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        yield from (witness.file(f"{directory}/{name}") for name in sorted(names))


def _pmix(
    environ: witness.Environment,
) -> tuple[tuple[witness.Seen, ...], tuple[tuple[str, str], ...]]:
    """Look at the places of the step's PMIx directories, and at which names mean the same one."""
    clients, servers = facts.pmix_templates(environ)
    seen, same = [], []
    first: dict[str, str] = {}
    for text in (*clients, *servers):
        path = facts.from_template(text, environ.plain)
        seen.append(witness.Seen(text, witness.kind(path), kind=True, template=True))
        if path in first:
            same.append((first[path], text))
        first.setdefault(path, text)
    return tuple(seen), tuple(same)


def _staged(ready: launch.Ready) -> Iterable[witness.Seen]:
    """Look at the layer that replaces the image's MPI."""
    for layer in ready.plan.layers:
        if layer.startswith(f"{ready.image.place}/mpi-"):
            yield witness.file(layer)
            yield witness.file(f"{os.path.dirname(layer)}/staged.json")
