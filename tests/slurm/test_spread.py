"""One pull per job: nodes with files of their own, on a cluster of its own, fetch each blob once.

``FAIRLEAD_BED_FILES=own tests/bed/cluster up`` gives each node a /tmp, a /var/tmp and stores of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid

import jobs
import pytest
from installation import plugin_line, plugin_words, site_lists

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
    noise = [images.layer({f"noise{n}": os.urandom(size)}, "none") for n, size in enumerate(sizes)]
    return images.image([images.layer({**base, "id": uuid.uuid4().hex.encode()}), *noise])


def blobs(built):
    return [*built.layer_digests, built.config_digest]


def gets(server, built):
    return [server.count("GET", digest) for digest in blobs(built)]


def step(*words, container, **variables):
    """Run a command on all four nodes, unless words say otherwise."""
    variables = {"FAIRLEAD_SPREAD": "auto", **variables, "SLURM_CONF": CONF}
    return jobs.srun("-N4", *words, container=container, timeout=60, **variables)


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


def site_store():
    """Return the directory of the installed plugin's shared store."""
    return re.search(r" site=(\S+)", plugin_line()[1])[1]


@contextlib.contextmanager
def sbcast_is(text):
    """Let another program stand in the place of sbcast on every node; REAL in its text is sbcast."""
    real, fake = f"{BED}/sbcast", f"{BED}/fake-sbcast"
    shutil.copy("/usr/bin/sbcast", real)
    with open(fake, "w", encoding="utf-8") as file:
        file.write(text.replace("REAL", real))
    os.chmod(fake, 0o755)
    inside = []
    for node in NODES:
        with open(f"{BED}/run/slurmd-{node}.pid", encoding="ascii") as file:
            inside.append(("nsenter", f"--target={file.read().strip()}", "--mount"))
    try:
        for enter in inside:
            subprocess.run([*enter, "mount", "--bind", fake, "/usr/bin/sbcast"], check=True)
        yield
    finally:
        for enter in inside:
            subprocess.run([*enter, "umount", "/usr/bin/sbcast"], check=True)


@pytest.mark.usefixtures("user_stores")
def test_each_blob_is_fetched_once_by_sbcast(server, built):
    name = server.add("x/y", "1", built)
    assert is_run_by_all(step(*SUM, container=name))
    assert gets(server, built) == [1] * 5
    assert server.count("GET", built.digest) == 1
    assert left_in_stores() == []


def test_nodes_with_shared_stores_fetch_each_blob_once(server, built):
    name = server.add("x/y", "1", built)
    result = step(*SUM, container=name)
    assert is_run_by_all(result)
    assert "the node's shared store cannot be used" not in result.stderr
    assert gets(server, built) == [1] * 5
    assert left_in_stores() == []
    for node in NODES:
        held = os.listdir(on(node, f"{site_store()}/layers"))
        assert len([file for file in held if file.endswith(".erofs")]) >= 4


@pytest.mark.usefixtures("user_stores")
def test_a_node_that_has_the_image_is_no_hindrance(server, built):
    name = server.add("x/y", "1", built)
    jobs.output(step("-N1", "-w", NODES[2], *SUM, container=name))
    assert gets(server, built) == [1] * 5
    assert is_run_by_all(step(*SUM, container=name))
    assert gets(server, built) == [2] * 5


@pytest.mark.usefixtures("user_stores")
def test_each_node_fetches_where_that_is_the_setting(server, built):
    name = server.add("x/y", "1", built)
    assert is_run_by_all(step(*SUM, container=name, FAIRLEAD_SPREAD="off"))
    assert gets(server, built) == [4] * 5


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_directory_takes_the_place_of_sbcast(server, built, shared):
    name = server.add("x/y", "1", built)
    with contextlib.ExitStack() as stack:
        if not shared:
            stack.enter_context(plugin_words())
        place = stack.enter_context(tempfile.TemporaryDirectory(dir=jobs.USER.pw_dir))
        os.chown(place, jobs.USER.pw_uid, jobs.USER.pw_gid)
        stack.enter_context(sbcast_is("#!/bin/sh\nexit 1\n"))
        assert is_run_by_all(step(*SUM, container=name, FAIRLEAD_SPREAD_DIR=place))
        assert os.listdir(place) == []
    assert gets(server, built) == [1] * 5


ALTERED = """#!/bin/sh
cp "$3" "/tmp/altered-$$"
printf evil | dd of="/tmp/altered-$$" bs=1 seek=1000 conv=notrunc 2>/dev/null
REAL "$1" "$2" "/tmp/altered-$$" "$4"
rm "/tmp/altered-$$"
"""


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_altered_on_its_way_is_fetched_again(server, built, shared):
    name = server.add("x/y", "1", built)
    with contextlib.ExitStack() as stack:
        if not shared:
            stack.enter_context(plugin_words())
        stack.enter_context(sbcast_is(ALTERED))
        assert is_run_by_all(step(*SUM, container=name))
    # The configuration and the smallest layer are messages; sbcast carries the other three.
    assert sorted(gets(server, built)) == [1, 1, 4, 4, 4]


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 1\n", ""])
@pytest.mark.usefixtures("user_stores")
def test_each_node_fetches_where_sbcast_fails(server, built, text):
    name = server.add("x/y", "1", built)
    with sbcast_is(text or "#!/absent\n"):
        assert is_run_by_all(step(*SUM, container=name))
    assert sorted(gets(server, built)) == [1, 1, 4, 4, 4]


@pytest.mark.usefixtures("user_stores")
def test_a_fetcher_that_is_killed_ends_the_step_in_one_line_and_leaves_nothing(server, built):
    name = server.add("x/y", "1", built)
    with sbcast_is("#!/bin/sh\nkill -KILL $PPID\n"):
        result = step(*SUM, container=name)
    assert result.returncode == 125
    (line,) = jobs.error_lines(result)
    assert "the engine was killed by signal 9 (Killed)" in line
    assert is_run_by_all(step(*SUM, container=name))
    assert left_in_stores() == []
