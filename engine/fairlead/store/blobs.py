"""Content-addressed blobs: a digest in, verified bytes out.

Rules:
- Nothing gets a name here before its size and digest were checked, while it was written.
- Documents (manifests, configurations) are read whole and checked again at every reading; one that
  has changed on disk is removed and counts as absent, so that it is fetched once more.
- Documents are brought to the disk before they get their name. Compressed layers are not: they live
  until their tree is published, and one that a dead process left is hashed again before it is used.
"""

from __future__ import annotations

import os
from typing import Any

from fairlead import errors, log
from fairlead.image.manifest import MAX_DOCUMENT, Descriptor
from fairlead.store import layout
from fairlead.store.layout import Stage, Store


def path(store: Store, digest: str) -> str:
    """Return the path of a blob; digest has passed ``reference.parse_digest``."""
    algorithm, _, encoded = digest.partition(":")
    return store.path("blobs", algorithm, encoded)


def lock_name(digest: str) -> str:
    """Return the name of the lock under which a blob is fetched."""
    return "blob." + digest.replace(":", ".")


def hasher(digest: str) -> Any:
    """Return a new hash object of a digest's algorithm."""
    if digest.startswith("sha512:"):
        from hashlib import sha512

        return sha512()
    try:
        # Python's own sha256 loads in 0.1 ms, OpenSSL's in 3; the launch path hashes a few kB.
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256
    return sha256()


def digest_of(digest: str, data: bytes) -> str:
    """Return the digest of data, by the same algorithm as digest."""
    found = hasher(digest)
    found.update(data)
    return f"{digest.partition(':')[0]}:{found.hexdigest()}"


def read(store: Store, digest: str) -> bytes | None:
    """Return a document, or None if it is absent or was damaged (and is now absent).

    Raises:
        errors.StoreError: it cannot be opened, or a damaged one cannot be removed.
    """
    data, there = look(store, digest)
    if data is None and there:
        log.warning(f"{path(store, digest)}: is damaged and will be fetched again")
        with layout.failures_named(store):
            discard(store, digest)
    return data


def look(store: Store, digest: str) -> tuple[bytes | None, bool]:
    """Return a document, None if it is absent or damaged, and whether there is one; change nothing.

    Raises:
        errors.StoreError: it cannot be opened.
    """
    with layout.failures_named(store):
        try:
            fd = os.open(path(store, digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None, False
        with open(fd, "rb") as file:
            try:
                data = file.read(MAX_DOCUMENT + 1)
            except OSError:
                data = b""  # what the disk cannot read is damaged
    return data if digest_of(digest, data) == digest else None, True


def put(store: Store, stage: Stage, digest: str, data: bytes) -> None:
    """Keep a document that was verified; one that is there already stays."""
    staged = stage.name()
    try:
        layout.write_file(staged, data)
        layout.publish(staged, path(store, digest))
    except OSError as error:
        raise layout.failure(error, staged) from error


def discard(store: Store, digest: str) -> None:
    """Remove a blob; who has it open may read on."""
    try:
        os.unlink(path(store, digest))
    except FileNotFoundError:
        return


def discard_all(store: Store) -> None:
    """Remove every blob; for a store without images."""
    for algorithm in ("sha256", "sha512"):
        for name in os.listdir(store.path("blobs", algorithm)):
            discard(store, f"{algorithm}:{name}")


def open_layer(store: Store, descriptor: Descriptor) -> int | None:
    """Open a complete layer that an earlier process left, hashed again; None if there is none."""
    try:
        fd = os.open(path(store, descriptor.digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    found, size = hasher_fast(descriptor.digest), 0
    while data := os.pread(fd, 1 << 20, size):
        found.update(data)
        size += len(data)
    if size == descriptor.size and found.hexdigest() == descriptor.digest.partition(":")[2]:
        try:
            os.utime(fd)  # gc goes by it
        except OSError:
            pass  # a disk that has become read-only
        return fd
    os.close(fd)
    discard(store, descriptor.digest)
    return None


def hasher_fast(digest: str) -> Any:
    """Return a new hash object of OpenSSL, which uses the processor's own instructions."""
    import hashlib

    return hashlib.new(digest.partition(":")[0])


class Writer:
    """A layer on its way in: written, hashed and counted at once. The caller closes ``fd``."""

    def __init__(self, stage_path: str, descriptor: Descriptor) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._path, self._descriptor = stage_path, descriptor
        self._hash = hasher_fast(descriptor.digest)
        self.size = 0
        try:
            self.fd = os.open(stage_path, flags, 0o600)
        except OSError as error:
            raise layout.failure(error, stage_path) from error

    def write(self, data: bytes) -> None:
        """Append data.

        Raises:
            errors.SpaceError: the file system is full.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            size_mb = self._descriptor.size / 1e6
            doing = f"storing {self._descriptor.digest} of {size_mb:,.1f} MB"
            raise layout.failure(error, self._path, doing) from error
        self._hash.update(data)
        self.size += len(data)

    def verify(self) -> None:
        """Check size, then digest.

        Raises:
            errors.DigestError: they are not what the descriptor promised.
        """
        digest, size = self._descriptor.digest, self._descriptor.size
        if self.size != size:
            raise errors.DigestError(f"{digest}: has {self.size} bytes instead of {size}")
        found = f"{digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if found != digest:
            raise errors.DigestError(
                f"{digest}: the registry sent other content, with the digest {found}"
            )

    def publish(self, store: Store) -> None:
        """Give the verified blob its name."""
        try:
            layout.publish(self._path, path(store, self._descriptor.digest), durable=False)
        except OSError as error:
            raise layout.failure(error, self._path) from error
