"""The container as the application sees it, built by real namespaces and mounts, as an ordinary user."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
UID, GID = 23456, 23457
SUPPLEMENTARY = 23499
APPLETS = ("sh", "cat", "ls", "id", "mount", "env", "echo", "touch", "true", "pwd", "readlink", "grep", "rm", "mkdir",
           "stat", "sleep", "test", "dd", "head", "ln")  # fmt: skip


def drop():
    os.setgroups([SUPPLEMENTARY])
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)


# Of one process: one that starts others leaves the last of them at work when it is killed.
SWAP = """
import os, sys
target, outside = sys.argv[1:]
while True:
    os.rename(target, target + ".1")
    os.symlink("../../../../.." + outside, target)
    os.unlink(target)
    os.rename(target + ".1", target)
"""


@pytest.fixture(autouse=True)
def _root_only():
    if os.geteuid() != 0:
        pytest.skip("becomes another user, so it starts as root")


@pytest.fixture
def place():
    """A directory of the test's user that every user can reach, outside pytest's private one."""
    path = tempfile.mkdtemp(prefix="fairlead-test-", dir="/var/tmp")
    os.chmod(path, 0o755)
    os.chown(path, UID, GID)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tree(place):
    """A root file system of busybox, owned by the test's user."""
    root = os.path.join(place, "tree")
    os.makedirs(os.path.join(root, "bin"))
    shutil.copy("/bin/busybox", os.path.join(root, "bin/busybox"))
    for applet in APPLETS:
        os.symlink("busybox", os.path.join(root, "bin", applet))
    for path, directories, files in os.walk(root):
        for name in (*directories, *files, "."):
            os.chown(os.path.join(path, name), UID, GID, follow_symlinks=False)
    return root


@pytest.fixture
def contained(place, tree):
    """Run a command in a container made of the tree; keyword arguments are those of launch_tree.main."""

    def run(*command, pass_fds=(), **options):
        environ = {"PYTHONPATH": os.path.join(HERE, "../../engine"), "HOME": place, "JOB": "kept"}
        specification = json.dumps({"tree": tree, "command": command, **options})
        return subprocess.run(
            [sys.executable, os.path.join(HERE, "launch_tree.py"), specification],
            preexec_fn=drop, cwd=place, env=environ, capture_output=True, text=True, timeout=30, pass_fds=pass_fds,
        )  # fmt: skip

    return run


def own(path):
    os.chown(path, UID, GID, follow_symlinks=False)


