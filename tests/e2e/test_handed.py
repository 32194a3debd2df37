"""Blobs that an engine hands to the storekeeper: taken for their bytes, whoever hands over what."""

import array
import json
import os
import socket
import threading

import pytest
from images import image
from test_keeper import Site, listen, random_layer, warnings

from fairlead.shared import handed
from fairlead.shared.handed import Handed


@pytest.fixture
def keeper(tmp_path, faulty):
    found = Site(tmp_path)
    found.environ["FAIRLEAD_INSECURE_REGISTRIES"] = faulty.host
    return found


class Engine:
    """A storekeeper's engine that answers what it is asked for as a test likes."""

    def __init__(self, keeper, faulty, built, answers):
        self.asked = []
        process, line = keeper.start(faulty.add("x/y", "1", built), built.digest, together=True)
        ours = line.dup()
        self.told = listen(process, line, lambda blob: self._answer(ours, blob, answers))
        ours.close()

    def _answer(self, line, blob, answers):
        digest, _ = blob
        self.asked.append(digest)
        fd = answers(digest)
        text = json.dumps({"blob": digest, "has": fd is not None}).encode() + b"\n"
        rights = (
            [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        )
        line.sendmsg([text], rights)
        if fd is not None:
            os.close(fd)


def file_of(tmp_path, data):
    path = tmp_path / f"handed-{len(data)}-{os.urandom(4).hex()}"
    path.write_bytes(data)
    return os.open(path, os.O_RDWR)


def test_what_was_handed_over_is_not_fetched(keeper, faulty, tmp_path):
    built = image([random_layer(10), random_layer(300)])
    told = Engine(keeper, faulty, built, lambda digest: file_of(tmp_path, built.blobs[digest]))
    assert told.told[-1] == {"done": 310 << 10}
    assert sorted(told.asked) == sorted([*built.layer_digests, built.config_digest])
    for digest in told.asked:
        assert faulty.count("GET", digest) == 0
        assert faulty.count("HEAD", digest) == 1
    assert keeper.is_clean()


def test_what_the_registry_does_not_show_its_user_is_not_taken(keeper, faulty, tmp_path):
    built = image([random_layer(10)])
    (digest,) = built.layer_digests
    faulty.fault(f"/blobs/{digest}", lambda answer: answer._replace(status=404, body=b""))
    told = Engine(keeper, faulty, built, lambda one: file_of(tmp_path, built.blobs[one]))
    assert digest not in told.asked
    assert "error" in told.told[-1]
    assert keeper.layers() == set()


def fifo(tmp_path):
    path = tmp_path / os.urandom(4).hex()
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)


def sparse(tmp_path, size):
    fd = file_of(tmp_path, b"")
    os.truncate(fd, size)
    return fd


@pytest.mark.parametrize(
    ("harm", "is_read"),
    [
        (lambda tmp, data: None, False),
        (lambda tmp, data: fifo(tmp), False),
        (lambda tmp, data: os.open(tmp, os.O_RDONLY), False),
        (lambda tmp, data: file_of(tmp, data[:-1]), False),
        (lambda tmp, data: sparse(tmp, 1 << 40), False),
        (lambda tmp, data: os.open("/proc/self/status", os.O_RDONLY), False),
        (lambda tmp, data: os.open("/dev/zero", os.O_RDONLY), False),
        (lambda tmp, data: sparse(tmp, len(data)), True),
        (lambda tmp, data: file_of(tmp, b"x" + data[1:]), True),
        (lambda tmp, data: file_of(tmp, data[:-1] + b"x"), True),
        (lambda tmp, data: os.open("/dev/null", os.O_WRONLY), False),
    ],
    ids=[
        *("none", "fifo", "directory", "short", "huge", "proc", "device", "zeros", "first", "last"),
        "write-only",
    ],
)
def test_what_is_no_such_file_is_fetched_instead(keeper, faulty, tmp_path, harm, is_read):
    built = image([random_layer(100)])
    (digest,) = built.layer_digests

    def answer(one):
        return harm(tmp_path, built.blobs[one]) if one == digest else None

    told = Engine(keeper, faulty, built, answer).told
    assert told[-1] == {"done": 100 << 10}
    assert faulty.count("GET", digest) == 1
    assert keeper.is_clean()
    wrong = "the engine/blobs/sha256/" in "".join(warnings(told))
    assert wrong == is_read


def test_a_file_that_changes_while_it_is_read_never_lands_in_the_store(keeper, faulty, tmp_path):
    built = image([random_layer(30_000)])
    (digest,) = built.layer_digests
    data = built.blobs[digest]
    path = tmp_path / "changing"
    path.write_bytes(data)
    over = threading.Event()

    def change():
        with open(path, "r+b", buffering=0) as file:
            while not over.is_set():
                for text in (b"evil", data[-4:]):
                    os.pwrite(file.fileno(), text, len(data) - 4)
                    os.lseek(file.fileno(), 0, os.SEEK_SET)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        answer = lambda one: os.open(path, os.O_RDWR) if one == digest else None  # noqa: E731
        told = Engine(keeper, faulty, built, answer).told
    finally:
        over.set()
        changing.join()
    assert told[-1] == {"done": 30_000 << 10}
    assert keeper.is_clean()


def test_an_engine_that_answers_what_nobody_asked_is_hung_up_on(keeper, faulty):
    built = image([random_layer(10)])
    process, line = keeper.start(faulty.add("x/y", "1", built), built.digest, together=True)
    line.sendall(b'{"blob": "sha256:00", "has": false}\n')
    told = listen(process, line)
    assert not told or "done" not in told[-1]


def test_descriptors_without_end_are_hung_up_on(keeper, faulty):
    built = image([random_layer(10)])
    process, line = keeper.start(faulty.add("x/y", "1", built), built.digest, together=True)
    rights = array.array("i", [0] * 5)
    for _ in range(4):
        try:
            line.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError:
            break
    told = listen(process, line)
    assert not told or "done" not in told[-1]


# -- waiting ---------------------------------------------------------------------------------------


def test_no_blob_is_waited_for_without_end(monkeypatch):
    from fairlead.image.manifest import Descriptor

    monkeypatch.setattr(handed, "PATIENCE_S", 0.2)
    silent = Handed(lambda digest, size: True, threading.Event())
    assert silent.ask(Descriptor("", "sha256:00", 100)) is None
    deaf = Handed(lambda digest, size: False, threading.Event())
    assert deaf.ask(Descriptor("", "sha256:00", 100)) is None
