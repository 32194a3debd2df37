"""Devices that were asked for: what a user may have is bound, everything else is refused by name."""

import json
import os

import gpu_forge
import plans
import pytest

from fairlead import config, errors, kernel
from fairlead.host import cdi
from fairlead.host import devices as nodes
from fairlead.plan import devices, edits, env, pyxis
from fairlead.plan import plan as launch_plan
from fairlead.run import block
from fairlead.run import devices as run_devices

NULL = nodes.Node("/dev/null", "c", 1, 3, readable=True, writable=True)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("/dev/x", ("/dev/x", "/dev/x", "")),
        ("/dev/x:/dev/y", ("/dev/x", "/dev/y", "")),
        ("/dev/x:rw", ("/dev/x", "/dev/x", "rw")),
        ("/dev/x:/dev/d/y:rwm", ("/dev/x", "/dev/d/y", "rwm")),
    ],
)
def test_forms_of_a_device(text, asked):
    assert devices.parse(text) == asked


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "/dev/x:q",
            (
                "error [usage]: device '/dev/x:q': neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name"
                " (write e.g. /dev/fuse or nvidia.com/gpu=0)"
            ),
        ),
        (
            "nvidia.com/gpu",
            (
                "error [usage]: device 'nvidia.com/gpu': neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name"
                " (write e.g. /dev/fuse or nvidia.com/gpu=0)"
            ),
        ),
        (
            "/dev/x:/etc/y",
            "error [usage]: device '/dev/x:/etc/y': /etc/y is not below /dev (write HOST:/dev/NAME)",
        ),
        (
            "/dev/x:/dev/../etc",
            "error [usage]: device '/dev/x:/dev/../etc': /dev/../etc is not below /dev (write HOST:/dev/NAME)",
        ),
        (
            "/dev/x\n:/dev/y",
            "error [usage]: device '/dev/x\\\\n': too long, or holds a control character (choose another path)",
        ),
    ],
)
def test_other_forms_are_refused(text, line):
    with pytest.raises(errors.UsageError) as caught:
        devices.parse(text)
    assert caught.value.line() == line.replace("\\\\n", "\\n")


@pytest.mark.parametrize(
    "text", ["/dev/x:", "/dev/x::rw", "/dev/x:/dev/y:rw:rw", "", ":", "/dev/x:/dev"]
)
def test_more_forms_that_are_none(text):
    with pytest.raises(errors.UsageError):
        devices.parse(text)


@pytest.mark.parametrize(
    ("change", "permissions", "says"),
    [
        ({"kind": ""}, "", "/dev/null: is no device (why)"),
        (
            {"readable": False, "writable": False},
            "",
            "/dev/null: you may not open it (why)",
        ),
        ({"writable": False}, "rw", "/dev/null: you may not read and write it (why)"),
        ({"writable": False}, "w", "/dev/null: you may not write it (why)"),
        (
            {},
            "r",
            "/dev/null: you may read and write it, which a container cannot narrow to 'r' (why)",
        ),
        (
            {"readable": False},
            "none",
            "/dev/null: you may write it, which a container cannot narrow to 'none' (why)",
        ),
        (
            {},
            "wm",
            "/dev/null: you may read and write it, which a container cannot narrow to 'wm' (why)",
        ),
    ],
)
def test_node_that_the_user_cannot_have_so_is_refused(change, permissions, says):
    with pytest.raises(errors.DeviceError) as caught:
        devices.mount(NULL._replace(**change), "/dev/null", permissions, "why")
    assert caught.value.message == says


def test_node_without_rights_can_be_shown_where_the_user_has_none():
    node = NULL._replace(readable=False, writable=False)
    assert devices.mount(node, "/dev/x", "none", "why").destination == "/dev/x"


def test_read_only_device_can_be_asked_for_as_such():
    node = NULL._replace(writable=False)
    assert devices.mount(node, "/dev/x", "r", "why").options == ("1:3",)


def test_block_device_is_told_to_c_as_one():
    mount = devices.mount(NULL._replace(kind="b"), "/dev/x", "", "why")
    assert mount.options == ("1:3", "block")
    plan = launch_plan.make(
        plans.source(),
        plans.request(),
        plans.FACTS,
        launch_plan.Injection(),
        edits.Edits(mounts=(mount,)),
    )
    data = block.compile_plan(plan)
    cursor = kernel.ffi.new("struct block_cursor *")
    assert b"block\0" in data
    assert kernel.lib.block_open(cursor, data, len(data)) == 0


