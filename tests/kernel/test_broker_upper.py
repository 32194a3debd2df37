"""What a container writes to a disk: limited, the user's own, and gone with the last who uses it.

The real broker, the real mke2fs, loop devices and kernel; the user's side is ``upper_user``.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile

import pytest
from broker_bed import OTHER, ROOT, USER, Bed, mounts, until

from fairlead import kernel
from fairlead.run import block

sys.path.insert(0, f"{ROOT}/tests/faults")
import tracer

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the broker is root's program")

MIB = 1 << 20
ACCOUNT = 61011
UPPER_OP = 4  # enum broker_op


def lower_tree(bed):
    """A root directory that every user can read."""
    tree = f"{os.path.dirname(bed.store)}/lower"
    os.makedirs(f"{tree}/etc", exist_ok=True)
    return tree


class Writer:
    """A user with a container whose root is on a disk."""

    def __init__(self, bed, size, *, uid=USER, contained=True):
        tree = lower_tree(bed)
        self.broker, self.ours = bed.broker(uid=uid)
        words = [str(self.ours.fileno()), str(uid), size, tree if contained else ""]
        self.process = subprocess.Popen(
            [sys.executable, f"{os.path.dirname(__file__)}/upper_user.py", *words],
            env={**os.environ, "PYTHONPATH": f"{ROOT}/engine"},
            pass_fds=(self.ours.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.came = self._answer()

    def _answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, *words):
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self, number=None):
        """End the user's process, by a signal or by the end of its input, and the broker."""
        if number:
            self.process.send_signal(number)
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        self.ours.close()
        self.broker.wait(10)


@contextlib.contextmanager
def writer(bed, size, **options):
    made = Writer(bed, size, **options)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def bed(bed):
    yield own_account(bed)
    until(lambda: devices(bed) == [])
    assert processes_of(ACCOUNT) == []


@pytest.fixture
def small(program):
    """A store on a file system of its own, 256 MiB, whose room can be counted to the byte."""
    place = tempfile.mkdtemp(prefix="fairlead-upper-", dir="/var/tmp")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "fairlead-upper", place], check=True)
    try:
        bed = own_account(Bed(place, program))
        yield bed
        until(lambda: devices(bed) == [])
        assert processes_of(ACCOUNT) == []
    finally:
        subprocess.run(["umount", place], check=True)
        os.rmdir(place)


def own_account(bed):
    """Give the store to an account that no other test has, so that its processes can be told."""
    for folder in ("", *os.listdir(bed.store)):
        bed.own(f"{bed.store}/{folder}", ACCOUNT)
    return bed


def devices(bed):
    """The loop devices that are bound to a file of the store."""
    found = []
    for name in os.listdir("/sys/block"):
        with (
            contextlib.suppress(OSError),
            open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file,
        ):
            if file.read().startswith(bed.store):
                found.append(name)
    return found


def processes_of(uid):
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == uid:
                found.append(os.readlink(f"/proc/{name}/exe"))  # none: dead, not yet reaped
    return found


def free(bed):
    found = os.statvfs(bed.store)
    return found.f_bavail * found.f_frsize


def test_it_is_the_users_own_and_gives_no_privilege(bed):
    with writer(bed, "64M") as made:
        assert made.came["owner"] == [USER, USER]
        wanted = os.ST_NOSUID | os.ST_NODEV
        assert made.came["flags"] & (wanted | os.ST_RDONLY) == wanted
        assert made.ask("forbidden") == {"device": errno.EPERM, "chown": errno.EINVAL}


def test_the_limit_is_the_kernels(bed):
    with writer(bed, "64M") as made:
        found = made.ask("fill", "/big")
        assert found["errno"] == errno.ENOSPC
        assert 0.9 * 64 * MIB < found["written"] < 64 * MIB
        assert made.ask("look") == ["big", "etc"]


def test_small_files_fill_it_too(bed):
    with writer(bed, "64M") as made:
        found = made.ask("many", "/many")
        assert found["errno"] == errno.ENOSPC
        assert found["files"] > 8000, "one inode for each 8 KiB"


def test_without_a_size_it_is_a_tenth_of_what_is_free(small):
    with writer(small, "") as made:
        found = made.ask("fill", "/big")
        assert found["errno"] == errno.ENOSPC
        assert 0.85 * 25 * MIB < found["written"] < 25.6 * MIB


def test_its_file_has_no_name_and_no_other_user_can_see_it(bed):
    listed = sorted(os.listdir(bed.store))
    with writer(bed, "64M"):
        (device,) = devices(bed)
        with open(f"/sys/block/{device}/loop/backing_file", encoding="utf-8") as file:
            assert file.read().strip().endswith("(deleted)")
        assert sorted(os.listdir(bed.store)) == listed
        assert f"/dev/{device} " not in mounts(), "it is in the user's namespace alone"
        for uid in (USER, OTHER):
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            result = subprocess.run(
                [*command, "head", "-c1", f"/dev/{device}"], capture_output=True, text=True
            )
            assert "Permission denied" in result.stderr


