"""An engine that lies to the storekeeper, hangs up on it, or never speaks: its user's engine is the user.

And what the broker gives a user who misuses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import psutil
import pytest
from faulty_registry import stall, trickle
from images import image, layer
from shared_bed import ALICE, BOB, SERVICE, until

from fairlead import kernel

OPEN = ("alice", "open sesame")


@pytest.fixture
def built():
    return image([layer({f"{n}": os.urandom(30_000)}) for n in range(4)])


class Line:
    """A user's own words to a storekeeper."""

    def __init__(self, bed, uid=ALICE):
        self.broker, self.ours = bed.broker(uid)
        self.socket = socket.socket(fileno=kernel.broker_keeper(self.ours.fileno()))
        self.socket.settimeout(20)
        self.reader = self.socket.makefile("rb")
        self.keeper = until(lambda: _running(self.broker))

    def say(self, *messages):
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            self.socket.sendall(data)

    def ask(self, name, digest, **more):
        self.say({"protocol": 1, "image": f"{name.rpartition(':')[0]}@{digest}", **more})

    def hear(self, key=None):
        """Return the next message, or the next that has a key; None at the end."""
        for line in self.reader:
            message = json.loads(line)
            if key is None or key in message:
                return message
        return None

    def hang_up(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.reader.close()
        self.socket.close()

    def ends_within(self, seconds):
        """Assert that the storekeeper ends by itself; the step's connection is still there."""
        until(lambda: _is_over(self.keeper), seconds)
        assert self.broker.poll() is None

    def close(self):
        self.hang_up()
        self.ours.close()
        assert self.broker.wait(10) == 0


def _running(broker):
    for child in psutil.Process(broker.pid).children():
        with contextlib.suppress(psutil.Error):
            if child.uids().real == SERVICE and "keeper.py" in " ".join(child.cmdline()):
                return child
    return None


def _is_over(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def line(shared):
    made = Line(shared)
    yield made
    made.close()


def clean(shared):
    """The store's invariant after an interrupted storekeeper, and that the next run tidies up."""
    assert shared.grants(ALICE) == []
    for name in shared.layers():
        assert (shared.root / f"layers/{name}.json").is_file()


# -- nonsense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"\n",
        b"not json\n",
        b"[1, 2]\n",
        b"7\n",
        b'{"protocol": 2, "image": "x"}\n',
        b'{"image": "x"}\n',
        b"[" * 5000 + b"\n",
        b"\x00\xff\xfe\n",
        b'{"protocol": 1}\n',
        b'{"protocol": 1, "image": "../../etc"}\n',
        b'{"protocol": 1, "image": ["x"]}\n',
        b'{"protocol": 1, "image": "\\ud800"}\n',
        b'{"protocol": 1, "image": "127.0.0.1:1/x:1"}\n',
        b'{"protocol": 1, "image": "oci:/etc@sha256:' + b"0" * 64 + b'"}\n',
        b'{"protocol": 1, "image": "127.0.0.1:1/x@sha256:' + b"0" * 63 + b'/"}\n',
    ],
)
def test_nonsense_ends_the_storekeeper_with_an_error(shared, line, words):
    line.say(words)
    answer = line.hear()
    assert answer is not None
    assert set(answer) == {"error"}, answer
    assert line.hear() is None
    line.ends_within(2)
    clean(shared)


def test_line_without_an_end_is_cut_off(shared, line):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(64):
            line.say(b"x" * (1 << 16))
    line.ends_within(2)
    clean(shared)


def test_silence_is_not_waited_for_long(shared, faulty, built):
    shared.install(more="keeper.REQUEST_S = 0.5")
    line = Line(shared)
    line.ends_within(2)
    line.close()


def test_flood_of_answers_that_nobody_asked_for_is_a_hang_up(shared, faulty, built, line):
    """They would fill the storekeeper's memory, which is not the job's."""
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", built)
    faulty.fault("/blobs/", stall(10))
    line.ask(name, built.digest)
    until(lambda: faulty.count("GET", "/blobs/"))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        line.say(*[{"header": "x" * 100_000}] * 50)
    line.ends_within(2)
    clean(shared)


@pytest.mark.parametrize(
    "header",
    [
        "Basic abc\r\nX-Evil: 1",
        "Digest abc",
        "Bearer a b",
        "Bearer \x00",
        "basic abc",
        "Bearer é",
        "",
        ["Bearer x"],
        7,
        {"a": 1},
    ],
)
def test_header_that_is_none_is_never_sent(shared, faulty, built, line, header):
    faulty.scheme, faulty.login = "basic", OPEN
    shared.trust(faulty.host)
    line.ask(faulty.add("x/y", "1", built), built.digest)
    assert line.hear("login") is not None
    line.say({"header": header})
    answer = line.hear("error")
    assert answer is not None
    assert answer["error"][0] == "auth"
    assert not [r for r in faulty.requests if {"authorization", "x-evil"} & set(r.headers)]
    clean(shared)


# -- hanging up ------------------------------------------------------------------------------------

STAGES = ["before asking", "after asking", "at the login", "in a layer", "between layers"]


