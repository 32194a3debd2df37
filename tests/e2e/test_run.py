"""``fairlead run`` and ``fairlead plan`` against a real registry, as an ordinary user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import images
import pytest
from ordinary import ENGINE, UID, User

APPLETS = ("sh", "echo", "cat", "env", "pwd", "id", "touch", "true", "sleep", "ls", "kill", "test")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    """An image of busybox with an entrypoint, a command and a working directory."""
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "bin/entry": images.program(b'#!/bin/sh\necho entry\nexec "$@"\n'),
        "srv/data": b"data of the image\n",
        "bin/data": b"no program",
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    config: dict[str, object] = {
        "Env": ["PATH=/bin", "FROM=image"],
        "Entrypoint": ["/bin/entry"],
        "Cmd": ["echo", "default command"],
        "WorkingDir": "/srv",
        "User": "nginx",
    }
    images.push(registry, "run/box", "1", images.image([images.layer(files)], config))
    return f"{registry}/run/box:1"


def test_entrypoint_and_command_of_the_image(user: User, image: str) -> None:
    assert user.run("run", image).stdout == "entry\ndefault command\n"
    assert user.run("run", image, "echo", "mine").stdout == "entry\nmine\n"
    assert user.run("run", "--entrypoint", "", image, "echo", "mine").stdout == "mine\n"
    assert user.run("run", "--entrypoint", "/bin/echo x", image, "y").stdout == "x y\n"


def test_options_after_the_image_belong_to_the_command(user: User, image: str) -> None:
    assert user.run("run", "--entrypoint", "", image, "--", "echo", "-e", "x").stdout == "x\n"
    assert user.run("run", "--entrypoint", "", image, "ls", "-d", "/srv").stdout == "/srv\n"


def test_user_of_the_image_is_ignored_with_a_word(user: User, image: str) -> None:
    result = user.run("run", image, "id", "-u")
    assert result.stdout == f"entry\n{UID}\n"
    assert "'nginx'" in result.stderr


@pytest.mark.parametrize("status", [0, 1, 42, 125])
def test_exit_status_is_the_commands(user: User, image: str, status: int) -> None:
    assert user.run("run", image, "sh", "-c", f"exit {status}").returncode == status


def test_missing_command_is_127_and_no_program_126(user: User, image: str) -> None:
    missing = user.run("run", "--entrypoint", "", image, "absent")
    assert missing.returncode == 127
    assert "error [command-not-found]: absent" in missing.stderr
    assert user.run("run", "--entrypoint", "", image, "/bin/data").returncode == 126


def test_variables_volumes_and_directory(user: User, image: str) -> None:
    os.makedirs(f"{user.place}/in")
    Path(f"{user.place}/in/file").write_text("from the host\n")
    shown = user.run(
        *("run", "--entrypoint", "", "-e", "A=1", "-e", "HOME", "-v", "in:/data:ro", "-w", "/data"),
        *(image, "sh", "-c", "echo $A $HOME $FROM; pwd; cat file; touch new || echo refused"),
    )
    assert shown.stdout == f"1 {user.place} image\n/data\nfrom the host\nrefused\n"


def test_mounts_and_variables_of_the_site(user: User, image: str) -> None:
    # Not below the directory that the command is started in: that shows it, and is refused, too.
    secret = f"{user.place}-secret"
    os.makedirs(secret)
    for name in ("site", "own"):
        os.makedirs(f"{user.place}/{name}")
        Path(f"{user.place}/{name}/file").write_text(f"{name}\n")
    file = Path(user.environ["FAIRLEAD_SITE_CONFIG"])
    file.write_text(
        f'site_mounts = ["{user.place}/site:/site:ro", "/nonexistent:/gone:nofail"]\n'
        'site_env = ["SITE=1", "PATH^=/site", "-DROPPED"]\n'
        f'forbidden_mounts = ["{secret}"]\n'
    )
    user.environ["DROPPED"] = "1"
    words = "cat /site/file /own/file; echo $SITE ${PATH%%:*} ${DROPPED-none}; echo > /site/x"
    done = user.run("run", "-v", f"{user.place}/own:/own", image, "sh", "-c", words)
    assert done.stdout == "entry\nsite\nown\n1 /site none\n"
    assert "Read-only file system" in done.stderr
    shown = user.run("plan", image, "true").stdout
    assert f"{file}: site_mounts" in shown
    assert f"{file}: site_env" in shown
    os.symlink(secret, f"{user.place}/link")
    done = user.run("run", "-v", f"{user.place}/link:/x", image, "true")
    assert (done.returncode, done.stderr) == (
        125,
        (
            f"fairlead: error [policy]: --volume: {user.place}/link: leads to {secret}, and "
            f"{file} forbids {secret} "
            "(use what the file named allows, or ask the administrator)\n"
        ),
    )
    file.write_text(f'forbidden_mounts = ["{user.place}/own"]\n')
    assert user.run("run", image, "true").stderr == (
        f"fairlead: error [policy]: {user.place}: {file} forbids {user.place}/own "
        "(start from another directory)\n"
    )
    os.rmdir(secret)
    file.write_text('locked = ["writable"]\n')
    done = user.run("run", "--read-only", image, "true")
    assert done.stderr == (
        f"fairlead: error [config]: command line: writable is locked by {file} (leave it out)\n"
    )


def test_env_files_are_read_as_podman_reads_them(user: User, image: str) -> None:
    Path(f"{user.place}/vars").write_text(
        '# A=comment\n\nA=1 # no comment\n  B="x y"\nHOME\nNOT_SET_ANYWHERE\nC=from file\r\n'
    )
    shown = user.run(
        *("run", "--entrypoint", "", "--env-file", "vars", "-e", "C=wins", image),
        *("sh", "-c", 'echo "$A|$B|$HOME|${NOT_SET_ANYWHERE-unset}|$C"'),
    )
    assert shown.stdout == f'1 # no comment|"x y"|{user.place}|unset|wins\n', shown.stderr


def test_tmpfs_is_empty_bounded_and_writable(user: User, image: str) -> None:
    shown = user.run(
        *("run", "--entrypoint", "", "--read-only", "--tmpfs", "/srv:size=1m,mode=700", image),
        *("sh", "-c", "ls -A /srv; echo x > /srv/new; cat /srv/new /proc/self/mountinfo"),
    )
    assert shown.stdout.startswith("x\n"), shown.stderr
    line = next(line for line in shown.stdout.splitlines() if line.split()[4:5] == ["/srv"])
    assert "nosuid,nodev" in line
    assert "size=1024k,mode=700" in line


def test_read_only_root(user: User, image: str) -> None:
    command = ("sh", "-c", "touch /srv/new && echo written")
    assert "written" in user.run("run", image, *command).stdout
    assert "Read-only" in user.run("run", "--read-only", image, *command).stderr


def test_stdin_is_the_commands(user: User, image: str) -> None:
    assert (
        user.run("run", "--entrypoint", "", image, "cat", stdin="through\n").stdout == "through\n"
    )


def test_process_becomes_the_command_and_takes_its_signals(user: User, image: str) -> None:
    pipe = subprocess.PIPE
    process = user.start(
        "run", "--entrypoint", "", image, "sh", "-c", "echo $$; exec sleep 60", stdout=pipe
    )
    assert process.stdout
    assert int(process.stdout.readline()) == process.pid
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
    assert time.monotonic() - begin < 2
    process.stdout.close()


def test_image_of_a_running_container_is_not_removed(user: User, image: str) -> None:
    words = ("run", "--entrypoint", "", image, "sh", "-c", "echo ready; read line; cat /srv/data")
    process = user.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == "ready\n"
    refused = user.run("rm", image)
    assert refused.returncode == 125
    assert f"is in use by process {process.pid}" in refused.stderr
    user.run("store", "gc", "--all")
    process.stdin.close()
    assert process.stdout.read() == "data of the image\n"
    process.stdout.close()
    assert process.wait() == 0
    assert user.run("rm", image).returncode == 0


def test_second_run_needs_no_registry(user: User, image: str) -> None:
    user.run("pull", "--quiet", image)
    host = image.split("/")[0]
    user.environ["FAIRLEAD_INSECURE_REGISTRIES"] = host
    user.environ["HTTP_PROXY"] = "http://127.0.0.1:9"
    result = user.run("run", image, "true")
    assert result.returncode == 0, result.stderr


def test_plan_shows_each_thing_with_its_reason(user: User, image: str) -> None:
    text = user.run("plan", image, "true").stdout
    assert f"image      {image}@sha256:" in text
    assert "mount      /proc <- /proc (rbind,strict): host's pid namespace" in text
    assert "variable   FROM=image: image" in text
    assert "workdir    /srv: the image's WorkingDir" in text


def test_plan_as_json_is_a_runtime_configuration(user: User, image: str) -> None:
    document = json.loads(user.run("plan", "--json", image, "true").stdout)
    assert document["config"]["process"]["args"] == ["/bin/entry", "true"]
    assert document["config"]["process"]["cwd"] == "/srv"
    destinations = [mount["destination"] for mount in document["config"]["mounts"]]
    assert set(destinations) <= set(document["reasons"]["mounts"])


def test_plan_starts_nothing(user: User, image: str) -> None:
    user.run("plan", image, "touch", f"{user.place}/started")
    assert not os.path.exists(f"{user.place}/started")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run",), "error [usage]"),
        (("run", "--mpi=both", "x"), "error [usage]"),
        (("run", "--volume", "a:b:c", "x"), "error [usage]: --volume a:b:c"),
        (("run", "--volume", "/a:/b/../c", "x"), "holds '..'"),
        (
            ("run", "--env-file", "absent", "x"),
            "error [usage]: --env-file absent: No such file or directory (check the path)",
        ),
        (
            ("run", "--env-file", "/proc/self/mounts", "x"),
            "sets no variable (write NAME=VALUE or NAME, one in a line)",
        ),
        (
            ("run", "--tmpfs", "/x:size=1m,uid=0", "x"),
            (
                "error [usage]: --tmpfs /x:size=1m,uid=0: option 'uid=0' is none of size=, nr_inodes=, "
                "mode= (write DIR[:size=1g,mode=700])"
            ),
        ),
        (
            ("run", "--tmpfs", "/proc/x", "x"),
            "error [usage]: --tmpfs: destination '/proc/x': cannot be replaced (choose another)",
        ),
        (("run", "--env", "NOT_SET_ANYWHERE", "x"), "error [usage]: --env NOT_SET_ANYWHERE"),
        (("run", "--workdir", "rel", "x"), "error [workdir]"),
        (("runn", "x"), "did you mean fairlead run?"),
        (("run", "Bad Ref"), "error [reference]"),
    ],
)
def test_bad_input_is_one_line_and_125(user: User, words: tuple[str, ...], text: str) -> None:
    result = user.run(*words)
    assert result.returncode == 125
    assert text in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_help_of_every_verb(user: User) -> None:
    shown = user.run("--help").stdout
    for verb in ("run", "pull", "images", "rm", "inspect", "plan"):
        assert f"  {verb} " in shown
        text = user.run(verb, "--help").stdout
        assert text.startswith(f"usage: fairlead {verb}")


def test_root_is_refused(image: str) -> None:
    environ = {**os.environ, "PYTHONPATH": ENGINE}
    command = [sys.executable, "-m", "fairlead.cli.main", "run", image, "true"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert result.returncode == 125
    assert "error [root]" in result.stderr
