"""The node's shared store in real steps: once for all users and nodes, and nothing left of it."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter

import jobs
import psutil
import pytest
from installation import (
    installed_prefix,
    plugin_line,
    plugin_words,
    prefix,
    replace,
    site_lists,
)
from jobs import MPI, SMALL, output, srun

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import faulty_registry as faults
import images

BUSYBOX = "/bin/busybox"
PLACES = ("dev", "proc", "sys", "tmp", "etc", "run", "run/munge", "bin", "var", "var/tmp")
OTHER = pwd.getpwnam("nobody")


def site_store() -> str:
    found = re.search(r" site=(\S+)", plugin_line()[1])
    if found is None:
        pytest.skip("the installed plugin has no shared store")
    return found[1]


SERVICE = os.stat(site_store()).st_uid if " site=" in plugin_line()[1] else -1


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    site_store()
    yield
    assert jobs.nodes_out_of_service() == []


@pytest.fixture
def server():
    """A registry that the site lists."""
    with faults.FaultyRegistry() as registry, site_lists(registry.host):
        yield registry


def program(name: str) -> images.Entry:
    with open(BUSYBOX, "rb") as file:
        return images.program(file.read()) if name == "busybox" else images.symlink("busybox")


@pytest.fixture
def built():
    """An image that no store has yet: busybox, and layers of noise."""
    names = ("busybox", "sh", "cat", "true", "sleep", "stat", "id", "ls", "grep")
    base = {"bin/": images.folder(), **{f"bin/{name}": program(name) for name in names}}
    noise = [images.layer({f"{n}": os.urandom(40_000)}) for n in range(3)]
    return images.image([images.layer({**base, "id": uuid.uuid4().hex.encode()}), *noise])


def gets(server, built):
    return [server.count("GET", digest) for digest in built.layer_digests]


def as_other(*command):
    """Run a command as the second user."""

    def become():
        os.setgroups([])
        os.setresgid(OTHER.pw_gid, OTHER.pw_gid, OTHER.pw_gid)
        os.setresuid(OTHER.pw_uid, OTHER.pw_uid, OTHER.pw_uid)

    environ = {**jobs.environment(), "HOME": "/tmp", "USER": OTHER.pw_name}
    return subprocess.run(
        command, preexec_fn=become, cwd="/tmp", env=environ, capture_output=True, text=True
    )


def ours():
    """Brokers and storekeepers that run, and whatever else the service account runs."""
    found = []
    for process in psutil.process_iter(["name", "uids", "status"]):
        info = process.info
        if info["status"] != psutil.STATUS_ZOMBIE and (
            info["name"] == "fairlead-broker" or info["uids"].real == SERVICE
        ):
            found.append((process.pid, info["name"]))
    return found


def host_mounts():
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def work_in_progress():
    store = site_store()
    return [*os.listdir(f"{store}/tmp"), *os.listdir(f"{store}/locks")]


# -- once for all ----------------------------------------------------------------------------------


def test_first_run_fetches_and_the_second_finds(server, built):
    name = server.add("x/y", "1", built)
    for _ in range(2):
        assert output(srun("cat", "/id", container=name))
    assert gets(server, built) == [1] * 4


def test_two_users_share_layers_and_each_owns_them(server, built):
    name = server.add("x/y", "1", built)
    for uid, result in (
        (jobs.USER.pw_uid, srun("stat", "-c", "%u", "/bin", container=name)),
        (OTHER.pw_uid, as_other("srun", f"--container={name}", "stat", "-c", "%u", "/bin")),
    ):
        assert output(result) == f"{uid}\n"
    assert gets(server, built) == [1] * 4


def test_private_image_of_one_user_is_refused_to_the_other(server, built):
    server.scheme, server.login = "basic", ("alice", "open sesame")
    name = server.add("x/y", "1", built)
    auth = os.path.join(jobs.USER.pw_dir, "fairlead-test-auth.json")
    with open(auth, "w", encoding="utf-8") as file:
        json.dump({"auths": {server.host: {"auth": "YWxpY2U6b3BlbiBzZXNhbWU="}}}, file)
    try:
        output(srun("true", container=name, REGISTRY_AUTH_FILE=auth))
    finally:
        os.unlink(auth)
    result = as_other("srun", f"--container={name}", "true")
    assert result.returncode == 125
    assert "error [auth]" in result.stderr
    assert server.host in result.stderr


def test_four_nodes_that_share_a_store_fetch_each_layer_once(server, built):
    name = server.add("x/y", "1", built)
    server.fault(built.layer_digests[1], faults.trickle(30_000), method="GET", times=1)
    shown = output(srun("-N4", "-n4", "sh", "-c", "echo $SLURMD_NODENAME", container=name))
    assert Counter(shown.split()) == {"n1": 1, "n2": 1, "n3": 1, "n4": 1}
    assert gets(server, built) == [1] * 4


def test_image_without_layers_has_an_empty_root(server):
    name = server.add("x/y", "1", images.image([]))
    result = srun("true", container=name)
    assert "error [command-not-found]: true" in result.stderr
    assert result.returncode == 127


@pytest.mark.host_mpi("openmpi", 4)
def test_mpi_job_over_two_nodes_runs_from_the_shared_store():
    shown = output(srun("--mpi=pmix", "-N2", "-n4", "./hello_mpi", container=MPI))
    assert len(re.findall(r"rank \d of 4", shown)) == 4
    assert "the host's MPI" in shown


# -- how it is mounted -----------------------------------------------------------------------------


def test_layers_are_erofs_mounts_of_the_users_own_below_the_root(server, built):
    name = server.add("x/y", "1", built)
    words = ("sh", "-c", "stat -c '%u %g' /bin/busybox; cat /proc/self/mountinfo")
    owner, *mounts = output(srun(*words, container=name)).splitlines()
    assert owner == f"{jobs.USER.pw_uid} {jobs.USER.pw_gid}"
    root = next(line for line in mounts if line.split()[4] == "/")
    assert " - overlay " in root
    assert f"{site_store()}/" not in "\n".join(mounts).replace(f"{site_store()}-bed/", "")


def test_read_only_root_of_one_layer_is_the_layer_itself(server, built):
    """No overlay: nothing has to be made in it, since it brings every directory that is bound."""
    name = server.add("x/y", "1", images.image([complete()]))
    root, _ = read_only(name)
    assert " - erofs " in root
    assert {"ro", "nosuid", "nodev", "idmapped"} <= set(root.split()[5].split(","))


def complete():
    """A layer with every directory that a launch binds to."""
    names = ("passwd", "group", "hosts", "resolv.conf")
    return images.layer(
        {
            **{f"{place}/": images.folder() for place in PLACES},
            **{f"etc/{name}": b"" for name in names},
            "bin/busybox": program("busybox"),
            **{f"bin/{name}": program(name) for name in ("cat", "sh")},
            "id": uuid.uuid4().hex.encode(),
        }
    )


def read_only(name):
    """Run read-only; return the root's line of mountinfo, and what the layers hold."""
    settings = {"FAIRLEAD_WRITABLE": "0", "FAIRLEAD_MOUNT_HOME": "0", "FAIRLEAD_MPI": "image"}
    options = ("--container-workdir=/", "sh", "-c", "cat /top /d/*; cat /proc/self/mountinfo")
    if "@" not in name:
        options = ("--container-workdir=/", "cat", "/proc/self/mountinfo")
    seen = output(srun(*options, container=name, cwd="/", **settings)).splitlines()
    root = next(line for line in seen if len(line.split()) > 6 and line.split()[4] == "/")
    return root, [line for line in seen if " - " not in line]


