"""The verbs around the store: pull, inspect, images, rm, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import uuid

import pytest
from images import folder, image, layer, program, push

from fairlead.store import layers

BASE = {"bin/": folder(), "bin/tool": program(b"#!/bin/sh\n")}


@pytest.fixture
def repository():
    return f"verbs/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def name(registry, repository):
    return f"{registry}/{repository}"


def test_verbs_tell_the_whole_story(bench, registry, repository, name):
    pushed = image([layer(BASE)], {"Labels": {"a": "b"}})
    push(registry, repository, "1", pushed)
    remote = json.loads(bench.run("inspect", f"{name}:1").stdout)
    assert remote["store"] is None
    done = bench.run("pull", "--quiet", f"{name}:1")
    assert (done.stdout, done.stderr) == (f"{name}@{pushed.digest}\n", "")
    local = json.loads(bench.run("inspect", f"{name}:1").stdout)
    assert os.path.isdir(local["store"]["rootfs"])
    assert {**local, "store": None} == remote
    assert local["layers"][0]["digest"] == pushed.layer_digests[0]
    listed = json.loads(bench.run("images", "--json").stdout)
    assert [entry["reference"] for entry in listed] == [f"{name}:1"]
    table = bench.run("images").stdout.splitlines()
    assert table[0].split() == ["REFERENCE", "DIGEST", "SIZE", "PULLED"]
    assert table[1].startswith(f"{name}:1")
    assert bench.run("rm", pushed.digest).stdout == f"{name}:1\n"
    assert bench.run("images").stdout.splitlines()[1:] == []
    assert os.listdir(bench.root / "trees") == []
    assert os.listdir(bench.root / "blobs/sha256") == []


def test_rm_all_empties_the_store(bench, registry, repository, name):
    for tag in "12":
        push(registry, repository, tag, image([layer({"v": tag.encode()})]))
        bench.pull(f"{name}:{tag}")
    orphan = bench.root / "trees" / ("0" * 64) / "rootfs"
    orphan.mkdir(parents=True)
    assert bench.run("rm", "--all").stdout.splitlines() == [f"{name}:1", f"{name}:2"]
    left = [path for path in bench.root.rglob("*") if not path.is_dir()]
    assert left == [bench.root / "version"]
    assert os.listdir(bench.root / "trees") == []


def test_line_for_removing_what_is_not_there(bench):
    assert bench.line("rm", "q.io/x:1") == (
        f"fairlead: error [image-not-found]: q.io/x:1: is not in the store {bench.root} "
        "(see fairlead images)"
    )
    assert "error [usage]: rm takes either" in bench.line("rm")


def test_tree_in_use_is_not_removed(bench, registry, repository, name):
    push(registry, repository, "1", image([layer(BASE)]))
    found = bench.pull(f"{name}:1")
    held = layers.hold(bench.store, found.chain)
    try:
        assert "is in use" in bench.line("rm", f"{name}:1")
        assert bench.pull(f"{name}:1", "never") == found
    finally:
        os.close(held)
    assert bench.run("rm", f"{name}:1").returncode == 0


def test_tree_that_is_mounted_is_not_removed(bench, registry, repository, name):
    push(registry, repository, "1", image([layer(BASE)]))
    found = bench.pull(f"{name}:1")
    script = f"mount --bind {found.rootfs} /mnt && echo ready && read line"
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        if process.stdout.readline() != b"ready\n":
            pytest.skip("this machine lets no user mount")
        try:
            found_line = bench.line("rm", f"{name}:1")
        finally:
            process.communicate(b"\n")
    assert "is in use by process" in found_line
