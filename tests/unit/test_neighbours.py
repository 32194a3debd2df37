"""Whether a step's nodes fetch together, and by which way; and the words that are not the engine's."""

import os
import socket
import types

import pytest

from fairlead import config as settings
from fairlead.run.exchange import LINE_MAX, Exchange
from fairlead.run.neighbours import Neighbours
from fairlead.store import layout, sbcast, spread_directory
from fairlead.store.layout import Stage


class Line:
    """An exchange that remembers what was sent."""

    def __init__(self):
        self.sent = []

    def send(self, *words):
        self.sent.append(words)
        return True

    def receive(self, timeout_s=None):
        return None

    def is_open(self):
        return True


STEP = types.SimpleNamespace(job_id="7", step_id="0", nodes=4)


@pytest.fixture
def found(tmp_path, monkeypatch):
    program = tmp_path / "sbcast"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sbcast, "PLACES", (str(program),))

    def make(**variables):
        environ = {"FAIRLEAD_STORE": str(tmp_path / "store"), **variables}
        config = settings.load(environ, site_file="/nonexistent", home="/nonexistent")
        line = Line()
        return Neighbours(line, STEP, config, {}), layout.open_store(config), line

    return make


def test_by_sbcast_where_nothing_else_is_said(found):
    others, store, _ = found()
    assert isinstance(others.open(store)._way, sbcast.Sbcast)
    assert os.listdir(store.path("tmp")) == ["spread.7.0"]
    others.close()
    assert os.listdir(store.path("tmp")) == []
    assert others.open(store) is None


def test_by_the_sites_directory_where_there_is_one(found, tmp_path):
    others, store, line = found(FAIRLEAD_SPREAD_DIR=str(tmp_path))
    assert isinstance(others.open(store)._way, spread_directory.Directory)
    others.close()
    assert ("done",) in line.sent


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"FAIRLEAD_SPREAD": "directory"}, "spread is directory, and spread_dir is not set"),
        (
            {"FAIRLEAD_SPREAD_DIR": "/nonexistent/x"},
            "[Errno 2] No such file or directory: '/nonexistent/x'",
        ),
    ],
)
def test_what_cannot_be_had_is_said_once_and_waited_for_by_nobody(found, capfd, variables, reason):
    others, store, line = found(**variables)
    assert others.open(store) is None
    assert others.open(store) is None
    assert capfd.readouterr().err == f"fairlead: each node asks the registry: {reason}\n"
    assert line.sent == [("all",)]


def test_without_sbcast_each_node_asks(found, capfd, monkeypatch):
    monkeypatch.setattr(sbcast, "PLACES", ("/nonexistent/sbcast",))
    others, store, _ = found()
    assert others.open(store) is None
    said = "fairlead: each node asks the registry: this node has no sbcast\n"
    assert capfd.readouterr().err == said


def test_of_nodes_with_one_store_one_takes_part_and_nothing_is_said(found, capfd):
    others, store, line = found()
    with Stage(store, "spread.7.0"):
        assert others.open(store) is None
    assert line.sent == [("all",)]
    assert capfd.readouterr().err == ""


# -- words of the hub ------------------------------------------------------------------------------


@pytest.fixture
def ends():
    hub, node = socket.socketpair()
    yield hub, Exchange(node.fileno()), node
    hub.close()
    node.close()


def test_messages_come_one_by_one(ends):
    hub, exchange, _ = ends
    hub.sendall(b"fetch a 0\nwait b\npart")
    assert exchange.receive(5) == ("fetch", "a", "0")
    assert exchange.receive(5) == ("wait", "b")
    assert exchange.receive(0.05) is None
    hub.sendall(b" a 0 1\n")
    assert exchange.receive(5) == ("part", "a", "0", "1")


@pytest.mark.parametrize("last", [b"go\n", b"stop 125\n"])
def test_the_last_word_is_left_to_the_task(ends, last):
    hub, exchange, node = ends
    hub.sendall(b"wait b\n" + last)
    assert exchange.receive(5) == ("wait", "b")
    assert exchange.receive(5) == tuple(last.decode().split())
    assert not exchange.is_open()
    assert node.recv(100) == last


def test_a_line_without_end_is_the_end(ends):
    hub, exchange, _ = ends
    hub.sendall(b"x" * 3 * LINE_MAX)
    assert exchange.receive(5) is None
    assert not exchange.is_open()
