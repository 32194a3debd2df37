"""The storekeeper and the life of its store: room, living jobs, shared blobs. The test is its engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_registry import trickle
from images import image, layer

from fairlead.shared import check as shared_check
from fairlead.shared import gc as shared_gc
from fairlead.shared import site
from fairlead.store.layout import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import stores

ENGINE = str(Path(__file__).parents[2] / "engine")
KEEPER = """
import json, os, sys
fd, path, jobs, environ = json.loads(sys.argv[1])
os.dup2(fd, 3)
from fairlead import config
from fairlead.shared import keeper
keeper.site_config = lambda: config.load(environ, site_file="/nonexistent", home="/nonexistent")
living = None if jobs is None else frozenset(jobs)
sys.exit(keeper.main([path, "1000", "7"], lambda: living))
"""


class Site:
    """A site store that belongs to whoever runs the test, and its settings."""

    def __init__(self, tmp_path):
        self.store = Store(str(tmp_path / "site"))
        self.environ = {}
        self.jobs = []

    def start(self, name, digest, *, together=False):
        """Start a storekeeper and ask it for an image; returns it and the line to it."""
        ours, its = socket.socketpair()
        arguments = json.dumps([its.fileno(), self.store.root, self.jobs, self.environ])
        with its:
            process = subprocess.Popen(
                [sys.executable, "-c", KEEPER, arguments],
                env={"PYTHONPATH": ENGINE, "PATH": "/bin"},
                pass_fds=[its.fileno()],
            )
        wanted = f"{name.rpartition(':')[0]}@{digest}"
        asked = {"protocol": 1, "image": wanted, "together": together}
        ours.sendall(json.dumps(asked).encode() + b"\n")
        return process, ours

    def ask(self, name, digest):
        """Ask a storekeeper for an image; returns its messages, the last one done or error."""
        return listen(*self.start(name, digest))

    def layers(self):
        names = os.listdir(self.store.path("layers"))
        return {name[:-6] for name in names if name.endswith(".erofs")}

    def is_clean(self):
        return list(shared_check.run(self.store, repair=False)) == []


def listen(process, line, hand=None):
    """Be a storekeeper's engine, without a login, to the end; hand answers what it asks for."""
    told = []
    with process, line, line.makefile("r") as lines:
        for text in lines:
            told.append(json.loads(text))
            if "login" in told[-1]:
                line.sendall(b'{"header": null}\n')
            if hand is not None and "blob" in told[-1]:
                hand(told[-1]["blob"])
            if told[-1].keys() & {"done", "error"}:
                break
    assert process.returncode in {0, 125, -signal.SIGKILL}
    return told


@pytest.fixture
def keeper(tmp_path, faulty):
    found = Site(tmp_path)
    found.environ["FAIRLEAD_INSECURE_REGISTRIES"] = faulty.host
    return found


def random_layer(kilobytes):
    return layer({"data": os.urandom(kilobytes << 10)}, "none")


def warnings(told):
    return [message["warning"] for message in told if "warning" in message]


def test_image_is_granted_and_the_store_is_clean(keeper, faulty):
    built = image([random_layer(10), random_layer(10)])
    told = keeper.ask(faulty.add("x/y", "1", built), built.digest)
    assert told[-1] == {"done": 20 << 10}
    assert len(keeper.layers()) == 2
    assert keeper.is_clean()


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_many_storekeepers_fetch_each_layer_once_and_all_grant(keeper, faulty, count):
    built = image([random_layer(100), random_layer(100)])
    name = faulty.add("x/y", "1", built)
    for digest in built.layer_digests:
        faulty.fault(digest, trickle(100_000))
    running = [keeper.start(name, built.digest) for _ in range(count)]
    assert [listen(*one)[-1] for one in running] == [{"done": 200 << 10}] * count
    assert [faulty.count("GET", digest) for digest in built.layer_digests] == [1, 1]
    assert keeper.is_clean()