def test_hundred_and_twenty_layers_are_one_mount_and_without_an_index_as_many(server):
    """The kept plan of the one is none for the other: it would have shown the lowest layer."""
    tops = [
        images.layer({"d/": images.folder(), f"d/{n:03}": f"{n}\n".encode(), "top": f"top {n}\n".encode()})
        for n in range(119)
    ]  # fmt: skip
    name = server.add("x/y", "1", images.image([complete(), *tops]))
    folder = f"{site_store()}/indexes"
    before = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    pinned = output(srun("sh", "-c", "echo $FAIRLEAD_CONTAINER", container=name)).strip()
    made = [entry for entry in set(os.listdir(folder)) - before if entry.endswith(".erofs")]
    assert len(made) == 1
    everything = ["top 118", *map(str, range(119))]
    for _ in range(2):  # the second time from the kept plan
        root, seen = read_only(pinned)
        assert " - erofs " in root
        assert seen == everything
    os.unlink(f"{folder}/{made[0]}")
    for _ in range(2):
        root, seen = read_only(pinned)
        assert " - overlay " in root
        assert seen == everything


# -- nothing is left -------------------------------------------------------------------------------


def test_nothing_of_ours_runs_once_the_container_stands(server, built):
    name = server.add("x/y", "1", built)
    mounts = host_mounts()
    process = jobs.start("srun", f"--container={name}", "sh", "-c", "echo up; exec sleep 60")
    try:
        assert process.stdout.readline() == "up\n"
        jobs.wait_for(lambda: not ours(), 5)
        assert host_mounts() == mounts
        assert work_in_progress() == []
    finally:
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        process.communicate()


