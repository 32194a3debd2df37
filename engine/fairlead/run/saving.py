"""Save a container's root, or an image's: as a squashfs file, a tar archive, a layer in an image.

::

    PATH.sqsh, PATH.squashfs     a squashfs file of the whole root
    PATH.tar                     a tar archive of it
    oci:PATH[:TAG]               an image in an OCI layout; what was changed is one more layer
    docker://REF                 the same in a registry

Rules:
- A file appears under its name when it is complete; one that was there is replaced then.
- Everything is owned by root in it, and mount points and files of the launch are not in it
  (``layertar``).
- The files are read by a child in a user namespace, which may read what its owner may not.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fairlead import config as settings
from fairlead import errors, log
from fairlead.image import mirrors, outgoing, reference, registry, source
from fairlead.image.reference import Reference
from fairlead.run import view
from fairlead.store import (
    archived,
    fetch,
    fingerprint,
    layertar,
    layout,
    material,
    resolve,
    trust,
)
from fairlead.store.containers import Container, Kept
from fairlead.store.layout import Stage, Store
from fairlead.store.material import Material

MEMORY = "256M"
SQUASHFS, TAR, IMAGE = "squashfs", "tar", "image"
_ENDINGS = {".sqsh": SQUASHFS, ".squashfs": SQUASHFS, ".sqfs": SQUASHFS, ".tar": TAR}


class Target(NamedTuple):
    """Where to save: a kind, and a path or a reference."""

    kind: str
    path: str = ""
    ref: Reference | None = None


class Root(NamedTuple):
    """A root to save.

    Attributes:
        layers: its directories, topmost first; of a container the first is its own.
        left: what in it is not the user's.
        reference: the image below, in canonical text.
        changed: the first layer is what was changed.
        size: bytes that are to be read, about.
    """

    layers: tuple[str, ...]
    left: layertar.Left
    reference: str
    changed: bool
    size: int = 0


def target(text: str, config: settings.Config, cwd: str) -> Target:
    """Return where a user's text says to save.

    Raises:
        errors.UsageError: it names no such place. errors.ReferenceError
    """
    if text.startswith(("oci:", "docker://")):
        ref = reference.parse(text, default_registry=config.default_registry, cwd=cwd)
        if ref.digest:
            raise errors.UsageError(f"{text}: a digest is what comes out, no place to write to")
        return Target(IMAGE, ref=ref)
    ending = os.path.splitext(text)[1]
    if ending not in _ENDINGS or "://" in text:
        raise errors.UsageError(
            f"{text}: cannot be saved to",
            hint="write PATH.sqsh, PATH.tar, oci:PATH[:TAG] or docker://REFERENCE",
        )
    return Target(_ENDINGS[ending], os.path.normpath(os.path.join(cwd or "/", text)))


def of_container(container: Container, kept: Kept | None) -> Root:
    """Return the root of a named container.

    Raises:
        errors.ContainerError: it was never finished.
    """
    if kept is None or not os.path.isdir(container.upper):
        raise errors.ContainerError(
            f"{container.key.partition('.')[2]}: nothing was ever written to it",
            hint="run something in it first",
        )
    left = layertar.Left(frozenset(kept.points), kept.injected)
    text = kept.pinned if "@" in kept.pinned else kept.reference
    size = fingerprint.disk_bytes(container.upper)
    return Root((container.upper, *kept.layers), left, text, changed=True, size=size)


def of_image(
    ref: Reference,
    config: settings.Config,
    store: Store,
    progress: log.Progress | None = None,
) -> Root:
    """Return the root of an image, made ready in the store.

    Raises:
        errors.Error: it cannot be had.
    """
    image = fetch.pull(ref, config, store, policy="missing", progress=progress)
    text = image.pinned if not ref.transport else image.reference
    return Root((*image.over, image.rootfs), layertar.Left(), text, changed=False, size=image.size)


def save(
    root: Root,
    where: Target,
    config: settings.Config,
    store: Store,
    progress: log.Progress | None = None,
) -> str:
    """Save a root; return what names it: the path, or the reference with its digest.

    Raises:
        errors.Error: it cannot be read or written; what was there before is as it was.
    """
    if where.kind == IMAGE:
        assert where.ref is not None
        return _save_image(root, where.ref, config, store, progress)
    staged = f"{where.path}.{os.getpid()}.part"
    write = _squash if where.kind == SQUASHFS else _tar
    try:
        write(root, staged, progress)
        os.rename(staged, where.path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise errors.space(error, where.path) from error
        raise errors.ArchiveError(
            f"{where.path}: cannot be written: {error.strerror}",
            hint="check its place and permissions",
        ) from error
    finally:
        if os.path.exists(staged):
            os.unlink(staged)
    return where.path


class _Told:
    """A sink that tells how far it is; in the child that reads, where no other thread is."""

    def __init__(self, out: layertar.Sink, progress: log.Progress) -> None:
        self._out, self._progress = out, progress

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._out.write(data)
        self._progress.advance("read", len(data))


def _read(root: Root, out: layertar.Sink, progress: log.Progress | None, *, whole: bool) -> int:
    """Write a root, or what was changed in it, as an archive; return how many entries."""
    if progress is not None:
        progress.start("read", "read files", root.size)
        out = _Told(out, progress)
    try:
        if whole:
            return layertar.whole(out, root.layers, root.left)
        return layertar.changes(out, root.layers[0], root.layers[1:], root.left)
    finally:
        if progress is not None:
            progress.finish("read")


def _tar(root: Root, path: str, progress: log.Progress | None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        stream(root, fd, progress)
        os.fsync(fd)
    finally:
        os.close(fd)


def stream(root: Root, fd: int, progress: log.Progress | None = None) -> None:
    """Write a root to a descriptor as a tar archive.

    Raises:
        errors.Error: it cannot be read or written.
    """

    def write() -> None:
        with open(fd, "wb", closefd=False) as file:
            _read(root, file, progress, whole=True)

    view.with_rights(write)


def _squash(root: Root, path: str, progress: log.Progress | None) -> None:
    """Let mksquashfs read the archive from a pipe."""
    program = material.squash_program()
    # Asked here, since mksquashfs has no good words for it; and nothing but a file is replaced.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    command = [program, "-", path, "-tar", "-noappend", "-no-progress", "-quiet", "-all-root"]
    command += ["-mem", MEMORY]  # its default is a quarter of the machine's, not of the job's
    reading, writing = os.pipe()
    process = subprocess.Popen(
        command,
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    os.close(reading)
    failed: errors.Error | None = None
    try:
        stream(root, writing, progress)
    except errors.Error as error:
        failed = error
    finally:
        os.close(writing)
        if failed is not None:
            process.kill()  # what it has is cut short, and would look complete
        _, said = process.communicate()
    if failed is not None and process.returncode in {0, -9}:
        raise failed
    if process.returncode:
        words = " ".join(said.decode(errors="replace").split())[:300]
        raise errors.ArchiveError(
            f"{path.rpartition('.')[0].rpartition('.')[0]}: mksquashfs: "
            f"{words or f'ended with {process.returncode}'}",
            hint="it takes squashfs-tools 4.5 or later",
        )


def _save_image(
    root: Root,
    ref: Reference,
    config: settings.Config,
    store: Store,
    progress: log.Progress | None,
) -> str:
    below = reference.parse(root.reference, cwd="/")
    with layout.failures_named(store), Stage(store) as stage:
        path = stage.name()

        def walk(out: layertar.Sink) -> int:
            whole = not (root.changed and has_layers(below))
            return _read(root, out, progress, whole=whole)

        view.with_rights(lambda: material.write_layer(path, walk))
        layer = material.written(path)

        def finish(base: Material) -> str:
            found = material.extended(base, layer, os.environ, "fairlead commit")
            return send(found, ref, config, progress)

        if not has_layers(below):
            return finish(material.rootless(_config_of(below, store)))
        return with_source(
            below, config, lambda client: finish(material.of_source(client, below, store, ref))
        )


def has_layers(ref: Reference) -> bool:
    """Tell whether a reference means an image with layers, no bare root.

    Raises:
        errors.ImageNotFoundError, errors.ArchiveError: there is nothing, or something else.
    """
    return not (ref.transport == reference.PATH and source.kind(ref) in source.ROOTS)


def _config_of(ref: Reference, store: Store) -> dict[str, object]:
    """Return the configuration that a root without one got from its own files."""
    image = fetch.local(store, ref)
    if image is None:
        return {}
    found = image.config
    table = {
        "Env": [f"{name}={value}" for name, value in found.env],
        "Entrypoint": list(found.entrypoint),
        "Cmd": list(found.cmd),
        "WorkingDir": found.workdir,
    }
    return {key: value for key, value in table.items() if value}


def save_archive(
    path: str,
    ref: Reference,
    config: settings.Config,
    store: Store,
    progress: log.Progress | None,
) -> str:
    """Make an image of a root's tar archive, by the rules of layers; return what names it.

    Raises:
        errors.ArchiveError, errors.LayerError: it is none, or damaged.
    """
    with layout.failures_named(store), Stage(store) as stage:
        tree, layer_path = stage.name(), stage.name()
        os.mkdir(tree, 0o755)
        archived.unpack(path, tree)

        def walk(out: layertar.Sink) -> int:
            return layertar.whole(out, (tree,), layertar.Left(hidden=frozenset()))

        view.with_rights(lambda: material.write_layer(layer_path, walk))
        base = material.rootless({})
        found = material.extended(base, material.written(layer_path), os.environ, "fairlead import")
        return send(found, ref, config, progress)


def with_source(
    ref: Reference, config: settings.Config, work: Callable[[source.Source], str]
) -> str:
    """Do work with the source of an image open."""
    if ref.transport:
        with source.open_local(ref, os.environ) as local:
            return work(local)
    wanted = trust.demands(ref, config, os.environ)
    with mirrors.Client(config, os.environ) as client:
        if wanted.requirements:
            found = resolve.resolve(client, ref, ref.digest)
            digests = (found.manifest.digest, found.target)
            trust.verify(client, ref, digests, wanted, config, os.environ)
        return work(client)


def send(
    found: Material,
    ref: Reference,
    config: settings.Config,
    progress: log.Progress | None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Write an image to a registry or a layout; return its name with its digest.

    Raises:
        errors.Error: it cannot be written.
    """
    if ref.transport == reference.OCI:
        digest = outgoing.write(ref, found.documents, found.blobs, progress)
        return f"{ref}@{digest}"
    if ref.transport:
        raise errors.UsageError(f"{ref}: cannot be written to", hint="write oci:PATH or docker://")
    scopes = outgoing.scopes(ref, found.blobs)
    with registry.Client(config, environ, scopes=scopes) as client:
        digest = outgoing.push(client, ref, found.documents, found.blobs, progress)
    return f"{ref.name}@{digest}"