def test_killed_storekeeper_is_replaced_by_one_that_waits_within_two_seconds(keeper, faulty):
    slow = random_layer(100)
    built = image([slow])
    name = faulty.add("x/y", "1", built)
    faulty.fault(slow.digest, trickle(1000), times=1)
    first = keeper.start(name, built.digest)
    until(lambda: faulty.count("GET", slow.digest) == 1)
    second = keeper.start(name, built.digest)
    until(lambda: faulty.count("GET", "/manifests/") == 2)
    first[0].kill()
    killed = time.monotonic()
    until(lambda: faulty.count("GET", slow.digest) == 2)
    assert time.monotonic() - killed < 2
    assert listen(*second)[-1] == {"done": 100 << 10}
    listen(*first)
    keeper.ask(name, built.digest)  # sweeps
    assert keeper.is_clean()


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_image_above_the_quota_is_refused_before_the_first_byte(keeper, faulty):
    keeper.environ["FAIRLEAD_STORE_QUOTA"] = "500K"
    built = image([random_layer(600)])
    told = keeper.ask(faulty.add("x/y", "1", built), built.digest)
    code, message, _ = told[-1]["error"]
    assert code == "no-space"
    assert "needs 0.6 MB or more, 0.5 MB free under store_quota, gc can free 0.0 MB" in message
    assert faulty.count("GET", built.layer_digests[0]) == 0


def test_unused_layers_make_room_and_those_of_living_jobs_stay(keeper, faulty):
    keeper.environ["FAIRLEAD_STORE_QUOTA"] = "1200K"
    built = [image([random_layer(400)]) for _ in range(3)]
    names = [faulty.add("x/y", str(number), one) for number, one in enumerate(built)]
    for number in (0, 1):
        keeper.ask(names[number], built[number].digest)
        where = site.grant_path(keeper.store, 1000, site.name_of(built[number].digest))
        os.utime(where, (1000 + number, 1000 + number))
        for layer_name in keeper.layers():
            os.utime(site.layer_path(keeper.store, layer_name), (1000, 1000))
    # The older one is leased to a job that lives.
    stores.lease(keeper.store, 12, site.name_of(built[0].digest), made=1000)
    keeper.jobs = [12]
    assert "done" in keeper.ask(names[2], built[2].digest)[-1]
    granted = {g.manifest for g in shared_gc.grants(keeper.store)}
    assert granted == {site.name_of(built[0].digest), site.name_of(built[2].digest)}
    assert len(keeper.layers()) == 2
    assert keeper.is_clean()


def test_shared_blobs_come_before_the_registry_and_are_verified(keeper, faulty, tmp_path):
    one, two = random_layer(10), random_layer(10)
    built = image([one, two])
    folder = tmp_path / "lustre/blobs/sha256"
    folder.mkdir(parents=True)
    (folder / one.digest[7:]).write_bytes(one.data)
    (folder / two.digest[7:]).write_bytes(
        two.data[:-1500] + bytes([two.data[-1500] ^ 1]) + two.data[-1499:]
    )
    keeper.environ["FAIRLEAD_SHARED_BLOBS"] = str(tmp_path / "lustre")
    told = keeper.ask(faulty.add("x/y", "1", built), built.digest)
    assert "done" in told[-1]
    assert (faulty.count("GET", one.digest), faulty.count("GET", two.digest)) == (0, 1)
    path = f"{folder}/{two.digest[7:]}"
    line = f"{path}: its content is not what its name says; fetching from the registry"
    assert warnings(told) == [line]
    assert keeper.is_clean()


def test_shared_blobs_give_nothing_that_the_registry_does_not_show(keeper, faulty, tmp_path):
    secret = random_layer(10)
    built = image([secret])
    name = faulty.add("x/y", "1", built)
    faulty.blobs.pop(secret.digest)  # a manifest may name what its registry does not have
    folder = tmp_path / "lustre/blobs/sha256"
    folder.mkdir(parents=True)
    (folder / secret.digest[7:]).write_bytes(secret.data)
    keeper.environ["FAIRLEAD_SHARED_BLOBS"] = str(tmp_path / "lustre")
    told = keeper.ask(name, built.digest)
    assert "error" in told[-1]
    assert keeper.layers() == set()
