"""CDI specifications: read strictly, in JSON and YAML alike; a device is found, or named with what there is."""

import json
import os

import pytest
import yaml

from fairlead import errors
from fairlead.host import cdi, hooks, owned

SPEC = {
    "cdiVersion": "0.7.0",
    "kind": "vendor.com/gpu",
    "annotations": {"made.by": "a test"},
    "devices": [
        {
            "name": "0",
            "containerEdits": {
                "deviceNodes": [
                    {"path": "/dev/gpu0", "hostPath": "/dev/vendor0", "type": "c", "major": 195}
                ]
            },
        },
        {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu1"}]}},
    ],
    "containerEdits": {
        "env": ["VENDOR=1"],
        "mounts": [
            {
                "hostPath": "/usr/lib/libv.so",
                "containerPath": "/usr/lib/libv.so",
                "options": ["ro"],
            }
        ],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": "/usr/bin/vhook",
                "args": ["vhook", "x"],
                "timeout": 5,
            }
        ],
        "additionalGids": [44],
    },
}


def spec(**changes):
    return json.loads(json.dumps(SPEC)) | changes


def parsed(table, name="v.json"):
    return cdi.parse(json.dumps(table).encode(), f"/etc/cdi/{name}")


def fault(table, name="v.json"):
    with pytest.raises(errors.DeviceError) as caught:
        cdi.parse(table if isinstance(table, bytes) else json.dumps(table).encode(), name)
    return caught.value.line()


def registry(*specs, directories=("/etc/cdi",)):
    return cdi.Registry(tuple(specs), (), directories)


def test_whole_specification():
    found = parsed(SPEC)
    assert (found.kind, [name for name, _ in found.devices]) == ("vendor.com/gpu", ["0", "1"])
    assert found.edits.env == ("VENDOR=1",)
    assert found.edits.gids == (44,)
    assert found.edits.mounts == (cdi.Mount("/usr/lib/libv.so", "/usr/lib/libv.so", "", ("ro",)),)
    assert found.edits.hooks == (
        hooks.Hook("createContainer", "/usr/bin/vhook", ("vhook", "x"), (), 5, "/etc/cdi/v.json"),
    )
    assert found.devices[0][1].nodes == (cdi.Node("/dev/gpu0", "/dev/vendor0", "c", 195),)
    assert found.devices[1][1].nodes == (cdi.Node("/dev/gpu1", "/dev/gpu1"),)


def test_yaml_means_the_same_as_json():
    text = yaml.safe_dump(SPEC).encode()
    assert cdi.parse(text, "v.yaml")._replace(path="") == parsed(SPEC)._replace(
        path="",
        edits=parsed(SPEC).edits._replace(
            hooks=tuple(h._replace(origin="v.yaml") for h in parsed(SPEC).edits.hooks)
        ),
    )


