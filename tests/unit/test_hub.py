"""The hub's sockets: who may speak, what a flood does to it, that it ends."""

import json
import os
import random
import select
import socket
import subprocess
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COOKIE = "c0" * 32
# Descriptors to where the plugin puts them, and the door's way into the hub.
RUN = """
import os, sys
listener, life = int(sys.argv[1]), int(sys.argv[2])
pairs = ((os.dup(listener), 3), (os.dup(life), 4))
pairs = [(os.dup(fd), target) for fd, target in pairs]
high = [(__import__("fcntl").fcntl(fd, 0, 20), target) for fd, target in pairs]
for fd, target in high:
    os.dup2(fd, target)
os.closerange(5, 64)
from fairlead.run import hub
sys.exit(hub.main())
"""


class Step:
    """A hub for a step, with its nodes."""

    def __init__(self, nodes=2, environ=(), **facts):
        self.nodes = nodes
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        life, self.srun = os.pipe()
        asked = {"cookie": COOKIE, "nodes": nodes, "job": 7, "step": 0, "quiet": 0, "ref": "x:1"}
        data = "".join(f"{key}={value}\0" for key, value in {**asked, **facts}.items()).encode()
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(self.listener.fileno()), str(life)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=(self.listener.fileno(), life),
            env={"PYTHONPATH": f"{ROOT}/engine", "HOME": "/nonexistent", "PATH": "/bin",
                 "FAIRLEAD_SITE_CONFIG": "/nonexistent/fairlead.toml", **dict(environ)},
        )  # fmt: skip
        self.process.stdin.write(data)
        self.process.stdin.close()
        os.close(life)

    def connect(self):
        return socket.create_connection(self.listener.getsockname(), timeout=60)

    def node(self, index, cookie=COOKIE):
        made = self.connect()
        made.sendall(f"hello 1 {cookie} {index} n{index + 1} n[1-{self.nodes}]\n".encode())
        return made

    def end(self):
        """Let srun end; what was said, and the hub's status."""
        if self.srun >= 0:
            os.close(self.srun)
            self.srun = -1
        said = self.process.stderr.read().decode()
        return said, self.process.wait(60)


@pytest.fixture
def step():
    made = []

    def start(*args, **kwargs):
        made.append(Step(*args, **kwargs))
        return made[-1]

    yield start
    for each in made:
        each.listener.close()
        if each.srun >= 0:
            os.close(each.srun)
        each.process.kill()
        each.process.wait()
        each.process.stderr.close()


def told(node):
    """All that the hub tells a node, to the end of its direction."""
    data = b""
    while piece := node.recv(4096):
        data += piece
    return data


def test_all_are_told_to_go_and_the_hub_ends_by_itself(step):
    one = step(nodes=3)
    nodes = [one.node(index) for index in range(3)]
    for node in nodes:
        node.sendall(b"ready 5 image=a\n")
    assert [told(node) for node in nodes] == [b"go\n"] * 3
    for node in nodes:
        node.close()
    assert one.process.wait(60) == 0
    assert one.end()[0] == ""


def test_differing_nodes_are_stopped_with_one_line(step):
    one = step()
    nodes = [one.node(index) for index in range(2)]
    for number, node in enumerate(nodes):
        node.sendall(f"ready 5 image=a\tmpi={number}\n".encode())
    assert [told(node) for node in nodes] == [b"stop 125\n"] * 2
    assert one.end()[0].splitlines() == [
        (
            "fairlead: error [gate]: the step's nodes differ in MPI: n1: 0; n2: 1 "
            "(install the same MPI on all nodes, or use --container-mpi=image)"
        )
    ]


def test_node_that_is_busy_is_stopped_where_another_failed(step):
    one = step()
    busy, failing = one.node(0), one.node(1)
    failing.sendall(b"failed 127 error [library]: no \x1b[31mlibx\n")
    assert told(busy) == b"stop 127\n"
    assert one.end()[0] == "fairlead: error [library]: n2: no \\x1b[31mlibx\n"


def test_hub_ends_silently_with_srun(step):
    one = step()
    one.node(0).sendall(b"image 1 2\n")
    assert one.end() == ("", 0)


def test_cookie_that_is_wrong_is_hung_up_on_and_the_step_goes_on(step):
    one = step(nodes=1)
    for cookie in ("c0" * 31, "c1" * 32, "", "\u00e9" * 64):
        assert told(one.node(0, cookie)) == b""
    node = one.node(0)
    node.sendall(b"ready 5 \n")
    assert told(node) == b"go\n"


