"""``--device``: a path or a CDI name, as an ordinary user, with specifications that root wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary import User
from site_directory import Site, box, site_directory


@pytest.fixture
def site(user: User) -> Iterator[Site]:
    with site_directory() as made:
        user.environ["FAIRLEAD_SITE_CONFIG"] = str(made.place / "fairlead.toml")
        yield made


@pytest.fixture
def image(user: User) -> str:
    return box(user)


def line(user: User, *words: str) -> str:
    done = user.run("run", *words)
    assert done.returncode == 125, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def test_device_is_there_under_its_name_and_can_be_used(user: User, site: Site, image: str) -> None:
    done = user.run(
        *("run", "--device", "/dev/zero:/dev/vendor/nought:rw", "--device=/dev/full"),
        *(image, "sh", "-c", "head -c 3 /dev/vendor/nought | cat -v; ls /dev; echo x >/dev/full"),
    )
    assert done.stdout.startswith("^@^@^@")
    assert {"vendor", "full", "null"} <= set(done.stdout[9:].split())
    assert "No space left" in done.stderr


def test_devices_that_were_not_asked_for_are_not_there(user: User, site: Site, image: str) -> None:
    shown = user.run("run", image, "ls", "/dev").stdout.split()
    assert {"null", "zero"} <= set(shown)
    assert not {"fuse", "mem", "kmsg", "loop0"} & set(shown)


def test_path_that_cannot_be_had_is_refused_by_name(user: User, site: Site, image: str) -> None:
    assert line(user, "--device", "/dev/nosuch", image, "true") == (
        "fairlead: error [device]: /dev/nosuch: No such file or directory "
        "(check the name, and that the job was given the device)"
    )
    assert line(user, "--device", "/etc/passwd:/dev/x", image, "true") == (
        "fairlead: error [device]: /etc/passwd: is no device (asked for by its path) "
        "(check the name, and that the job was given the device)"
    )
    assert line(user, "--device", "/dev/null:r", image, "true") == (
        "fairlead: error [device]: /dev/null: you may read and write it, which a container cannot "
        "narrow to 'r' (asked for by its path) (ask for rw)"
    )
    node = f"{user.place}/node"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 1))
    assert line(user, "--device", f"{node}:/dev/mem", image, "true") == (
        f"fairlead: error [device]: {node}: you may not open it (asked for by its path) "
        "(check its owner and mode, and that the job was given the device)"
    )


@pytest.mark.parametrize("name", ["thing.json", "thing.yaml"])
def test_whole_cdi_device(user: User, site: Site, image: str, name: str) -> None:
    given = site.file("bin/library", "of the vendor\n")
    root = 'import json,os; print(json.load(open("config.json"))["root"]["path"])'
    script = f"cat >/dev/null\necho ran >$(/usr/bin/python3 -c '{root}')/hooked\n"
    hook = site.file("bin/hook", f"#!/bin/sh\n{script}", 0o755)
    site.cdi(
        name,
        env=["VENDOR_THING=one"],
        deviceNodes=[{"path": "/dev/thing0", "hostPath": "/dev/zero", "type": "c", "major": 1}],
        mounts=[
            {
                "hostPath": str(given),
                "containerPath": "/usr/lib/vendor/library",
                "options": ["ro", "nosuid", "nodev", "bind", "noexec"],
            }
        ],
        hooks=[{"hookName": "createContainer", "path": str(hook), "env": ["PATH=/usr/bin:/bin"]}],
    )
    done = user.run(
        *("run", "--device", "vendor.com/thing=one", image, "sh", "-c"),
        "echo $VENDOR_THING; cat /usr/lib/vendor/library /hooked; head -c 1 /dev/thing0 | cat -v; "
        "grep -o ' /usr/lib/vendor/library r[^ ]*' /proc/self/mountinfo",
    )
    assert done.stderr == ""
    assert done.stdout == (
        "one\nof the vendor\nran\n^@ /usr/lib/vendor/library ro,nosuid,nodev,noexec,relatime\n"
    )


def test_plan_tells_why_a_device_is_there(user: User, site: Site, image: str) -> None:
    path = site.cdi("t.json", deviceNodes=[{"path": "/dev/zero"}], env=["A=b"])
    shown = user.run("plan", "--device", "vendor.com/thing=all", image, "true").stdout
    assert f"mount      /dev/zero <- /dev/zero: vendor.com/thing=one, {path}\n" in shown
    assert f"variable   A=b: vendor.com/thing=one, {path}\n" in shown


def test_unknown_cdi_device_is_told_with_what_there_is(user: User, site: Site, image: str) -> None:
    site.cdi("t.json", deviceNodes=[{"path": "/dev/zero"}])
    assert line(user, "--device", "vendor.com/thing=two", image, "true") == (
        f"fairlead: error [device]: vendor.com/thing=two: no CDI specification in {site.place}/cdi "
        "has it (there are vendor.com/thing=one)"
    )


def test_faulty_specification_is_told_to_who_finds_no_device(
    user: User, site: Site, image: str
) -> None:
    path = site.cdi("t.yaml", nodes=[])
    assert line(user, "--device", "vendor.com/thing=one", image, "true") == (
        f"fairlead: error [device]: vendor.com/thing=one: no CDI specification in {site.place}/cdi "
        f"has it; not used: {path}: devices[0].containerEdits.nodes: unknown field "
        "(this node has no CDI devices)"
    )


def test_specification_that_others_may_write_is_not_used(
    user: User, site: Site, image: str
) -> None:
    path = site.cdi("t.json", deviceNodes=[{"path": "/dev/zero"}])
    path.chmod(0o666)
    assert f"not used: {path}: others than root may write to it (mode 0666) (" in line(
        user, "--device", "vendor.com/thing=one", image, "true"
    )
    path.chmod(0o644)
    Path(site.place / "cdi").chmod(0o777)
    assert f"not used: {site.place}/cdi: others than root may write to it (mode 0777) (" in line(
        user, "--device", "vendor.com/thing=one", image, "true"
    )


def test_launch_with_devices_is_not_kept(user: User, site: Site, image: str) -> None:
    """What a specification says may be another at the next launch."""
    site.cdi("t.json", env=["A=1"])
    words = ("run", "--device", "vendor.com/thing=one", image, "sh", "-c", "echo $A")
    assert user.run(*words).stdout == "1\n"
    site.cdi("t.json", env=["A=2"])
    assert user.run(*words).stdout == "2\n"