NODE = {"deviceNodes": [{"path": "/dev/x"}]}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (b"{", "is no JSON: Expecting property name"),
        (b'{"kind": "a.b/c", "kind": "a.b/c"}', "names 'kind' twice"),
        ([], "the file: is no object"),
        (spec(cdiVersion="9.0.0"), "cdiVersion: '9.0.0' is not one of 0.3, 0.4,"),
        (spec(cdiVersion=1.0), "cdiVersion: 1.0 is no string"),
        (spec(kind="gpu"), "kind: 'gpu' is not vendor.com/class"),
        (spec(kind="-a/b"), "kind: '-a/b' is not vendor.com/class"),
        (spec(colour=1), "colour: unknown field"),
        (spec(devices=[]), "devices: names no device"),
        (spec(devices=[{"name": "0"}]), "devices[0].containerEdits: missing"),
        (
            spec(devices=[{"name": "0", "containerEdits": NODE}] * 2),
            "devices: names '0' twice",
        ),
        (
            spec(devices=[{"name": "a b", "containerEdits": NODE}]),
            "devices[0].name: 'a b' is no device name",
        ),
        (spec(containerEdits={"env": ["X"]}), "containerEdits.env: 'X' is not NAME=VALUE"),
        (spec(containerEdits={"environ": []}), "containerEdits.environ: unknown field"),
        (
            spec(containerEdits={"mounts": [{"hostPath": "/x"}]}),
            "containerEdits.mounts[0].containerPath: missing",
        ),
        (
            spec(containerEdits={"mounts": [{"hostPath": "x", "containerPath": "/x"}]}),
            "containerEdits.mounts[0].hostPath: 'x' is no absolute path",
        ),
        (
            spec(containerEdits={"mounts": [{"hostPath": "/x", "containerPath": "/a/../x"}]}),
            "containerEdits.mounts[0].containerPath: '/a/../x' is no absolute path",
        ),
        (
            spec(containerEdits={"deviceNodes": [{"path": "/dev/x", "type": "d"}]}),
            "containerEdits.deviceNodes[0].type: 'd' is not one of c, b, u, p",
        ),
        (
            spec(containerEdits={"deviceNodes": [{"path": "/dev/x", "major": -1}]}),
            "containerEdits.deviceNodes[0].major: -1 is no number from 0 to 4294967295",
        ),
        (
            spec(containerEdits={"deviceNodes": [{"path": "/dev/x", "permissions": "rx"}]}),
            "containerEdits.deviceNodes[0].permissions: 'rx' is not of the letters r, w and m",
        ),
        (
            spec(containerEdits={"hooks": [{"hookName": "later", "path": "/x"}]}),
            "containerEdits.hooks[0].hookName: 'later' is not one of precreate, prestart,",
        ),
        (
            spec(cdiVersion="0.6.0"),
            "additionalGids: needs cdiVersion 0.7.0 or later",
        ),
        (
            spec(cdiVersion="0.4.0", containerEdits={}),
            "annotations: needs cdiVersion 0.6.0 or later",
        ),
    ],
)
def test_what_breaks_the_schema_is_refused_with_its_place(table, says):
    shown = fault(table)
    assert shown.startswith(f"error [device]: v.json: {says}")
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"kind: a.b/c\nkind: a.b/d\n", "names 'kind' twice"),
        (b"a: [", "is no YAML: "),
        (b"!!python/object/apply:os.system ['true']", "is no YAML: "),
        (b"cdiVersion: 1.0\nkind: a.b/c\ndevices: []\n", "cdiVersion: 1.0 is no string"),
        (b"- a\n", "the file: is no object"),
        (b"? [a, b]\n: c\n", "is no YAML: "),
    ],
)
def test_yaml_is_read_as_strictly(text, says):
    assert fault(text, "v.yaml").startswith(f"error [device]: v.yaml: {says}")


def test_kinds_own_part_comes_once_and_first():
    found = cdi.find(registry(parsed(SPEC)), ("vendor.com/gpu=0", "vendor.com/gpu=1"))
    assert [device.name for device in found] == ["vendor.com/gpu=0", "vendor.com/gpu=1"]
    assert [len(device.edits) for device in found] == [2, 1]
    assert found[0].edits[0].env == ("VENDOR=1",)


