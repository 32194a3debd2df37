"""Stores that a real podman has written: what Fairlead makes of an image is what podman mounts."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ordinary import GID, UID, User
from podman_store import SUBORDINATE, Podman
from tree_listing import listing


@pytest.fixture(scope="module", params=["overlay", "vfs"])
def driver(request):
    return request.param


def podman_of(driver, *, rootless):
    if os.geteuid() != 0 or shutil.which("podman") is None:
        pytest.skip("starts as root, with podman")
    place = Path(tempfile.mkdtemp(prefix="fairlead-podman-", dir="/var/tmp"))
    place.chmod(0o755)
    return Podman(place, driver, rootless=rootless)


def ended(podman):
    podman.end()
    # By root: its files belong to subordinate ids.
    subprocess.run(["rm", "-rf", "--one-file-system", str(podman.place)], check=True)


@pytest.fixture(scope="module", params=["root", "rootless"])
def podman(request, driver):
    made = podman_of(driver, rootless=request.param == "rootless")
    made.rich = made.build("rich:1")
    yield made
    ended(made)


def seen(podman, name):
    """Return the tree that Fairlead makes of an image."""
    assert podman.fairlead("rm", "--all").returncode == 0
    done = podman.fairlead("pull", "-q", name)
    assert done.returncode == 0, done.stderr
    (tree,) = (podman.place / "store/trees").glob("*/rootfs")
    found = listing(os.fsencode(tree))
    del found[""]
    return found


def without_privileges(tree):
    """Podman's tree as a user's container may have it: no set-id bits, devices, capabilities."""
    expected = {}
    for path, (kind, mode, mtime, content, xattrs, *names) in tree.items():
        kept = {name: value for name, value in xattrs.items() if name.startswith("user.")}
        if path:  # of the root itself no layer of these tells
            expected[path] = [kind, mode & 0o1777, mtime, content, kept, *names]
    return expected


def test_every_step_of_a_build_is_the_tree_that_podman_mounts(podman):
    steps = podman.steps(podman.rich)
    assert len(steps) >= 7
    for step in steps:
        theirs = without_privileges(podman.tree(step))
        ours = seen(podman, f"containers-storage:{step}")
        assert set(ours) == set(theirs)
        assert {
            path: (ours[path], theirs[path]) for path in ours if ours[path] != theirs[path]
        } == {}
    assert stat.S_IFMT(ours["d/whole"][0]) == stat.S_IFLNK
    assert ours["d/noted"][4] == {"user.note": b"kept".hex()}


def test_image_runs_and_podmans_store_stays_as_it_is(podman):
    before = listing(os.fsencode(podman.graph))
    if not podman.rootless:
        done = podman.fairlead("run", "containers-storage:rich:1")
        assert "containers do not run as root" in done.stderr
        return
    assert podman.fairlead("run", "containers-storage:rich:1").stdout == "1\nmore\n"
    script = "echo $FROM; id -u; cat /d/sym; echo x >/d/keep/a && rm -r /d/there && ls /d/there"
    done = podman.fairlead("run", "containers-storage:rich:1", "sh", "-c", script)
    assert done.stdout == f"podman\n{UID}\n1\nmore\n", done.stderr
    assert "/d/there" in done.stderr
    assert listing(os.fsencode(podman.graph)) == before


def test_pulled_tagged_and_renamed_images_are_the_same_image(podman, registry):
    name = f"{registry}/team/box"
    podman.podman("push", "--quiet", "--tls-verify=false", "rich:1", f"docker://{name}:1")
    podman.podman("pull", "--quiet", "--tls-verify=false", f"{name}:1")
    podman.podman("tag", f"{name}:1", "renamed", "localhost/team/second:2")
    podman.call(
        *("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"),
        *(f"docker://{name}:1", "containers-storage:localhost/skopeo:1"),
    )
    wanted = without_privileges(podman.tree(f"{name}:1"))
    names = (f"{name}:1", "renamed", "team/second:2", "skopeo:1", f"@{podman.rich}")
    printed = set()
    for one in names:
        assert seen(podman, f"containers-storage:{one}") == wanted
        printed.add(
            podman.fairlead("pull", "-q", f"containers-storage:{one}").stdout.split("@")[-1]
        )
    assert len(printed) == 1, printed
    # What pull prints is found again under its tag, and means this content for good.
    pinned = podman.fairlead("pull", "-q", f"containers-storage:{name}:1").stdout.strip()
    assert seen(podman, pinned) == wanted
    digest = podman.podman("image", "inspect", "--format", "{{.Digest}}", f"{name}:1")
    assert (
        f"that digest is the registry's; name it containers-storage:{podman.rich}"
        in podman.line(f"containers-storage:{name}@{digest}")
    )


def test_changed_tag_is_noticed_at_once(podman):
    podman.build("moving:1", "FROM scratch\nCOPY busybox /one\n")
    assert "one" in seen(podman, "containers-storage:moving:1")
    podman.build("moving:1", "FROM scratch\nCOPY busybox /two\n")
    assert "two" in seen(podman, "containers-storage:moving:1")


# -- what is refused -------------------------------------------------------------------------------


def test_nearest_names_are_told(podman):
    line = podman.line("containers-storage:rihc:1")
    assert "docker.io/library/rihc:1: podman's store has no such image (it has " in line
    assert line.endswith("see podman images)")
    assert "localhost/rich:1" in line


def held(path):
    """Take the lock that podman takes while it writes."""
    lock = open(path, "r+b")  # noqa: SIM115 - the caller's to close
    fcntl.lockf(lock, fcntl.LOCK_EX)
    return lock


def test_store_that_is_being_written_is_read_all_the_same(podman, driver):
    assert podman.fairlead("rm", "--all").returncode == 0
    paths = [podman.graph / f"{driver}-{kind}/{kind}.lock" for kind in ("images", "layers")]
    locks = [held(path) for path in paths]
    try:
        done = podman.fairlead("pull", "-q", "containers-storage:rich:1")
        assert done.returncode == 0, done.stderr
    finally:
        for lock in locks:
            lock.close()


def test_image_that_is_removed_while_it_is_read_is_whole_or_one_line(podman):
    whole = 0
    for number in range(6):
        podman.build("going:1", "FROM localhost/rich:1\nRUN echo come >/come\n")
        assert podman.fairlead("rm", "--all").returncode == 0
        pull = podman.start(
            sys.executable, "-m", "fairlead.cli.main", "pull", "-q", "containers-storage:going:1"
        )
        if number == 0:  # the others race
            pull.wait(timeout=60)
        podman.podman("rmi", "--force", "going:1")
        _, text = pull.communicate(timeout=60)
        if pull.returncode == 0:
            (tree,) = (podman.place / "store/trees").glob("*/rootfs")
            assert (tree / "come").read_text() == "come\n"
            whole += 1
        else:
            assert text.count("\n") == 1, text
            assert "[archive]" in text or "[image-not-found]" in text, text
            assert list((podman.place / "store/trees").iterdir()) == []
    assert whole
    assert podman.fairlead("store", "check").returncode == 0


def test_store_of_another_user_is_one_line(podman, user: User):
    if not podman.rootless:
        podman.graph.chmod(0o700)
    conf = Path(user.place) / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{podman.graph}"\n')
    user.environ["CONTAINERS_STORAGE_CONF"] = str(conf)
    if podman.rootless:  # it is this uid's; so another's asks
        os.chown(podman.graph, SUBORDINATE, SUBORDINATE)
    try:
        done = user.run("pull", "-q", "containers-storage:rich:1")
    finally:
        if podman.rootless:
            os.chown(podman.graph, UID, GID)
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "-images/images.json: Permission denied (check its owner and permissions)" in done.stderr


def test_file_of_a_subordinate_uid_has_a_way_out(driver):
    podman = podman_of(driver, rootless=True)
    try:
        podman.build("s:1", "FROM scratch\nCOPY --chown=33:33 --chmod=600 busybox /secret\n")
        line = podman.line("containers-storage:s:1")
        assert "/secret: Permission denied (copy the image with podman save --format=oci-" in line
        archive = podman.place / "run/s.tar"
        podman.podman("save", "--quiet", "--format=oci-archive", "-o", str(archive), "s:1")
        assert list(seen(podman, f"oci-archive:{archive}")) == ["secret"]
    finally:
        ended(podman)


def cut(path, size=None):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if size is None else size])


DAMAGES = {
    "images": lambda p, d, top: cut(p.graph / f"{d}-images/images.json"),
    "layers": lambda p, d, top: cut(p.graph / f"{d}-layers/layers.json"),
    "no layers": lambda p, d, top: (p.graph / f"{d}-layers/layers.json").write_text("[]"),
    "manifest": lambda p, d, top: cut(next((p.graph / f"{d}-images").glob("*/manifest"))),
    "no manifest": lambda p, d, top: next((p.graph / f"{d}-images").glob("*/manifest")).unlink(),
    "configuration": lambda p, d, top: [
        cut(f, 20) for f in (p.graph / f"{d}-images").glob("*/=c2hh*")
    ],
    "split": lambda p, d, top: cut(p.graph / f"{d}-layers/{top.name}.tar-split.gz"),
    "no split": lambda p, d, top: (p.graph / f"{d}-layers/{top.name}.tar-split.gz").unlink(),
    "no diff": lambda p, d, top: shutil.rmtree(top),
    "file": lambda p, d, top: cut(next(top.rglob("busybox"))),
    "no file": lambda p, d, top: next(top.rglob("busybox")).unlink(),
    "other file": lambda p, d, top: next(top.rglob("busybox")).write_bytes(b"x" * 2_000_000),
}


@pytest.fixture(scope="module")
def plain(driver):
    """A store with an image of one layer, to be copied and damaged."""
    podman = podman_of(driver, rootless=False)
    podman.build("one:1", "FROM scratch\nCOPY busybox /busybox\n")
    yield podman
    ended(podman)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_store_is_one_line(plain, driver, damage):
    whole, kept = plain.graph, plain.graph.with_name("kept")
    subprocess.run(["cp", "-a", whole, kept], check=True)
    try:
        (top,) = (path.parent for path in whole.rglob("busybox"))
        top = top.parent if top.name == "diff" else top
        DAMAGES[damage](plain, driver, top)
        line = plain.line("containers-storage:one:1")
        assert line.startswith("fairlead: error ["), line
        assert str(whole) in line or "localhost/one:1" in line or "one:1" in line, line
        assert list((plain.place / "store/trees").iterdir()) == []
    finally:
        shutil.rmtree(whole)
        kept.rename(whole)