@pytest.mark.parametrize(
    ("given", "mount"),
    [
        (("", ("ro", "nosuid", "nodev", "bind")), ("bind", ("ro",))),
        (("bind", ("rbind", "rprivate", "noexec")), ("bind", ("rbind", "noexec"))),
        (("tmpfs", ("size=1m", "mode=0700", "nosuid")), ("tmpfs", ("size=1m", "mode=0700"))),
    ],
)
def test_mounts_of_a_specification(given, mount):
    made = devices.cdi_mount(cdi.Mount("/a", "/b", *given), "why")
    assert (made.type, made.options) == mount


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("ext4", ()), "mount of type 'ext4' at /b (why)"),
        (("", ("shared",)), "mount option 'shared' at /b cannot be had (why)"),
        (("tmpfs", ("huge=always",)), "mount option 'huge=always' at /b cannot be had (why)"),
    ],
)
def test_mounts_that_nobody_can_have_are_refused(given, says):
    with pytest.raises(errors.DeviceError) as caught:
        devices.cdi_mount(cdi.Mount("/a", "/b", *given), "why")
    assert caught.value.message == says


def registry(**given):
    table = {
        "cdiVersion": "1.1.0",
        "kind": "v.com/d",
        "devices": [{"name": "0", "containerEdits": given}],
    }
    return cdi.Registry(
        (cdi.parse(json.dumps(table).encode(), "/etc/cdi/v.json"),), (), ("/etc/cdi",)
    )


def refused(**given):
    with pytest.raises(errors.DeviceError) as caught:
        run_devices.by_name(registry(**given), ("v.com/d=0",))
    return caught.value.message


def test_everything_of_a_device_reaches_the_plan():
    found = run_devices.by_name(
        registry(
            deviceNodes=[{"path": "/dev/inside", "hostPath": "/dev/null", "type": "u", "minor": 3}],
            env=["V=1", "PATH=/v/bin"],
            mounts=[{"hostPath": "/usr", "containerPath": "/v", "options": ["ro", "rbind"]}],
            hooks=[{"hookName": "createContainer", "path": "/usr/bin/true"}],
            additionalGids=[os.getgid(), 0],
        ),
        ("v.com/d=0", "v.com/d=0"),
    )
    plan = launch_plan.make(
        plans.source(), plans.request(), plans.FACTS, launch_plan.Injection(), found
    )
    mounts = {mount.destination: mount for mount in plan.mounts}
    assert mounts["/dev/inside"].source == "/dev/null"
    assert mounts["/dev/inside"].reason == "v.com/d=0, /etc/cdi/v.json"
    assert mounts["/v"].options == ("rbind", "ro")
    assert env.value(plan.variables, "V") == "1"
    assert env.value(plan.variables, "PATH") == "/v/bin"
    assert [hook.path for hook in plan.hooks] == ["/usr/bin/true"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"intelRdt": {"closID": "x"}}, "v.com/d=0: intelRdt takes root (/etc/cdi/v.json)"),
        ({"netDevices": [{"name": "x"}]}, "v.com/d=0: netDevices takes root (/etc/cdi/v.json)"),
        (
            {"additionalGids": [4000000000]},
            "v.com/d=0: wants group 4000000000, which you are not in (/etc/cdi/v.json)",
        ),
        (
            {"deviceNodes": [{"path": "/dev/nosuch"}]},
            "/dev/nosuch: No such file or directory (v.com/d=0, /etc/cdi/v.json)",
        ),
        (
            {"deviceNodes": [{"path": "/dev/null", "major": 9}]},
            "/dev/null: is c 1:3, not c 9:* (v.com/d=0, /etc/cdi/v.json)",
        ),
        (
            {"deviceNodes": [{"path": "/dev/null", "type": "b"}]},
            "/dev/null: is c 1:3, not b *:* (v.com/d=0, /etc/cdi/v.json)",
        ),
        (
            {"deviceNodes": [{"path": "/dev/null", "type": "p"}]},
            "/dev/null: a FIFO is no device (v.com/d=0, /etc/cdi/v.json)",
        ),
        (
            {"deviceNodes": [{"path": "/dev/null", "permissions": "r"}]},
            (
                "/dev/null: you may read and write it, which a container cannot narrow to 'r' "
                "(v.com/d=0, /etc/cdi/v.json)"
            ),
        ),
    ],
)
def test_what_a_device_wants_and_cannot_have_is_an_error(given, says):
    assert refused(**given) == says


