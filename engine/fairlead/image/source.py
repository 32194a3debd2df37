"""Where an image comes from: what every source can do, and which one a reference means.

The store asks a source for documents and layers by digest and verifies what it gets; it does not
know which kind it is. A registry is one kind (``registry``), the others lie on this machine:

    layout     oci:PATH, and oci-archive:PATH by ``archive``'s view of a tar file
    archive    docker-archive:PATH
    storage    containers-storage:NAME
    daemon     docker-daemon:NAME (dockerd://NAME)

A squashfs or SIF file and a directory hold a root file system without manifest or layers: they are
no sources; ``store.rootfs`` takes them. ``kind`` tells what a path is, by its first bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from fairlead import errors
from fairlead.image import files, manifest, reference
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference

DIRECTORY, SQUASHFS, SIF = "directory", "squashfs", "sif"
ROOTS = {DIRECTORY, SQUASHFS, SIF}
_LAYOUT, _TAR = "layout", "tar"
_HEAD = 512
# What of a directory shows that it has changed, without a walk: its root, what is read of its
# /etc, and the places that libraries are installed to.
_WATCHED = (
    *("", "/etc/environment", "/etc/rc", "/etc/passwd", "/etc/group", "/etc/ld.so.cache"),
    *("/lib", "/lib64", "/usr", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt"),
    *(f"/usr/lib/{os.uname().machine}-linux-gnu", f"/lib/{os.uname().machine}-linux-gnu"),
)
_ROOT_NAMES = ("bin", "usr", "sbin", "lib", "etc")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
}


class Fetched(NamedTuple):
    """A document as served: Content-Type (empty if unknown), verified digest, bytes."""

    media_type: str
    digest: str
    data: bytes


class Source(Protocol):
    """What the store asks of a source; a context manager."""

    def __enter__(self) -> Self:
        """Return the source."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close what is open."""

    def stop(self) -> None:
        """End all that is under way, from any thread."""

    def head(self, ref: Reference) -> str | None:
        """Return the digest that a reference means now, None where only ``manifest`` can tell."""

    def manifest(self, ref: Reference, target: str) -> Fetched:
        """Return the manifest or index that target (a digest, or the reference's own) names."""

    def document(self, ref: Reference, descriptor: Descriptor) -> bytes:
        """Return a small blob, size and digest verified."""

    def blob(self, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes; the receiver checks the digest."""


class Local:
    """What all sources on this machine have in common: a context manager without threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; nothing, where a source opens what it reads each time."""

    def stop(self) -> None:
        """Nothing is ever under way in another thread."""


class Made(NamedTuple):
    """An image whose manifest is made here, since its source keeps none of the layers as they are.

    Attributes:
        document: the manifest.
        digest: its digest.
        config: the configuration, as the source has it.
        layers: where each layer is, by its digest; in the source's own words.
    """

    document: bytes
    digest: str
    config: bytes
    layers: dict[str, str]


class MakesManifest(Local):
    """A source whose images have manifests of our making; the subclass makes one, once."""

    media_type: str
    verb = "is"  # of the line about a digest that is another's
    _made: Made | None = None

    def make(self, ref: Reference) -> Made:
        """Find the image that a reference means.

        Raises:
            errors.ImageNotFoundError: there is none of that name.
            errors.ArchiveError, errors.ManifestError: the source is something else, or damaged.
        """
        raise NotImplementedError

    def image(self, ref: Reference) -> Made:
        """Return the image; raises what ``make`` does."""
        if self._made is None:
            self._made = self.make(ref)
        return self._made

    def head(self, ref: Reference) -> str | None:
        """Return the digest of the manifest made for the image; raises what ``image`` does."""
        return self.image(ref).digest

    def manifest(self, ref: Reference, target: str) -> Fetched:
        """Return the manifest made for the image.

        Raises:
            errors.ImageNotFoundError: target is the digest of another.
            errors.ArchiveError, errors.ManifestError
        """
        found = self.image(ref)
        if reference.is_digest(target) and target != found.digest:
            raise errors.ImageNotFoundError(f"{ref.name}: {self.verb} {found.digest}, not {target}")
        return Fetched(self.media_type, found.digest, found.document)

    def document(self, ref: Reference, descriptor: Descriptor) -> bytes:
        """Return the image's configuration.

        Raises:
            errors.DigestError: the descriptor is of something else.
        """
        return verified(ref, descriptor, self.image(ref).config)


def open_local(ref: Reference, environ: Mapping[str, str]) -> Source:
    """Return the source of a reference to something on this machine that has layers.

    Raises:
        errors.ImageNotFoundError: there is nothing.
        errors.ArchiveError: it is something else, or damaged.
    """
    from fairlead.image import archive, layout, storage

    if ref.transport == reference.STORAGE:
        return storage.Storage(environ)
    if ref.transport == reference.DAEMON:
        from fairlead.image import daemon

        return daemon.saved(ref, environ)
    if ref.transport == reference.OCI:
        return layout.Layout(files.Folder(ref.repository))
    what = kind(ref) if ref.transport == reference.PATH else ""
    if what == _LAYOUT:
        return layout.Layout(files.Folder(ref.repository))
    if what in ROOTS:
        raise errors.ArchiveError(
            f"{ref}: holds a root file system without a manifest", hint="use fairlead pull first"
        )
    tar = archive.Archive(ref.repository)
    if ref.transport == reference.DOCKER_ARCHIVE:
        return archive.DockerArchive(tar)
    # A file named without its kind may be either, and recent ``docker save`` writes both in one.
    if ref.transport == reference.PATH and tar.size(layout.MARK) is None:
        return archive.DockerArchive(tar)
    return layout.Layout(tar)


def stamp(ref: Reference, environ: Mapping[str, str]) -> str:
    """Return what changes when the image that a reference means may have; empty: unknown.

    Raises:
        errors.ImageNotFoundError, errors.ArchiveError: there is nothing, or it cannot be looked at.
    """
    if ref.transport == reference.DAEMON:
        from fairlead.image import daemon

        return daemon.stamp(ref, environ)
    if ref.transport == reference.STORAGE:
        from fairlead.image import graphroot

        found = files.look(*graphroot.find(environ).images())
    else:
        found = look(ref)
    return found.text if found.settled else ""


def look(ref: Reference) -> files.Look:
    """Look at the path of a reference, and at what of a directory shows that it has changed.

    Raises:
        errors.ImageNotFoundError, errors.ArchiveError: there is nothing, or it cannot be looked at.
    """
    path = ref.repository
    if ref.transport == reference.OCI:
        return files.look(f"{path}/index.json")
    if ref.transport == reference.PATH and os.path.isdir(path):
        return files.look(*(f"{path}{name}" for name in _WATCHED), f"{path}/index.json")
    return files.look(path)


def kind(ref: Reference) -> str:
    """Return what a path alone is: DIRECTORY, SQUASHFS, SIF, or something that has layers.

    Raises:
        errors.ImageNotFoundError: there is nothing.
        errors.ArchiveError: it cannot be read, or is of no known kind.
    """
    path = ref.repository
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise files.failure(error, path) from error
    if is_directory:
        return _directory(path)
    fd, _ = files.open_file(path)
    try:
        head = os.pread(fd, _HEAD, 0)
    finally:
        os.close(fd)
    if head.startswith(b"hsqs"):
        return SQUASHFS
    if head[32:41] == b"SIF_MAGIC":
        return SIF
    if head[257:262] == b"ustar":
        return _TAR
    refuse_compressed(head, path)
    raise errors.ArchiveError(
        f"{path}: is neither a squashfs nor a SIF file nor a tar archive of an image"
    )


def refuse_compressed(head: bytes, path: str) -> None:
    """Refuse an archive that is compressed as a whole: its last member comes first.

    ``docker save`` writes manifest.json last, so a stream would have to be unpacked to a copy.

    Raises:
        errors.ArchiveError: it is.
    """
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise errors.ArchiveError(
                f"{path}: is compressed as a whole ({name}), so that nothing in it can be found",
                hint=f"decompress the file with {name} -d; its layers may stay compressed",
            )


def digest_like(digest: str, data: bytes) -> str:
    """Return the digest of data, by the algorithm of digest."""
    import hashlib  # not for a launch that only looks at a stamp

    algorithm = digest.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def verified(ref: Reference, descriptor: Descriptor, data: bytes) -> bytes:
    """Return data if it is what a descriptor promises.

    Raises:
        errors.DigestError: it is not.
    """
    if len(data) != descriptor.size:
        raise errors.DigestError(
            f"{ref}: {descriptor.digest} should have {descriptor.size} bytes but has {len(data)}"
        )
    found = digest_like(descriptor.digest, data)
    if found != descriptor.digest:
        raise errors.DigestError(f"{ref}: {descriptor.digest} holds other content, {found}")
    return data


def check_document(ref: Reference, descriptor: Descriptor) -> None:
    """Refuse a configuration that is too large to be one, before it is read.

    Raises:
        errors.ManifestError: it is.
    """
    if descriptor.size > manifest.MAX_DOCUMENT:
        raise errors.ManifestError(
            f"{ref}: {descriptor.digest} has {descriptor.size} bytes, too many"
        )


def _directory(path: str) -> str:
    try:
        names = set(os.listdir(path))
    except OSError as error:
        raise files.failure(error, path) from error
    if "oci-layout" in names:
        return _LAYOUT
    if not names.isdisjoint(_ROOT_NAMES):
        return DIRECTORY
    hint = ""
    if {"version", "manifest.json"} <= names:
        hint = "it looks like skopeo's dir: format; copy the image to oci:PATH"
    raise errors.ArchiveError(
        f"{path}: is neither a root file system (no {', '.join(_ROOT_NAMES)}) nor an OCI layout",
        hint=hint or "name the directory that holds bin, etc and usr",
    )