def test_a_sync_costs_no_disk_and_works(bed):
    with writer(bed, "64M") as made:
        assert made.ask("sync", "/synced") == {"size": 1 << 16}


def test_room_is_reserved_at_once_and_comes_back(small):
    before = free(small)
    made = Writer(small, "64M")
    assert before - free(small) >= 64 * MIB
    taken = free(small)
    made.ask("fill", "/big")
    assert free(small) == taken, "writing takes nothing more"
    made.end()
    until(lambda: free(small) >= before - MIB)


def test_two_at_once_have_a_disk_each(bed):
    with writer(bed, "64M") as one, writer(bed, "32M", uid=OTHER) as other:
        assert other.came["owner"] == [OTHER, OTHER]
        assert one.ask("fill", "/big")["errno"] == errno.ENOSPC
        assert other.ask("look") == ["etc"]
        assert other.ask("fill", "/big")["written"] > 0.9 * 32 * MIB


def test_a_step_has_one_however_often_it_asks(small):
    """A task that was killed while it built: the next one gets the same, and it is writable."""
    before = free(small)
    process, ours = small.broker()
    mounts_ = [kernel.broker_upper(ours.fileno(), "64M") for _ in range(3)]
    assert len({os.stat(mount).st_dev for mount in mounts_}) == 1
    assert len(devices(small)) == 1
    assert before - free(small) < 65 * MIB
    for _ in range(5):
        os.close(kernel.broker_upper(ours.fileno(), "64M"))
    with pytest.raises(OSError, match="too many") as caught:
        kernel.broker_upper(ours.fileno(), "64M")
    assert caught.value.errno == errno.EAGAIN
    for mount in mounts_:
        os.close(mount)
    ours.close()
    process.wait(5)
    until(lambda: free(small) >= before - MIB)


def test_second_attempt_builds_on_what_the_first_left(bed):
    """The builder's process is killed, its step lives on: the next task builds."""
    first = Writer(bed, "64M")
    assert first.ask("fill", "/big")["errno"] == errno.ENOSPC
    first.process.kill()
    first.process.wait(10)
    broker, ours = first.broker, first.ours
    words = [str(ours.fileno()), str(USER), "64M", lower_tree(bed)]
    second = subprocess.run(
        [sys.executable, f"{os.path.dirname(__file__)}/upper_user.py", *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/engine"},
        pass_fds=(ours.fileno(),),
        input="look\n",
        capture_output=True,
        text=True,
    )
    assert second.stdout.splitlines()[1:] == ['["etc"]'], second.stderr
    first.process.stdin.close()
    first.process.stdout.close()
    ours.close()
    broker.wait(5)


# -- refusals --------------------------------------------------------------------------------------


def refused(bed, size):
    process, ours = bed.broker()
    try:
        with pytest.raises(OSError) as caught:
            os.close(kernel.broker_upper(ours.fileno(), size))
        return caught.value.errno, caught.value.filename
    finally:
        ours.close()
        process.wait(5)


def test_more_than_is_free_is_refused_with_the_figures(small):
    small.upper_max = "1T"
    number, detail = refused(small, "1G")
    assert number == errno.ENOSPC
    assert detail == "needs 1024 MiB, 253 MiB free above the 2 that must stay"


@pytest.mark.parametrize("maximum", ["40M", "15%"])
def test_what_the_site_allows_holds_against_the_user(small, maximum):
    small.upper_max = maximum
    number, detail = refused(small, "64M")
    assert number == errno.EDQUOT
    assert f"upper_max={maximum}" in detail
    with writer(small, "32M") as made:
        assert "errno" not in made.came


def test_a_site_can_allow_none(small):
    small.upper_max = "0"
    for size in ("", "16M"):
        number, detail = refused(small, size)
        assert number == errno.EDQUOT
        assert "allows 0 MiB" in detail


def test_default_is_never_more_than_the_site_allows(small):
    small.upper_max = "16M"
    with writer(small, "") as made:
        assert made.ask("fill", "/big")["written"] < 16 * MIB


@pytest.mark.parametrize("maximum", ["", "much", "10X", "101%", "-1", "9" * 20])
def test_a_maximum_that_makes_no_sense_allows_nothing(small, maximum):
    small.upper_max = maximum
    assert refused(small, "16M") == (
        errno.EINVAL,
        f"plugstack.conf: upper_max={maximum} is no size",
    )


@pytest.mark.parametrize(
    "size", ["x", "1GB", "-5M", "101%", "1M", "0", "5000%", "64M,mode=777", "9" * 15 + "T"]
)
def test_a_size_that_makes_no_sense_is_refused(small, size):
    assert refused(small, size)[0] in {errno.EINVAL, errno.ENOSPC}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('store_min_free = "200M"\n', errno.ENOSPC),
        ("  store_min_free='200M'   # of 256\n", errno.ENOSPC),
        ('mpi = "host"\nstore_min_free = "75%"', errno.ENOSPC),
        ("store_min_free = 5\n", errno.EINVAL),
        ('store_min_free = "a lot"\n', errno.EINVAL),
        ('store_min_free = """\n200M"""\n', errno.EINVAL),
        ('store_min_free = "20\\u004d"\n', errno.EINVAL),
        ('# store_min_free = "200M"\n', 0),
        ('store_min_free = ""\n', 0),
        ('store_min_free_not = "200M"\n', 0),
        (("", 'store_min_free = "200M"\n'), errno.ENOSPC),
        (('store_min_free = "200M"\n', 'store_min_free = "1M"\n'), 0),
        (('store_min_free = "200M"\n', 'store_min_free = ""\n'), 0),
        (("", 'store_min_free = "1M"\n', 'store_min_free = "200M"\n'), errno.ENOSPC),
        (("", "store_min_free = 5\n", 'store_min_free = "1M"\n'), errno.EINVAL),
    ],
)
def test_what_the_store_must_leave_free_stays_free(small, monkeypatch, text, number):
    """With another /etc in a mount namespace of the broker's; more texts are drop-ins."""
    place = f"{os.path.dirname(small.store)}/etc/fairlead"
    os.makedirs(f"{place}/fairlead.d")
    texts = (text,) if isinstance(text, str) else text
    names = ("fairlead.toml", "fairlead.d/1.toml", "fairlead.d/2.toml")
    for name, content in zip(names, texts, strict=False):
        with open(f"{place}/{name}", "w", encoding="utf-8") as file:
            file.write(content)
    script = f'mount --bind {os.path.dirname(small.store)}/etc /etc && exec "$@"'
    words = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *small.words()]
    monkeypatch.setattr(small, "words", lambda **_: words)
    if number:
        assert refused(small, "64M")[0] == number
    else:
        with writer(small, "64M") as made:
            assert "errno" not in made.came


