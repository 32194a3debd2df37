"""Environment files before real images: run, plan, pull, check and render, as an ordinary user."""

from __future__ import annotations

import json
import os
from pathlib import Path

import images
import local_images
import pytest
from ordinary import User

APPLETS = ("sh", "echo", "cat", "env", "pwd", "touch", "ls")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    """An image of busybox with an entrypoint, variables and a working directory."""
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "bin/entry": images.program(b'#!/bin/sh\necho entry\nexec "$@"\n'),
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    config: dict[str, object] = {
        "Env": ["PATH=/bin", "FROM=image", "GONE=image"],
        "Entrypoint": ["/bin/entry"],
        "Cmd": ["echo", "default command"],
        "WorkingDir": "/bin",
    }
    images.push(registry, "edf/box", "1", images.image([images.layer(files)], config))
    return f"{registry}/edf/box:1"


@pytest.fixture
def place(user: User) -> Path:
    """The user's home, with a directory of environment files and one of data."""
    os.makedirs(f"{user.place}/.edf")
    os.makedirs(f"{user.place}/data")
    Path(f"{user.place}/data/file").write_text("from the host\n")
    user.environ["FROM_HOST"] = "host"
    return Path(user.place)


SHOW = ("sh", "-c", "echo $A-$B-${GONE-unset}-$FROM; pwd; cat /data/file; touch /new || echo no")
FILE = """\
base_environment = "base"
workdir = "/data"
writable = false
mounts = ["${{HOME}}/data:/data:ro"]
[env]
A = "${{FROM}}:${{FROM_HOST}}"
GONE = ""
"""


def write(place: Path, image: str) -> None:
    (place / ".edf/base.toml").write_text(f'image = "{image}"\n[env]\nA = "base"\nB = "base"\n')
    (place / ".edf/x.toml").write_text(FILE.format())


@pytest.mark.parametrize(
    "words",
    [("edf:x",), ("--environment", "x"), ("--edf=x.toml",), (".edf/x.toml",), ("edf:./.edf/x",)],
)
def test_every_way_to_name_the_file(
    user: User, place: Path, image: str, words: tuple[str, ...]
) -> None:
    write(place, image)
    shown = user.run("run", *words, *SHOW)
    assert shown.stdout == "image:host-base-unset-image\n/data\nfrom the host\nno\n", shown.stderr
    assert shown.stderr == "touch: /new: Read-only file system\n"


def test_command_line_beats_the_file(user: User, place: Path, image: str) -> None:
    write(place, image)
    options = ("-e", "A=mine", "-w", "/", "-v", "data:/other", "--entrypoint", "/bin/entry")
    shown = user.run("run", *options, "edf:x", *SHOW)
    assert shown.stdout == "entry\nmine-base-unset-image\n/\nfrom the host\nno\n"
    user.environ["FAIRLEAD_WRITABLE"] = "1"
    assert "no\n" not in user.run("run", "edf:x", *SHOW).stdout


def test_entrypoint_runs_where_the_file_says_so(user: User, place: Path, image: str) -> None:
    (place / "x.toml").write_text(f'image = "{image}"\nentrypoint = true\n')
    assert user.run("run", "x.toml").stdout == "entry\ndefault command\n"
    (place / "x.toml").write_text(f'image = "{image}"\n')
    assert user.run("run", "x.toml", "echo", "mine").stdout == "mine\n"


def test_squashfs_is_mounted_read_only(user: User, place: Path, image: str) -> None:
    local_images.mksquashfs(place / "data", place / "data.sqsh")
    (place / "x.toml").write_text(f'image = "{image}"\nmounts = ["./data.sqsh:/sq:sqsh"]\n')
    for _ in range(2):
        shown = user.run("run", "x.toml", "sh", "-c", "cat /sq/file; touch /sq/new || echo no")
        assert shown.stdout == "from the host\nno\n", shown.stderr
    (place / "x.toml").write_text(f'image = "{image}"\nmounts = ["./data/file:/sq:sqsh"]\n')
    assert user.run("run", "x.toml", "true").stderr.endswith(
        f"fairlead: error [mount]: {place}/x.toml:2: {place}/data/file: is no squashfs file "
        "(leave the flag sqsh out)\n"
    )
    (place / "x.toml").write_text(f'image = "{image}"\nmounts = ["./none.sqsh:/sq:sqsh"]\n')
    missing = user.run("run", "x.toml", "true")
    assert missing.returncode == 125
    assert missing.stderr == (
        f"fairlead: error [mount]: {place}/x.toml:2: {place}/none.sqsh: No such file or directory "
        "(check that the path exists and that you may read it)\n"
    )


def test_launch_names_the_line_of_a_malformed_device(user: User, place: Path, image: str) -> None:
    (place / "x.toml").write_text(f'image = "{image}"\ndevices = ["null"]\n')
    done = user.run("run", "x.toml", "true")
    assert done.returncode == 125
    assert done.stderr == (
        f"fairlead: error [edf]: {place}/x.toml:2: device 'null': neither HOST[:CONTAINER][:rwm] nor "
        "vendor.com/class=name (write e.g. /dev/fuse or nvidia.com/gpu=0)\n"
    )


def test_plan_names_the_lines_of_the_file(user: User, place: Path, image: str) -> None:
    write(place, image)
    shown = user.run("plan", "edf:x", "true").stdout
    file, base = f"{place}/.edf/x.toml", f"{place}/.edf/base.toml"
    assert f"mount      /data <- {place}/data (rbind,ro): asked for by {file}:4\n" in shown
    assert f"variable   A=image:host: asked for by {file}:6\n" in shown
    assert f"variable   unset GONE: asked for by {file}:7\n" in shown
    assert f"variable   B=base: asked for by {base}:4\n" in shown


