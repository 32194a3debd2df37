"""Manifests, indexes and image configurations: bytes in, values out. Pure.

Rules (security.md section 3, last paragraph):
- OCI and Docker schema 2 types, freely mixed; schema 1, artifacts and encrypted layers are
  refused by name.
- A document that claims two natures (``layers`` and ``manifests``) or whose ``mediaType``
  contradicts the type it was served as is refused: two programs must never read two images out of
  one digest (CVE-2021-41190).
- Duplicate keys are refused, unknown ones ignored; types are strict; at most 4 MiB; deep nesting
  is caught.
- Foreign layers' ``urls`` are not even kept: only the image's own registry is asked
  (CVE-2020-15157).

Source: image-spec 1.1 ``manifest.md``, ``image-index.md``, ``config.md``; distribution "Image
Manifest V 2, Schema 2".
"""

from __future__ import annotations

import os
from typing import NamedTuple, NoReturn, TypeVar

from fairlead import errors, jsontext
from fairlead.image import reference

MAX_DOCUMENT = 4 << 20
MAX_LAYERS = 1024
MAX_BLOB = 1 << 42  # bytes; a descriptor that promises more is an attack on somebody's arithmetic

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
ACCEPT = (*MANIFEST_TYPES, *INDEX_TYPES)
_CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+"
_LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_LAYER_SUFFIXES = ("", "+gzip", ".gzip", "+zstd", ".zstd")
# Servers that do not know the type answer with one of these; then the document's own words decide.
_UNTYPED = ("", "application/json", "application/octet-stream", "text/plain")

_REF_NAME = "org.opencontainers.image.ref.name"