def test_scancel_during_a_pull_leaves_nothing(server, built):
    name = server.add("x/y", "1", built)
    mounts = host_mounts()
    server.fault(built.layer_digests[2], faults.stall(1000), method="GET")
    process = jobs.start("srun", "-N2", "-n4", f"--container={name}", "true")
    jobs.wait_for(lambda: server.count("GET", built.layer_digests[2]))
    assert ours()
    jobs.run("scancel", "--user", jobs.USER.pw_name)
    begun = time.monotonic()
    jobs.wait_for(lambda: not ours() and work_in_progress() == [], 5 + jobs_kill_wait())
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 5 + jobs_kill_wait()
    assert host_mounts() == mounts
    server.heal()
    assert output(srun("cat", "/id", container=name))


def jobs_kill_wait() -> float:
    """Slurm waits so long between TERM and KILL; nobody is asked to be quicker."""
    shown = jobs.run("scontrol", "show", "config").stdout
    return float(re.search(r"KillWait\s*=\s*(\d+)", shown)[1])


def test_step_of_many_tasks_starts_one_broker(server, built, own_programs):
    name = server.add("x/y", "1", built)
    log = f"{own_programs}/log"
    with open(log, "w", encoding="utf-8"):
        os.chmod(log, 0o666)
    broker = f"{own_programs}/libexec/fairlead/fairlead-broker"
    real = os.readlink(broker)
    replace(broker, f'#!/bin/sh\necho start >> {log}\nexec {real} "$@"\n')
    with prefix(own_programs, site=True):
        output(srun("-n8", "true", container=name))
    with open(log, encoding="utf-8") as file:
        assert file.read() == "start\n"


# -- an installation that is broken ----------------------------------------------------------------


def test_node_without_the_broker_program_uses_the_users_own_store(server, built, own_programs):
    name = server.add("x/y", "1", built)
    os.unlink(f"{own_programs}/libexec/fairlead/fairlead-broker")
    with prefix(own_programs, site=True):
        result = srun("cat", "/id", container=name)
    assert output(result)
    assert "shared store" not in result.stderr


@pytest.mark.parametrize(
    "script",
    [
        "",
        "raise SystemExit(3)\n",
        "import os\nos.kill(os.getpid(), 11)\n",
        "import os\nos.close(3)\n",
    ],
    ids=["says nothing", "fails", "crashes", "hangs up"],
)
def test_broken_storekeeper_is_one_line(server, built, own_programs, script):
    name = server.add("x/y", "1", built)
    replace(f"{own_programs}/libexec/fairlead/keeper.py", script)
    with prefix(own_programs, site=True):
        result = srun("-N2", "-n4", "true", container=name)
    assert result.returncode == 125
    lines = jobs.error_lines(result)
    assert len(lines) == 1, result.stderr
    assert "error [store]: the storekeeper ended without an answer" in lines[0]


def test_missing_storekeeper_is_one_line(server, built, own_programs):
    name = server.add("x/y", "1", built)
    os.unlink(f"{own_programs}/libexec/fairlead/keeper.py")
    with prefix(own_programs, site=True):
        result = srun("true", container=name)
    assert "error [store]: the storekeeper ended without an answer" in result.stderr


def test_storekeeper_that_hangs_ends_with_its_step(server, built, own_programs):
    name = server.add("x/y", "1", built)
    hang = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)\n"
    replace(f"{own_programs}/libexec/fairlead/keeper.py", hang)
    with prefix(own_programs, site=True):
        process = jobs.start("srun", f"--container={name}", "true")
        jobs.wait_for(lambda: any(name.startswith("python") for _, name in ours()))
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        jobs.wait_for(lambda: not ours(), 5 + jobs_kill_wait())
        process.communicate(timeout=30)


def test_without_a_shared_store_every_user_has_their_own_and_no_word_is_lost_on_it(server, built):
    name = server.add("x/y", "1", built)
    with plugin_words():
        result = srun("cat", "/id", container=name)
    assert output(result)
    assert "shared store" not in result.stderr
    assert gets(server, built) == [1] * 4


