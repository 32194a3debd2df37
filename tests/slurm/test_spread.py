"""One pull per job: nodes with files of their own, on a cluster of its own, fetch each blob once.

``FAIRLEAD_BED_FILES=own tests/bed/cluster up`` gives each node a /tmp, a /var/tmp and stores of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import jobs
import pytest
from installation import plugin_words, site_lists

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import faulty_registry as faults  # noqa: E402
import images  # noqa: E402

NAME = "spread"
NODES = [f"{NAME}n{number}" for number in range(1, 5)]
BED = f"/var/lib/fairlead-bed-{NAME}"
CONF = f"{BED}/etc/slurm.conf"
CLUSTER = os.path.join(os.path.dirname(HERE), "bed/cluster")
BUSYBOX = "/bin/busybox"
PLACES = ("dev", "proc", "sys", "tmp", "etc", "run", "run/munge", "bin", "var", "var/tmp")
STORE = f"/var/tmp/fairlead-{jobs.USER.pw_uid}.{jobs.USER.pw_gid}"


def cluster(verb):
    environ = {**os.environ, "FAIRLEAD_BED": NAME, "FAIRLEAD_BED_FILES": "own"}
    done = subprocess.run([CLUSTER, verb], env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.fixture(scope="module", autouse=True)
def _own_cluster():
    cluster("up")
    try:
        yield
    finally:
        cluster("down")


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    drained = jobs.run("sinfo", "-h", "-N", "-R", "-o", "%n %T %E", SLURM_CONF=CONF)
    assert drained.stdout == ""


@pytest.fixture
def user_stores():
    """Nodes without a shared store."""
    with plugin_words():
        yield


@pytest.fixture
def server():
    with faults.FaultyRegistry() as registry, site_lists(registry.host):
        yield registry


def program(name):
    with open(BUSYBOX, "rb") as file:
        return images.program(file.read()) if name == "busybox" else images.symlink("busybox")


@pytest.fixture
def built():
    """An image that no store has yet: layers small and large, the largest of several parts."""
    names = ("busybox", "sh", "cat", "true", "sleep", "sha256sum")
    base = {
        **{f"{place}/": images.folder() for place in PLACES},
        **{f"bin/{name}": program(name) for name in names},
    }
    sizes = (40_000, 300, 20_000_000)
    noise = [images.layer({f"noise{n}": os.urandom(size)}) for n, size in enumerate(sizes)]
    return images.image([images.layer({**base, "id": uuid.uuid4().hex.encode()}), *noise])


def blobs(built):
    return [*built.layer_digests, built.config_digest]


def gets(server, built):
    return [server.count("GET", digest) for digest in blobs(built)]


def step(*words, container, **variables):
    return jobs.srun("-N4", *words, container=container, SLURM_CONF=CONF, **variables)


def is_run_by_all(result):
    lines = jobs.output(result).splitlines()
    assert len(lines) == 4
    assert len(set(lines)) == 1
    return True


def on(node, path):
    """Return the path of a node's own file as the machine sees it."""
    for place in ("/tmp", "/var/tmp", "/var/lib/fairlead"):
        if path == place or path.startswith(f"{place}/"):
            return f"{BED}/nodes/{node}/{place[1:].replace('/', '-')}{path[len(place) :]}"
    raise AssertionError(path)


def left_in_stores():
    return [
        f"{node}: {name}"
        for node in NODES
        if os.path.isdir(on(node, f"{STORE}/tmp"))
        for name in os.listdir(on(node, f"{STORE}/tmp"))
    ]


SUM = ("sha256sum", "/noise2")


def test_each_blob_is_fetched_once_by_sbcast(server, built, user_stores):
    name = server.add("x/y", "1", built)
    result = step(*SUM, container=name)
    assert is_run_by_all(result)
    assert gets(server, built) == [1] * 5
    assert result.stderr == ""
    assert left_in_stores() == []
