"""The broker, root's part: it mounts what a grant names, for whom it names, and nothing else.

Security.md section 1: each rule of the boundary between a user and the node's shared store is a test
here, with the real program and two real users.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from broker_bed import IMAGE, JOB, LAYER, OTHER, SERVICE, USER, Bed, loops, mounts, old, until

from fairlead import kernel
from fairlead.run import block

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the broker is root's program")


def test_a_granted_layer_is_mounted_read_only_as_the_users_own(bed):
    bed.layer()
    bed.grant()
    answer = bed.ask(look="write")
    assert answer["texts"] == ["from the layer"]
    assert answer["owner"] == [USER, USER]
    assert answer["write"] == errno.EROFS
    assert answer["flags"] & (os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY) == (
        os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY
    )


def test_the_user_builds_a_writable_container_on_the_layers(bed):
    layers = [f"{number:064x}" for number in range(3)]
    for layer in layers:
        bed.layer(layer, f"layer {int(layer, 16)}")
    lines = "".join(f"layer {layer}\n" for layer in layers)
    bed.grant(f"fairlead-grant 1\nuid {USER}\njob {JOB}\nsize {bed.size(*layers)}\n{lines}")
    answer = bed.ask(look="container")
    assert answer["texts"] == ["layer 0", "layer 1", "layer 2"]
    assert answer["container"] == "layer 2, then mine, drwxr-xr-x"


def test_where_a_file_cannot_be_mounted_a_loop_device_serves_and_vanishes(program):
    place = f"/dev/shm/fairlead-broker-{os.getpid()}"  # EROFS cannot read from a file on tmpfs
    os.mkdir(place)
    try:
        bed = Bed(place, program)
        bed.layer()
        bed.grant()
        before = loops()
        process, ours = bed.broker()
        (mount,) = kernel.broker_mount(ours.fileno(), IMAGE)
        assert os.stat("etc/motd", dir_fd=mount).st_uid == USER
        assert len(loops() - before) == 1
        os.close(mount)
        ours.close()
        process.wait(5)
        until(lambda: loops() == before)
    finally:
        shutil.rmtree(place)


def test_more_layers_than_one_message_holds_all_arrive(bed):
    bed.layer()
    lines = f"layer {LAYER}\n" * 300
    bed.grant(f"fairlead-grant 1\nuid {USER}\njob {JOB}\nsize {300 * bed.size(LAYER)}\n{lines}")
    assert bed.ask()["count"] == 300


def test_index_is_one_mount_of_all_layers(bed):
    _, text = bed.stack(["one", "two", "three"])
    bed.grant(text)
    answer = bed.ask(look="write")
    assert (answer["count"], answer["texts"]) == (1, ["three"])
    assert answer["owner"] == [USER, USER]
    assert answer["write"] == errno.EROFS
    assert answer["flags"] & (os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY) == (
        os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY
    )
    assert bed.ask(look="container")["container"] == "three, then mine, drwxr-xr-x"


def test_index_of_as_many_layers_as_there_may_be(bed):
    _, text = bed.stack([f"layer {number}" for number in range(500)])
    bed.grant(text)
    answer = bed.ask()
    assert (answer["count"], answer["texts"]) == (1, ["layer 499"])


def test_read_only_container_on_an_index_or_on_one_layer_needs_no_overlay(bed):
    _, text = bed.stack(["one", "two"])
    bed.grant(text)
    assert bed.ask(look="read-only")["root"] == ["erofs"]
    bed.layer()
    bed.grant()
    assert bed.ask(look="read-only")["root"] == ["erofs"]
    bed.grant(without_index(text))
    assert bed.ask(look="read-only")["root"] == ["overlay"]


def without_index(text):
    return "".join(line for line in text.splitlines(True) if not line.startswith("index "))


def test_index_s_files_are_loop_devices_where_they_must_and_vanish(program):
    place = f"/dev/shm/fairlead-broker-index-{os.getpid()}"
    os.mkdir(place)
    try:
        bed = Bed(place, program)
        _, text = bed.stack(["one", "two"])
        bed.grant(text)
        before = loops()
        process, ours = bed.broker()
        (mount,) = kernel.broker_mount(ours.fileno(), IMAGE)
        with open(os.open("etc/motd", os.O_RDONLY, dir_fd=mount), encoding="ascii") as file:
            assert file.read() == "two"
        assert len(loops() - before) == 3
        os.close(mount)
        ours.close()
        process.wait(5)
        until(lambda: loops() == before)
    finally:
        shutil.rmtree(place)


def cut(bed, path):
    os.truncate(path, os.stat(path).st_size - 4096)


def grown(bed, path):
    os.truncate(path, os.stat(path).st_size + 4096)


def foreign(bed, path):
    bed.own(path, USER)


def loose(bed, path):
    os.chmod(path, 0o422)


def absent(bed, path):
    os.unlink(path)


def linked(bed, path):
    os.rename(path, f"{path}.real")
    os.symlink(f"{path}.real", path)


def scribbled(bed, path):
    with open(path, "r+b") as file:
        file.write(bytes(4096))


@pytest.mark.parametrize("damage", [cut, grown, foreign, loose, absent, linked, scribbled])
def test_an_index_that_is_not_what_was_granted_is_not_mounted_but_its_layers_are(bed, damage):
    _, text = bed.stack(["one", "two"])
    bed.grant(text)
    damage(bed, f"{bed.store}/indexes/{'e' * 64}.erofs")
    answer = bed.ask()
    assert (answer["count"], answer["texts"]) == (2, ["one", "two"])


@pytest.mark.parametrize(
    ("damage", "why"),
    [(foreign, errno.EPERM), (loose, errno.EPERM), (absent, errno.ENOENT), (linked, errno.ELOOP)],
)
def test_an_index_does_not_lead_past_the_look_at_its_layers(bed, damage, why):
    names, text = bed.stack(["one", "two"])
    bed.grant(text)
    damage(bed, f"{bed.store}/layers/{names[0]}.erofs")
    assert bed.ask() == {"errno": why, "detail": names[0]}


def test_a_layer_that_was_cut_short_is_noticed_behind_its_index(bed):
    names, text = bed.stack(["one", "two"])
    bed.grant(text)
    os.truncate(f"{bed.store}/layers/{names[1]}.erofs", 0)
    answer = bed.ask()
    assert answer["detail"] == names[1]


def test_a_plan_for_other_mounts_is_refused(bed):
    """Kept from when there was an index, it would show the lowest layer alone."""
    _, text = bed.stack(["one", "two"])
    bed.grant(without_index(text))
    process, ours = bed.broker()
    fds = kernel.broker_mount(ours.fileno(), IMAGE)
    ours.close()
    process.wait(5)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            kernel.create_namespace()
            root = block.record(kernel.lib.OP_ROOT, 0, "mount:0")
            kernel.compose_root(
                block.join([root, block.record(kernel.lib.OP_WORKDIR, 0, "/")]), fds
            )
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert "other mounts than the plan has" in os.read(read, 4096).decode()
    for fd in (read, *fds):
        os.close(fd)


@pytest.mark.parametrize("change", [-1, 1])
def test_image_of_another_size_than_was_granted_is_not_mounted(bed, change):
    """The kernel would mount it, and whoever reads its end would find errors or nothing."""
    path = bed.layer(content="text " * 10_000)
    bed.grant()
    size = os.stat(path).st_size
    os.truncate(path, size + change)
    answer = bed.ask()
    assert answer["errno"] == errno.EUCLEAN
    os.truncate(path, size)
    assert bed.ask()["count"] == 1


def test_without_a_grant_there_is_no_mount(bed):
    bed.layer()
    assert bed.ask()["errno"] == errno.ENOENT


def test_another_users_grant_serves_nobody_else(bed):
    bed.layer()
    bed.grant()
    assert bed.ask(uid=OTHER)["errno"] == errno.ENOENT
    bed.folder(f"grants/{OTHER}")
    os.link(f"{bed.store}/grants/{USER}/{IMAGE}", f"{bed.store}/grants/{OTHER}/{IMAGE}")
    assert bed.ask(uid=OTHER)["errno"] == errno.EBADMSG, "the grant names its user"


def test_a_grant_ends_with_its_grace_but_not_within_its_job(bed):
    bed.layer()
    old(bed.grant(), 4000)
    assert bed.ask(job=JOB + 1)["errno"] == errno.ENOENT
    assert bed.ask(job=JOB)["count"] == 1
    old(bed.grant(), 100)
    assert bed.ask(job=JOB + 1)["count"] == 1


def test_a_grant_from_the_future_or_an_earlier_boot_counts_for_nothing(bed):
    bed.layer()
    old(bed.grant(), -1000)
    assert bed.ask()["errno"] == errno.ENOENT
    old(bed.grant(), time.clock_gettime(time.CLOCK_BOOTTIME) + 1000)
    bed.grace_s = 0
    assert bed.ask()["errno"] == errno.ENOENT, "job numbers may start over"


@pytest.mark.parametrize(
    "image",
    ["", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "/etc/passwd", "a" * 128, "a" * 63 + "/"],
)
def test_an_image_is_named_by_a_digest_alone(bed, image):
    bed.layer()
    bed.grant()
    assert bed.ask(image)["errno"] in {errno.EINVAL, errno.ENOENT}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("fairlead-grant 2\nuid 61002\njob 77\nsize 1\nlayer " + LAYER + "\n", "version"),
        ("uid 61002\njob 77\nsize 1\nlayer " + LAYER + "\n", "no head"),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\n", "no layer"),
        ("fairlead-grant 1\njob 77\nsize 1\nlayer " + LAYER + "\n", "no user"),
        ("fairlead-grant 1\nuid 0\njob 77\nsize 1\nlayer " + LAYER + "\n", "another user"),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\nlayer ../../x\n", "a path"),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\nlayer " + LAYER + "/../x\n", "a path"),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\nlayer\n", "no name"),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\nlayer " + LAYER + "\n\0", "a NUL"),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\n" + f"layer {LAYER}\n" * 501, "too many"),
        *(
            (f"fairlead-grant 1\nuid 61002\njob 77\nsize 1\n{line}\nlayer {LAYER}\n", "an index")
            for line in (
                "index",
                f"index {LAYER}",
                f"index {LAYER} ",
                f"index {LAYER} 01",
                f"index {LAYER} -1",
                f"index {LAYER} 1 1",
                f"index {LAYER}0 1",
                f"index {LAYER[1:]} 1",
                f"index ../{LAYER[3:]} 1",
                f"index {LAYER} 1\nindex {LAYER} 1",
                f"layer {LAYER}\nindex {LAYER} 1",
            )
        ),
        ("fairlead-grant 1\nuid 61002\njob 77\nsize 1\n" + f"layer {LAYER}\n" * 5000, "too long"),
    ],
)
def test_a_damaged_grant_is_refused_whole(bed, text, why):
    bed.layer()
    bed.grant(text)
    assert bed.ask()["errno"] == errno.EBADMSG, why


def test_a_grant_of_another_owner_or_writable_by_others_is_not_believed(bed):
    bed.layer()
    path = bed.grant()
    bed.own(path, USER)
    assert bed.ask()["errno"] == errno.EPERM
    bed.own(path)
    os.chmod(path, 0o620)
    assert bed.ask()["errno"] == errno.EPERM


def test_a_layer_of_another_owner_or_writable_by_others_is_not_mounted(bed):
    path = bed.layer()
    bed.grant()
    bed.own(path, USER)
    assert bed.ask() == {"errno": errno.EPERM, "detail": LAYER}
    bed.own(path)
    os.chmod(path, 0o422)
    assert bed.ask()["errno"] == errno.EPERM


def test_symbolic_links_lead_nowhere(bed):
    real = bed.layer()
    bed.grant()
    elsewhere = f"{bed.store}.elsewhere"
    os.rename(real, elsewhere)
    os.symlink(elsewhere, real)
    assert bed.ask()["errno"] == errno.ELOOP
    os.unlink(real)
    os.rename(elsewhere, real)
    os.rename(f"{bed.store}/grants/{USER}", f"{bed.store}.grants")
    os.symlink(f"{bed.store}.grants", f"{bed.store}/grants/{USER}")
    assert bed.ask()["errno"] == errno.ELOOP


def test_a_fifo_or_device_in_place_of_a_layer_does_not_hang(bed):
    bed.grant()
    path = f"{bed.store}/layers/{LAYER}.erofs"
    os.mkfifo(path)
    bed.own(path)
    assert bed.ask()["errno"] == errno.EPERM
    os.unlink(path)
    os.mknod(path, 0o20400, os.makedev(1, 5))
    bed.own(path)
    assert bed.ask()["errno"] == errno.EPERM


def test_what_is_no_erofs_image_is_refused(bed):
    bed.grant()
    path = f"{bed.store}/layers/{LAYER}.erofs"
    with open(path, "wb") as file:
        file.write(b"hsqs" + bytes(1 << 16))
    os.chmod(path, 0o400)
    bed.own(path)
    assert bed.ask()["errno"] in {errno.EINVAL, errno.EUCLEAN}


@pytest.mark.parametrize("owner", [0, SERVICE])
def test_a_store_that_others_may_enter_or_that_is_roots_is_refused(bed, owner):
    bed.layer()
    bed.grant()
    bed.own(bed.store, owner)
    os.chmod(bed.store, 0o700 if owner == 0 else 0o750)
    answer = bed.ask()
    assert answer["errno"] == errno.EPERM
    assert bed.store in answer["detail"]


def test_a_use_is_noted_for_gc(bed):
    bed.layer()
    path = bed.grant()
    old(path, 500)
    before = os.stat(path)
    bed.ask(job=1234)
    after = os.stat(path)
    assert after.st_mtime == before.st_mtime, "the time of proof stays"
    assert after.st_atime > before.st_atime + 400
    lease = os.stat(f"{bed.store}/leases/1234.{IMAGE}")
    assert (lease.st_uid, lease.st_size) == (SERVICE, 0)


def test_no_user_can_look_into_the_store(bed):
    bed.layer()
    bed.grant()
    for uid in (USER, OTHER):
        for path in ("", "layers", f"grants/{uid}", f"layers/{LAYER}.erofs"):
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "cat"]
            result = subprocess.run(
                [*command, f"{bed.store}/{path}"], capture_output=True, text=True
            )
            assert "Permission denied" in result.stderr


def test_nothing_is_left_when_the_user_goes_away(bed):
    bed.layer()
    bed.grant()
    before = mounts()
    process, ours = bed.broker()
    ours.close()
    assert process.wait(5) == 0
    assert mounts() == before


def test_requests_that_are_nonsense_end_the_broker_quietly(bed):
    for data in (b"", b"x", b"\xff" * 140, bytes(1 << 16)):
        process, ours = bed.broker()
        if data:
            ours.send(data)
        else:
            ours.shutdown(1)
        assert process.wait(5) == 0
        ours.close()


KEEPER = """import json, os, sys, time
status = open("/proc/self/status").read()
wanted = ("Uid:", "Gid:", "Groups:", "NoNewPrivs:", "CapEff:", "CapPrm:")
lines = [" ".join(line.split()) for line in status.splitlines() if line.startswith(wanted)]
fds = [n for n in sorted(os.listdir("/proc/self/fd"), key=int)]
text = json.dumps([lines, dict(os.environ), fds, sys.argv[1:], os.getcwd()])
os.write(3, text.encode())
time.sleep(60)
"""


def test_the_storekeeper_is_the_service_account_and_nothing_more(bed):
    prefix = Path(bed.store).parent / "prefix"
    (prefix / "venv/bin").mkdir(parents=True)
    (prefix / "libexec/fairlead").mkdir(parents=True)
    os.symlink("/usr/bin/python3", prefix / "venv/bin/python")
    (prefix / "libexec/fairlead/keeper.py").write_text(KEEPER)
    os.chmod(prefix / "libexec/fairlead/keeper.py", 0o644)
    process, ours = bed.broker(prefix=str(prefix))
    os.environ["LD_PRELOAD_TEST"] = "x"
    fd = kernel.broker_keeper(ours.fileno())
    lines, environ, fds, argv, cwd = json.loads(os.read(fd, 1 << 16))
    assert f"Uid: {SERVICE} {SERVICE} {SERVICE} {SERVICE}" in lines
    assert f"Gid: {SERVICE} {SERVICE} {SERVICE} {SERVICE}" in lines
    assert "Groups:" in lines
    assert "NoNewPrivs: 1" in lines
    assert {"CapEff: 0000000000000000", "CapPrm: 0000000000000000"} <= set(lines)
    assert set(environ) <= {"PATH", "LANG", "HOME", "LC_CTYPE"}
    assert set(fds) <= {"0", "1", "2", "3", "4"}  # 4: the listing's own
    assert argv == [bed.store, str(USER), str(JOB)]
    assert cwd == "/"
    ours.close()
    begin = time.monotonic()
    assert process.wait(5) == 0
    assert time.monotonic() - begin < 3
    assert os.read(fd, 1) == b"", "the storekeeper ends with the broker"
    os.close(fd)


def looking_keeper(bed):
    """A prefix whose storekeeper tells what it finds in the image's mounts."""
    prefix = Path(bed.store).parent / "prefix"
    (prefix / "venv/bin").mkdir(parents=True)
    (prefix / "libexec/fairlead").mkdir(parents=True)
    os.symlink("/usr/bin/python3", prefix / "venv/bin/python")
    (prefix / "libexec/fairlead/keeper.py").write_text(LOOKING)
    return str(prefix)


