"""``fairlead run --name``: what was written stays, one container at a time, for its owner alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
from ordinary import User

APPLETS = ("sh", "cat", "echo", "sleep", "env", "touch", "ls", "rm", "mkdir", "mv", "true")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "srv/data": b"data of the image\n",
        "srv/old": b"old\n",
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    config: dict[str, object] = {"Env": ["PATH=/bin", "FROM=image"], "WorkingDir": "/srv"}
    built = images.image([images.layer(files)], config)
    images.push(registry, "named/box", "1", built)
    images.push(registry, "named/box", "same", built)
    other = {**files, "srv/data": b"another\n"}
    images.push(registry, "named/other", "1", images.image([images.layer(other)], config))
    return f"{registry}/named/box:1"


def in_box(user: User, image: str, script: str, name: str = "box") -> tuple[int, str, str]:
    done = user.run("run", "--name", name, image, "sh", "-c", script)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def running(user: User, image: str) -> Iterator[subprocess.Popen[str]]:
    words = ("run", "--name", "box", image, "sh", "-c", "echo ready; exec sleep 99")
    process = user.start(*words, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_that_holds_more_than_it_may_is_not_taken_up_again(user: User, image: str) -> None:
    assert in_box(user, image, "cat /bin/busybox >big; cat big >bigger")[0] == 0
    user.environ["FAIRLEAD_NAMED_SIZE"] = "1M"
    status, out, told = in_box(user, image, "ls")
    assert (status, out) == (125, "")
    assert told.startswith("fairlead: error [no-space]: box: holds ")
    assert told.endswith(
        " MB, more than named_size (1M, by $FAIRLEAD_NAMED_SIZE) (fairlead commit keeps it as an "
        "image; make it anew with the mode create)\n"
    )
    user.environ["FAIRLEAD_NAMED_SIZE"] = "1G"
    assert in_box(user, image, "ls") == (0, "big\nbigger\ndata\nold\n", "")
    user.environ["FAIRLEAD_NAMED_SIZE"] = "1M"
    done = user.run("run", "--name", "box:create", image, "ls")
    assert (done.returncode, done.stdout) == (0, "data\nold\n")


def test_what_was_written_is_there_for_the_next_of_its_name(user: User, image: str) -> None:
    change = "echo new > data; rm old; mkdir dir; echo x > dir/file; echo y > /bin/tool"
    assert in_box(user, image, change) == (0, "", "")
    shown = in_box(user, image, "cat data dir/file /bin/tool; ls")
    assert shown == (0, "new\nx\ny\ndata\ndir\n", "")
    assert in_box(user, image, "cat data", "other") == (0, "data of the image\n", "")
    done = user.run("run", image, "cat", "data")
    assert done.stderr == ""
    assert done.stdout == "data of the image\n"


def test_create_makes_it_anew(user: User, image: str) -> None:
    in_box(user, image, "echo new > data")
    assert in_box(user, image, "cat data", "box:create")[1] == "data of the image\n"


def test_a_running_one_is_joined(user: User, image: str, running: subprocess.Popen[str]) -> None:
    assert in_box(user, image, "touch /srv/from-second")[0] == 0
    done = user.run("run", "--name", "box:exec", "-e", "A=1", image, "sh", "-c", "ls; echo $A")
    assert done.stdout == "data\nfrom-second\nold\n1\n"
    assert user.run("exec", "box", "ls", "/srv/from-second").returncode == 0
    (shown,) = json.loads(user.run("ps", "--json").stdout)
    assert (shown["name"], shown["pid"]) == ("0.box", running.pid)
    assert user.run("ps").stdout.splitlines()[1].split()[2] == "box"


@pytest.mark.parametrize("mode", ["no_exec", "create"])
def test_a_running_one_is_never_mounted_twice(
    user: User, image: str, running: subprocess.Popen[str], mode: str
) -> None:
    line = (
        f"box: runs already, as process {running.pid} "
        "(join it with fairlead exec, or the mode exec, or end it first)"
    )
    done = in_box(user, image, "true", f"box:{mode}")
    assert done == (125, "", f"fairlead: error [container]: {line}\n")
    assert in_box(user, image, "cat data")[1] == "data of the image\n"


def test_of_many_that_start_at_once_one_makes_it_and_the_others_join(
    user: User, image: str
) -> None:
    user.run("pull", "--quiet", image)
    script = "echo $$ >> /srv/all; sleep 3; cat /srv/all"
    words = ("run", "--name", "box", image, "sh", "-c", script)
    started = [user.start(*words, stdout=subprocess.PIPE) for _ in range(6)]
    pids = {str(process.pid) for process in started}
    for process in started:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert set(out.split()) <= pids
    assert set(in_box(user, image, "cat /srv/all")[1].split()) == pids


def test_exec_without_a_running_one_fails(user: User, image: str) -> None:
    line = f"box: does not run on {os.uname().nodename} (start it, or leave exec out)"
    assert in_box(user, image, "true", "box:exec") == (
        125,
        "",
        f"fairlead: error [container]: {line}\n",
    )


def test_another_image_is_refused_and_the_same_under_another_name_is_not(
    user: User, image: str
) -> None:
    in_box(user, image, "echo new > data")
    other = image.replace("box:1", "other:1")
    done = in_box(user, other, "cat data")
    line = (
        f"box: was made from {image}, not from {other} "
        "(make it anew with box:create, or choose another name)"
    )
    assert done == (125, "", f"fairlead: error [container]: {line}\n")
    digest = json.loads(user.run("inspect", image).stdout)["digest"]
    assert in_box(user, f"{image.rpartition(':')[0]}@{digest}", "cat data")[1] == "new\n"
    assert in_box(user, other, "cat data", "box:create")[1] == "another\n"


def test_a_tag_that_has_moved_leaves_the_container_on_its_image(
    user: User, image: str, registry: str
) -> None:
    name = f"{registry}/named/moving"
    busybox = {"bin/sh": images.program(Path("/bin/busybox").read_bytes()), "v": b"1\n"}
    images.push(registry, "named/moving", "1", images.image([images.layer(busybox)]))
    assert in_box(user, f"{name}:1", "read a < /v; echo $a; echo 3 > /w")[1] == "1\n"
    images.push(
        registry, "named/moving", "1", images.image([images.layer({**busybox, "v": b"2\n"})])
    )
    user.run("pull", "--quiet", f"{name}:1")
    assert in_box(user, f"{name}:1", "read a < /v; read b < /w; echo $a $b")[1] == "1 3\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("../x", "--name: '../x' is not a name (letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first)"),
        ("a/b", "--name: 'a/b' is not a name (letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first)"),
        ("a\nb", "--name: 'a\\nb' is not a name (letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first)"),
        ("a:b", "--name: 'b' is not one of auto, create, exec, no_exec (write NAME[:MODE])"),
    ],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(user: User, name: str, line: str) -> None:
    done = user.run("run", "--name", name, "x", "true")
    assert (done.returncode, done.stderr) == (125, f"fairlead: error [usage]: {line}\n")


def test_others_cannot_reach_what_is_kept(user: User, image: str) -> None:
    in_box(user, image, "echo secret > /srv/secret")
    path = f"{user.place}/store/containers/0.box/upper/srv/secret"
    assert Path(path).read_text() == "secret\n"
    peek = ["setpriv", "--reuid=23499", "--clear-groups", "cat", path]
    refused = subprocess.run(peek, capture_output=True, text=True)
    assert "Permission denied" in refused.stderr


def test_image_of_a_kept_container_is_not_removed_until_the_container_is(
    user: User, image: str
) -> None:
    in_box(user, image, "echo new > data")
    refused = user.run("rm", image)
    assert refused.returncode == 125
    assert (
        "is in use by the container 0.box (remove that with fairlead rm --container)"
        in refused.stderr
    )
    user.run("store", "gc", "--all")
    assert in_box(user, image, "cat data")[1] == "new\n"
    (item,) = [
        i for i in json.loads(user.run("store", "ls", "--json").stdout) if i["kind"] == "container"
    ]
    assert (item["name"], item["in_use_by"]) == ("0.box", "its name")
    assert user.run("rm", "--container", "box").stdout == "0.box\n"
    assert os.listdir(f"{user.place}/store/containers") == []
    assert user.run("rm", image).returncode == 0


def test_a_running_one_is_not_removed(
    user: User, image: str, running: subprocess.Popen[str]
) -> None:
    line = f"box: runs, as process {running.pid} (end it first)"
    done = user.run("rm", "--container", "box")
    assert (done.returncode, done.stderr) == (125, f"fairlead: error [busy]: {line}\n")
    missing = user.run("rm", "--container", "absent").stderr
    where = f"there is no container of this name on {os.uname().nodename}"
    hint = "make one with fairlead run --name or srun --container-name"
    assert missing == f"fairlead: error [container]: absent: {where} ({hint})\n"


def test_one_that_was_killed_on_its_way_is_taken_up(user: User, image: str) -> None:
    in_box(user, image, "echo new > data")
    process = user.start("run", "--name", "box", image, "sleep", "99")
    time.sleep(0.15)  # anywhere in the launch
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert in_box(user, image, "cat data")[1] == "new\n"
    assert user.run("store", "check").returncode == 0


@pytest.mark.parametrize("answer", ["echo 5", "exit 1"], ids=["answers", "silent"])
def test_what_an_ended_job_left_goes_with_the_garbage_if_slurm_says_so(
    user: User, image: str, answer: str
) -> None:
    in_box(user, image, "echo new > data")
    kept = Path(user.place) / "store/containers"
    for key in ("4.box", "5.box"):
        subprocess.run(["cp", "-a", kept / "0.box", kept / key], check=True)
    squeue = Path(user.place) / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\n{answer}\n")
    squeue.chmod(0o755)
    user.environ |= {"PATH": f"{squeue.parent}:{user.environ['PATH']}", "SLURM_CONF": "/dev/null"}
    assert user.run("store", "gc").returncode == 0
    ended = [] if answer == "echo 5" else ["4.box"]
    assert sorted(os.listdir(kept)) == ["0.box", *ended, "5.box"]
    # So does the next launch under a name, of another job or of none.
    in_box(user, image, "true")
    assert sorted(os.listdir(kept)) == ["0.box", *ended, "5.box"]
