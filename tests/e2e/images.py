"""Builds small OCI images from Python values and pushes them by the distribution API.

``opencontainers`` (oci-spec-python) checks what is built here in ``test_images.py``: a mistake of
ours must not be shared by builder and reader.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import tarfile
from typing import NamedTuple
from urllib.parse import urlsplit

import zstandard

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Entry(NamedTuple):
    """A tar entry beyond a plain 0644 file."""

    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    pax: tuple[tuple[str, str], ...] = ()


def program(data: bytes) -> Entry:
    return Entry(data, 0o755)


def symlink(target: str) -> Entry:
    return Entry(kind=tarfile.SYMTYPE, link=target, mode=0o777)


def hardlink(target: str) -> Entry:
    return Entry(kind=tarfile.LNKTYPE, link=target)


def folder(mode: int = 0o755) -> Entry:
    return Entry(kind=tarfile.DIRTYPE, mode=mode)


class Layer(NamedTuple):
    """A layer as pushed."""

    data: bytes
    media_type: str
    diff_id: str

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


class Image(NamedTuple):
    """An image or index as pushed: its manifest and every blob by digest."""

    manifest: bytes
    media_type: str
    blobs: dict[str, bytes]
    children: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def config_digest(self) -> str:
        return str(json.loads(self.manifest)["config"]["digest"])

    @property
    def layer_digests(self) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def tar(files: dict[str, bytes | Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in files.items():
            entry = value if isinstance(value, Entry) else Entry(value)
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
            info.size, info.mtime = len(entry.data), 1_700_000_000
            info.pax_headers = dict(entry.pax)
            archive.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def layer(
    files: dict[str, bytes | Entry] | bytes, compression: str = "gzip", level: int = 6
) -> Layer:
    plain = files if isinstance(files, bytes) else tar(files)
    if compression == "gzip":
        data, suffix = gzip.compress(plain, level, mtime=0), "+gzip"
    elif compression == "zstd":
        data, suffix = zstandard.ZstdCompressor(level=3).compress(plain), "+zstd"
    else:
        data, suffix = plain, ""
    return Layer(data, OCI_LAYER + suffix, digest_of(plain))


def image(
    layers: list[Layer],
    config: dict[str, object] | None = None,
    *,
    architecture: str = "amd64",
    variant: str = "",
    docker: bool = False,
    config_over: dict[str, object] | None = None,
    manifest_over: dict[str, object] | None = None,
) -> Image:
    table: dict[str, object] = {
        "created": "2024-01-02T03:04:05Z",
        "architecture": architecture,
        "os": "linux",
        "config": config or {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [item.diff_id for item in layers]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "tests"} for _ in layers],
        **({"variant": variant} if variant else {}),
        **(config_over or {}),
    }
    config_data = encoded(table)
    descriptors = [item.descriptor() for item in layers]
    if docker:
        descriptors = [{**item, "mediaType": DOCKER_LAYER} for item in descriptors]
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
            "digest": digest_of(config_data),
            "size": len(config_data),
        },
        "layers": descriptors,
        **(manifest_over or {}),
    }
    blobs = {digest_of(config_data): config_data, **{item.digest: item.data for item in layers}}
    return Image(encoded(document), media_type, blobs)


def index(*images: tuple[Image, dict[str, str] | None], docker: bool = False) -> Image:
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    entries = [
        {
            "mediaType": child.media_type,
            "digest": child.digest,
            "size": len(child.manifest),
            **({"platform": platform} if platform else {}),
        }
        for child, platform in images
    ]
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return Image(encoded(document), media_type, {}, tuple(child for child, _ in images))


def platform(architecture: str, variant: str = "", system: str = "linux") -> dict[str, str]:
    return {"os": system, "architecture": architecture, **({"variant": variant} if variant else {})}


def encoded(table: object) -> bytes:
    return json.dumps(table, indent=1).encode()


def push(
    registry: str, repository: str, tag: str, pushed: Image, *, login: str | None = None
) -> str:
    """Push an image to http://registry; returns its manifest's digest."""
    for child in pushed.children:
        push(registry, repository, child.digest, child, login=login)
    for digest, data in pushed.blobs.items():
        status, headers, _ = _call(
            registry, "POST", f"/v2/{repository}/blobs/uploads/", login=login
        )
        assert status == 202, status
        place = urlsplit(headers["location"])
        target = f"{place.path}?{place.query}{'&' if place.query else ''}digest={digest}"
        status, _, body = _call(registry, "PUT", target, data, "application/octet-stream", login)
        assert status == 201, body
    path = f"/v2/{repository}/manifests/{tag}"
    status, _, body = _call(registry, "PUT", path, pushed.manifest, pushed.media_type, login)
    assert status == 201, body
    return pushed.digest


def _call(
    registry: str,
    method: str,
    path: str,
    body: bytes = b"",
    kind: str | None = None,
    login: str | None = None,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(registry, timeout=30)
    sent = {"Content-Length": str(len(body))}
    if kind:
        sent["Content-Type"] = kind
    if login:
        sent["Authorization"] = login
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, data
