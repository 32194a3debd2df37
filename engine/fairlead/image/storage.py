"""The store of podman, buildah and skopeo (``containers-storage:``), read as it lies on disk.

::

    GRAPHROOT/DRIVER-images/images.json             names, ids, top layers
    GRAPHROOT/DRIVER-images/ID/manifest             the manifest; =BASE64(KEY): other documents
    GRAPHROOT/DRIVER-layers/layers.json             layers: parent, DiffID, size
    GRAPHROOT/DRIVER-layers/ID.tar-split.gz         how to write the layer's archive again
    GRAPHROOT/overlay/ID/diff, GRAPHROOT/vfs/dir/ID   the layer's files

Rules:
- A layer's archive is written again, byte for byte, from its tar-split and its files, and its
  DiffID verified: nothing is believed, whiteouts and extended attributes come as in the registry's
  layer, and no podman is started.
- No lock is taken: a reader's would wait for as long as podman takes to write a layer. Every table
  is replaced as a whole, an image is named after all of its layers are there, and what is removed
  while it is read is an error.
- The layers of the store are uncompressed, so the manifest that it keeps does not name them; an
  equivalent one is made with the DiffIDs.
- Rootless podman gives files of other owners to subordinate uids; one that this user cannot read
  is an error with the way out.

Source: containers/storage ``docs/containers-storage.conf.5.md``, ``layers.go``, ``images.go``;
vbatts/tar-split ``tar/storage``.
"""

from __future__ import annotations

import base64
import binascii
import errno
import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fairlead import errors, kernel
from fairlead.image import files, graphroot, manifest, source
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference

MAX_TABLE = 64 << 20  # bytes of images.json and layers.json: a store of thousands of images
MAX_LINE = 16 << 20  # of a tar-split: one piece of what lies between two files
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_FILE, _SEGMENT = 1, 2  # tar-split's types of entries
_HUBS = ("docker.io/library/", "docker.io/")
_SHOWN = 5  # names in an error
_AGAIN = "if podman is removing the image, that is all; else its store is damaged: pull it again"


class _Layer(NamedTuple):
    """A layer as layers.json tells of it."""

    root: str
    name: str
    diff_id: str
    size: int


