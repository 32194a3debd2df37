"""Writes images as files: layouts, archives, and what skopeo makes of them."""

from __future__ import annotations

import io
import json
import os
import shutil
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
