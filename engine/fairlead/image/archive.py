"""Tar archives that hold images: read where they lie, by offset; nothing is copied out.

``Archive`` is a tar file's members as ``files.Files``; ``DockerArchive`` is what ``docker save``
wrote, which has no manifest of the specification's kind: an equivalent one is made of its
manifest.json and the configuration.

Rules:
- An archive names its images itself (RepoTags); that chooses among them and binds nothing: the
  store knows the image only by what the user typed (containerd CVE-2026-50195).
- Layers are the configuration's DiffIDs, in order; a layer that is compressed inside the archive is
  hashed once for the digest that it has so.
- A document that stands twice in the archive is refused: two programs could read two images.

Source: Docker image specification 1.2 "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from fairlead import errors
from fairlead.image import files, manifest, reference, source, tarindex
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference

CATALOGUE = "manifest.json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_ONCE = {CATALOGUE, "index.json", "oci-layout"}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Archive:
    """A tar file's members by name; its table is made once."""

    def __init__(self, path: str) -> None:
        self.where = path
        self._fd, info = files.open_file(path)
        try:
            source.refuse_compressed(os.pread(self._fd, 16, 0), path)
            self._table = tarindex.read(self._fd, info.st_size, path)
        except BaseException:
            os.close(self._fd)
            raise

    def size(self, name: str) -> int | None:
        """Return a member's size in bytes, None if there is no such member.

        Raises:
            errors.ArchiveError: it is a document that stands twice, or a link that leads nowhere.
        """
        if name in _ONCE & self._table.repeated:
            raise errors.ArchiveError(f"{self.where}: {name} stands twice in it")
        member = tarindex.follow(self._table, name, self.where)
        return None if member is None else member.size

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes.

        Raises:
            errors.ArchiveError: it is not there, or the file has become shorter.
        """
        member = tarindex.follow(self._table, name, self.where)
        if member is None:
            raise errors.ArchiveError(f"{self.where}: {name} is not in it")
        yield from files.chunks(self._fd, member.offset, member.size, self.where)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class DockerArchive(source.MakesManifest):
    """A source over what ``docker save`` or ``podman save`` wrote."""

    media_type = manifest.DOCKER_MANIFEST
    verb = "holds"

    def __init__(self, tar: files.Files) -> None:
        self._tar = tar

    def close(self) -> None:
        """Close the tar file."""
        self._tar.close()

    def blob(self, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a layer's bytes as they are in the archive.

        Raises:
            errors.ArchiveError: the file has become shorter.
        """
        yield from self._tar.chunks(self.image(ref).layers[descriptor.digest])

    def make(self, ref: Reference) -> source.Made:
        """Read what the archive says of the image that a reference chooses."""
        return _made(self._tar, _chosen(self._tar, ref), ref)


# -- manifest.json ---------------------------------------------------------------------------------


class _Line(NamedTuple):
    """An image as manifest.json tells of it."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def _catalogue(tar: files.Files) -> tuple[_Line, ...]:
    data = files.document(tar, CATALOGUE, manifest.MAX_DOCUMENT)
    if data is None:
        raise errors.ArchiveError(f"{tar.where}: holds no image: it has no {CATALOGUE}")
    where = f"{tar.where}: {CATALOGUE}"
    try:
        table = json.loads(data)
        lines = tuple(
            _Line(line["Config"], tuple(line.get("RepoTags") or ()), tuple(line["Layers"] or ()))
            for line in table
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.ManifestError(f"{where}: is not what docker save writes: {error}") from error
    for line in lines:
        if not all(isinstance(text, str) for text in (line.config, *line.tags, *line.layers)):
            raise errors.ManifestError(f"{where}: is not what docker save writes")
        if len(line.layers) > manifest.MAX_LAYERS:
            raise errors.ManifestError(
                f"{where}: has {len(line.layers)} layers, more than {manifest.MAX_LAYERS}"
            )
    return lines


def _chosen(tar: files.Files, ref: Reference) -> _Line:
    lines = _catalogue(tar)
    if ref.tag is None:
        if len(lines) == 1:
            return lines[0]
        raise _unclear(ref, lines, f"holds {len(lines)} images")
    if ref.tag.startswith("@"):
        number = int(ref.tag[1:])
        if number < len(lines):
            return lines[number]
        raise _unclear(ref, lines, f"holds {len(lines)} images, numbered from 0")
    for line in lines:
        if ref.tag in map(_canonical, line.tags):
            return line
    raise _unclear(ref, lines, f"holds no image named {ref.tag}")


def _canonical(tag: str) -> str:
    try:
        return str(reference.parse(tag))
    except errors.ReferenceError:
        return ""  # no name that anybody could ask for


def _unclear(ref: Reference, lines: tuple[_Line, ...], why: str) -> errors.Error:
    names = [tag for line in lines for tag in line.tags]
    hint = f"it holds: {', '.join(names[:20])}" if names else "name one by its number, as in :@0"
    return errors.ImageNotFoundError(f"{ref.name}: {why}", hint=hint)


def _made(tar: files.Files, line: _Line, ref: Reference) -> source.Made:
    """Return an image with a manifest that says what manifest.json and the configuration say."""
    config = files.document(tar, _cleaned(line.config), manifest.MAX_DOCUMENT)
    if config is None:
        raise errors.ArchiveError(f"{tar.where}: {line.config[:200]!r} is not in it")
    config_digest = source.digest_like("sha256:", config)
    diff_ids = manifest.parse_config(config, config_digest).diff_ids
    if len(diff_ids) != len(line.layers):
        raise errors.ManifestError(
            f"{ref}: has {len(line.layers)} layers, its configuration {len(diff_ids)} diff_ids"
        )
    descriptors, members = [], {}
    for name, diff_id in zip(map(_cleaned, line.layers), diff_ids, strict=True):
        size = tar.size(name)
        if size is None:
            raise errors.ArchiveError(f"{tar.where}: {name[:200]!r} is not in it")
        digest = _stored_digest(tar, name, diff_id)
        members[digest] = name
        descriptors.append({"mediaType": _LAYER, "size": size, "digest": digest})
    document = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": manifest.DOCKER_MANIFEST,
            "config": {
                "mediaType": manifest.DOCKER_CONFIG,
                "size": len(config),
                "digest": config_digest,
            },
            "layers": descriptors,
        }
    ).encode()
    return source.Made(document, source.digest_like("sha256:", document), config, members)


def _stored_digest(tar: files.Files, name: str, diff_id: str) -> str:
    """Return the digest of a layer as it is stored: the DiffID, unless it is compressed."""
    head = next(tar.chunks(name), b"")
    if not head.startswith((_GZIP, _ZSTD)):
        return diff_id
    found = hashlib.sha256()
    for chunk in tar.chunks(name):
        found.update(chunk)
    return f"sha256:{found.hexdigest()}"


def _cleaned(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in {"", "."})