class Storage(source.MakesManifest):
    """A source over a store of containers/storage."""

    media_type = manifest.OCI_MANIFEST

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._place = graphroot.find(environ)

    def blob(self, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a layer's archive, written again.

        Raises:
            errors.ArchiveError: a file of the layer is missing, or may not be read.
        """
        root, name = os.path.split(self.image(ref).layers[descriptor.digest])
        diff = f"{root}/{graphroot.DIFF[self._place.driver].format(name)}"
        try:
            root_fd = os.open(diff, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(error, diff) from error
        try:
            for entry in _entries(self._split(root, name)):
                if entry.get("type") == _SEGMENT:
                    yield base64.b64decode(entry.get("payload") or "", validate=True)
                elif entry.get("type") == _FILE and entry.get("size"):
                    yield from _content(root_fd, _name(entry), entry["size"], diff)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise errors.ArchiveError(
                f"{ref}: {self._split(root, name)} is damaged", hint=_AGAIN
            ) from error
        finally:
            os.close(root_fd)

    def make(self, ref: Reference) -> source.Made:
        """Read what the store's tables say of the image."""
        found = _found(self._images(), ref)
        made = [self._one(ref, root, entry) for root, entry in found]
        return next((one for one in made if one.digest == ref.digest), made[0])

    def _one(self, ref: Reference, root: str, entry: dict[str, Any]) -> source.Made:
        image_id = _text(entry, "id")
        top = _text(entry, "layer") if entry.get("layer") else ""
        folder = f"{root}/{self._place.driver}-images/{image_id}"
        kept = manifest.parse_manifest(_document(f"{folder}/manifest"), "", str(ref))
        config = _document(f"{folder}/{_key(kept.config.digest)}")
        source.verified(ref, kept.config, config)
        diff_ids = manifest.parse_config(config, kept.config.digest).diff_ids
        layers = self._layers(ref, top, diff_ids)
        document = _manifest(kept.config, layers)
        digest = source.digest_like("sha256:", document)
        where = {layer.diff_id: f"{layer.root}/{layer.name}" for layer in layers}
        return source.Made(document, digest, config, where)

    def _images(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (path.rsplit("/", 2)[0], entry)
            for number, path in enumerate(self._place.images())
            if number == 0 or os.path.exists(path)
            for entry in _table(path)
        ]

    def _layers(self, ref: Reference, top: str, diff_ids: tuple[str, ...]) -> tuple[_Layer, ...]:
        known: dict[str, tuple[str, dict[str, Any]]] = {}
        for root in self._place.roots:
            path = f"{root}/{self._place.driver}-layers/layers.json"
            if os.path.exists(path):
                for entry in _table(path):
                    known.setdefault(_text(entry, "id"), (root, entry))
        stack: list[_Layer] = []
        for diff_id in reversed(diff_ids):
            if top not in known:
                what = f"layer {top} is not in it" if top else "it has fewer layers than diff_ids"
                raise errors.ArchiveError(f"{ref}: {self._place.roots[0]}: {what}", hint=_AGAIN)
            root, entry = known[top]
            stack.append(self._layer(ref, root, entry, diff_id))
            top = _text(entry, "parent") if entry.get("parent") else ""
        if top:
            raise errors.ManifestError(f"{ref}: has more layers in {root} than diff_ids")
        return tuple(reversed(stack))

    def _layer(self, ref: Reference, root: str, entry: dict[str, Any], diff_id: str) -> _Layer:
        name, flags = _text(entry, "id"), entry.get("flags")
        if isinstance(flags, dict) and flags.get("incomplete"):
            raise errors.ArchiveError(
                f"{ref}: layer {name} in {root} is incomplete",
                hint="podman is writing it, or was interrupted: wait for it, or pull again",
            )
        # A layer that was pulled in part has none; what it is made of is verified all the same.
        if (entry.get("diff-digest") or diff_id) != diff_id:
            raise errors.ManifestError(f"{ref}: its layers in {root} are not its diff_ids")
        size = entry.get("diff-size")
        if type(size) is not int or size < 0:
            size = _size(self._split(root, name))
        return _Layer(root, name, diff_id, size)

    def _split(self, root: str, name: str) -> str:
        return f"{root}/{self._place.driver}-layers/{name}.tar-split.gz"


# -- its tables ------------------------------------------------------------------------------------


def _table(path: str) -> list[dict[str, Any]]:
    try:
        table = json.loads(_bounded(path, MAX_TABLE))
    except (ValueError, RecursionError) as error:
        raise errors.ArchiveError(
            f"{path}: is not what containers/storage writes", hint=_AGAIN
        ) from error
    if not isinstance(table, list) or not all(isinstance(entry, dict) for entry in table):
        raise errors.ArchiveError(f"{path}: is not what containers/storage writes")
    return table


def _document(path: str) -> bytes:
    try:
        return _bounded(path, manifest.MAX_DOCUMENT)
    except errors.ImageNotFoundError as error:  # what a table names
        raise errors.ArchiveError(error.message, hint=_AGAIN) from error


def _bounded(path: str, limit: int) -> bytes:
    fd, info = files.open_file(path)
    try:
        if info.st_size > limit:
            raise errors.ArchiveError(f"{path}: has {info.st_size} bytes, more than {limit}")
        return files.read_at(fd, 0, info.st_size, path)
    finally:
        os.close(fd)


def _found(
    table: list[tuple[str, dict[str, Any]]], ref: Reference
) -> list[tuple[str, dict[str, Any]]]:
    """Return the image that a reference means; with a digest, those of any tag."""
    if ref.repository.startswith("@"):
        matches = [pair for pair in table if pair[1].get("id") == ref.repository[1:]]
    else:
        wanted = ref.repository if ref.digest else f"{ref.repository}:{ref.tag or 'latest'}"
        # What was built here under a short name, as podman looks it up.
        local = {wanted.replace(hub, "localhost/", 1) for hub in _HUBS if wanted.startswith(hub)}
        matches = [
            pair for pair in table if {wanted, *local} & _names(pair[1], tagged=not ref.digest)
        ]
    if ref.digest and (given := [e for _, e in table if e.get("digest") == ref.digest]):
        # Of the compressed layers, which the store does not keep: nothing here proves it.
        raise errors.ImageNotFoundError(
            f"{ref}: podman's store has no such image",
            hint=f"that digest is the registry's; name it containers-storage:{given[0].get('id')}",
        )
    if not matches:
        raise errors.ImageNotFoundError(
            f"{ref}: podman's store has no such image", hint=_nearest(table, ref)
        )
    unique = {pair[1].get("id"): pair for pair in reversed(matches)}
    if len(unique) > 1 and not ref.digest:
        raise errors.ImageNotFoundError(
            f"{ref}: podman's store has {len(unique)} images of that name, one built here",
            hint=f"name the one that is meant: containers-storage:{' or :'.join(map(str, unique))}",
        )
    return list(unique.values())


def _names(entry: dict[str, Any], *, tagged: bool = True) -> set[str]:
    listed = entry.get("names")
    names = {str(name) for name in listed} if isinstance(listed, list) else set()
    if tagged:
        return names
    return {name.partition("@")[0] if "@" in name else name.rpartition(":")[0] for name in names}


def _nearest(table: list[tuple[str, dict[str, Any]]], ref: Reference) -> str:
    import difflib  # for the error alone

    names = sorted({name for _, entry in table for name in _names(entry)})
    near = difflib.get_close_matches(f"{ref.repository}:{ref.tag or 'latest'}", names, _SHOWN, 0.5)
    shown = near or names[:_SHOWN]
    return f"it has {', '.join(shown)}; see podman images" if shown else "it is empty"


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or "/" in value or not value or value.startswith("."):
        raise errors.ArchiveError(f"an entry of podman's store has a wrong {key}: {value!r}")
    return value


def _key(digest: str) -> str:
    return "=" + base64.b64encode(digest.encode()).decode()


def _manifest(config: Descriptor, layers: tuple[_Layer, ...]) -> bytes:
    described = {
        "mediaType": manifest.OCI_CONFIG,
        "size": config.size,
        "digest": config.digest,
    }
    stack = [{"mediaType": _LAYER, "size": layer.size, "digest": layer.diff_id} for layer in layers]
    table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": described,
        "layers": stack,
    }
    return json.dumps(table).encode()


