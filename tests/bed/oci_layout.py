"""Write an OCI image layout from directories, one layer each.

For the test bed's images: real layers and a real config, from nothing but a tree and a few options, so that what is in
them is plain to see. Deterministic: same trees, same digests (times, owners' names and order are fixed).

Usage: oci_layout.py OUTPUT --layer DIR [--layer DIR ...] [--env K=V] [--workdir DIR] [--label K=V] [--cmd WORD ...]
A layer's /dev entries are left out, as in published images. A whiteout is a plain file named .wh.NAME in the tree.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import zlib

TAR = ("tar", "--create", "--sort=name", "--numeric-owner", "--mtime=@0", "--exclude=./dev/*", "--format=pax",
       "--pax-option=delete=atime,delete=ctime", "--xattrs", "--directory")  # fmt: skip
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def add_blob(layout: str, data: bytes, media_type: str) -> dict[str, object]:
    """Store data under its digest and return its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    with open(os.path.join(layout, "blobs/sha256", digest), "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def add_layer(layout: str, tree: str) -> tuple[dict[str, object], str]:
    """Pack a tree as a gzip layer, streaming; return its descriptor and DiffID."""
    partial = os.path.join(layout, "layer.partial")
    packer, diff_id, digest = zlib.compressobj(4, wbits=31), hashlib.sha256(), hashlib.sha256()
    with (
        subprocess.Popen([*TAR, tree, "."], stdout=subprocess.PIPE) as tar,
        open(partial, "wb") as out,
    ):
        assert tar.stdout is not None
        while chunk := tar.stdout.read(1 << 20):
            diff_id.update(chunk)
            digest.update(packed := packer.compress(chunk))
            out.write(packed)
        digest.update(packed := packer.flush())
        out.write(packed)
    if tar.returncode != 0:
        raise SystemExit(f"oci_layout: tar of {tree} ended with status {tar.returncode}")
    size = os.path.getsize(partial)
    os.rename(partial, os.path.join(layout, "blobs/sha256", digest.hexdigest()))
    return {
        "mediaType": LAYER,
        "digest": f"sha256:{digest.hexdigest()}",
        "size": size,
    }, f"sha256:{diff_id.hexdigest()}"


def write(options: argparse.Namespace) -> None:
    """Write the whole layout; the tag is always 1."""
    os.makedirs(os.path.join(options.output, "blobs/sha256"))
    layers = [add_layer(options.output, tree) for tree in options.layer]
    keys = {"Env": options.env, "Entrypoint": options.entrypoint, "Cmd": options.cmd, "WorkingDir": options.workdir,
            "User": options.user, "Labels": dict(label.split("=", 1) for label in options.label)}  # fmt: skip
    config = {
        "architecture": options.architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {key: value for key, value in keys.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        "history": [
            {"created_by": f"tests/bed/images: {os.path.basename(tree)}"} for tree in options.layer
        ],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add_blob(options.output, json.dumps(config).encode(), CONFIG),
        "layers": [descriptor for descriptor, _ in layers],
    }
    described = add_blob(options.output, json.dumps(manifest).encode(), MANIFEST)
    described["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    with open(os.path.join(options.output, "index.json"), "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [described]}, file)
    with open(os.path.join(options.output, "oci-layout"), "w") as file:
        file.write('{"imageLayoutVersion": "1.0.0"}')


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write an OCI image layout from directories, one layer each."
    )
    parser.add_argument("output", help="directory to make")
    parser.add_argument("--layer", action="append", required=True, metavar="DIR")
    parser.add_argument("--env", action="append", default=[], metavar="K=V")
    parser.add_argument("--label", action="append", default=[], metavar="K=V")
    parser.add_argument("--entrypoint", action="append", default=[], metavar="WORD")
    parser.add_argument("--cmd", action="append", default=[], metavar="WORD")
    parser.add_argument("--workdir", default="")
    parser.add_argument("--user", default="")
    parser.add_argument(
        "--architecture", default={"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    )
    write(parser.parse_args())


if __name__ == "__main__":
    main()