_MACHINES = {
    "x86_64": ("amd64", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}


T = TypeVar("T")
D = TypeVar("D")


class Descriptor(NamedTuple):
    """What is to be fetched: its type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int


class Platform(NamedTuple):
    """An operating system and a processor architecture, in Go's words."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class Manifest(NamedTuple):
    """One image: its configuration, its layers, bottom first, and what its manifest says of it."""

    digest: str
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()


class Entry(NamedTuple):
    """One line of an index; ``name`` is what an image layout calls it."""

    descriptor: Descriptor
    platform: Platform | None
    name: str = ""


class Index(NamedTuple):
    """A list of images (or of further indexes), one per platform."""

    digest: str
    media_type: str
    entries: tuple[Entry, ...]


class ImageConfig(NamedTuple):
    """What the image wants to run with; ``diff_ids`` are the digests of the uncompressed layers."""

    digest: str
    platform: Platform
    env: tuple[tuple[str, str], ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    workdir: str
    user: str
    labels: tuple[tuple[str, str], ...]
    diff_ids: tuple[str, ...]
    created: str


def parse(data: bytes, media_type: str, digest: str) -> Manifest | Index:
    """Return the manifest or index in data; media_type is its Content-Type, empty if unknown.

    Raises:
        errors.ManifestError: the document is neither, or breaks the rules above.
    """
    table = _document(data, digest)
    kind = _kind(table, media_type, digest)
    return _index(table, kind, digest) if kind in INDEX_TYPES else _manifest(table, kind, digest)


def parse_manifest(data: bytes, media_type: str, digest: str) -> Manifest:
    """Return the image manifest in data; an index is an error.

    Raises:
        errors.ManifestError: as for ``parse``.
    """
    found = parse(data, media_type, digest)
    if isinstance(found, Index):
        _refuse(digest, "is an index where an image manifest belongs")
    return found


def parse_index(data: bytes, media_type: str, digest: str) -> Index:
    """Return the index in data; an image manifest is an error.

    Raises:
        errors.ManifestError: as for ``parse``.
    """
    found = parse(data, media_type, digest)
    if isinstance(found, Manifest):
        _refuse(digest, "is an image manifest where an index belongs")
    return found


def parse_config(data: bytes, digest: str) -> ImageConfig:
    """Return the image configuration in data.

    An ``Env`` entry without ``=`` or without a name says nothing and is dropped, as container
    engines do.

    Raises:
        errors.ManifestError: a field is missing or of the wrong type, or holds a NUL.
    """
    table = _document(data, digest)
    inner = _field(table, "config", dict, digest, {})
    rootfs = _field(table, "rootfs", dict, digest, None)
    if rootfs is None or _field(rootfs, "type", str, digest, "") != "layers":
        _refuse(digest, "is not a container image: its configuration has no rootfs of type layers")
    pairs = [entry.partition("=") for entry in _strings(inner, "Env", digest)]
    labels = _field(inner, "Labels", dict, digest, {})
    return ImageConfig(
        digest=digest,
        platform=_platform(table, digest),
        env=tuple((name, value) for name, equals, value in pairs if name and equals),
        entrypoint=_strings(inner, "Entrypoint", digest),
        cmd=_strings(inner, "Cmd", digest),
        workdir=_text(_field(inner, "WorkingDir", str, digest, ""), "WorkingDir", digest),
        user=_text(_field(inner, "User", str, digest, ""), "User", digest),
        labels=tuple(
            (name, _text(value, f"Labels[{name!r}]", digest)) for name, value in labels.items()
        ),
        diff_ids=tuple(_digest(item, digest) for item in _strings(rootfs, "diff_ids", digest)),
        created=_field(table, "created", str, digest, ""),
    )


def check_pair(manifest: Manifest, config: ImageConfig) -> None:
    """Check that a manifest and its configuration speak of the same number of layers.

    Raises:
        errors.ManifestError: they do not.
    """
    if len(config.diff_ids) != len(manifest.layers):
        _refuse(
            manifest.digest,
            f"has {len(manifest.layers)} layers, its configuration {len(config.diff_ids)} diff_ids",
        )


def select(index: Index, platform: Platform) -> Descriptor:
    """Return the first entry for this platform; entries that name no platform come last.

    Raises:
        errors.PlatformError: there is none; the line lists those that there are.
    """
    for entry in index.entries:
        if entry.platform is not None and matches(entry.platform, platform):
            return entry.descriptor
    for entry in index.entries:
        if entry.platform is None:
            return entry.descriptor
    raise no_platform(platform, tuple(e.platform for e in index.entries if e.platform is not None))


def matches(offered: Platform, wanted: Platform) -> bool:
    """Tell whether an image for the offered platform runs on the wanted one.

    arm: older variants run on newer machines, and none means v7. x86-64 levels (v2 to v4) are not
    yet weighed: only the baseline matches. Source: image-spec ``image-index.md`` "Platform
    Variants", containerd ``platforms``.
    """
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    if wanted.architecture == "arm":
        return (offered.variant or "v7") <= (wanted.variant or "v7")
    if wanted.architecture == "arm64":
        return offered.variant in {"", "v8"}
    return offered.variant in {"", "v1"} if wanted.architecture == "amd64" else True


def no_platform(wanted: Platform, offered: tuple[Platform, ...]) -> errors.PlatformError:
    """Return the error that lists what there is; ``unknown/unknown`` is an attestation."""
    names = sorted({str(platform) for platform in offered if platform.os != "unknown"})
    shown = ", ".join(names[:20]) + (" and others" if len(names) > 20 else "")
    return errors.PlatformError(f"no image for {wanted}; there is: {shown or 'nothing'}")


def this_platform() -> Platform:
    """Return the platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


# -- documents -------------------------------------------------------------------------------------


def _document(data: bytes, digest: str) -> dict[str, object]:
    if len(data) > MAX_DOCUMENT:
        _refuse(digest, f"has {len(data)} bytes, more than {MAX_DOCUMENT}")
    try:
        table = jsontext.loads(data, _unique)
    except RecursionError as error:
        raise errors.ManifestError(f"{digest}: is nested too deeply") from error
    except (
        ValueError
    ) as error:  # includes JSONDecodeError, UnicodeDecodeError and over-long integers
        raise errors.ManifestError(f"{digest}: is not valid JSON: {error}") from error
    if not isinstance(table, dict):
        _refuse(digest, "is not a JSON object")
    return table


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return table


def _kind(table: dict[str, object], served: str, digest: str) -> str:
    served = served.partition(";")[0].strip().lower()
    claimed = _field(table, "mediaType", str, digest, "")
    if (served or claimed).startswith(_SCHEMA1) or table.get("schemaVersion") == 1:
        raise errors.ManifestError(
            f"{digest}: is in Docker's schema 1, which was retired in 2017",
            hint="pull and push the image again with a current tool to convert it",
        )
    if table.get("schemaVersion") != 2:
        _refuse(digest, f"has schemaVersion {table.get('schemaVersion')!r}, not 2")
    if "layers" in table and "manifests" in table:
        _refuse(digest, "holds both layers and manifests, so that it could be read as two things")
    if served not in _UNTYPED and claimed and served != claimed:
        _refuse(digest, f"was served as {served} but calls itself {claimed}")
    kind = claimed or (served if served not in _UNTYPED else "")
    kind = kind or (OCI_INDEX if "manifests" in table else OCI_MANIFEST)
    if kind not in ACCEPT:
        _refuse(digest, f"is of the unknown type {kind}")
    if (kind in INDEX_TYPES) != ("manifests" in table) or (kind in MANIFEST_TYPES) != (
        "layers" in table
    ):
        _refuse(digest, f"is of type {kind} but does not hold what that type holds")
    return kind


def _manifest(table: dict[str, object], kind: str, digest: str) -> Manifest:
    config = _descriptor(_field(table, "config", dict, digest, None), digest)
    if config.media_type not in _CONFIG_TYPES:
        what = _field(table, "artifactType", str, digest, "") or config.media_type
        raise errors.ManifestError(
            f"{digest}: is not a container image but an artifact of type {what}",
            hint="check the name and the tag",
        )
    layers = _field(table, "layers", list, digest, [])
    if len(layers) > MAX_LAYERS:
        _refuse(digest, f"has {len(layers)} layers, more than {MAX_LAYERS}")
    found = tuple(_descriptor(layer, digest) for layer in layers)
    for layer in found:
        prefix = next((p for p in _LAYER_PREFIXES if layer.media_type.startswith(p)), None)
        if prefix is None or layer.media_type.removeprefix(prefix) not in _LAYER_SUFFIXES:
            _refuse(
                digest, f"has a layer of type {layer.media_type}, which is no file-system layer"
            )
    if config.size > MAX_DOCUMENT:
        _refuse(digest, f"has a configuration of {config.size} bytes, more than {MAX_DOCUMENT}")
    said = _field(table, "annotations", dict, digest, {})
    # Words that only ``fairlead mpi explain`` shows: what is malformed is no reason to refuse.
    notes = tuple((name, value) for name, value in said.items() if isinstance(value, str))
    return Manifest(digest, kind, config, found, notes)


def _index(table: dict[str, object], kind: str, digest: str) -> Index:
    entries = []
    for item in _field(table, "manifests", list, digest, []):
        descriptor = _descriptor(item, digest)
        if descriptor.media_type not in ACCEPT:
            continue  # no image; the specification asks to ignore unknown types
        platform = _field(item, "platform", dict, digest, None)
        notes = _field(item, "annotations", dict, digest, {})
        entries.append(
            Entry(
                descriptor,
                None if platform is None else _platform(platform, digest),
                _field(notes, _REF_NAME, str, digest, ""),
            )
        )
    return Index(digest, kind, tuple(entries))


def _platform(table: dict[str, object], digest: str) -> Platform:
    system = _field(table, "os", str, digest, "")
    architecture = _field(table, "architecture", str, digest, "")
    if not system or not architecture:
        _refuse(digest, "names a platform without os or architecture")
    return Platform(system, architecture, _field(table, "variant", str, digest, ""))


def _descriptor(item: object, digest: str) -> Descriptor:
    if not isinstance(item, dict):
        _refuse(digest, "holds a descriptor that is no object")
    media_type = _field(item, "mediaType", str, digest, "")
    size = item.get("size")
    if type(size) is not int or not 0 <= size <= MAX_BLOB:
        _refuse(digest, f"holds a descriptor with the size {str(size)[:40]}")
    return Descriptor(media_type, _digest(item.get("digest"), digest), size)


def _digest(item: object, digest: str) -> str:
    if not isinstance(item, str):
        _refuse(digest, "holds a descriptor without a digest")
    try:
        return reference.parse_digest(item)
    except errors.ReferenceError as error:
        raise errors.ManifestError(f"{digest}: holds a wrong digest: {error.message}") from error


# -- strict fields ---------------------------------------------------------------------------------


def _field(table: dict[str, object], key: str, kind: type[T], digest: str, default: D) -> T | D:
    # null is as good as absent: Go's encoders, which write most of these documents, do not tell
    # them apart.
    value = table.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        _refuse(digest, f"{key} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _strings(table: dict[str, object], key: str, digest: str) -> tuple[str, ...]:
    return tuple(_text(item, key, digest) for item in _field(table, key, list, digest, []))


def _text(item: object, key: str, digest: str) -> str:
    if not isinstance(item, str):
        _refuse(digest, f"{key} holds a {type(item).__name__}, not a string")
    if "\0" in item or any("\ud800" <= char <= "\udfff" for char in item):
        _refuse(digest, f"{key} holds a NUL or half a surrogate pair")
    return item


def _refuse(digest: str, why: str) -> NoReturn:
    raise errors.ManifestError(f"{digest}: {why}")
