"""``fairlead bundle``: what it writes is run by the runtimes that others wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import images
import pytest
from ordinary import GID, UID, User

APPLETS = ("sh", "cat", "id", "pwd", "touch", "ls", "stat", "grep")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    """Two layers, with a whiteout, a hard link and a program that its owner cannot read."""
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "srv/old": b"removed above\n",
        "srv/data": b"data\n",
        "bin/text": b"of the image\n",
        "srv/same": images.hardlink("srv/data"),
        "srv/unread": images.Entry(b"#!/bin/sh\n", 0o111),
        "etc/passwd": images.symlink("../srv/data"),
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    layers = [images.layer(files), images.layer({"srv/.wh.old": b""})]
    config: dict[str, object] = {"Env": ["PATH=/bin", "FROM=image"], "WorkingDir": "/srv"}
    images.push(registry, "bundle/box", "1", images.image(layers, config))
    return f"{registry}/bundle/box:1"


SCRIPT = (
    "id -u; pwd; ls; echo $FROM $MINE; touch new; touch /bin/new; cat in/file; cat /etc/passwd;"
    "stat -c %h same; grep NoNewPrivs /proc/self/status; ls /dev | grep -c sd; echo done"
)


USER = ("setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups")
# This crun refuses machines with both kinds of cgroups, whether it is to use them or not.
HIDDEN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs t /sys/fs/cgroup && exec "$@"', "sh")
RUNTIMES = ((*HIDDEN, *USER, "crun", "--cgroup-manager=disabled"), (*USER, "runc"))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=["crun", "runc"])
def test_a_bundle_is_run_rootless(user: User, image: str, runtime: tuple[str, ...]) -> None:
    os.makedirs(f"{user.place}/in")
    Path(f"{user.place}/in/file").write_text("from the host\n")
    made = user.run(
        *("bundle", "-v", "in:/srv/in:ro", "-e", "MINE=1", image, "box", "sh", "-c", SCRIPT)
    )
    assert (made.returncode, made.stdout) == (0, f"{user.place}/box\n"), made.stderr
    run = f"{user.place}/run"
    os.makedirs(run)
    os.chown(run, UID, GID)
    done = subprocess.run(
        [*runtime, "run", "-b", "box", "box"],
        cwd=user.place,
        env={"XDG_RUNTIME_DIR": run, "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert lines[:5] == ["0", "/srv", "data", "in", "same"], done.stderr
    assert lines[5:8] == ["unread", "image 1", "from the host"]
    assert any(line.startswith(f"user{UID}:x:{UID}:{GID}:") for line in lines)
    assert lines[-4:] == ["2", "NoNewPrivs:\t1", "0", "done"]
    assert os.path.exists(f"{user.place}/box/rootfs/bin/new")
    # Where passwd was a link, the file that it led to is as it was.
    assert Path(f"{user.place}/box/rootfs/srv/data").read_text() == "data\n"
    assert done.returncode == 0


def test_the_store_is_not_what_a_bundle_writes_to(user: User, image: str) -> None:
    user.run("bundle", image, "box", "sh")
    Path(f"{user.place}/box/rootfs/bin/text").write_text("changed\n")
    assert user.run("run", image, "cat", "/bin/text").stdout == "of the image\n"
    assert user.run("store", "check").returncode == 0


def test_configuration_holds_no_word_that_only_we_know(user: User, image: str) -> None:
    user.run("bundle", image, "box", "sh")
    table = json.loads(Path(f"{user.place}/box/config.json").read_text())
    assert table["root"] == {"path": "rootfs", "readonly": False}
    assert "hostname" not in table
    words = {option for mount in table["mounts"] for option in mount["options"]}
    assert not words & {"optional", "strict", "dev"}
    assert {mount["source"] for mount in table["mounts"]}.isdisjoint({"/dev/null", "/dev/tty"})


@pytest.mark.parametrize(
    ("directory", "why"), [("in", "File exists"), ("absent/x", "No such file or directory")]
)
def test_a_directory_that_cannot_be_made_is_refused(
    user: User, image: str, directory: str, why: str
) -> None:
    os.makedirs(f"{user.place}/in")
    refused = user.run("bundle", image, directory, "sh")
    line = f"{user.place}/{directory}: {why} (name a directory that does not exist yet)"
    assert (refused.returncode, refused.stderr) == (125, f"fairlead: error [usage]: {line}\n")


def test_a_failure_leaves_nothing(user: User, registry: str) -> None:
    refused = user.run("bundle", f"{registry}/bundle/absent:1", "box", "sh")
    assert refused.stderr.startswith("fairlead: error [image-not-found]: ")
    assert not os.path.exists(f"{user.place}/box")