@pytest.mark.parametrize("stage", STAGES)
def test_storekeeper_ends_within_two_seconds_of_its_engine(shared, faulty, built, stage):
    """Wherever it is; and what it leaves is swept up by the next, who finds all that was finished."""
    shared.install(more="")  # with the real patience of half a minute
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", built)
    if stage == "at the login":
        faulty.scheme, faulty.login = "basic", OPEN
        shared.log_in(ALICE, faulty.host)
    if stage in {"in a layer", "between layers"}:
        faulty.fault(built.layer_digests[-1], stall(10), method="GET", times=1)
    line = Line(shared)
    if stage != "before asking":
        line.ask(name, built.digest)
    if stage == "at the login":
        assert line.hear("login")
    if stage == "in a layer":
        until(lambda: faulty.count("GET", built.layer_digests[-1]))
    if stage == "between layers":
        until(lambda: len(shared.layers()) == 3)
    line.hang_up()
    line.ends_within(2)
    line.close()
    clean(shared)
    faulty.heal()
    assert set(shared.run(ALICE, name).found()) == {"0", "1", "2", "3"}
    assert shared.leftovers() == []


def test_storekeeper_in_a_connection_that_nobody_answers_ends_with_its_engine(shared):
    shared.install(more="")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with contextlib.ExitStack() as full:  # its queue is full: SYNs go unanswered
            for _ in range(2):
                waiting = full.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", silent.getsockname()[1]))
            line = Line(shared)
            line.ask(f"{host}/x:1", "sha256:" + "0" * 64)
            time.sleep(0.5)
            line.hang_up()
            line.ends_within(2.5)
            line.close()


def test_engine_that_goes_away_between_two_layers_is_granted_nothing(shared, faulty):
    """A grant for some of an image's layers would run a container that lacks the rest."""
    layers = [layer({f"{n:03}": os.urandom(2000)}) for n in range(60)]
    built = image(layers)
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", built)
    for count in (3, 17, 41):
        line = Line(shared)
        line.ask(name, built.digest)
        until(lambda count=count: len(shared.layers()) >= count)
        line.hang_up()
        line.ends_within(2)
        line.close()
        clean(shared)
    assert len(shared.run(ALICE, name).found()) == 60


def test_engine_that_does_not_listen_keeps_nobody_waiting(shared, faulty):
    """It holds the layer's lock for as long as it takes to fetch, not to be read."""
    built = image([layer({"big": bytes(400 << 20)})])
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", built)
    deaf = Line(shared)
    deaf.ask(name, built.digest)
    until(lambda: faulty.count("GET", built.layer_digests[0]))
    answer = shared.start(BOB, name, look="nothing").answer()
    assert answer.layers == 1
    assert faulty.count("GET", built.layer_digests[0]) == 1
    deaf.close()


def test_scancel_of_the_leader_is_no_failure_of_those_who_wait(shared, faulty, built):
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", built)
    slow = built.layer_digests[2]
    faulty.fault(slow, stall(100), method="GET", times=1)
    shared.install(more="")
    leader = Line(shared)
    leader.ask(name, built.digest)
    until(lambda: faulty.count("GET", slow))
    followers = [shared.start(uid, name) for uid in (ALICE, BOB)]
    for follower in followers:
        keeper = follower.keeper()
        until(lambda keeper=keeper: keeper.num_threads() > 2)
    leader.hang_up()
    for follower in followers:
        assert set(follower.answer().found()) == {"0", "1", "2", "3"}
    leader.close()
    assert faulty.count("GET", slow) == 2


def test_killed_leader_is_replaced_within_two_seconds(shared, faulty, built):
    shared.trust(faulty.host)
    name = faulty.add("x/y", "1", built)
    slow = built.layer_digests[3]
    faulty.fault(slow, trickle(1000), method="GET", times=1)
    shared.install(more="")
    leader = shared.start(ALICE, name)
    until(lambda: faulty.count("GET", slow))
    follower = shared.start(BOB, name)
    keeper = follower.keeper()
    until(lambda: _waits(shared, keeper))
    leader.keeper().send_signal(signal.SIGKILL)
    until(lambda: faulty.count("GET", slow) == 2, 2)
    assert set(follower.answer().found()) == {"0", "1", "2", "3"}
    assert leader.answer().error == (
        "store",
        "the storekeeper ended without an answer",
    )
    assert all(faulty.count("GET", digest) == 1 for digest in built.layer_digests[:3])


def _waits(shared, keeper):
    with contextlib.suppress(psutil.Error):
        return any(
            file.path.startswith(f"{shared.root}/locks/fetch.") for file in keeper.open_files()
        )
    return False


def test_end_of_the_step_leaves_nothing_in_the_store(shared, faulty, built):
    shared.trust(faulty.host)
    faulty.fault("/blobs/", stall(10), method="GET", skip=1)
    line = Line(shared)
    line.ask(faulty.add("x/y", "1", built), built.digest)
    until(lambda: faulty.count("GET", "/blobs/") > 1)
    assert shared.leftovers() != []
    line.ours.close()
    assert line.broker.wait(5) == 0
    assert shared.leftovers() == []
    line.hang_up()