LOOKING = """
import json, os, sys
name, count = sys.argv[4:]
owners = [os.stat("etc/motd", dir_fd=4 + n).st_uid for n in range(int(count))]
more = os.path.exists(f"/proc/self/fd/{4 + int(count)}")
os.write(3, json.dumps([name, owners, os.getuid(), more]).encode())
"""


def test_storekeeper_for_an_image_gets_its_layers_as_its_own_if_they_were_granted(bed):
    _, text = bed.stack(["one", "two", "three"])
    prefix = looking_keeper(bed)
    for given, mounts_ in ((text, 1), (without_index(text), 3)):
        bed.grant(given)
        process, ours = bed.broker(prefix=prefix)
        fd = kernel.broker_keeper(ours.fileno(), IMAGE)
        found = json.loads(os.read(fd, 1 << 16))
        assert found == [IMAGE, [SERVICE] * mounts_, SERVICE, False]
        os.close(fd)
        ours.close()
        process.wait(5)


@pytest.mark.parametrize("name", ["c" * 64, "../" + "c" * 61, "C" * 64])
def test_storekeeper_is_started_for_no_image_but_a_granted_one(bed, name):
    bed.layer()
    bed.grant()
    process, ours = bed.broker(prefix=looking_keeper(bed))
    with pytest.raises(OSError) as refused:
        kernel.broker_keeper(ours.fileno(), name)
    assert refused.value.errno == (errno.ENOENT if name == "c" * 64 else errno.EINVAL)
    ours.close()
    process.wait(5)