def test_a_store_that_cannot_be_used_has_none(bed):
    os.chmod(bed.store, 0o755)
    number, detail = refused(bed, "16M")
    assert number == errno.EPERM
    assert bed.store in detail


def test_a_node_without_mke2fs_says_so(small, monkeypatch):
    script = 'mount -t tmpfs none /usr/sbin && exec "$@"'
    words = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *small.words()]
    monkeypatch.setattr(small, "words", lambda **_: words)
    number, detail = refused(small, "16M")
    assert (number, detail.split()[0]) == (errno.ENOPKG, "mke2fs")


def test_a_node_without_loop_devices_says_so(small, monkeypatch):
    script = 'mount --bind /dev/null /dev/loop-control && exec "$@"'
    words = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *small.words()]
    monkeypatch.setattr(small, "words", lambda **_: words)
    number, detail = refused(small, "16M")
    assert (number, detail) == (errno.ENOTTY, "loop device")


# -- forged blocks ---------------------------------------------------------------------------------


def test_mount_that_does_not_exist_is_refused_whatever_it_is_called():
    """A forged block: "mount:-1", a path, a number that is too large."""
    for name in ("mount:1", "mount:-1", "/etc", "mount:", "mount:x"):
        records = [
            block.record(kernel.lib.OP_ROOT, 0, "/"),
            block.record(kernel.lib.OP_UPPER, 0, "8G", name),
        ]
        assert composed(block.join(records)) == "layer"


def composed(data):
    """Compose in a child; returns the step that failed."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kernel.create_namespace()
            kernel.compose_root(data)
        except kernel.Failure as failure:
            os.write(send, failure.step.encode())
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, encoding="ascii") as file:
        step = file.read()
    os.waitpid(child, 0)
    return step


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["broker", "user", "both"])
def test_nothing_is_left_when_they_are_killed(small, who):
    before = free(small)
    made = Writer(small, "64M")
    if who != "user":
        made.broker.kill()
        made.broker.wait(5)
    if who == "broker":  # who does not take the container along
        assert made.ask("fill", "/big")["written"] > 0.9 * 64 * MIB
    made.end(signal.SIGKILL)
    until(lambda: free(small) >= before - MIB)


def test_a_mount_that_nobody_uses_is_gone_with_the_connection(small):
    before = free(small)
    with writer(small, "64M", contained=False) as made:
        assert "owner" in made.came
    until(lambda: free(small) >= before - MIB)


def test_killed_at_any_system_call_nothing_is_left(small):
    """The broker with all its children, stopped dead before each of their calls in turn."""
    before = free(small)
    calls = killed_at(small, 0)
    assert calls > 150
    for number in range(1, calls, 3):
        killed_at(small, number)
        until(lambda: devices(small) == [] and free(small) >= before - MIB)
        until(lambda: processes_of(ACCOUNT) == [])
        assert sorted(os.listdir(small.store)) == ["grants", "layers", "leases"]


def killed_at(bed, number):
    """Let a broker make a disk, and kill it before its call of that number; returns their count."""
    count = 0

    def judge(_):
        nonlocal count
        count += 1
        return tracer.KILL if count == number else tracer.GO

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(struct.pack("=II258s2x", 0x46424B31, UPPER_OP, b"64M"))
    ours.shutdown(socket.SHUT_WR)

    def start():
        os.dup2(theirs.fileno(), 3)
        os.execve(bed.program, bed.words(), {})
        return 0

    tracer.run(start, judge)
    theirs.close()
    ours.close()
    return count
