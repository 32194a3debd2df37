"""Each subject of ``fairlead doctor``, judged on nodes that are made up here."""

import pytest

from fairlead import config as settings
from fairlead.host import cdi, devices, diagnosis, gpu, hooks
from fairlead.host.probe import Line, Place, Probe

GB = 10**9
STORE = Place("/var/tmp/f", True, 1000, 0o700, "ext4", 50 * GB, 100 * GB)
SITE = Place("/var/lib/fairlead", True, 990, 0o700, "xfs", 50 * GB, 100 * GB)
LINE = Line("/etc/p.conf", "/opt/f/spank_fairlead.so", ("site=/var/lib/fairlead",), there=True)
GOOD = Probe(
    uid=1000,
    release="6.12.3-amd64",
    userns="",
    overlay="",
    sysctls=(("/proc/sys/user/max_user_namespaces", "1000"),),
    filesystems=frozenset({"erofs", "ext4", "overlay"}),
    loop=True,
    mke2fs="/usr/sbin/mke2fs",
    unsquashfs="/usr/bin/unsquashfs",
    store=STORE,
    site=SITE,
    slurm_conf="/etc/slurm/slurm.conf",
    line=LINE,
)


def judged(judge, **changes):
    found = judge(GOOD._replace(**changes))
    return found.verdict, found.found, found.remedy


def test_good_node_has_nothing_but_ok():
    assert {item.verdict for item in diagnosis.of_node(GOOD)} == {"ok"}


def test_every_warning_and_failure_says_what_to_do():
    nodes = [
        GOOD._replace(release="4.18.0", userns="no", overlay="untried", filesystems=frozenset()),
        GOOD._replace(line=None, site=None, store=STORE._replace(uid=0)),
        GOOD._replace(line=LINE._replace(there=False), site=SITE._replace(exists=False)),
        GOOD._replace(overlay="no", store=STORE._replace(filesystem="nfs4")),
    ]
    found = [item for node in nodes for item in diagnosis.of_node(node) if item.verdict != "ok"]
    assert len(found) > 10
    assert all(item.remedy and item.found for item in found)


def test_kernel_that_is_too_old():
    assert judged(diagnosis.kernel, release="5.11.22")[0] == "fail"
    assert judged(diagnosis.kernel, release="5.12.0")[0] == "ok"


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("user/max_user_namespaces", "0", "set user.max_user_namespaces=15000 (it is 0)"),
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "set kernel.unprivileged_userns_clone=1 (it is 0)",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "set kernel.apparmor_restrict_unprivileged_userns=0 (it is 1)",
        ),
    ],
)
def test_refused_namespace_names_the_setting_that_refuses(path, value, remedy):
    sysctls = ((f"/proc/sys/{path}", value), ("/proc/sys/kernel/other", "3"))
    found = judged(diagnosis.userns, userns="userns: Operation not permitted", sysctls=sysctls)
    assert found == ("fail", "userns: Operation not permitted", remedy)


def test_settings_that_allow_are_not_blamed():
    found = judged(diagnosis.userns, userns="userns: Operation not permitted")
    assert found[2] == "allow unprivileged user namespaces"


def test_overlay():
    assert judged(diagnosis.overlay, overlay="overlay: Invalid argument")[0] == "fail"
    assert judged(diagnosis.overlay, overlay="untried")[0] == "warn"


@pytest.mark.parametrize(
    ("release", "filesystems", "loop", "way"),
    [
        ("6.12.0", {"erofs"}, False, "file"),
        ("6.11.9", {"erofs"}, True, "loop"),
        ("6.11.9", {"erofs"}, False, ""),
        ("5.18.0", {"erofs"}, True, ""),
        ("6.12.0", set(), True, ""),
    ],
)
def test_way_of_erofs(release, filesystems, loop, way):
    node = GOOD._replace(release=release, filesystems=frozenset(filesystems), loop=loop)
    assert diagnosis.erofs_way(node) == way
    assert diagnosis.erofs(node).verdict == ("ok" if way else "warn")
    expected = f"site: EROFS by {way}; user" if way else "user: tree (the kernel cannot mount"
    assert diagnosis.mode(node).found.startswith(expected)


def test_what_only_root_could_try_is_said_to_be_untried():
    assert "only root could try it" in diagnosis.erofs(GOOD).found


def test_node_without_a_shared_store_needs_no_erofs():
    assert judged(diagnosis.erofs, filesystems=frozenset(), site=None)[0] == "ok"


def test_files_of_other_tools():
    assert judged(diagnosis.squashfs)[0] == "ok"
    assert judged(diagnosis.squashfs, unsquashfs="")[0] == "warn"