def test_a_broker_that_is_killed_takes_its_storekeeper_along(bed):
    prefix = Path(bed.store).parent / "prefix"
    (prefix / "venv/bin").mkdir(parents=True)
    (prefix / "libexec/fairlead").mkdir(parents=True)
    os.symlink("/usr/bin/python3", prefix / "venv/bin/python")
    (prefix / "libexec/fairlead/keeper.py").write_text("import time\ntime.sleep(60)\n")
    process, ours = bed.broker(prefix=str(prefix))
    fd = kernel.broker_keeper(ours.fileno())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.read(fd, 1) == b""
    os.close(fd)
    ours.close()


# -- injections ------------------------------------------------------------------------------------

INJECTION, ANOTHER = "1" * 64, "2" * 64


def injected(bed, *names, size=None):
    """Grant the layer, with injections over it."""
    layer = bed.size(LAYER)
    text = f"fairlead-grant 1\nuid {USER}\njob {JOB}\nsize {layer}\nlayer {LAYER}\n"
    for name in names:
        bytes_ = os.stat(f"{bed.store}/injections/{name}.erofs").st_size if size is None else size
        text += f"injection {name} {bytes_}\n"
    bed.grant(text)


def ask_injection(bed, name, image=IMAGE):
    process, ours = bed.broker()
    try:
        mount = kernel.broker_injection(ours.fileno(), image, name)
        with open(os.open("etc/motd", os.O_RDONLY, dir_fd=mount), encoding="ascii") as file:
            found = file.read(), os.stat("etc", dir_fd=mount).st_uid, os.fstatvfs(mount).f_flag
        os.close(mount)
        return found
    finally:
        ours.close()
        process.wait(5)


