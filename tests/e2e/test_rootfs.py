"""Squashfs and SIF files and directories: unpacked or used in place, by an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from local_images import mksquashfs, sif
from ordinary import GID, UID

from fairlead import errors
from fairlead.store import fetch, layers

APPLETS = ("sh", "echo", "cat", "env", "ls", "pwd", "id")
ENROOT_RC = """\
# org.example yes

mkdir -p "/srv" 2> /dev/null
cd "/srv" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec '/bin/echo' 'entry' "$@"
else
    exec '/bin/echo' 'entry' 'default'
fi
"""


@pytest.fixture
def root():
    """A root file system of busybox, readable by everybody."""
    place = Path(f"/var/tmp/fairlead-root-{os.getpid()}")
    (place / "root/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "root/bin/busybox")
    for name in APPLETS:
        (place / "root/bin" / name).symlink_to("busybox")
    (place / "root/etc").mkdir()
    (place / "root/srv").mkdir()
    (place / "root/etc/environment").write_text("# comment\nFROM='the image'\nnot a variable\n")
    yield place / "root"
    shutil.rmtree(place)


def image_of(root, *words):
    return mksquashfs(root, root.parent / "x.sqsh", *words)


# -- squashfs --------------------------------------------------------------------------------------


def test_squashfs_runs_as_the_user(user, root):
    result = user.run("run", str(image_of(root)), "sh", "-c", "echo $FROM; id -u; pwd")
    assert result.stdout.splitlines() == ["the image", str(UID), user.place], result.stderr


def test_compressions_and_relative_paths(user, root):
    for kind in ("gzip", "xz", "zstd", "lz4"):
        path = image_of(root, "-comp", kind)
        shutil.copy(path, f"{user.place}/x.sqsh")
        for name in ("x.sqsh", "./x.sqsh", f"../{os.path.basename(user.place)}/x.sqsh"):
            result = user.run("run", name, "echo", kind)
            assert result.stdout == f"{kind}\n", result.stderr


def test_script_of_enroot_is_the_entrypoint_and_no_other(user, root):
    (root / "etc/rc").write_text(ENROOT_RC)
    path = str(image_of(root))
    assert user.run("run", path).stdout == "entry default\n"
    assert user.run("run", path, "x").stdout == "entry x\n"
    assert user.run("run", "--entrypoint", "", path, "pwd").stdout == "/srv\n"
    (root / "etc/rc").write_text("#!/bin/sh\n# starts the daemons of a BSD\necho started\n")
    assert user.run("run", str(image_of(root)), "echo", "mine").stdout == "mine\n"


def hostile(root):
    os.chmod(root / "bin/busybox", 0o6755)
    os.mknod(root / "etc/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mknod(root / "etc/sda", 0o666 | 0o060000, os.makedev(8, 0))
    os.mknod(root / "etc/gone", 0o020000, 0)
    os.mkfifo(root / "etc/fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "etc/socket"))
    os.setxattr(root / "etc", "user.overlay.opaque", b"y")
    os.setxattr(root / "etc", "user.kept", b"y")
    os.chmod(root / "srv", 0o3775)
    (root / "closed").mkdir(mode=0o000)
    os.chmod(root / "bin/busybox", 0o6755)


def test_rules_of_layers_hold_for_squashfs(bench, user, root):
    hostile(root)
    path = image_of(root)
    as_root = Path(bench.pull(str(path)).rootfs)
    assert user.run("pull", "-q", str(path)).returncode == 0
    as_user = Path(next(Path(user.place).glob("store/trees/*/rootfs")))
    for tree in (as_root, as_user):
        assert sorted(os.listdir(tree / "etc")) == ["environment", "fifo"]
        assert (tree / "bin/busybox").stat().st_mode & 0o7777 == 0o755
        assert (tree / "srv").stat().st_mode & 0o7777 == 0o1775
        assert (tree / "closed").stat().st_mode & 0o7777 == 0
        assert os.listxattr(tree / "etc") == ["user.kept"]
    assert bench.run("rm", "--all").returncode == 0
    assert user.run("rm", "--all").returncode == 0


def test_unchanged_file_is_not_read_again_and_a_changed_one_is(bench, root):
    path = image_of(root)
    first = bench.pull(str(path))
    time.sleep(2.1)  # its stamp proves nothing while it is young
    bench.pull(str(path))
    trace = root.parent / "trace"
    command = [
        "strace",
        "-f",
        "-o",
        str(trace),
        "-e",
        "trace=openat",
        *bench.command("pull", str(path)),
    ]
    subprocess.run(command, env=bench.full(), check=True, capture_output=True)
    assert str(path) not in trace.read_text()
    (root / "new").write_text("new")
    image_of(root)
    for policy in ("missing", "newer", "always"):
        assert (Path(bench.pull(str(path), policy).rootfs) / "new").exists()
    assert bench.pull(f"{path}@{first.digest}", "never").rootfs == first.rootfs


def test_digest_is_that_of_the_file(bench, root):
    path = image_of(root)
    said = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True).stdout.split()[
        0
    ]
    assert bench.run("pull", "-q", str(path)).stdout == f"{path}@sha256:{said}\n"
    inspected = json.loads(bench.run("inspect", str(path)).stdout)
    assert inspected["digest"] == f"sha256:{said}"
    assert inspected["config"]["env"] == {"FROM": "the image"}
    bench.run("rm", "--all")
    assert f"is sha256:{said}, not sha256:{'0' * 64}" in bench.line(
        "pull", f"{path}@sha256:{'0' * 64}"
    )


def test_damaged_squashfs_is_one_line_and_leaves_nothing(bench, root):
    (root / "data").write_bytes(os.urandom(300_000))
    path = image_of(root)
    data = path.read_bytes()
    for size in (4, 95, 96, 4096, len(data) // 2):
        path.write_bytes(data[:size])
        assert "error [archive]" in bench.line("pull", str(path))
    for at in (200, len(data) // 2, len(data) - 4200):
        path.write_bytes(data[:at] + os.urandom(64) + data[at + 64 :])
        done = bench.run("pull", "-q", str(path))
        assert done.returncode == 0 or done.stderr.count("\n") == 1, done.stderr
    path.write_bytes(data[:28] + b"\x03\0" + data[30:])
    assert "is squashfs version 3.0, not 4.0" in bench.line("pull", str(path))
    path.write_bytes(data[:4] + b"\xff\xff\xff\xff" + data[8:])
    assert "has 4294967295 inodes, more than" in bench.line("pull", str(path))
    assert bench.leftovers() == []


def test_bomb_is_refused_and_leaves_nothing(bench, root):
    with (root / "zeros").open("wb") as file:
        file.truncate((1 << 30) + 1)
    path = image_of(root, "-e", "bin")
    assert path.stat().st_size < 1 << 20
    assert "are more than 1000 times larger than itself" in bench.line("pull", "-q", str(path))
    assert os.listdir(bench.root / "trees") == []
    assert bench.leftovers() == []


def test_full_disk_is_named(bench, root):
    (root / "data").write_bytes(bytes(20 << 20))
    path = image_of(root)
    script = (
        f"mkdir -p {bench.root} && mount -t tmpfs -o size=4m,mode=0700 none {bench.root} && "
        f'exec "$@"'
    )
    words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        *bench.command("pull", "-q", str(path)),
    ]
    done = subprocess.run(words, env=bench.full(), capture_output=True, text=True)
    assert done.returncode == 125
    assert "error [no-space]" in done.stderr


def test_machine_without_unsquashfs_says_so(bench, root, monkeypatch):
    path = image_of(root)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(errors.ArchiveError, match="this machine has no unsquashfs"):
        bench.pull(str(path))


def test_killed_pull_leaves_no_unsquashfs(bench, root):
    for number in range(40):
        (root / f"data{number}").write_bytes(os.urandom(1 << 20))
    path = image_of(root)
    process = bench.start("pull", "-q", str(path))
    deadline = time.monotonic() + 30
    while not (child := children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert child, "unsquashfs was never seen"
    while os.path.exists(f"/proc/{child[0]}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child[0]}")
    assert bench.run("pull", "-q", str(path)).returncode == 0


def children(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def test_file_that_changes_while_it_is_read_is_refused(bench, root, monkeypatch):
    from fairlead.store import unsquash

    path = image_of(root)
    unpack = unsquash.unpack

    def unpack_and_change(*words):
        os.utime(path)
        return unpack(*words)

    monkeypatch.setattr(unsquash, "unpack", unpack_and_change)
    with pytest.raises(errors.ArchiveError, match="has changed while it was read"):
        bench.pull(str(path))
    assert fetch.images(bench.store) == ()
    assert os.listdir(bench.root / "trees") == []


# -- SIF -------------------------------------------------------------------------------------------


def test_partition_of_a_sif_is_the_same_image(bench, user, root):
    squashfs = image_of(root)
    path = sif(root.parent / "x.sif", squashfs.read_bytes())
    result = user.run("run", str(path), "sh", "-c", "echo $FROM")
    assert result.stdout == "the image\n", result.stderr
    assert "a SIF's environment and run scripts are not run" in result.stderr
    assert bench.pull(str(path)).rootfs == bench.pull(str(squashfs)).rootfs


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"system": 2}, "its root file system is ext3, not squashfs"),
        ({"system": 5}, "its root file system is encrypted squashfs, not squashfs"),
        ({"role": 3}, "has no primary system partition"),
        ({"machine": b"11"}, "no image for linux/"),
    ],
)
def test_sif_that_cannot_be_run_says_why(bench, root, fields, why):
    path = sif(root.parent / "x.sif", image_of(root).read_bytes(), **fields)
    assert why in bench.line("pull", str(path))


def test_damaged_sif_is_one_line(bench, root):
    path = sif(root.parent / "x.sif", image_of(root).read_bytes())
    data = path.read_bytes()
    for size in (41, 127, 128, 20_000, 30_000, len(data) - 5000):
        path.write_bytes(data[:size])
        assert "error [archive]" in bench.line("pull", str(path))
    for at, value in ((88, 1 << 40), (88, -1), (96, 1 << 40), (96, -8), (128 + 585 + 17, 1 << 60)):
        path.write_bytes(data[:at] + value.to_bytes(8, "little", signed=True) + data[at + 8 :])
        assert "error [archive]" in bench.line("pull", str(path))


# -- a directory -----------------------------------------------------------------------------------


def snapshot(root):
    return {
        str(path): (info.st_mtime_ns, info.st_ctime_ns, info.st_mode, info.st_size)
        for path in [root, *root.rglob("*")]
        for info in [path.lstat()]
    }


@pytest.mark.parametrize("owner", [0, UID])
def test_directory_is_used_in_place_and_never_written_to(user, root, owner):
    for path in [root, *root.rglob("*")]:
        os.lchown(path, owner, GID if owner else 0)
    before = snapshot(root)
    script = (
        "echo $FROM; echo new > /etc/new; echo changed > /etc/environment; cat /etc/new; rm -r /srv"
    )
    result = user.run("run", str(root), "sh", "-c", script.replace("rm -r /srv", "echo end"))
    assert result.stdout.splitlines()[:2] == ["the image", "new"], result.stderr
    assert snapshot(root) == before
    size = sum(path.lstat().st_size for path in Path(user.place).glob("store/trees/**/*"))
    assert size < 100_000


@pytest.mark.parametrize("place", ["/tmp", "/mnt", "/run"])
def test_directory_and_store_may_lie_where_the_container_is_built(user, root, place):
    # A tmpfs covers /tmp while the root is put together: what lies there must be open before.
    path = Path(place) / f"fairlead-root-{os.getpid()}"
    shutil.copytree(root, path, symlinks=True)
    try:
        for words in ((), ("--read-only",)):
            result = user.run("run", *words, str(path), "echo", "there")
            assert result.stdout == "there\n", result.stderr
    finally:
        shutil.rmtree(path)


def test_what_is_derived_from_a_directory_is_kept_in_the_store(user, root):
    before = snapshot(root)
    user.environ["PMI_RANK"] = "0"  # a rank: the host's MPI is looked at
    assert user.run("run", str(root), "echo", "rank").stdout == "rank\n"
    assert len(list(Path(user.place).glob("store/trees/*/mpi.json"))) == 1
    assert snapshot(root) == before


def test_changed_directory_is_seen_and_its_traces_go(user, root):
    assert user.run("run", str(root), "sh", "-c", "echo $FROM").stdout == "the image\n"
    (root / "etc/environment").write_text("FROM=elsewhere\n")
    assert user.run("run", str(root), "sh", "-c", "echo $FROM").stdout == "elsewhere\n"
    assert len(os.listdir(f"{user.place}/store/trees")) == 1
    assert len(os.listdir(f"{user.place}/store/blobs/sha256")) == 1
    assert user.run("rm", str(root)).stdout == f"{root}\n"
    assert os.listdir(f"{user.place}/store/trees") == []
    assert (root / "bin/busybox").exists()


def test_directory_has_no_digest(bench, root):
    assert bench.run("pull", "-q", str(root)).stdout == f"{root}\n"
    assert "a directory has no digest" in bench.line("pull", f"{root}@sha256:{'0' * 64}")
    assert json.loads(bench.run("inspect", str(root)).stdout)["digest"] is None
    plan = bench.pull(str(root))
    assert (plan.pinned, plan.rootfs) == (str(root), str(root))
    assert plan.place.startswith(str(bench.root))


def test_directory_that_is_gone_is_no_image(bench, root):
    bench.pull(str(root))
    root.rename(root.parent / "elsewhere")
    assert "No such file or directory" in bench.line("pull", str(root))
    with pytest.raises(errors.ImageNotFoundError):
        bench.pull(str(root), "missing")
    (root.parent / "elsewhere").rename(root)


def test_format_of_skopeo_is_told_apart(bench, root):
    path = root.parent / "skopeo"
    path.mkdir()
    (path / "version").write_text("Directory Transport Version: 1.1\n")
    (path / "manifest.json").write_text("{}")
    assert "it looks like skopeo's dir: format" in bench.line("pull", f"dir:{path}")


def test_name_in_a_hostile_root_is_not_followed_out(bench, root):
    (root / "etc/environment").unlink()
    (root / "etc/environment").symlink_to("../../../../../../etc/hostname")
    assert bench.pull(str(root)).config.env == ()
    (root / "etc/environment").unlink()
    os.mkfifo(root / "etc/environment")
    assert bench.pull(str(root)).config.env == ()


def test_directory_in_use_is_held_like_a_tree(bench, root):
    held = layers.hold(bench.store, bench.pull(str(root)).chain)
    try:
        assert "is in use" in bench.line("rm", str(root))
    finally:
        os.close(held)
    assert bench.run("rm", str(root)).returncode == 0