def test_plugin():
    assert judged(diagnosis.plugin)[1] == (
        "/opt/f/spank_fairlead.so site=/var/lib/fairlead (/etc/p.conf)"
    )
    assert judged(diagnosis.plugin, line=None)[0] == "warn"
    assert judged(diagnosis.plugin, line=None, slurm_conf="")[0] == "ok"
    assert judged(diagnosis.plugin, line=LINE._replace(there=False))[0] == "fail"


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, "ok", "/var/tmp/f on ext4, 50.0 of 100.0 GB free"),
        ({"exists": False, "uid": -1, "mode": 0}, "ok", "made by the first launch"),
        ({"uid": 7}, "fail", "belongs to uid 7, not to you (1000)"),
        ({"mode": 0o777}, "fail", "others may write there (mode 0777)"),
        ({"problem": "Permission denied"}, "fail", "/var/tmp/f: Permission denied"),
        ({"filesystem": "lustre"}, "warn", "should be node-local"),
        ({"free": GB}, "warn", "1.0 of 100.0 GB free"),
    ],
)
def test_own_store(changes, verdict, words):
    found = judged(diagnosis.own_store, store=STORE._replace(**changes))
    assert found[0] == verdict
    assert words in found[1]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "ok"),
        ({"exists": False}, "fail"),
        ({"uid": 0}, "fail"),
        ({"mode": 0o755}, "fail"),
        ({"filesystem": "nfs"}, "warn"),
    ],
)
def test_shared_store(changes, verdict):
    node = GOOD._replace(site=SITE._replace(**changes))
    assert diagnosis.site_store(node).verdict == verdict
    assert (diagnosis.mode(node).found.startswith("user: tree")) == (verdict == "fail")


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, "ok", "possible, at most 50% of what is free"),
        ({"line": LINE._replace(arguments=("site=/x", "upper_max=20G"))}, "ok", "at most 20G"),
        ({"line": LINE._replace(arguments=("site=/x", "upper_max=0"))}, "ok", "allows none"),
        ({"line": LINE._replace(arguments=("site=/x", "upper_max=big"))}, "fail", "is no size"),
        ({"site": None}, "ok", "no: only the shared store's broker can limit it"),
        ({"site": SITE._replace(mode=0o755)}, "warn", "no: the shared store is not usable"),
        ({"site": SITE._replace(free=1 << 20)}, "warn", "too little"),
        ({"loop": False}, "warn", "no loop devices"),
        ({"filesystems": frozenset({"erofs"})}, "warn", "no ext4"),
        ({"mke2fs": ""}, "warn", "mke2fs is not installed"),
    ],
)
def test_disk_to_write_to(changes, verdict, words):
    found = judged(diagnosis.upper, **changes)
    assert found[0] == verdict
    assert words in found[1]


def test_mode_of_a_node_without_plugin_or_store():
    assert judged(diagnosis.mode, line=None)[1] == "user: tree (no plugin)"
    assert "has no site=DIRECTORY" in judged(diagnosis.mode, site=None)[1]


def test_registries_without_tls_are_named_with_their_origin():
    environ = {"FAIRLEAD_INSECURE_REGISTRIES": "10.0.0.1:5000 127.0.0.1:5000"}
    found = diagnosis.registry(settings.load(environ, site_file="/nonexistent"))
    assert found.verdict == "warn"
    assert "without TLS: 10.0.0.1:5000 ($FAIRLEAD_INSECURE_REGISTRIES)" in found.found
    environ = {"FAIRLEAD_INSECURE_REGISTRIES": "127.0.0.1:5000"}
    assert diagnosis.registry(settings.load(environ, site_file="/nonexistent")).verdict == "ok"


def test_mpi_of_the_host():
    assert diagnosis.mpi(("OpenMPI 4.1.4",)).found == "OpenMPI 4.1.4"
    assert "none found" in diagnosis.mpi(()).found


DRIVER = gpu.Nvidia("550.1", (gpu.Library("/l", ("l",)),), (), (), (), ())
CARD = devices.Node("/dev/dri/renderD128", "c", 226, 128, readable=True, writable=True)


@pytest.mark.parametrize(
    ("nvidia", "nodes", "verdict", "found"),
    [
        (None, (), "ok", "none that you may open"),
        (None, (CARD,), "ok", "/dev/dri/renderD128"),
        (DRIVER, (), "ok", "NVIDIA driver 550.1, 0 of its GPUs yours"),
        (
            DRIVER._replace(libraries=()),
            (),
            "warn",
            "NVIDIA driver 550.1, 0 of its GPUs yours; no library of this version",
        ),
    ],
)
def test_gpus(nvidia, nodes, verdict, found):
    item = diagnosis.gpus(nvidia, gpu.Render(nodes, ()))
    assert (item.verdict, item.found) == (verdict, found)


def test_cdi_devices_and_what_is_not_used():
    spec = cdi.Spec("/etc/cdi/a.json", 0, "v.com/d", cdi.Edits(), (("0", cdi.Edits()),))
    assert diagnosis.cdi(cdi.Registry(())).found == "no devices"
    assert diagnosis.cdi(cdi.Registry((spec,))).found == "v.com/d=0"
    faulty = diagnosis.cdi(cdi.Registry((spec,), ("/etc/cdi/b.json: is no JSON",)))
    assert (faulty.verdict, faulty.found) == (
        "warn",
        "v.com/d=0; not used: /etc/cdi/b.json: is no JSON",
    )


def test_hooks_of_the_site():
    hook = hooks.Hook("prestart", "/opt/h", ("h",), (), 30, "h.json")
    assert diagnosis.hooks((), "").found == "none"
    assert diagnosis.hooks((hooks.Rule((hook,), hooks.When()),), "").found == "/opt/h"
    assert diagnosis.hooks((), "h.json: is no JSON").verdict == "fail"