def test_granted_injection_is_mounted_like_a_layer_and_its_use_is_marked(bed):
    bed.layer()
    bed.injection(INJECTION)
    bed.injection(ANOTHER)
    injected(bed, ANOTHER, INJECTION)
    path = f"{bed.store}/injections/{INJECTION}.erofs"
    os.utime(path, (1000, 2000))
    text, owner, flags = ask_injection(bed, INJECTION)
    assert (text, owner) == ("of the host", USER)
    assert flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY) == 7
    assert os.stat(path).st_mtime == 2000
    assert time.time() - os.stat(path).st_atime < 60


def test_injection_that_the_grant_does_not_name_is_not_mounted(bed):
    bed.layer()
    bed.injection(INJECTION)
    bed.injection(ANOTHER)
    injected(bed, ANOTHER)
    for name in (INJECTION, "", "../layers/" + LAYER, ANOTHER[:-1], ANOTHER + "0"):
        with pytest.raises(OSError) as refused:
            ask_injection(bed, name)
        assert refused.value.errno == errno.ENOENT
    with pytest.raises(OSError) as refused:
        ask_injection(bed, ANOTHER, "c" * 64)
    assert refused.value.errno == errno.ENOENT


def test_injection_that_is_not_what_was_made_is_not_mounted(bed):
    bed.layer()
    bed.injection(INJECTION)
    injected(bed, INJECTION, size=7)
    with pytest.raises(OSError) as refused:
        ask_injection(bed, INJECTION)
    assert refused.value.errno == errno.EUCLEAN
    injected(bed, INJECTION)
    bed.own(f"{bed.store}/injections/{INJECTION}.erofs", USER)
    with pytest.raises(OSError) as refused:
        ask_injection(bed, INJECTION)
    assert refused.value.errno == errno.EPERM


def test_grant_with_a_layer_behind_an_injection_is_none(bed):
    bed.layer()
    bed.injection(INJECTION)
    injected(bed, INJECTION)
    with open(f"{bed.store}/grants/{USER}/{IMAGE}", "a", encoding="ascii") as file:
        file.write(f"layer {LAYER}\n")
    with pytest.raises(OSError) as refused:
        ask_injection(bed, INJECTION)
    assert refused.value.errno == errno.EBADMSG