def test_all_is_every_device_of_the_kind_or_the_one_of_that_name():
    found = cdi.find(registry(parsed(SPEC)), ("vendor.com/gpu=all",))
    assert [device.name for device in found] == ["vendor.com/gpu=0", "vendor.com/gpu=1"]
    own = spec(devices=[*SPEC["devices"], {"name": "all", "containerEdits": NODE}])
    found = cdi.find(registry(parsed(own)), ("vendor.com/gpu=all",))
    assert [device.name for device in found] == ["vendor.com/gpu=all"]


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (
            "vendor.com/gpu=2",
            (
                "error [device]: vendor.com/gpu=2: no CDI specification in /etc/cdi has it "
                "(there are vendor.com/gpu=0, vendor.com/gpu=1)"
            ),
        ),
        (
            "vendr.com/gpu=0",
            (
                "error [device]: vendr.com/gpu=0: no CDI specification in /etc/cdi has it "
                "(there are vendor.com/gpu=0, vendor.com/gpu=1)"
            ),
        ),
        (
            "q.org/zzz=all",
            (
                "error [device]: q.org/zzz=all: no CDI specification in /etc/cdi has it "
                "(there are vendor.com/gpu=0, vendor.com/gpu=1)"
            ),
        ),
    ],
)
def test_unknown_device_is_told_with_what_there_is(wanted, line):
    with pytest.raises(errors.DeviceError) as caught:
        cdi.find(registry(parsed(SPEC)), (wanted,))
    assert caught.value.line() == line


def test_node_without_devices_says_so():
    with pytest.raises(errors.DeviceError) as caught:
        cdi.find(registry(), ("vendor.com/gpu=0",))
    assert caught.value.hint == "this node has no CDI devices"


def test_later_directory_wins_and_two_of_one_are_a_conflict():
    later = parsed(spec(containerEdits={"env": ["LATER=1"]}))._replace(rank=1, path="/run/v.json")
    found = cdi.find(registry(parsed(SPEC), later), ("vendor.com/gpu=0",))
    assert found[0].origin == "/run/v.json"
    with pytest.raises(errors.DeviceError) as caught:
        cdi.find(registry(parsed(SPEC), parsed(SPEC, "w.json")), ("vendor.com/gpu=0",))
    assert caught.value.line() == (
        "error [device]: vendor.com/gpu=0: /etc/cdi/v.json and /etc/cdi/w.json both have it "
        "(ask the administrator to remove one)"
    )


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("nvidia.com/gpu=all", True),
        ("nvidia.com/gpu=0:1", True),
        ("amd.com/gpu=GPU-1a_b.c", True),
        ("nvidia.com/gpu", False),
        ("/dev/x=1", False),
        ("nvidia.com/gpu=", False),
        ("nvidia.com/gpu=a b", False),
        ("nvidia.com/gpu=\n", False),
    ],
)
def test_names(text, is_name):
    assert cdi.is_name(text) is is_name


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "root"
    for name in ("", "etc", "etc/cdi", "run", "run/cdi"):
        (place / name).mkdir(mode=0o755)
        (place / name).chmod(0o755)
    return owned.Root(str(place), os.getuid())


def put(root, path, table):
    with open(root.path + path, "w") as file:
        file.write(table if isinstance(table, str) else json.dumps(table))
    os.chmod(root.path + path, 0o644)


def test_directories_are_read_and_faults_are_told_to_who_finds_nothing(root):
    put(root, "/etc/cdi/a.json", SPEC)
    put(root, "/etc/cdi/b.yaml", "kind: 3\n")
    put(root, "/etc/cdi/c.txt", "no specification")
    put(root, "/run/cdi/d.json", spec(kind="other.com/nic"))
    found = cdi.read(("/etc/cdi", "/run/cdi"), root)
    assert [(each.kind, each.rank) for each in found.specs] == [
        ("vendor.com/gpu", 0),
        ("other.com/nic", 1),
    ]
    assert cdi.find(found, ("other.com/nic=1",))
    with pytest.raises(errors.DeviceError) as caught:
        cdi.find(found, ("third.com/x=0",))
    assert "; not used: /etc/cdi/b.yaml: kind: 3 is no string (" in caught.value.line()


def test_specification_that_others_may_write_is_not_used(root):
    put(root, "/etc/cdi/a.json", SPEC)
    os.chmod(root.path + "/etc/cdi/a.json", 0o666)
    found = cdi.read(("/etc/cdi",), root)
    assert found.specs == ()
    assert found.faults == ("/etc/cdi/a.json: others than root may write to it (mode 0666)",)