def test_verbs_about_images_take_the_files_image(user: User, place: Path, image: str) -> None:
    write(place, image)
    assert user.run("pull", "-q", "edf:x").stdout.startswith(image.removesuffix(":1"))
    assert image in user.run("inspect", ".edf/x.toml").stdout


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('imagee = "x"', "1: unknown key 'imagee' (did you mean image?)"),
        ('image = "A"', "1: image: A: the name's component 'A' must be lower case (write it as [REGISTRY/]NAME[:TAG][@sha256:...] or as a path)"),
        ('image = "a"\nmounts = ["/a:/proc"]', "2: destination '/proc': cannot be replaced (choose another)"),
        ('image = "a"\nmounts = ["/a:"]', "2: '/a:' has no destination (write SRC[:DST[:FLAG+FLAG]],...)"),
        ('image = "a"\ndevices = ["null"]', "2: device 'null': neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name (write e.g. /dev/fuse or nvidia.com/gpu=0)"),
        ('image = "a"\nworkdir = "/proc/1"', "2: /proc/1: /proc, /sys and /dev cannot be a working directory (choose another with --container-workdir (or fairlead run --workdir))"),
        ('image = "a"\n[annotations]\ncom.hooks.mpi.enabled = "x"', "3: annotation com.hooks.mpi.enabled: 'x' is neither true nor false (write \"true\" or \"false\")"),
    ],
)  # fmt: skip
def test_check_finds_what_a_launch_would(user: User, place: Path, text: str, line: str) -> None:
    (place / "x.toml").write_text(text)
    found = user.run("edf", "check", "./x.toml")
    assert found.returncode == 1
    assert f"fairlead: error [edf]: {place}/x.toml:{line}\n" in found.stderr
    if "image:" not in line:
        refused = user.run("run", "x.toml", "true")
        assert refused.returncode == 125
        assert line.split(": ")[-1] in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_check_of_a_good_file_is_silent_but_for_what_nothing_does(
    user: User, place: Path, image: str
) -> None:
    write(place, image)
    assert user.run("edf", "check", "x").stderr == (
        f"fairlead: {place}/.edf/x.toml:6: env.A: FROM must come from the image or the job\n"
    )
    (place / "y.toml").write_text('image = "a"\n[annotations]\ncom.hooks.ssh.enabled = "true"\n')
    checked = user.run("edf", "check", "./y.toml")
    assert (checked.returncode, checked.stdout) == (0, "")
    assert checked.stderr == (
        "fairlead: nothing acts on these annotations but a hook of the site: "
        f"com.hooks.ssh.enabled ({place}/y.toml:3)\n"
    )


def test_missing_file_and_missing_action(user: User, place: Path) -> None:
    for words in (("edf", "check", "none"), ("run", "edf:none", "true"), ("plan", "edf:none")):
        missing = user.run(*words)
        assert missing.returncode == 125
        assert missing.stderr == (
            f"fairlead: error [edf]: none: no such environment file in {place}/.edf "
            "(set EDF_PATH, or write the path)\n"
        )


def test_rendered_file_means_the_same(user: User, place: Path, image: str) -> None:
    write(place, image)
    (place / "once.toml").write_text(user.run("edf", "render", "x").stdout)
    assert "base_environment" not in (place / "once.toml").read_text()
    before = user.run("run", "edf:x", *SHOW).stdout
    assert user.run("run", "once.toml", *SHOW).stdout == before
    shown = json.loads(user.run("edf", "render", "--json", "x").stdout)
    assert shown["workdir"] == {"value": "/data", "origin": f"{place}/.edf/x.toml:2"}
    assert shown["env"]["B"] == {"value": "base", "origin": f"{place}/.edf/base.toml:4"}


def test_options_of_sarus(user: User, place: Path, image: str) -> None:
    mount = "type=bind,source=./data,destination=/data,readonly"
    words = ("--mount", mount, "--glibc", "--init", "--pid=host", "-t", "-w", "/data", "-e", "A=1")
    shown = user.run(
        *("run", *words, "--entrypoint", "", "--mount", "type=tmpfs,dst=/cache", image),
        *(
            "sh",
            "-c",
            "pwd; cat file; echo $A; touch /data/x || echo no; touch /cache/x && echo yes",
        ),
    )
    assert shown.stdout == "/data\nfrom the host\n1\nno\nyes\n", shown.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--ssh",),
            "--ssh: nothing listens in a container (use srun --overlap, or fairlead exec)",
        ),
        (("--pid=private",), "--pid=private: ranks need the host's pid namespace (leave it out)"),
        (
            ("--mount", "type=bind,source=/a"),
            "--mount type=bind,source=/a: has no destination (write type=bind,source=SRC,destination=DST[,readonly])",
        ),
    ],
)
def test_what_sarus_has_and_cannot_be_had(
    user: User, image: str, words: tuple[str, ...], line: str
) -> None:
    refused = user.run("run", *words, image, "true")
    assert (refused.returncode, refused.stderr) == (125, f"fairlead: error [usage]: {line}\n")


def test_type_of_mpi_that_this_host_lacks(user: User, image: str) -> None:
    refused = user.run("run", "--mpi-type", "none-of-that-name", image, "true")
    assert refused.returncode == 125
    start = "fairlead: error [config]: command line: mpi_profile = 'none-of-that-name': "
    assert refused.stderr.startswith(f"{start}no MPI installation of this host has that name")
