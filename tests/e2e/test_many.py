"""Many processes, killed processes, full disks: what security.md section 4, faults 1, 2, 9, 12 to 15 ask for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from faulty_registry import trickle
from images import folder, image, layer, program

FILES = {"bin/": folder(), "bin/tool": program(b"#!/bin/sh\n")}


@pytest.fixture
def built():
    return image([layer({**FILES, f"{n}": os.urandom(100_000)}) for n in range(4)])


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def waits_for_a_lock(pid):
    return any(f"-> FLOCK  ADVISORY  WRITE {pid} " in line for line in Path("/proc/locks").open())


def check(bench):
    """Assert the store's invariant: what has its final name is complete and verified."""
    for blob in (bench.root / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for tree in (bench.root / "trees").iterdir():
        assert json.loads((tree / "tree.json").read_text())["chain"] == f"sha256:{tree.name}"
    for path in (bench.root / "images").iterdir():
        record = json.loads(path.read_text())
        assert (bench.root / "trees" / record["chain"][7:] / "rootfs").is_dir()
        assert (bench.root / "blobs/sha256" / record["config"][7:]).is_file()
        assert (bench.root / "blobs/sha256" / record["manifest"][7:]).is_file()


# -- many processes (fault 9) ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_many_processes_fetch_each_blob_once_and_all_succeed(bench, faulty, built, count):
    name = faulty.add("x/y", "1", built)
    running = [bench.start("pull", "--quiet", name) for _ in range(count)]
    outcomes = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert Counter(outcomes) == {((f"{name.rpartition(':')[0]}@{built.digest}\n", ""), 0): count}
    fetched = Counter(r.path for r in faulty.requests if r.method == "GET")
    assert set(fetched.values()) == {1}
    assert len(fetched) == 1 + 1 + 4  # manifest, configuration, layers
    assert bench.leftovers() == []
    check(bench)


def test_all_who_wait_fail_with_the_one_that_found_out(bench, faulty):
    good = layer({"a": os.urandom(50_000)})
    bad = good._replace(diff_id="sha256:" + "0" * 64)
    name = faulty.add("x/y", "1", image([bad]))
    faulty.fault(bad.digest, trickle(100_000))
    started = time.monotonic()
    running = [bench.start("pull", "--quiet", name) for _ in range(8)]
    lines = {process.communicate(timeout=20)[1] for process in running}
    assert time.monotonic() - started < 10
    assert {process.returncode for process in running} == {125}
    assert len(lines) == 1
    assert "error [digest]" in lines.pop()
    assert faulty.count("GET", bad.digest) <= 8
    assert bench.leftovers() == []


def test_killed_leader_is_replaced_within_two_seconds(bench, faulty, built):
    name = faulty.add("x/y", "1", built)
    slow = built.layer_digests[3]
    faulty.fault(slow, trickle(1000), times=1)
    leader = bench.start("pull", "--quiet", name)
    until(lambda: faulty.count("GET", slow))
    follower = bench.start("pull", "--quiet", name)
    until(lambda: waits_for_a_lock(follower.pid))
    killed = time.monotonic()
    leader.send_signal(signal.SIGKILL)
    until(lambda: faulty.count("GET", slow) == 2, 2)
    assert time.monotonic() - killed < 2
    assert follower.wait(20) == 0
    leader.communicate()
    follower.communicate()
    # What the leader had finished was not fetched again.
    assert all(faulty.count("GET", digest) == 1 for digest in built.layer_digests[:3])
    assert bench.leftovers() == []
    check(bench)


def test_two_images_that_share_a_layer_can_be_pulled_at_once(bench, faulty, built):
    shared = layer({"shared": os.urandom(400_000)})
    names = [
        faulty.add("x/y", tag, image([shared, layer({"own": tag.encode()})])) for tag in "1234"
    ]
    faulty.fault(shared.digest, trickle(800_000))
    running = [bench.start("pull", "--quiet", name) for name in names]
    assert [process.wait(60) for process in running] == [0] * 4
    for process in running:
        process.communicate()
    assert len(os.listdir(bench.root / "trees")) == 4
    check(bench)


# -- killed at any call (faults 1 and 12) ----------------------------------------------------------

CALLS = [
    ("mkdir", 9),
    ("renameat2", 7),
    ("rename", 3),
    ("fsync", 8),
    ("syncfs", 1),
    ("unlink", 9),
    ("flock", 10),
]
STEPS = [(call, when) for call, most in CALLS for when in range(1, most + 1)]
QUICK = {("mkdir", 7), ("renameat2", 3), ("rename", 2), ("syncfs", 1), ("unlink", 4), ("flock", 6)}


@pytest.mark.parametrize(
    ("call", "when"),
    [pytest.param(*step, marks=() if step in QUICK else pytest.mark.slow) for step in STEPS],
)
def test_pull_killed_at_a_system_call_needs_no_help_to_succeed_next_time(
    bench, faulty, built, call, when
):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    name = faulty.add("x/y", "1", built)
    inject = f"inject={call}:signal=SIGKILL:when={when}"
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    done = subprocess.run(
        [*words, *bench.command("pull", "--quiet", name)],
        env=bench.full(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL, 0}, done.stderr
    if bench.root.exists() and (bench.root / "images").exists():
        check(bench)
    found = bench.pull(name)
    assert sorted(os.listdir(found.rootfs)) == ["0", "1", "2", "3", "bin"]
    check(bench)
    if done.returncode:
        bench.run("rm", "--all")  # sweeps what a killed process left when no pull had to
    assert [path for path in bench.leftovers() if path.startswith("tmp")] == []


@pytest.mark.parametrize("call", ["rename", "renameat2", "fsync", "mkdir", "syncfs"])
def test_failing_disk_is_one_line_and_nothing_is_kept(bench, faulty, built, call):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    name = faulty.add("x/y", "1", built)
    bench.store  # noqa: B018 - made beforehand, so that the calls are those of the pull
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    words += ["-e", f"inject={call}:error=EIO:when=1+"]
    done = subprocess.run(
        [*words, *bench.command("pull", "--quiet", name)],
        env=bench.full(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 125, done.stderr
    assert re.fullmatch(
        rf"fairlead: error \[store\]: .*{bench.root}.*Input/output error.*\n", done.stderr
    )
    check(bench)
    bench.pull(name)
    check(bench)


# -- full disks (fault 2) --------------------------------------------------------------------------


def pull_on_tmpfs(bench, name, options):
    """Pull into a store on a small tmpfs of its own; returns what was said and what was left there."""
    bench.root.mkdir()
    script = (
        f"mount -t tmpfs -o mode=0700,{options} none {bench.root} || exit 77\n"
        f'"$@"; status=$?; echo "status=$status"; find {bench.root} -mindepth 2 | grep -v blobs/sha'
    )
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*words, *bench.command("pull", "--quiet", name)],
        env=bench.full(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 77 or "Operation not permitted" in done.stderr:
        pytest.skip("this machine lets no user mount")
    assert "status=125" in done.stdout, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr, done.stdout.splitlines()[1:]


def test_image_that_cannot_fit_is_refused_by_forecast(bench, faulty):
    name = faulty.add("x/y", "1", image([layer({"a": os.urandom(4 << 20)}, "none")]))
    line, left = pull_on_tmpfs(bench, name, "size=2m")
    assert re.search(
        rf"error \[no-space\]: {bench.root}: {name} needs 8.4 MB or more, 2.\d MB free, gc can free 0.0 MB",
        line,
    )
    assert left == []


@pytest.mark.parametrize(
    ("files", "compression", "options"),
    [
        ({"a": bytes(8 << 20)}, "gzip", "size=2m"),
        ({"a": os.urandom(500_000), "b": bytes(4 << 20)}, "gzip", "size=2m"),
        ({str(number): b"x" for number in range(300)}, "gzip", "size=8m,nr_inodes=200"),
    ],
    ids=["tree", "blob and tree", "inodes"],
)
def test_full_disk_is_one_line_and_nothing_is_kept(bench, faulty, files, compression, options):
    name = faulty.add("x/y", "1", image([layer(files, compression)]))
    line, left = pull_on_tmpfs(bench, name, options)
    assert re.search(
        rf"error \[no-space\]: cannot write {bench.root}/.*: No space left on device", line
    )
    assert left == []


# -- narrow surroundings (faults 14 and 15) --------------------------------------------------------


def test_forty_layers_fit_into_sixty_four_descriptors(bench, faulty):
    layers = [layer({f"{number:02}": os.urandom(20_000)}) for number in range(40)]
    name = faulty.add("x/y", "1", image(layers))
    words = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *bench.command("pull", "--quiet", name)]
    done = subprocess.run(words, env=bench.full(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_file_size_limit_is_one_line(bench, faulty):
    name = faulty.add("x/y", "1", image([layer({"a": os.urandom(1 << 20)}, "none")]))
    words = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *bench.command("pull", "--quiet", name)]
    done = subprocess.run(words, env=bench.full(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert re.fullmatch(
        r"fairlead: error \[no-space\]: cannot write .*: File too large.*\n", done.stderr
    )
    assert bench.leftovers() == []


def test_pull_works_without_home_and_in_a_deleted_directory(bench, faulty, built, tmp_path):
    name = faulty.add("x/y", "1", built)
    gone = tmp_path / "gone"
    gone.mkdir()
    environ = {k: v for k, v in bench.full(XDG_RUNTIME_DIR="/nonexistent").items() if k != "HOME"}
    words = ["sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh"]
    done = subprocess.run(
        [*words, *bench.command("pull", "--quiet", name)],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_store_of_another_is_refused(bench):
    bench.root.mkdir()
    bench.root.chmod(0o777)
    done = bench.run("pull", "127.0.0.1:1/x:1")
    assert f"error [store]: {bench.root}: others may write there (mode 0777)" in done.stderr


def test_another_user_sees_nothing(bench, faulty, built):
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    found = bench.pull(faulty.add("x/y", "1", built))
    for path in (Path(found.rootfs), bench.root / "images", bench.root):
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", str(path)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