# -- the broker ------------------------------------------------------------------------------------


def test_next_storekeeper_of_a_step_ends_the_one_before(shared):
    line = Line(shared)
    second = socket.socket(fileno=kernel.broker_keeper(line.ours.fileno()))
    until(lambda: _is_over(line.keeper), 2)
    second.close()
    line.close()


def test_step_has_no_more_than_eight_storekeepers(shared):
    broker, ours = shared.broker(ALICE)
    for _ in range(8):
        os.close(kernel.broker_keeper(ours.fileno()))
    with pytest.raises(OSError, match="too many storekeepers for one step"):
        kernel.broker_keeper(ours.fileno())
    ours.close()
    assert broker.wait(10) == 0


def test_broker_ends_with_slurmstepd_even_if_the_user_keeps_the_connection(shared):
    """Slurmstepd hands it a pidfd of its own as descriptor 4."""
    stepd = os.fork()
    if stepd == 0:
        signal.pause()
        os._exit(0)
    shared.life = os.pidfd_open(stepd)
    line = Line(shared)
    os.kill(stepd, signal.SIGKILL)
    os.waitpid(stepd, 0)
    assert line.broker.wait(4) == 0
    assert _is_over(line.keeper)
    line.hang_up()
    line.ours.close()
    os.close(shared.life)


def test_user_who_reads_no_answer_does_not_hold_the_broker(shared, faulty, built):
    shared.trust(faulty.host)
    assert shared.run(ALICE, faulty.add("x/y", "1", built)).layers == 1
    broker, ours = shared.broker(ALICE)
    asked = (0x46424B31).to_bytes(4, "little") + (1).to_bytes(4, "little")
    asked += built.digest.partition(":")[2].encode().ljust(260, b"\0")
    ours.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        while sent < 20_000:
            ours.send(asked)
            sent += 1
    assert sent > 0
    ours.close()
    assert broker.wait(15) == 0


def test_descriptors_are_not_taken_from_the_user(shared):
    """Closing one may take as long as its owner likes. Source: Linux 6.16, SO_PASSRIGHTS."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 16):
        pytest.skip("this kernel cannot refuse descriptors; they are dropped unread")
    line = Line(shared)
    until(lambda: _sleeps(line.broker.pid))
    for connection in (line.ours, line.socket):
        with pytest.raises(PermissionError):
            socket.send_fds(connection, [b"x"], [0])
    line.close()


def _sleeps(pid):
    return psutil.Process(pid).status() == psutil.STATUS_SLEEPING


def test_storekeeper_may_be_chosen_when_memory_runs_out(shared, tmp_path):
    """Slurmstepd, its root's child, may not."""
    traced, log = tmp_path / "traced", tmp_path / "log"
    strace = f"strace -ff -e trace=openat,write -o {log}"  # a file per process
    traced.write_text(f'#!/bin/sh\nexec {strace} {shared.program} "$@"\n')
    traced.chmod(0o755)
    shared.program = str(traced)
    broker, ours = shared.broker(ALICE)
    os.close(kernel.broker_keeper(ours.fileno()))
    pattern = r'openat\(.*"/proc/self/oom_score_adj", O_WRONLY.*= (\d+)\nwrite\(\1, "0", 1\)'
    until(lambda: any(re.search(pattern, path.read_text()) for path in tmp_path.glob("log.*")))
    ours.close()
    assert broker.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, 0])
def test_user_can_signal_neither_broker_nor_storekeeper(shared, line, number):
    refused = []

    def try_it():
        for pid in (line.broker.pid, line.keeper.pid):
            if os.fork() == 0:
                os.setresgid(ALICE, ALICE, ALICE)
                os.setresuid(ALICE, ALICE, ALICE)
                try:
                    os.kill(pid, number)
                except PermissionError:
                    os._exit(7)
                os._exit(0)
            refused.append(os.waitstatus_to_exitcode(os.wait()[1]))

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert refused == [7, 7]


def test_storekeepers_memory_is_closed_to_its_own_account(shared, faulty, built):
    """Another user's storekeeper that was taken over would read the login there."""
    name = faulty.add("x/y", "1", built)
    faulty.fault(built.layer_digests[2], stall(1000), method="GET")
    launch = shared.start(ALICE, name)
    try:
        keeper = launch.keeper()
        until(lambda: faulty.count("GET", built.layer_digests[2]))
        for file in ("mem", "environ", "fd"):
            assert readable(f"/proc/{keeper.pid}/{file}", SERVICE) == "Permission denied"
            # The same is open for a process that did not close it.
            assert readable("/proc/self/" + file, SERVICE) == ""
    finally:
        launch.kill()


def readable(path, uid):
    """Open a file or directory as a user in a process of its own; returns what went wrong."""
    code = "import os, sys\ntry: os.open(sys.argv[1], os.O_RDONLY)\nexcept OSError as e: print(e.strerror, end='')"
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    done = subprocess.run(
        [*command, "/usr/bin/python3", "-c", code, path], check=True, capture_output=True, text=True
    )
    return done.stdout
