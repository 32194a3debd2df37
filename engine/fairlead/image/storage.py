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
import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fairlead import errors, kernel
from fairlead.image import files, manifest, source
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference

MAX_TABLE = 64 << 20  # bytes of images.json and layers.json: a store of thousands of images
MAX_LINE = 16 << 20  # of a tar-split: one piece of what lies between two files
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DIFF = {"overlay": "overlay/{}/diff", "vfs": "vfs/dir/{}"}
_FILE, _SEGMENT = 1, 2  # tar-split's types of entries


class _Layer(NamedTuple):
    """A layer as layers.json tells of it."""

    name: str
    parent: str
    diff_id: str
    size: int


class Storage(source.MakesManifest):
    """A source over a store of containers/storage."""

    media_type = manifest.OCI_MANIFEST

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._root, self._driver = _place(environ)

    def blob(self, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a layer's archive, written again.

        Raises:
            errors.ArchiveError: a file of the layer is missing, or may not be read.
        """
        name = self.image(ref).layers[descriptor.digest]
        diff = f"{self._root}/{_DIFF[self._driver].format(name)}"
        try:
            root_fd = os.open(diff, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise files.failure(error, diff) from error
        try:
            for entry in _entries(f"{self._root}/{self._driver}-layers/{name}.tar-split.gz"):
                if entry.get("type") == _SEGMENT:
                    yield base64.b64decode(entry.get("payload") or "", validate=True)
                elif entry.get("type") == _FILE and entry.get("size"):
                    yield from _content(root_fd, _name(entry), entry["size"], diff)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise errors.ArchiveError(f"{ref}: the tar-split of {name} is damaged") from error
        finally:
            os.close(root_fd)

    def make(self, ref: Reference) -> source.Made:
        """Read what the store's tables say of the image."""
        entry = _found(_table(images_path(self._root, self._driver)), ref)
        image_id = _text(entry, "id")
        top = _text(entry, "layer") if entry.get("layer") else ""
        folder = f"{self._root}/{self._driver}-images/{image_id}"
        kept = manifest.parse_manifest(_document(f"{folder}/manifest"), "", str(ref))
        config = _document(f"{folder}/{_key(kept.config.digest)}")
        source.verified(ref, kept.config, config)
        diff_ids = manifest.parse_config(config, kept.config.digest).diff_ids
        layers = self._layers(ref, top)
        if tuple(layer.diff_id for layer in layers) != diff_ids:
            raise errors.ManifestError(f"{ref}: its layers in {self._root} are not its diff_ids")
        document = _manifest(kept.config, layers)
        digest = source.digest_like("sha256:", document)
        return source.Made(
            document, digest, config, {layer.diff_id: layer.name for layer in layers}
        )

    def _layers(self, ref: Reference, top: str) -> tuple[_Layer, ...]:
        table = _table(f"{self._root}/{self._driver}-layers/layers.json")
        known = {_text(entry, "id"): entry for entry in table}
        stack: list[_Layer] = []
        while top:
            entry = known.get(top)
            if entry is None or len(stack) > manifest.MAX_LAYERS:
                raise errors.ArchiveError(f"{ref}: layer {top} is not in {self._root}")
            size = entry.get("diff-size")
            if type(size) is not int or size < 0:
                raise errors.ArchiveError(f"{ref}: layer {top} has no size in {self._root}")
            parent = _text(entry, "parent") if entry.get("parent") else ""
            stack.append(_Layer(top, parent, _text(entry, "diff-digest"), size))
            top = parent
        return tuple(reversed(stack))


def images_file(environ: Mapping[str, str]) -> str:
    """Return the path of the table of images, which changes with every image.

    Raises:
        errors.ArchiveError: the store's driver is not known.
    """
    return images_path(*_place(environ))


def images_path(root: str, driver: str) -> str:
    """Return the path of the table of images of a store."""
    return f"{root}/{driver}-images/images.json"


# -- where it is -----------------------------------------------------------------------------------


def _place(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the graph root and the driver that podman would use for this user."""
    home = environ.get("HOME") or "/"
    data = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    root, driver = f"{data}/containers/storage", ""
    if os.geteuid() == 0:
        root = "/var/lib/containers/storage"
    own = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    candidates = [f"{own}/containers/storage.conf", "/etc/containers/storage.conf"]
    if chosen := environ.get("CONTAINERS_STORAGE_CONF"):
        candidates = [chosen]
    for path in candidates:
        table = _settings(path)
        if table is None:
            continue
        driver = str(table.get("driver") or "")
        system = path.startswith("/etc/") and os.geteuid() != 0
        key = "rootless_storage_path" if system else "graphroot"
        told = str(table.get(key) or "")
        root = told.replace("$HOME", home).replace("$UID", str(os.geteuid())) or root
        break
    if not driver:
        driver = next((name for name in _DIFF if os.path.isdir(f"{root}/{name}-images")), "overlay")
    if driver not in _DIFF:
        raise errors.ArchiveError(
            f"{root}: its driver is {driver}, only overlay and vfs are known",
            hint="copy the image to oci:PATH with skopeo",
        )
    return root, driver


def _settings(path: str) -> dict[str, Any] | None:
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file).get("storage", {})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.failure(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: {error}") from error
    return table if isinstance(table, dict) else {}


# -- its tables ------------------------------------------------------------------------------------


def _table(path: str) -> list[dict[str, Any]]:
    try:
        table = json.loads(_bounded(path, MAX_TABLE))
    except (ValueError, RecursionError) as error:
        raise errors.ArchiveError(f"{path}: is not what containers/storage writes") from error
    if not isinstance(table, list) or not all(isinstance(entry, dict) for entry in table):
        raise errors.ArchiveError(f"{path}: is not what containers/storage writes")
    return table


def _document(path: str) -> bytes:
    return _bounded(path, manifest.MAX_DOCUMENT)


def _bounded(path: str, limit: int) -> bytes:
    fd, info = files.open_file(path)
    try:
        if info.st_size > limit:
            raise errors.ArchiveError(f"{path}: has {info.st_size} bytes, more than {limit}")
        return files.read_at(fd, 0, info.st_size, path)
    finally:
        os.close(fd)


def _found(table: list[dict[str, Any]], ref: Reference) -> dict[str, Any]:
    if ref.repository.startswith("@"):
        wanted = {ref.repository[1:]}
        matches = [entry for entry in table if entry.get("id") in wanted]
    else:
        wanted = {f"{ref.repository}:{ref.tag or 'latest'}"}
        # What was built here under a short name, as podman looks it up.
        wanted |= {name.replace("docker.io/library/", "localhost/", 1) for name in wanted}
        matches = [entry for entry in table if wanted & set(entry.get("names") or ())]
    if not matches:
        raise errors.ImageNotFoundError(
            f"{ref}: podman's store has no such image", hint="see podman images"
        )
    return matches[0]


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
    fd, _ = files.open_file(path)
    try:
        with open(fd, "rb") as raw, gzip.GzipFile(fileobj=raw) as lines:
            while line := lines.readline(MAX_LINE):
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("an entry is no object")
                yield entry
    except (OSError, EOFError, zlib.error, RecursionError) as error:
        raise errors.ArchiveError(f"{path}: is damaged: {error}") from error


def _name(entry: dict[str, Any]) -> str:
    raw = entry.get("name_raw")
    return os.fsdecode(base64.b64decode(raw)) if raw else str(entry["name"])


def _content(root_fd: int, name: str, size: int, where: str) -> Iterator[bytes]:
    # In the layer's root, through no link: what the layer has is a regular file of this size.
    try:
        fd = kernel.open_in_root(root_fd, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise errors.ArchiveError(
            f"{where}/{name}: {os.strerror(error.errno or 0)}",
            hint="copy the image with podman save --format=oci-archive, and name oci-archive:FILE",
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise errors.ArchiveError(f"{where}/{name}: is no regular file")
        yield from files.chunks(fd, 0, size, f"{where}/{name}")
    finally:
        os.close(fd)