def test_all_leaves_out_the_nodes_of_other_jobs(monkeypatch):
    """As ``access`` tells of a node that the job's device cgroup denies."""
    look = nodes.look

    def shut(path):
        return (
            look(path)._replace(readable=False, writable=False)
            if path == "/dev/zero"
            else look(path)
        )

    monkeypatch.setattr(nodes, "look", shut)
    given = registry(deviceNodes=[{"path": "/dev/null"}, {"path": "/dev/zero"}])
    found = run_devices.by_name(given, ("v.com/d=all",))
    assert [mount.destination for mount in found.mounts] == ["/dev/null"]
    assert found.notes == ("v.com/d=0: without /dev/zero, which you may not open",)
    with pytest.raises(errors.DeviceError, match="you may not open it"):
        run_devices.by_name(given, ("v.com/d=0",))


def test_device_asked_for_twice_is_bound_once():
    settings = config.load({"HOME": "/nowhere"}, site_file="/nonexistent")
    request = plans.request(devices=("/dev/null:/dev/a", "/dev/null:/dev/a", "/dev/zero:/dev/a"))
    made = run_devices.edits(request, settings)
    assert [(mount.source, mount.destination) for mount in made.mounts] == [("/dev/zero", "/dev/a")]


def test_directory_stands_for_its_devices(tmp_path, monkeypatch):
    """As podman has it for /dev/dri; links and what the user may not open are left out."""
    root = str(tmp_path)
    for path, rights in (("card0", "rw"), ("render/D128", "rw"), ("secret", "")):
        gpu_forge.node(root, f"/dri/{path}", 226, 0, rights)
    os.symlink("card0", f"{root}/dri/by-path")
    monkeypatch.setattr(nodes, "look", gpu_forge.look)
    settings = config.load({"HOME": "/nowhere"}, site_file="/nonexistent")
    request = plans.request(devices=(f"{root}/dri:/dev/dri/",))
    made = run_devices.edits(request, settings)
    assert [mount.destination for mount in made.mounts] == [
        "/dev/dri/card0",
        "/dev/dri/render/D128",
    ]
    os.mkdir(f"{root}/empty")
    with pytest.raises(errors.DeviceError) as caught:
        run_devices.edits(plans.request(devices=(f"{root}/empty:/dev/x",)), settings)
    assert caught.value.message == f"{root}/empty: holds no device that you may open"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/dev/nosuch", "/dev/nosuch: No such file or directory"),
        ("/etc/passwd:/dev/x", "/etc/passwd: is no device (asked for by its path)"),
    ],
)
def test_path_that_is_no_device_is_refused(text, says):
    settings = config.load({"HOME": "/nowhere"}, site_file="/nonexistent")
    with pytest.raises(errors.DeviceError) as caught:
        run_devices.edits(plans.request(devices=(text,)), settings)
    assert caught.value.message == says


def test_directories_are_the_sites_to_name(tmp_path):
    (tmp_path / "fairlead").mkdir()
    own = tmp_path / "fairlead/fairlead.toml"
    for key in ("cdi_dirs", "hooks_dirs"):
        own.write_text(f'{key} = ["/tmp/mine"]\n')
        with pytest.raises(errors.ConfigError) as caught:
            config.load({"XDG_CONFIG_HOME": str(tmp_path)}, site_file="/etc/fairlead/x.toml")
        assert caught.value.line() == (
            f"error [config]: {own}: {key} is the administrator's to set "
            "(it belongs into /etc/fairlead/x.toml)"
        )


def test_mount_of_a_device_is_a_device():
    """A mount would be ``nodev`` and, of a directory, hide the devices that are there anyway."""
    words = "/dev/infiniband,/dev/fuse:/dev/other:ro,/dev/shm,/dev/pts:/dev/pts,/dev/null:/null,/dev/none:/dev/none:nofail,tmpfs:/dev/t,/data"
    asked = plans.request(volumes=pyxis.mounts(words, "/"), devices=("/dev/kfd",))
    made = devices.of_volumes(asked)
    assert made.devices == ("/dev/kfd", "/dev/infiniband:/dev/infiniband", "/dev/fuse:/dev/other")
    assert [volume.destination for volume in made.volumes] == [
        *("/dev/shm", "/dev/pts", "/null", "/dev/none", "/dev/t", "/data")
    ]