def test_garbage_is_hung_up_on_and_the_step_goes_on(step):
    one = step(nodes=1)
    chance = random.Random(7)
    strangers = []
    for number in range(120):
        stranger = one.connect()
        size = chance.choice((1, 40, 5000, 70000))
        data = bytes(chance.randrange(256) for _ in range(min(size, 300))) * (size // 300 + 1)
        try:
            stranger.sendall(data if number % 3 else b"ready 5 a\nhello 1\n" + data)
        except OSError:
            pass
        strangers.append(stranger)
    node = one.node(0)
    node.sendall(b"nonsense 1 2\nimage 5 10\nready 5 \n")
    assert told(node) == b"go\n"
    node.close()
    for stranger in strangers:
        stranger.close()
    assert one.end() == ("", 0)


@pytest.mark.parametrize("line", [b"image x y", b"ready x", b"failed", b"phases a=b", b"x" * 5000])
def test_node_that_speaks_nonsense_is_no_node(step, line):
    one = step(nodes=1)
    node = one.node(0)
    try:
        node.sendall(line + b"\n")
        assert told(node) in {b"", b"stop 125\n"}
    except ConnectionError:
        pass  # what was not read when it was hung up on
    assert "n1: ended before" in one.end()[0]


def test_strangers_that_wait_take_nobodys_place(step):
    one = step(nodes=1)
    strangers = [one.connect() for _ in range(200)]
    node = one.node(0)
    node.sendall(b"ready 5 \n")
    assert told(node) == b"go\n"
    ready, _, _ = select.select(strangers, [], [], 60)
    assert ready  # the oldest of them were hung up on
    for stranger in strangers:
        stranger.close()


def test_missing_node_is_named_and_told_when_it_comes(step):
    one = step(nodes=3, environ={"FAIRLEAD_GATE_TIMEOUT": "1"}.items())
    nodes = [one.node(0), one.node(2)]
    assert [told(node) for node in nodes] == [b"stop 125\n"] * 2
    late = one.node(1)
    assert told(late) == b"stop 125\n"
    said = one.end()[0]
    assert said.startswith("fairlead: error [gate]: n2: did not come within 1 s of the first node")
    assert said.count("\n") == 1


def test_without_a_gate_each_node_goes_at_once(step):
    one = step(environ={"FAIRLEAD_GATE": "0"}.items())
    first, second = one.node(0), one.node(1)
    first.sendall(b"ready 5 mpi=a\n")
    assert told(first) == b"go\n"
    second.sendall(b"failed 125 error [x]: y\n")
    assert told(second) == b""  # it speaks for itself
    first.close(), second.close()
    assert one.end()[0] == ""


def test_progress_is_one_line_for_the_step(step):
    one = step()
    nodes = [one.node(index) for index in range(2)]
    nodes[0].sendall(b"ready 5 \n")
    nodes[1].sendall(b"image 620000000 1000000000\n")
    line = one.process.stderr.readline().decode()
    assert line == "fairlead: pulling x:1: image ready on 1/2 nodes, n2: 62 % of 1.0 GB\n"


def test_quiet_srun_hears_of_no_progress(step):
    one = step(quiet=1)
    nodes = [one.node(index) for index in range(2)]
    nodes[1].sendall(b"image 620000000 1000000000\n")
    time.sleep(2.0)  # a line would have come after one
    assert one.end()[0] == ""


def test_report_is_written_before_the_ranks_run(step, tmp_path):
    path = tmp_path / "r.json"
    one = step(nodes=1, report=path)
    node = one.node(0)
    node.sendall(b"phases resolve=1000 mount=2000\nready 5000 a=b\n")
    assert told(node) == b"go\n"
    found = json.loads(path.read_text())
    assert found["nodes"][0]["phases"] == {"resolve": 0.001, "mount": 0.002}
    assert found["nodes"][0]["stood"] == 0.005


def test_report_that_cannot_be_written_is_a_warning(step):
    one = step(nodes=1, report="/nonexistent/r.json")
    node = one.node(0)
    node.sendall(b"ready 5000 a=b\n")
    assert told(node) == b"go\n"
    assert one.end()[0] == (
        "fairlead: warning: cannot write the start report /nonexistent/r.json: "
        "No such file or directory\n"
    )