def output(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_user_keeps_uid_gid_and_groups(contained):
    words = output(contained("id"))
    assert f"uid={UID}" in words
    assert f"gid={GID}" in words
    assert "65534" in words.split("groups=")[1]  # the supplementary group: kept, shown as unmapped


def test_no_capability_and_no_way_to_gain_one(contained):
    status = output(contained("cat", "/proc/self/status"))
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1"


def test_every_mount_is_nosuid_and_only_devices_are_devices(contained):
    for line in output(contained("cat", "/proc/self/mountinfo")).splitlines():
        fields = line.split()
        target, options = fields[4], fields[5].split(",")
        if target.startswith("/dev/") and target != "/dev/mqueue":
            continue
        assert "nosuid" in options, line
        assert "nodev" in options, line


def test_mounts_do_not_reach_the_host(contained):
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        before = file.read()
    output(contained("true"))
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        assert file.read() == before


def test_root_is_writable_in_memory_and_forgotten(contained, tree):
    output(contained("sh", "-c", "echo x > /bin/new && rm /bin/ls && mkdir /made"))
    assert not os.path.exists(os.path.join(tree, "bin/new"))
    assert os.path.lexists(os.path.join(tree, "bin/ls"))
    assert output(contained("ls", "/bin/ls")).strip() == "/bin/ls"


def test_read_only_root_refuses_writes(contained):
    result = contained("touch", "/x", request={"writable": False})
    assert "Read-only file system" in result.stderr


def test_home_and_cwd_are_the_hosts(contained, place):
    assert output(contained("pwd")).strip() == place
    output(contained("touch", "made-inside"))
    assert os.stat(os.path.join(place, "made-inside")).st_uid == UID


def test_no_descriptor_leaks_in(contained):
    read, write = os.pipe()
    try:
        shown = output(contained("sh", "-c", "ls /proc/self/fd", pass_fds=(write,))).split()
    finally:
        os.close(read)
        os.close(write)
    assert set(shown) <= {"0", "1", "2", "3"}  # 3 is ls reading the directory


def test_cgroups_cannot_be_written(contained):
    result = contained(
        "sh",
        "-c",
        "echo 0 > $(ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs | head -1)",
    )
    assert result.returncode != 0
    assert "Read-only" in result.stderr


def test_devices_work_and_are_the_listed_ones(contained):
    output(
        contained(
            "sh", "-c", "echo x > /dev/null; dd if=/dev/zero of=/dev/null count=1 2>/dev/null"
        )
    )
    names = set(output(contained("ls", "/dev")).split())
    assert names <= {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
                     "urandom", "zero"}  # fmt: skip


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_with_a_link_for_a_kernel_tree_is_refused(contained, tree, name):
    os.symlink("/bin", os.path.join(tree, name))
    result = contained("true")
    assert result.returncode == 125
    assert f"error [mount]: /{name}: the image has a symbolic link" in result.stderr


def test_image_with_a_file_for_proc_is_refused(contained, tree):
    with open(os.path.join(tree, "proc"), "w", encoding="ascii") as file:
        file.write("x")
    own(os.path.join(tree, "proc"))
    result = contained("true")
    assert result.returncode == 125
    assert "/proc" in result.stderr


def test_images_own_device_files_are_not_used(contained, tree):
    os.mkdir(os.path.join(tree, "dev"))
    own(os.path.join(tree, "dev"))
    os.symlink("/etc/secret", os.path.join(tree, "dev/null"))
    assert "c" in output(contained("stat", "-c", "%F", "/dev/null"))


def test_mount_point_through_a_link_makes_nothing_on_the_host(contained, place, tree):
    """runc CVE-2024-45310: a link of the image leads into a directory of the host that is bound."""
    outside = os.path.join(place, "outside")
    os.mkdir(outside)
    own(outside)
    os.symlink("../../../../../../.." + outside, os.path.join(tree, "data"))
    source = os.path.join(place, "source")
    os.mkdir(source)
    own(source)
    result = contained("true", request={"volumes": [[source, "/data/deep/er"]]})
    assert result.returncode == 125
    assert "create it on the host first" in result.stderr
    assert os.listdir(outside) == []


def test_mount_point_through_a_link_stays_in_the_root(contained, place, tree):
    os.symlink("../../../../../../../elsewhere", os.path.join(tree, "data"))
    source = os.path.join(place, "source")
    os.mkdir(source)
    own(source)
    assert (
        output(contained("ls", "/elsewhere", request={"volumes": [[source, "/data/deep"]]}))
        == "deep\n"
    )
    assert not os.path.exists("/elsewhere")


def test_dangling_link_as_mount_point_creates_nothing_outside(contained, place, tree):
    os.symlink("/var/tmp/nowhere", os.path.join(tree, "hosts"))
    source = os.path.join(place, "file")
    with open(source, "w", encoding="ascii") as file:
        file.write("content")
    own(source)
    assert "content" in output(
        contained("cat", "/hosts", request={"volumes": [[source, "/hosts"]]})
    )
    assert not os.path.exists("/var/tmp/nowhere")


def test_workdir_that_does_not_exist(contained):
    result = contained("true", request={"workdir": "/nope"})
    assert result.returncode == 125
    assert "error [workdir]: /nope: No such file or directory" in result.stderr


@pytest.mark.parametrize("root", [{}, {"writable": False}])
def test_workdir_that_the_image_lacks_is_made_in_its_root(contained, tree, root):
    result = contained("pwd", workdir="/not/there", request=root)
    assert (result.returncode, result.stdout) == (0, "/not/there\n"), result.stderr
    assert not os.path.exists(f"{tree}/not")


def test_workdir_that_the_image_lacks_is_never_made_on_the_host(contained, place, tree):
    os.symlink(place, os.path.join(tree, "link"))
    for path in (f"{place}/absent/x", "/link/absent"):
        result = contained("pwd", workdir=path)
        assert result.returncode == 125
        assert f"error [workdir]: {path}: No such file or directory" in result.stderr
    assert not os.path.exists(f"{place}/absent")


@pytest.mark.parametrize("number", [3, 5, 7, 9, 20])
def test_workdir_of_the_image_cannot_lead_outside(contained, number):
    result = contained("pwd", workdir=f"/proc/self/fd/{number}")
    assert result.returncode == 125
    assert "error [workdir]" in result.stderr


def test_workdir_link_cannot_lead_outside(contained, tree):
    os.symlink("/proc/self/fd/4", os.path.join(tree, "here"))
    result = contained("pwd", workdir="/here")
    assert result.returncode == 125


def test_missing_command_is_127(contained):
    result = contained("no-such-command")
    assert result.returncode == 127
    assert result.stderr.count("\n") == 1
    assert "error [command-not-found]: no-such-command" in result.stderr


def test_file_that_is_not_executable_is_126(contained, tree):
    path = os.path.join(tree, "bin/data")
    with open(path, "w", encoding="ascii") as file:
        file.write("text")
    own(path)
    assert contained("/bin/data").returncode == 126
    assert contained("data", env=[["PATH", "/bin"]]).returncode == 126


def test_script_without_its_interpreter_is_126_and_says_so(contained, tree):
    path = os.path.join(tree, "bin/script")
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/opt/absent/python\n")
    own(path)
    os.chmod(path, 0o755)
    result = contained("/bin/script")
    assert result.returncode == 126
    assert "interpreter" in result.stderr


def test_environment_is_the_jobs_with_the_images_on_top(contained):
    words = output(contained("env", env=[["PATH", "/bin"], ["FROM", "image"]])).splitlines()
    assert {"JOB=kept", "FROM=image", "PATH=/bin"} <= set(words)


def test_layer_over_the_image_wins(contained, place):
    layer = os.path.join(place, "layer")
    os.makedirs(os.path.join(layer, "etc"))
    with open(os.path.join(layer, "etc/marker"), "w", encoding="ascii") as file:
        file.write("from the layer")
    for path in ("", "etc", "etc/marker"):
        own(os.path.join(layer, path))
    assert output(contained("cat", "/etc/marker", layer=layer)) == "from the layer"


def test_live_thread_is_an_error_and_not_an_uncontained_run(contained):
    result = contained("true", thread_s=5)
    assert result.returncode == 125
    assert "error [namespace]" in result.stderr


def test_thread_that_is_about_to_end_is_waited_for(contained):
    """As those of a pull, which the kernel still counts when they have been joined."""
    assert output(contained("echo", "up", thread_s=0.1)) == "up\n"


def test_disabled_user_namespaces_name_the_setting(place, tree):
    """The limit is set in a user namespace of the test's own, so the machine stays as it is."""
    specification = json.dumps({"tree": tree, "command": ["true"]})
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    result = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", script, "sh", sys.executable, os.path.join(HERE, "launch_tree.py"), specification],
        preexec_fn=drop, cwd=place, env={"PYTHONPATH": os.path.join(HERE, "../../engine"), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert result.returncode == 125
    assert "user.max_user_namespaces is 0" in result.stderr


def test_missing_volume_is_one_line(contained):
    result = contained("true", request={"volumes": [["/does/not/exist", "/x"]]})
    assert result.returncode == 125
    assert "error [mount]: cannot mount /does/not/exist: No such file or directory" in result.stderr


def test_engine_imports_nothing_from_the_image(contained, place, tree):
    """docker CVE-2019-14271: behind pivot_root the engine's library paths are the image's."""
    trap = f"open({place + '/escaped'!r}, 'w').write('x')\n"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for library in (
        f"usr/lib/{version}",
        f"usr/local/lib/{version}",
        os.path.dirname(os.__file__)[1:],
    ):
        for package in ("", "encodings", "json", "importlib"):
            os.makedirs(os.path.join(tree, library, package), exist_ok=True)
        for name in (
            "encodings/unicode_escape",
            "traceback",
            "linecache",
            "tokenize",
            "signal",
            "json/decoder",
            "subprocess",
        ):
            with open(os.path.join(tree, library, f"{name}.py"), "w", encoding="ascii") as file:
                file.write(trap)
    for options in ({"workdir": "/proc/x\n\x1b[31my"}, {"workdir": "/proc/absent"}):
        result = contained("true", **options)
        assert result.returncode == 125
        assert result.stderr.count("\n") == 1, result.stderr
    assert contained("/bin/\udcff").returncode == 127
    assert contained("absent\n").returncode == 127
    assert not os.path.exists(f"{place}/escaped")


def test_every_lower_directory_is_closed_before_the_root_is_entered(contained):
    """An open descriptor of one would be a way to the host's tree."""
    shown = contained("sh", "-c", "for fd in /proc/self/fd/*; do readlink $fd; done").stdout
    assert shown
    assert "tree" not in shown


def test_entrypoint_that_is_proc_self_exe_cannot_reach_the_engine(contained, tree):
    """runc CVE-2019-5736: nothing of the engine is left to be overwritten once the command runs."""
    path = os.path.join(tree, "bin/evil")
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/proc/self/exe\n")
    own(path)
    os.chmod(path, 0o755)
    before = os.stat(sys.executable).st_mtime_ns
    assert contained("/bin/evil").returncode != 0
    result = contained("sh", "-c", "echo x > /proc/$$/exe")
    assert result.returncode != 0
    assert os.stat(sys.executable).st_mtime_ns == before


def root_type(output):
    return next(line.split(" - ")[1].split()[0] for line in output if line.split()[4] == "/")


def test_what_may_be_written_to_the_root_is_limited(contained):
    fill = ("sh", "-c", "dd if=/dev/zero of=/big bs=1024 count=3000")
    assert contained(*fill, request={"upper_size": "2M"}).returncode != 0
    assert "No space left" in contained(*fill, request={"upper_size": "2M"}).stderr
    assert contained(*fill, request={"upper_size": "50%"}).returncode == 0


def test_a_size_cannot_smuggle_mount_options(contained):
    result = contained("true", request={"upper_size": "2M,mode=0777"})
    assert result.returncode == 125
    assert "Invalid argument" in result.stderr


def test_a_readonly_root_that_has_every_mount_point_needs_no_overlay(contained, place, tree):
    command = ("cat", "/proc/self/mountinfo")
    request = {"writable": False}
    assert root_type(contained(*command, request=request).stdout.splitlines()) == "overlay"
    wanted = ("proc", "sys", "dev", "tmp", "etc", "run/munge", f"{place}/x"[1:], os.getcwd()[1:])
    for path in ("var/tmp", *wanted, *(os.path.expanduser("~")[1:], "root", "home")):
        os.makedirs(os.path.join(tree, path), exist_ok=True)
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        open(os.path.join(tree, "etc", name), "w").close()
    found = contained(*command, request=request)
    assert found.returncode == 0, found.stderr
    assert root_type(found.stdout.splitlines()) != "overlay"
    refused = contained("touch", "/etc/new", request=request)
    assert "Read-only" in refused.stderr
    assert "resolv" in contained("ls", "/etc", request=request).stdout


def volumes(*asked, **more):
    return {"request": {"volumes": asked, **more}}


def test_volume_that_a_link_of_the_image_leads_into_the_kernels_trees_is_refused(
    contained, place, tree
):
    """runc CVE-2025-52881: what the engine reads of /proc, and the application, stays the kernel's."""
    os.symlink("/proc", os.path.join(tree, "data"))
    os.symlink("sys/class", os.path.join(tree, "other"))
    source = os.path.join(place, "source")
    os.mkdir(source)
    own(source)
    for target in ("/data/sys", "/data", "/other"):
        result = contained("true", **volumes([source, target]))
        assert result.returncode == 125
        assert result.stderr == (
            f"error [mount]: {target}: the image has a symbolic link in place of this directory "
            "(rebuild the image)\n"
        )


@pytest.mark.parametrize("source", ["/proc/self/fd/0", "/proc/self/cwd", "/proc/self/root/etc"])
def test_volume_that_the_engine_holds_open_is_refused(contained, source):
    result = contained("true", **volumes([source, "/x"]))
    assert result.returncode == 125
    assert (
        f"error [mount]: cannot mount {source}: Too many levels of symbolic links" in result.stderr
    )


def test_volume_whose_target_is_swapped_meanwhile_leaves_the_host_as_it_was(contained, place, tree):
    """runc CVE-2021-30465: the image's directory becomes a link to the host and back, all the time."""
    outside, source, target = (
        os.path.join(place, name) for name in ("outside", "source", "tree/data")
    )
    for path in (outside, source, target):
        os.mkdir(path)
        own(path)
    swapper = subprocess.Popen([sys.executable, "-I", "-c", SWAP, target, outside], preexec_fn=drop)
    try:
        for _ in range(8):
            result = contained("true", **volumes([source, "/data/deep"]))
            assert result.returncode in (0, 125), result.stderr
        assert swapper.poll() is None, "what swaps has ended"
    finally:
        swapper.kill()
        swapper.wait()
    assert os.listdir(outside) == []


def test_volumes_with_odd_names_are_those_paths(contained, place):
    """pyxis's own past: names that an fstab would have read otherwise."""
    names = ["a b", "tab\there", "#x", "\\040y", "c:d", "e,f", "g=h", "$HOME"]
    names.remove("tab\there")  # a control character, which is refused (tests/unit/test_pyxis.py)
    asked = []
    for name in names:
        source = os.path.join(place, name)
        os.mkdir(source)
        own(source)
        asked.append([source, f"/in/{name}"])
    assert output(contained("ls", "-1", "/in", **volumes(*asked))).split("\n")[:-1] == sorted(names)


def test_kinds_and_flags_of_volumes(contained, place):
    source = os.path.join(place, "source")
    os.mkdir(source)
    own(source)
    asked = volumes(
        [source, "/ro", ["ro", "noexec"]],
        [source, "/private", ["private"]],
        [source, "/never", ["runbindable", "rbind"]],
        ["tmpfs", "/t", ["size=1m", "noexec"], "tmpfs"],
        ["umount", "/dev/shm", [], "umount"],
    )
    seen = {
        fields[4]: (set(fields[5].split(",")), fields[6])
        for fields in map(
            str.split, output(contained("cat", "/proc/self/mountinfo", **asked)).splitlines()
        )
    }
    assert {"ro", "noexec", "nosuid", "nodev"} <= seen["/ro"][0]
    assert seen["/private"][1] == "-"
    assert seen["/never"][1] == "unbindable"
    assert {"noexec", "nosuid", "nodev"} <= seen["/t"][0]
    assert "/dev/shm" not in seen


def test_root_inside_is_the_user_with_no_right_more(contained, place):
    shown = output(
        contained(
            "sh",
            "-c",
            "id -u; id -g; echo $HOME; touch ~/by-root; grep Cap /proc/self/status",
            request={"remap_root": True},
        )
    ).split()
    assert shown[:3] == ["0", "0", "/root"]
    assert all(int(word, 16) == 0 for word in shown[3:] if not word.startswith("Cap"))


def test_namespaces_of_its_own_are_asked_for_one_by_one(contained):
    kinds = ("net", "ipc", "uts")
    links = [f"/proc/self/ns/{kind}" for kind in kinds]
    host = [os.readlink(link) for link in links]
    for kind in kinds:
        script = "for link; do readlink $link; done"
        command = ("sh", "-c", script, "sh", *links)
        shown = output(contained(*command, request={"unshare": [kind]})).split()
        differs = [
            name for name, one, other in zip(kinds, shown, host, strict=True) if one != other
        ]
        assert differs == [kind]


def test_network_of_its_own_is_a_loopback_that_is_up(contained):
    shown = output(
        contained(
            "sh",
            "-c",
            "ls /sys/class/net; cat /sys/class/net/lo/flags",
            request={"unshare": ["net"]},
        )
    )
    assert shown.split() == ["lo", "0x9"]
