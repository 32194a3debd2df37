"""The launch path, with the image in the store, pays for no network: asserted on a fresh interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairlead import config as settings
from fairlead.image import reference, source
from fairlead.store import blobs, layers, layout, records
from fairlead.store.layout import Stage

ENGINE = str(Path(__file__).parents[2] / "engine")
SCRIPT = """
import json, sys, time
started = time.perf_counter()
from fairlead import config
from fairlead.image import reference
from fairlead.store import fetch, layout
imported = time.perf_counter()
settings = config.load()
store = layout.open_store(settings)
image = fetch.pull(reference.parse(sys.argv[1]), settings, store, policy=sys.argv[2])
ended = time.perf_counter()
print(json.dumps({
    "modules": sorted(sys.modules),
    "rootfs": image.rootfs,
    "import_ms": 1e3 * (imported - started),
    "lookup_ms": 1e3 * (ended - imported),
}))
"""
FORBIDDEN = {
    "urllib3", "http", "ssl", "rich", "concurrent", "socket", "email", "asyncio", "dataclasses",
    "subprocess", "hashlib", "isal", "zstandard", "ctypes", "threading", "logging", "importlib.metadata",
}  # fmt: skip


@pytest.fixture
def environ(tmp_path):
    return {
        "FAIRLEAD_STORE": str(tmp_path / "s"),
        "HOME": str(tmp_path),
        "PYTHONPATH": ENGINE,
        "PATH": "/bin",
    }


@pytest.fixture
def target(environ):
    """Put an image into the store by hand: no registry is needed to look one up."""
    store = layout.open_store(settings.load(environ))
    diff_id = "sha256:" + "d" * 64
    table = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    config = json.dumps(table).encode()
    digest = "sha256:" + hashlib.sha256(config).hexdigest()
    manifest = "sha256:" + "e" * 64
    chain = layers.chain_id((diff_id,))
    os.makedirs(layers.rootfs(store, chain))
    with Stage(store) as stage:
        blobs.put(store, stage, digest, config)
        for name in ("q.io/x:1", f"q.io/x@{manifest}"):
            record = records.Record(
                name, manifest, manifest, digest, chain, 0, "2026-01-01T00:00:00Z"
            )
            records.write(store, stage, record)
    return manifest


def looked_up(environ, name, policy):
    words = [sys.executable, "-c", SCRIPT, name, policy]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("policy", ["missing", "never", "always", "newer"])
def test_image_in_the_store_loads_no_module_of_the_network(environ, target, policy):
    name = "q.io/x:1" if policy in {"missing", "never"} else f"q.io/x@{target}"
    found = looked_up(environ, name, policy)
    loaded = {
        module
        for module in found["modules"]
        if module in FORBIDDEN or module.split(".")[0] in FORBIDDEN
    }
    assert loaded == set()
    assert os.path.isdir(found["rootfs"])


def test_unchanged_file_loads_nothing_either(environ, target, tmp_path):
    path = tmp_path / "x.sqsh"
    path.write_bytes(b"hsqs")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    found = reference.parse(str(path))
    while not source.stamp(found, {}):
        time.sleep(0.1)  # while its inode's change is young, a stamp proves nothing
    store = layout.open_store(settings.load(environ))
    known = records.read(store, "q.io/x:1")
    with Stage(store) as stage:
        record = known._replace(reference=found.identity, stamp=source.stamp(found, {}))
        records.write(store, stage, record)
    for policy in ("missing", "newer", "always"):
        modules = {name.split(".")[0] for name in looked_up(environ, str(path), policy)["modules"]}
        assert modules & FORBIDDEN == set()


def test_looking_an_image_up_takes_less_than_five_milliseconds(environ, target):
    assert min(looked_up(environ, "q.io/x:1", "missing")["lookup_ms"] for _ in range(3)) < 5
