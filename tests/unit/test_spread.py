"""Blobs that nodes fetch together: real stores, files and messages; the hub is a thread."""

import errno
import hashlib
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fairlead import config as settings
from fairlead import errors
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import parse
from fairlead.run import hub_blobs
from fairlead.run.exchange import Exchange
from fairlead.run.hub_blobs import Blobs
from fairlead.store import (
    blobs,
    layout,
    leftovers,
    spread,
    spread_directory,
    spread_parts,
    transfer,
)
from fairlead.store.layout import Stage

NAME = parse("127.0.0.1:1/x/y:1")


class Hub(threading.Thread):
    """The hub's part that concerns blobs, for some connections."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        pairs = [socket.socketpair() for _ in range(nodes)]
        self.ends = [pair[0] for pair in pairs]
        self.nodes = [Exchange(pair[1].detach()) for pair in pairs]
        self.blobs = Blobs(nodes, self.tell)
        self.alter = lambda line: line
        self.lines = []
        self.over = False
        self.start()

    def tell(self, node, line):
        try:
            self.ends[node].sendall(f"{self.alter(line)}\n".encode())
        except OSError:
            self.blobs.settled(node)

    def run(self):
        import selectors

        chosen, rests = selectors.DefaultSelector(), {}
        for number, end in enumerate(self.ends):
            chosen.register(end, selectors.EVENT_READ, number)
            rests[number] = b""
        while not self.over:
            for key, _ in chosen.select(min(0.05, self.blobs.wait_s() or 0.05)):
                data = key.fileobj.recv(1 << 16)
                if not data:
                    chosen.unregister(key.fileobj)
                    self.blobs.settled(key.data)
                    continue
                *lines, rests[key.data] = (rests[key.data] + data).split(b"\n")
                for line in lines:
                    self.lines.append((key.data, line.decode()))
                    self.blobs.heard(key.data, tuple(line.decode().split(" ")))
            self.blobs.tick()


class Source:
    """A registry that counts; what it has for a digest may be wrong on purpose."""

    def __init__(self, contents):
        self.contents, self.gets, self.lock = contents, [], threading.Lock()
        self.fails = 0

    def blob(self, _, descriptor):
        with self.lock:
            self.gets.append(descriptor.digest)
            self.fails -= 1
        if self.fails >= 0:
            raise errors.RegistryUnreachableError("127.0.0.1:1: is out of reach")
        data = self.contents[descriptor.digest]
        for at in range(0, len(data), 4096):
            yield data[at : at + 4096]

    def stop(self):
        pass


class Bed:
    """Some nodes with a store each."""

    def __init__(self, tmp_path, nodes, sizes):
        contents = [os.urandom(size) for size in sizes]
        digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in contents]
        self.layers = tuple(
            Descriptor("", digest, len(data))
            for digest, data in zip(digests, contents, strict=True)
        )
        self.source = Source(dict(zip(digests, contents, strict=True)))
        self.document = os.urandom(5_000)
        self.digest = f"sha256:{hashlib.sha256(self.document).hexdigest()}"
        self.shared = tmp_path / "shared"
        self.shared.mkdir(exist_ok=True)
        self.hub = Hub(nodes)
        self.stores = [self._store(tmp_path / f"n{number}") for number in range(nodes)]
        self.way = lambda number: spread_directory.Directory(str(self.shared), "7.0")

    def _store(self, path):
        environ = {"FAIRLEAD_STORE": str(path)}
        return layout.open_store(settings.load(environ, site_file="/nonexistent"))

    def pull(self, number):
        """Be a node: return the layers as they are read."""
        store = self.stores[number]
        channel = self.hub.nodes[number]
        together = spread.Spread(channel, self.way(number), store, len(self.stores))
        with together, Stage(store) as stage:
            document = together.document(self.digest)
            assert document in {None, self.document}
            if document is None:
                together.send_document(self.digest, self.document)
            args = (self.source, NAME, store, stage, self.layers, None, "", together)
            with transfer.Transfer(*args) as supply:
                found = []
                for layer in range(len(self.layers)):
                    with supply.layer(layer) as stream:
                        found.append(stream.read())
                    supply.applied(layer)
        self.hub.ends[number].shutdown(socket.SHUT_WR)
        return found

    def pull_all(self, numbers=None):
        numbers = range(len(self.stores)) if numbers is None else numbers
        with ThreadPoolExecutor(len(self.stores)) as nodes:
            return list(nodes.map(self.pull, numbers))

    def contents(self):
        return [self.source.contents[layer.digest] for layer in self.layers]


@pytest.fixture
def bed(tmp_path, monkeypatch):
    monkeypatch.setattr(spread_parts, "PART", 50_000)
    made = []

    def make(nodes=4, sizes=(200_000, 20_000, 130_001, 300, 50_000, 90_000)):
        made.append(Bed(tmp_path, nodes, sizes))
        return made[-1]

    yield make
    for one in made:
        one.hub.over = True
        one.hub.join()


def test_each_blob_is_fetched_once_and_read_by_all(bed):
    four = bed()
    assert four.pull_all() == [four.contents()] * 4
    assert sorted(four.source.gets) == sorted(layer.digest for layer in four.layers)
    assert os.listdir(four.shared) == []
    for store in four.stores:
        assert os.listdir(store.path("tmp")) == []


def test_sixteen_nodes_and_many_layers_do_not_wait_for_each_other(bed):
    many = bed(16, tuple(1_000 + 9_000 * (number % 13) for number in range(40)))
    assert many.pull_all() == [many.contents()] * 16
    assert len(many.source.gets) == 40


def test_a_node_that_has_a_layer_does_not_ask_for_it(bed):
    four = bed()
    layer = four.layers[0]
    with open(blobs.path(four.stores[3], layer.digest), "wb") as file:
        file.write(four.source.contents[layer.digest])
    assert four.pull_all() == [four.contents()] * 4
    assert len(four.source.gets) == len(four.layers)
    assert not [
        1 for node, line in four.hub.lines if node == 3 and layer.digest in line and "need" in line
    ]


def test_a_node_alone_fetches_and_sends_nothing(bed):
    four = bed()
    for number in (1, 2, 3):
        four.hub.ends[number].shutdown(socket.SHUT_RDWR)
    assert four.pull(0) == four.contents()
    assert not [line for _, line in four.hub.lines if line.startswith("part")]


def test_a_part_that_was_altered_on_its_way_is_fetched_again_by_who_got_it(bed, capfd):
    two = bed(2, (120_000,))

    class Altered(spread_directory.Directory):
        def put(self, fd, name):
            os.pwrite(fd, b"evil", 7)
            return super().put(fd, name)

    two.way = lambda number: Altered(str(two.shared), "7.0")
    assert two.pull_all() == [two.contents()] * 2
    assert len(two.source.gets) == 2
    digest = two.layers[0].digest[:19]
    told = [line for line in capfd.readouterr().err.splitlines() if "in vain" in line]
    why = "its content is not what its name says"
    assert told == [
        f"fairlead: {digest}: came from a neighbour in vain ({why}); asking the registry"
    ]


@pytest.mark.parametrize("harm", ["absent", "short", "fifo", "link"])
def test_a_part_that_is_not_there_as_it_should_is_fetched(bed, harm):
    two = bed(2, (120_000,))

    class Harmed(spread_directory.Directory):
        def put(self, fd, name):
            super().put(fd, name)
            path = f"{self._place}/{name}"
            if harm == "short":
                os.truncate(path, 3)
                return True
            os.unlink(path)
            if harm == "fifo":
                os.mkfifo(path)
            if harm == "link":
                os.symlink("/etc/passwd", path)
            return True

    two.way = lambda number: Harmed(str(two.shared), "7.0")
    assert two.pull_all() == [two.contents()] * 2
    assert len(two.source.gets) == 2


def test_what_cannot_be_sent_everybody_fetches(bed):
    four = bed(4, (120_000,))

    class Broken(spread_directory.Directory):
        def put(self, fd, name):
            return False

    four.way = lambda number: Broken(str(four.shared), "7.0")
    assert four.pull_all() == [four.contents()] * 4
    assert len(four.source.gets) == 4


def test_a_node_that_cannot_send_keeps_what_it_fetched(bed, monkeypatch):
    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    two = bed(2, (120_000, 130_000, 140_000, 150_000, 160_000, 170_000))
    monkeypatch.setattr(os, "memfd_create", full)
    assert two.pull_all() == [two.contents()] * 2


def test_messages_that_get_lost_or_are_nonsense_hang_nobody(bed):
    two = bed(2, (120_000, 300))
    two.hub.alter = lambda line: line.replace("part ", "part x ").replace("piece", "piece !")
    two.hub.alter = lambda line: f"{line} %" if line.startswith("piece") else line
    assert two.pull_all() == [two.contents()] * 2


def test_without_the_hub_each_fetches(bed):
    two = bed(2, (120_000,))
    for end in two.hub.ends:
        end.shutdown(socket.SHUT_RDWR)
    assert two.pull_all() == [two.contents()] * 2
    assert len(two.source.gets) == 2


def test_another_fetches_what_the_first_could_not(bed):
    two = bed(2, (120_000,))
    two.source.fails = 1
    with ThreadPoolExecutor(2) as nodes:
        results = [nodes.submit(two.pull, number) for number in range(2)]
        failures = [result.exception() for result in results]
    assert [type(one) for one in failures if one] == [errors.RegistryUnreachableError]
    assert [result.result() for result in results if not result.exception()] == [two.contents()]


def test_a_step_that_was_ended_is_not_waited_for(bed):
    two = bed(2, (120_000,))
    two.hub.alter = lambda line: "stop 125" if line.startswith("wait") else line
    with ThreadPoolExecutor(2) as nodes:
        results = [nodes.submit(two.pull, number) for number in range(2)]
        failures = [result.exception() for result in results]
    assert errors.SlurmError in map(type, failures)


def test_documents_come_from_a_neighbour(bed):
    two = bed(2, (300,))
    data = os.urandom(20_000)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def node(number):
        way = spread_directory.Directory(str(two.shared), "7.0")
        with spread.Spread(two.hub.nodes[number], way, two.stores[number], 2) as together:
            found = together.document(digest)
            if found is None:
                together.send_document(digest, data)
            return found

    with ThreadPoolExecutor(2) as nodes:
        found = list(nodes.map(node, range(2)))
    assert sorted(found, key=bool) == [None, data]


def test_two_steps_that_wait_for_each_other_hold_nothing_that_the_other_needs(bed):
    """Two steps on the same nodes, whose fetchers of one layer cross: nobody waits for ever."""
    bed_a, bed_b = bed(2, (120_000,)), bed(2, (120_000,))
    bed_b.layers, bed_b.source, bed_b.stores = bed_a.layers, bed_a.source, bed_a.stores
    bed_b.way = lambda number: spread_directory.Directory(str(bed_b.shared), "7.1")
    digest = bed_a.layers[0].digest
    for one, fetcher in ((bed_a, 0), (bed_b, 1)):
        one.hub.blobs._load = {1 - fetcher: 1}
        blob = hub_blobs._Blob(fetcher, 120_000, time.monotonic() + 60)  # waited for, however late
        one.hub.blobs._blobs[digest] = blob
    with ThreadPoolExecutor(4) as nodes:
        results = [nodes.submit(one.pull, number) for one in (bed_a, bed_b) for number in (0, 1)]
        assert [result.result(timeout=60) for result in results] == [bed_a.contents()] * 4


# -- the directory ---------------------------------------------------------------------------------


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    place = tmp_path / f"fairlead-{os.getuid()}.7.0"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    with pytest.raises(errors.StoreError, match="is not a directory of yours alone"):
        spread_directory.Directory(str(tmp_path), "7.0").open()
    place.rmdir()
    place.symlink_to("/etc")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        spread_directory.Directory(str(tmp_path), "7.0").open()


def test_a_directory_whose_names_anybody_may_change_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(errors.StoreError, match="no sticky bit"):
        spread_directory.Directory(str(tmp_path), "7.0").open()


def test_parts_are_for_their_user_alone(tmp_path):
    way = spread_directory.Directory(str(tmp_path), "7.0")
    way.open()
    fd = os.memfd_create("part")
    os.write(fd, b"data")
    assert way.put(fd, "x")
    (place,) = tmp_path.iterdir()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "x").stat().st_mode) == 0o600
    way.close(last=True)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_steps_left_is_removed_after_a_day(tmp_path):
    old, fresh = (tmp_path / f"fairlead-{os.getuid()}.{step}" for step in ("5.0", "6.0"))
    old.mkdir()
    fresh.mkdir()
    os.utime(old, (0, 0))
    way = spread_directory.Directory(str(tmp_path), "7.0")
    way.open()
    way.close(last=True)
    assert list(tmp_path.iterdir()) == [fresh]


# -- a stage with a name ---------------------------------------------------------------------------


def test_a_named_stage_is_one_process_and_swept_with_its_owner(tmp_path):
    environ = {"FAIRLEAD_STORE": str(tmp_path / "s")}
    store = layout.open_store(settings.load(environ, site_file="/nonexistent"))
    with Stage(store, "spread.7.0") as stage:
        assert stage.path == store.path("tmp", "spread.7.0")
        with pytest.raises(errors.BusyError, match="another process works there"):
            Stage(store, "spread.7.0").__enter__()
        leftovers.sweep(store)
        assert os.path.isdir(stage.path)
    os.mkdir(store.path("tmp", "spread.7.0"))
    leftovers.sweep(store)
    assert os.listdir(store.path("tmp")) == []