@pytest.mark.parametrize("kind", ["missing", "everybody's", "root's"])
def test_store_that_cannot_serve_is_a_warning_and_the_users_own_is_used(server, built, kind):
    name = server.add("x/y", "1", built)
    place = f"/var/tmp/fairlead-broken-site-{os.getpid()}"
    if kind != "missing":
        os.mkdir(place, 0o700)
        os.chmod(place, 0o777 if kind == "everybody's" else 0o700)
        os.chown(place, SERVICE if kind == "everybody's" else 0, -1)
    try:
        with plugin_words(f"site={place}"):
            result = srun("-N2", "-n2", "cat", "/id", container=name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert output(result)
    assert result.stderr.count("the node's shared store cannot be used") == 1, result.stderr
    assert place in result.stderr


def test_rest_of_this_floor_runs_from_the_shared_store():
    output(srun("true", container=SMALL))
    assert os.listdir(f"{site_store()}/grants/{jobs.USER.pw_uid}")


# -- root's own command --------------------------------------------------------------------------


def root_store(*words):
    """Run root's ``fairlead store``, the installed one; returns what it printed as JSON."""
    command = [f"{installed_prefix()}/bin/fairlead", "store", *words, "--json"]
    environ = {"PATH": jobs.PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    done = subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stderr, done.stderr  # how far it is, at most
    return json.loads(done.stdout)


def names_of(built):
    table = json.loads(built.blobs[built.config_digest])
    return {diff_id.partition(":")[2] for diff_id in table["rootfs"]["diff_ids"]}


def held():
    return {item["name"]: item["in_use_by"] for item in root_store("ls") if item["in_use_by"]}


def others():
    return images.image([images.layer({f"{n}": os.urandom(50_000)}) for n in range(2)])


def leave_grant(server, built, tag):
    """Bring an image into the store by a job that has ended; it has no program to run."""
    result = srun("true", container=server.add("x/y", tag, built))
    assert "error [command-not-found]" in result.stderr


@pytest.fixture
def job(server, built):
    """A job with a running step that has read nothing of its image's noise yet; and its number."""
    name = server.add("x/y", "1", built)
    flag = os.path.join(jobs.USER.pw_dir, f"fairlead-go-{uuid.uuid4().hex}")
    script = f"srun --container={name} sh -c 'echo $SLURM_JOB_ID; while ! test -e {flag}; do sleep 0.1; done; cat /0 /1 /2 >/dev/null && cat /id'"
    process = jobs.start(
        "salloc", "-Q", "-w", "n1", "sh", "-c", f"{script}; srun --container={name} cat /id"
    )
    try:
        yield process, process.stdout.readline().strip(), flag
    finally:
        with open(flag, "w", encoding="utf-8"):
            pass
        process.communicate(timeout=60)
        os.unlink(flag)


def test_roots_gc_spares_what_a_job_runs_from_and_its_next_step_needs(server, built, job):
    process, number, flag = job
    # Other tests damage the store on purpose.
    subprocess.run([f"{installed_prefix()}/bin/fairlead", "store", "check", "--repair"], cwd="/")
    gone = others()
    leave_grant(server, gone, "2")
    dead = os.path.join(site_store(), "leases", f"4000000000.{gone.digest.partition(':')[2]}")
    with open(dead, "w", encoding="utf-8"):  # a lease of a job that nobody knows
        pass
    os.chown(dead, SERVICE, -1)
    mine, theirs = names_of(built), names_of(gone)
    shown = held()
    assert {shown[name] for name in mine} == {f"job {number}"}
    assert not theirs & set(shown)
    assert root_store("check") == []
    before = root_store("df")
    done = root_store("gc", "--all")
    removed = {item["name"] for item in done["removed"]}
    assert theirs <= removed
    assert f"leases/{os.path.basename(dead)}" in removed
    assert mine <= {item["name"] for item in done["spared"]}
    assert before["used_bytes"] - root_store("df")["used_bytes"] == done["freed_bytes"]
    fetched = gets(server, built)
    with open(flag, "w", encoding="utf-8"):
        pass
    out, err = process.communicate(timeout=60)
    # The step read on, and the next one of the job was fetched for no more.
    assert process.returncode == 0, err
    assert len(re.findall("[0-9a-f]{32}", out)) == 2
    assert gets(server, built) == fetched == [1] * 4
    jobs.wait_for(lambda: not held().keys() & mine)
    assert mine <= {item["name"] for item in root_store("gc", "--all")["removed"]}


def test_roots_gc_keeps_a_quota_and_takes_the_least_recently_used(server):
    root_store("gc", "--all")
    older, newer = others(), others()
    leave_grant(server, older, "1")
    time.sleep(1.1)  # the uses are told apart by file times
    leave_grant(server, newer, "2")
    jobs.wait_for(lambda: not held().keys() & (names_of(older) | names_of(newer)))
    used = root_store("df")["used_bytes"]
    size = sum(item["size_bytes"] for item in root_store("ls") if item["name"] in names_of(newer))
    root_store("gc", "--max-size", str(used - size))
    left = {item["name"] for item in root_store("ls")}
    assert names_of(newer) <= left
    assert not names_of(older) & left
