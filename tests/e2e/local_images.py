"""Writes images as files: layouts, archives, and what skopeo makes of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from images import Image, digest_of, encoded

REF_NAME = "org.opencontainers.image.ref.name"


def write_layout(root: Path, images: dict[str, Image]) -> Path:
    """An OCI image layout with these images by name; an empty name is none."""
    (root / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    entries = []
    for name, image in images.items():
        _write_blobs(root, image)
        entry: dict[str, object] = {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": len(image.manifest),
        }
        entries.append({**entry, "annotations": {REF_NAME: name}} if name else entry)
    (root / "index.json").write_bytes(encoded({"schemaVersion": 2, "manifests": entries}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def _write_blobs(root: Path, image: Image) -> None:
    for digest, data in {image.digest: image.manifest, **image.blobs}.items():
        (root / "blobs/sha256" / digest.partition(":")[2]).write_bytes(data)
    for child in image.children:
        _write_blobs(root, child)


def archive(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    """A tar file of these members; bytes are a file, a string is where a symbolic link leads."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                out.addfile(info)
            else:
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


def oci_archive(path: Path, image: Image, name: str = "1", **over: bytes) -> Path:
    """An OCI layout in a tar file; ``over`` replaces documents (index, mark)."""
    root = write_layout(path.with_suffix(".layout"), {name: image})
    members: list[tuple[str, bytes | str]] = [
        ("oci-layout", over.get("mark", (root / "oci-layout").read_bytes())),
        ("index.json", over.get("index", (root / "index.json").read_bytes())),
    ]
    members += [
        (f"blobs/sha256/{blob.name}", blob.read_bytes())
        for blob in (root / "blobs/sha256").iterdir()
    ]
    shutil.rmtree(root)
    return archive(path, members)


def docker_archive(
    path: Path,
    image: Image,
    layers: dict[str, bytes | str],
    tags: tuple[str, ...] = ("box:1",),
    more: list[tuple[str, bytes | str]] | None = None,
) -> Path:
    """What ``docker save`` writes, with these members as the image's layers."""
    config = image.blobs[image.config_digest]
    name = f"{digest_of(config)[7:]}.json"
    line = {"Config": name, "RepoTags": list(tags), "Layers": list(layers)}
    members = [*layers.items(), (name, config), *(more or [])]
    return archive(path, [*members, ("manifest.json", json.dumps([line]).encode())])


def skopeo(*words: str, environ: dict[str, str] | None = None) -> None:
    """Run ``skopeo copy``."""
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    env = {**os.environ, **(environ or {})}
    # Alone with its mounts: it leaves one behind on the store that it writes.
    command = ["unshare", "--mount", "skopeo", "--insecure-policy", "copy", "--quiet", *words]
    subprocess.run(command, env=env, check=True, capture_output=True, text=True)


SIF_ARCH = {"x86_64": b"02", "aarch64": b"04"}.get(os.uname().machine, b"00")


def sif(
    path: Path, squashfs: bytes, *, system: int = 1, role: int = 2, machine: bytes = SIF_ARCH
) -> Path:
    """A SIF file with a definition and one partition, as Apptainer lays it out."""
    first, data = 128, 128 + 48 * 585
    definition = b"bootstrap: scratch\n"
    at = -(-(data + len(definition)) // 4096) * 4096
    descriptors = [
        _descriptor(0x4001, 1, data, len(definition), b""),
        _descriptor(0x4004, 2, at, len(squashfs), struct.pack("<ii3s", system, role, machine)),
    ]
    head = struct.pack(
        "<32s10s3s3s16s8q",
        *(b"#!/usr/bin/env run-singularity\n", b"SIF_MAGIC\0", b"01\0", machine, bytes(16)),
        *(0, 0, 46, 48, first, 48 * 585, data, at + len(squashfs) - data),
    )
    table = b"".join(descriptors).ljust(48 * 585, b"\0")
    path.write_bytes((head + table + definition).ljust(at, b"\0") + squashfs)
    return path


def _descriptor(kind: int, number: int, offset: int, size: int, extra: bytes) -> bytes:
    numbers = (kind, 1, number, 0xF0000001, 0, offset, size, size, 0, 0, 0, 0)
    return struct.pack("<iBIII7q128s384s", *numbers, b"part", extra)


def mksquashfs(root: Path, path: Path, *words: str) -> Path:
    """A squashfs image of a tree."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("squashfs-tools is not installed")
    command = ["mksquashfs", str(root), str(path), "-noappend", "-no-progress", "-quiet", *words]
    subprocess.run(command, check=True, capture_output=True)
    return path
