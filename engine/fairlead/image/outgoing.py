"""Write an image: to a registry, or to an OCI layout on this machine.

Rules:
- Blobs go first, the manifest last: what can be found is complete.
- What the target has already is not sent: a registry is asked (HEAD), and asked to take a layer
  over from another of its repositories (``mount``); a layout is looked into.
- A blob goes up in pieces of 8 MiB. When a connection breaks, the registry is asked how much it
  has, and the rest of the piece is sent again: a blob that comes from another registry is not
  read twice.
- Size and digest of what is read are verified before the target is told to keep it.

Source: distribution-spec 1.1 "Push"; image-spec 1.1 ``image-layout.md``.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlencode

from fairlead import errors, log
from fairlead.image import layout, manifest, reference
from fairlead.image.derive import Documents
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.image.registry import Client
from fairlead.image.transport import Broken

PIECE_BYTES = 8 << 20
_REF_NAME = "org.opencontainers.image.ref.name"


class Blob(NamedTuple):
    """A layer to write.

    Attributes:
        descriptor: what it is.
        read: yields its bytes.
        repository: where the registry has it already, if it is the target's own; or empty.
    """

    descriptor: Descriptor
    read: Callable[[], Iterator[bytes]]
    repository: str = ""


def scopes(ref: Reference, blobs: tuple[Blob, ...]) -> tuple[str, ...]:
    """Return what a token must allow to write an image to a registry."""
    others = {blob.repository for blob in blobs} - {"", ref.repository}
    return (
        f"repository:{ref.repository}:pull,push",
        *(f"repository:{name}:pull" for name in sorted(others)),
    )


def _verified(blob: Blob, progress: log.Progress | None) -> Iterator[bytes]:
    wanted, size = blob.descriptor, 0
    found = hashlib.new(wanted.digest.partition(":")[0])
    for chunk in blob.read():
        found.update(chunk)
        size += len(chunk)
        if progress is not None:
            progress.advance(wanted.digest, len(chunk))
        yield chunk
    if size != wanted.size or found.hexdigest() != wanted.digest.partition(":")[2]:
        raise errors.DigestError(f"{wanted.digest}: its source gave other content")


def _with_progress(
    blobs: tuple[Blob, ...], progress: log.Progress | None, write: Callable[[Blob], None]
) -> None:
    for blob in blobs if progress is not None else ():
        digest = blob.descriptor.digest
        progress.start(digest, f"write {digest[7:19]}", blob.descriptor.size)  # type: ignore[union-attr]
    for blob in blobs:
        write(blob)
        if progress is not None:
            progress.finish(blob.descriptor.digest)


# -- to a registry ---------------------------------------------------------------------------------


def push(
    client: Client,
    ref: Reference,
    image: Documents,
    blobs: tuple[Blob, ...],
    progress: log.Progress | None = None,
) -> str:
    """Write an image to a registry; return the digest under which it is there.

    Raises:
        errors.AuthError, errors.RegistryError, errors.RegistryUnreachableError
        errors.DigestError: a layer's source gave other content.
    """
    _with_progress(blobs, progress, lambda blob: _push_blob(client, ref, blob, progress))
    config = Blob(image.config_descriptor, lambda: iter((image.config,)))
    _push_blob(client, ref, config, None)

    def once() -> None:
        kind = {"Content-Type": image.media_type}
        target = ref.digest or ref.tag or "latest"
        response = client.send(ref, "PUT", f"manifests/{target}", kind, image.manifest)
        if response.status not in {200, 201, 202}:
            raise client.refusal(ref, response, str(ref))
        client.answer(response)

    client.patiently(ref, once)
    return image.digest


def _push_blob(client: Client, ref: Reference, blob: Blob, progress: log.Progress | None) -> None:
    if client.has_blob(ref, blob.descriptor):
        return
    upload = _Upload(client, ref, blob.descriptor)
    if upload.begin(blob.repository):
        return
    piece = b""
    for chunk in _verified(blob, progress):
        piece += chunk
        while len(piece) >= PIECE_BYTES:
            upload.send(piece[:PIECE_BYTES])
            piece = piece[PIECE_BYTES:]
    upload.send(piece)
    upload.finish()


class _Upload:
    """One blob on its way; ``at`` is how much the registry has."""

    def __init__(self, client: Client, ref: Reference, descriptor: Descriptor) -> None:
        self._client, self._ref, self._descriptor = client, ref, descriptor
        self._location, self._at = "", 0

    def begin(self, repository: str) -> bool:
        """Ask for an upload; True if the registry took the blob from another repository."""
        digest = self._descriptor.digest
        query = f"?{urlencode({'mount': digest, 'from': repository})}" if repository else ""

        def once() -> bool:
            response = self._client.send(self._ref, "POST", f"blobs/uploads/{query}", {})
            if response.status == 201:
                self._client.answer(response)
                return True
            self._take(response, {202})
            return False

        return self._client.patiently(self._ref, once)

    def send(self, piece: bytes) -> None:
        """Send the next bytes; what came through before a connection broke is not sent again."""
        end = self._at + len(piece)
        broken = False

        def once() -> None:
            nonlocal broken
            if broken:
                self._ask()
            rest = piece[len(piece) - (end - self._at) :]
            if not rest:
                return
            broken = True
            span = f"{self._at}-{self._at + len(rest) - 1}"
            sent = {"Content-Type": "application/octet-stream", "Content-Range": span}
            response = self._client.send(self._ref, "PATCH", self._location, sent, rest)
            if response.status == 416:
                self._client.answer(response)
                raise Broken("the registry has another part of the upload than was sent")
            self._take(response, {202})
            broken = False
            self._at = end

        self._client.patiently(self._ref, once)

    def finish(self) -> None:
        """Have the registry keep what it got."""
        mark = "&" if "?" in self._location else "?"
        url = f"{self._location}{mark}{urlencode({'digest': self._descriptor.digest})}"

        def once() -> None:
            if self._client.has_blob(self._ref, self._descriptor):
                return  # of a try whose answer was lost
            sent = {"Content-Type": "application/octet-stream"}
            response = self._client.send(self._ref, "PUT", url, sent)
            if response.status not in {201, 204}:
                raise self._client.refusal(self._ref, response, self._where())
            self._client.answer(response)

        self._client.patiently(self._ref, once)

    def _ask(self) -> None:
        """Ask how much the registry has."""
        response = self._client.send(self._ref, "GET", self._location, {})
        told = response.headers.get("Range") or ""
        self._take(response, {204, 202, 200})
        last = told.removeprefix("bytes=").partition("-")[2]
        have = int(last) + 1 if last.isdecimal() and len(last) < 19 else 0
        self._at = max(self._at, have) if told != "0-0" else self._at

    def _take(self, response: object, fine: set[int]) -> None:
        """Note where the upload goes on."""
        import urllib3

        assert isinstance(response, urllib3.BaseHTTPResponse)
        if response.status not in fine:
            raise self._client.refusal(self._ref, response, self._where())
        self._client.answer(response)
        self._location = response.headers.get("Location") or self._location
        if not self._location:
            raise errors.RegistryError(
                f"{self._ref}: the registry does not say where an upload goes"
            )

    def _where(self) -> str:
        return f"{self._ref}: upload of {self._descriptor.digest}"


# -- to a layout -----------------------------------------------------------------------------------


def write(
    ref: Reference,
    image: Documents,
    blobs: tuple[Blob, ...],
    progress: log.Progress | None = None,
) -> str:
    """Write an image into an OCI layout, which is made if it is not there; return its digest.

    Raises:
        errors.ArchiveError: the directory holds something else.
        errors.DigestError: a layer's source gave other content.
    """
    where = ref.repository
    try:
        _make(where)
        folder = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            _with_progress(
                blobs,
                progress,
                lambda blob: _put(where, blob.descriptor.digest, _verified(blob, progress)),
            )
            _put(where, image.config_descriptor.digest, iter((image.config,)))
            _put(where, image.digest, iter((image.manifest,)))
            _list(where, image, ref.tag)
        finally:
            os.close(folder)
    except OSError as error:
        path = error.filename or where
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise errors.space(error, path) from error
        raise errors.ArchiveError(
            f"{path}: {error.strerror}", hint="check its place and permissions"
        ) from error
    return image.digest


def _make(where: str) -> None:
    os.makedirs(where, exist_ok=True)
    names = set(os.listdir(where)) - {"blobs"}
    if names and layout.MARK not in names:
        raise errors.ArchiveError(
            f"{where}: is no OCI image layout, and not empty", hint="name another directory"
        )
    os.makedirs(f"{where}/blobs/sha256", exist_ok=True)
    if not names:
        _replace(f"{where}/{layout.MARK}", b'{"imageLayoutVersion":"1.0.0"}')


def _put(where: str, digest: str, chunks: Iterator[bytes]) -> None:
    algorithm, _, encoded = digest.partition(":")
    final = f"{where}/blobs/{algorithm}/{encoded}"
    if os.path.exists(final):
        return
    os.makedirs(os.path.dirname(final), exist_ok=True)
    _replace_with(final, chunks)


def _replace(path: str, data: bytes) -> None:
    _replace_with(path, iter((data,)))


def _replace_with(path: str, chunks: Iterator[bytes]) -> None:
    staged = f"{path}.{os.getpid()}"
    try:
        with open(staged, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        if os.path.exists(staged):
            os.unlink(staged)
        raise


def _list(where: str, image: Documents, tag: str | None) -> None:
    """Put the image into the index, in place of one of the same name."""
    path = f"{where}/{layout.INDEX}"
    entries: list[object] = []
    try:
        with open(path, "rb") as file:
            data = file.read(manifest.MAX_DOCUMENT + 1)
        manifest.parse_index(data, "", path)
        entries = list(json.loads(data)["manifests"])
    except FileNotFoundError:
        pass
    kept = [entry for entry in entries if _name_of(entry) != tag]
    entry: dict[str, object] = {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": len(image.manifest),
        "platform": _platform(image.config),
    }
    if tag:
        entry["annotations"] = {_REF_NAME: tag}
    table = {"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": [*kept, entry]}
    _replace(path, json.dumps(table).encode())


def _name_of(entry: object) -> str | None:
    notes = entry.get("annotations") if isinstance(entry, dict) else None
    return notes.get(_REF_NAME) if isinstance(notes, dict) else None


def _platform(config: bytes) -> dict[str, str]:
    found = manifest.parse_config(config, reference.OCI).platform
    variant = {"variant": found.variant} if found.variant else {}
    return {"os": found.os, "architecture": found.architecture, **variant}