# -- a layer ---------------------------------------------------------------------------------------


def _entries(path: str) -> Iterator[dict[str, Any]]:
    try:
        fd, _ = files.open_file(path)
    except errors.ImageNotFoundError as error:  # what a table names
        raise errors.ArchiveError(error.message, hint=_AGAIN) from error
    try:
        with open(fd, "rb") as raw, gzip.GzipFile(fileobj=raw) as lines:
            while line := lines.readline(MAX_LINE):
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("an entry is no object")
                yield entry
    except (OSError, EOFError, zlib.error, RecursionError) as error:
        raise errors.ArchiveError(f"{path}: is damaged: {error}", hint=_AGAIN) from error


def _name(entry: dict[str, Any]) -> str:
    raw = entry.get("name_raw")
    return os.fsdecode(base64.b64decode(raw)) if raw else str(entry["name"])


def _content(root_fd: int, name: str, size: int, where: str) -> Iterator[bytes]:
    # In the layer's root, through no link: what the layer has is a regular file of this size.
    try:
        fd = kernel.open_in_root(root_fd, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(error, f"{where}/{name}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise errors.ArchiveError(f"{where}/{name}: is no regular file")
        yield from files.chunks(fd, 0, size, f"{where}/{name}")
    finally:
        os.close(fd)


def _unreadable(error: OSError, path: str) -> errors.ArchiveError:
    hint = _AGAIN
    if error.errno in {errno.EACCES, errno.EPERM}:
        hint = "copy the image with podman save --format=oci-archive, and name oci-archive:FILE"
    return errors.ArchiveError(f"{path}: {os.strerror(error.errno or 0)}", hint=hint)


def _size(path: str) -> int:
    """Return the bytes of the archive that a tar-split describes."""
    size = 0
    for entry in _entries(path):
        if entry.get("type") == _FILE:
            size += int(entry.get("size") or 0)
        else:
            size += len(base64.b64decode(entry.get("payload") or ""))
    return size
