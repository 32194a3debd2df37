"""``fairlead ps`` and ``fairlead exec``: found without a daemon, joined by their owner alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
from ordinary import GID, UID, User

from fairlead.host import running

APPLETS = ("sh", "cat", "echo", "id", "pwd", "sleep", "env", "touch", "ls", "grep")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "srv/data": b"data of the image\n",
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    config: dict[str, object] = {"Env": ["PATH=/bin", "FROM=image"], "WorkingDir": "/srv"}
    images.push(registry, "ps/box", "1", images.image([images.layer(files)], config))
    return f"{registry}/ps/box:1"


@pytest.fixture
def container(user: User, image: str) -> Iterator[subprocess.Popen[str]]:
    """A container whose process says when it is up."""
    words = ("run", "-e", "MINE=1", image, "sh", "-c", "touch /bin/new; echo ready; exec sleep 99")
    process = user.start(*words, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_runs_is_listed_and_what_has_ended_is_not(
    user: User, image: str, container: subprocess.Popen[str]
) -> None:
    (found,) = json.loads(user.run("ps", "--json").stdout)
    assert found["pid"] == container.pid
    assert found["image"].startswith(f"{image}@sha256:")
    assert (found["name"], found["job"], found["step"]) == ("", "", "")
    assert found["processes"] == 1
    assert abs(time.time() - time.mktime(time.strptime(found["since"], "%Y-%m-%dT%H:%M:%SZ"))) < 600
    header, line = user.run("ps").stdout.splitlines()
    assert header.split() == ["PID", "IMAGE", "NAME", "JOB.STEP", "PROCESSES", "SINCE"]
    assert line.split()[:2] == [
        str(container.pid),
        found["image"].partition("@")[0] + "@" + found["image"].partition("@sha256:")[2][:12],
    ]
    container.kill()
    container.wait()
    assert user.run("ps", "--json").stdout == "[]\n"


def test_a_command_joins_with_the_containers_files_environment_and_directory(
    user: User, container: subprocess.Popen[str]
) -> None:
    script = "pwd; ls /bin/new; echo $FROM $MINE $OWN; id -u; grep -E 'NoNewP|CapB|CapE' /proc/self/status"
    done = user.run("exec", "-e", "OWN=2", str(container.pid), "sh", "-c", script)
    lines = done.stdout.splitlines()
    assert lines[:4] == ["/srv", "/bin/new", "image 1 2", str(UID)], done.stderr
    empty = "0" * 16
    assert lines[4:] == [f"CapEff:\t{empty}", f"CapBnd:\t{empty}", "NoNewPrivs:\t1"]
    assert user.run("exec", str(container.pid), "sh", "-c", "exit 42").returncode == 42
    assert user.run("exec", "-w", "/bin", str(container.pid), "pwd").stdout == "/bin\n"


def test_descriptors_of_the_host_do_not_reach_the_command(
    user: User, container: subprocess.Popen[str]
) -> None:
    shown = user.run("exec", str(container.pid), "sh", "-c", "ls /proc/self/fd").stdout.split()
    assert set(shown) <= {"0", "1", "2", "3"}  # 3: ls's own, of the directory


def test_errors_are_one_line(user: User, container: subprocess.Popen[str]) -> None:
    pid = str(container.pid)
    for words, line, status in (
        (("absent", "true"), "error [container]: 'absent': no container of yours runs here under this name or number (see fairlead ps, on the node where it runs)", 125),
        (("1", "true"), "error [container]: '1': no container of yours runs here under this name or number (see fairlead ps, on the node where it runs)", 125),
        ((pid,), "error [usage]: exec: no command (name one after the container)", 125),
        ((pid, "nothere"), "error [command-not-found]: nothere: not found in the container (check the spelling and the image's PATH)", 127),
        (("-w", "/absent", pid, "pwd"), "error [workdir]: /absent: No such file or directory (choose another with --container-workdir (or fairlead run --workdir))", 125),
        (("-w", "/proc/self/fd", pid, "pwd"), "error [workdir]: /proc/self/fd: /proc, /sys and /dev cannot be a working directory (choose another with --container-workdir (or fairlead run --workdir))", 125),
    ):  # fmt: skip
        done = user.run("exec", *words)
        assert (done.returncode, done.stderr) == (status, f"fairlead: {line}\n")


def test_several_containers_of_a_step_are_named(user: User, image: str) -> None:
    user.environ |= {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "3"}
    words = ("run", image, "sh", "-c", "echo ready; exec sleep 99")
    first = user.start(*words, stdout=subprocess.PIPE)
    assert first.stdout
    first.stdout.readline()
    assert user.run("exec", "77.3", "echo", "joined").stdout == "joined\n"
    second = user.start(*words, stdout=subprocess.PIPE)
    assert second.stdout
    second.stdout.readline()
    refused = user.run("exec", "77.3", "true").stderr
    pids = f"{first.pid}, {second.pid}"
    line = f"'77.3': means several containers, of the processes {pids} (name one by its PID)"
    assert refused == f"fairlead: error [container]: {line}\n"
    for process in (first, second):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_another_users_container_is_neither_listed_nor_joined(
    user: User, container: subprocess.Popen[str]
) -> None:
    other = ["setpriv", "--reuid=23499", f"--regid={GID}", "--clear-groups"]
    command = [*other, *("env", *(f"{k}={v}" for k, v in user.environ.items()))]
    command += ["FAIRLEAD_STORE=/nonexistent", sys.executable, "-m", "fairlead.cli.main"]
    listed = subprocess.run([*command, "ps", "--json"], capture_output=True, text=True)
    assert (listed.stdout, listed.stderr) == ("[]\n", "")
    pid = str(container.pid)
    joined = subprocess.run([*command, "exec", pid, "true"], capture_output=True, text=True)
    assert joined.returncode == 125
    assert joined.stderr.startswith(f"fairlead: error [container]: '{pid}': no container of yours")
    # Nor by who knows the number: the kernel does not open the namespaces.
    peek = f"import os; os.open('/proc/{pid}/ns/mnt', os.O_RDONLY)"
    refused = subprocess.run([*other, sys.executable, "-c", peek], capture_output=True, text=True)
    assert "PermissionError" in refused.stderr


def test_a_number_that_has_become_another_process_is_not_joined(
    user: User, container: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = running.Running(container.pid, "x", "", "", "", 0.0, 1, namespace=1)
    with pytest.raises(running.errors.ContainerError) as caught:
        running.open_process(stale)
    assert caught.value.message == f"process {container.pid}: is another one by now"
    container.kill()
    container.wait()
    with pytest.raises(running.errors.ContainerError, match="cannot be joined: No such"):
        running.open_process(stale)


def test_root_joins_nothing(user: User, container: subprocess.Popen[str]) -> None:
    command = [sys.executable, "-m", "fairlead.cli.main", "exec", str(container.pid), "true"]
    done = subprocess.run(command, env=user.environ, capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr.startswith("fairlead: error [root]: containers do not run as root")
