"""What gc removes from a user's store, in which order, and what it never touches."""

import fcntl
import os
import subprocess
import sys
import time

import pytest
import stores

from fairlead import config as settings
from fairlead import errors
from fairlead.store import blobs, gc, items, layers, layout, leftovers, quarantine, records
from fairlead.store.items import Item
from fairlead.store.layout import Lock, Stage

EVERYTHING = 1 << 62
OLD = 1000


@pytest.fixture
def store(tmp_path):
    return layout.open_store(settings.load({"FAIRLEAD_STORE": str(tmp_path / "s")}))


def names(store):
    return [record.reference for record in records.all_of(store)]


def item(name, size=10, used=0, held="", images=("i",)):
    return Item("tree", name, size, used, images, held)


def test_least_recently_used_goes_first_and_no_more_than_needed():
    found = [item("c", used=3), item("a", used=1), item("b", used=2)]
    assert [i.name for i in items.choose(found, 15)] == ["a", "b"]


def test_nothing_goes_that_is_held():
    assert items.choose([item("a", held="process 1")], EVERYTHING) == ()


def test_garbage_goes_even_if_no_room_is_needed():
    found = [item("a"), item("b", used=9, images=())]
    assert [i.name for i in items.choose(found, 0)] == ["b"]
    assert [i.name for i in items.choose(found, 11)] == ["b", "a"]


def test_images_go_by_last_use_with_their_records_and_documents(store):
    old = stores.add_image(store, "q.io/old:1", used=OLD, diff_id="1")
    new = stores.add_image(store, "q.io/new:1", used=OLD + 1, diff_id="2")
    done = gc.collect(store, 1)
    assert [i.name for i in done.removed] == [old.chain]
    assert done.freed > 0
    assert names(store) == ["q.io/new:1"]
    assert not os.path.exists(blobs.path(store, old.config))
    assert os.path.exists(blobs.path(store, new.config))
    assert not os.path.exists(layers.path(store, old.chain))


def test_use_by_a_launch_makes_an_image_young(store):
    first = stores.add_image(store, "q.io/a:1", used=OLD, diff_id="1")
    second = stores.add_image(store, "q.io/b:1", used=OLD + 1, diff_id="2")
    os.close(layers.hold(store, first.chain))
    assert [i.name for i in gc.collect(store, 1).removed] == [second.chain]


def test_references_that_share_a_tree_go_together(store):
    stores.add_image(store, "q.io/a:1")
    stores.add_image(store, "q.io/b:1")
    gc.collect(store, EVERYTHING)
    assert names(store) == []
    assert os.listdir(store.path("blobs/sha256")) == []


def test_document_that_another_image_needs_stays(store):
    one = stores.add_image(store, "q.io/a:1", used=OLD, diff_id="1")
    two = stores.add_image(store, "q.io/b:1", used=OLD + 1, diff_id="2")
    with Stage(store) as stage:
        records.write(store, stage, two._replace(target=one.target))
    gc.collect(store, 1)
    assert os.path.exists(blobs.path(store, one.target))
    assert not os.path.exists(blobs.path(store, one.config))


def test_image_that_a_launch_holds_stays(store):
    record = stores.add_image(store, "q.io/a:1")
    fd = layers.hold(store, record.chain)
    try:
        done = gc.collect(store, EVERYTHING)
        assert (done.removed, [i.held for i in done.spared]) == ((), ["a launch"])
        assert names(store) == ["q.io/a:1"]
    finally:
        os.close(fd)
    assert gc.collect(store, EVERYTHING).freed > 0


def test_image_that_is_held_at_the_last_moment_stays_whole(store, monkeypatch):
    record = stores.add_image(store, "q.io/a:1")
    before = gc.inventory(store)
    monkeypatch.setattr(gc, "inventory", lambda _: before)
    fd = layers.hold(store, record.chain)
    try:
        done = gc.collect(store, EVERYTHING)
    finally:
        os.close(fd)
    assert [i.name for i in done.spared] == [record.chain]
    assert names(store) == ["q.io/a:1"]


def test_image_that_is_just_being_made_stays(store):
    record = stores.add_image(store, "q.io/a:1")
    with Lock(store, layers.lock_name(record.chain)):
        assert gc.collect(store, EVERYTHING).removed == ()
    assert names(store) == ["q.io/a:1"]


def test_kill_between_records_and_tree_leaves_garbage_only(store, monkeypatch):
    record = stores.add_image(store, "q.io/a:1")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        gc.collect(store, EVERYTHING)
    monkeypatch.undo()
    assert names(store) == []
    assert os.path.exists(layers.path(store, record.chain))
    assert [i.name for i in gc.collect(store, 0).removed][:1] == [record.chain]


def test_dry_run_removes_nothing(store):
    stores.add_image(store, "q.io/a:1")
    done = gc.collect(store, EVERYTHING, dry=True)
    assert done.freed > 0
    assert names(store) == ["q.io/a:1"]


def test_tree_without_a_record_is_garbage(store):
    chain = stores.add_tree(store)
    assert [i.name for i in gc.collect(store, 0).removed] == [chain]


def test_blob_without_an_image_is_garbage_once_it_is_old(store):
    digest = stores.put(store, b"layer of an image that was never unpacked")
    assert gc.collect(store, EVERYTHING).removed == ()
    os.utime(blobs.path(store, digest), (OLD, OLD))
    with Lock(store, "reference.x"):
        assert gc.collect(store, EVERYTHING).removed == ()
    assert [i.name for i in gc.collect(store, 0).removed] == [digest]


def test_lock_of_a_dead_process_does_not_keep_garbage(store):
    digest = stores.put(store, b"x")
    os.utime(blobs.path(store, digest), (OLD, OLD))
    with open(store.path("locks", "reference.dead"), "wb"):
        pass
    assert [i.name for i in gc.collect(store, 0).removed] == [digest]
    assert os.listdir(store.path("locks")) == []


def test_kept_layer_is_an_image_of_its_own_age(store):
    stores.add_image(store, "q.io/a:1", used=OLD + 5, layer=b"the compressed layer")
    digest = stores.put(store, b"the compressed layer")
    os.utime(blobs.path(store, digest), (OLD, OLD))
    assert gc.collect(store, 0).removed == ()
    assert [i.name for i in gc.collect(store, 1).removed] == [digest]
    assert names(store) == ["q.io/a:1"]


def test_quarantine_and_stages_of_the_dead_go_first(store):
    stores.add_image(store, "q.io/a:1")
    with open(store.path("images", "x"), "wb") as file:
        file.write(b"x" * 5000)
    quarantine.put(store, store.path("images", "x"))
    os.mkdir(store.path("tmp", "boot.1.2.0"))
    done = gc.collect(store, 1)
    assert [i.kind for i in done.removed] == ["garbage"]
    assert os.listdir(store.path("tmp")) == []
    assert names(store) == ["q.io/a:1"]


def test_what_was_derived_from_an_image_goes_after_its_record(store):
    record = stores.add_image(store, "q.io/a:1")
    os.makedirs(layers.derived(store, record.chain))
    assert gc.collect(store, 0).removed == ()
    records.remove(store, record)
    gc.collect(store, 0)
    assert os.listdir(store.path("derived")) == []


def test_record_that_the_disk_cannot_read_makes_no_garbage(store, monkeypatch):
    stores.add_image(store, "q.io/a:1")
    real = os.open

    def failing(path, *args, **more):
        if "/images/" in str(path):
            raise OSError(5, "Input/output error", path)
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(errors.StoreError, match=r"images/.*: Input/output error"):
        gc.collect(store, 0)
    monkeypatch.undo()
    assert len(os.listdir(store.path("trees"))) == 1


def test_looking_at_a_damaged_document_leaves_it_to_check(store):
    record = stores.add_image(store, "q.io/a:1")
    os.truncate(blobs.path(store, record.manifest), 3)
    gc.inventory(store)
    gc.collect(store, 0)
    assert os.path.exists(blobs.path(store, record.manifest))
    assert names(store) == ["q.io/a:1"]


def test_lock_without_patience_says_busy(store):
    with Lock(store, "x"):
        words = "from fairlead.store.layout import *; Lock(Store(sys.argv[1]), 'x', wait=False).__enter__()"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {words}", store.root],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
    assert "fairlead.errors.BusyError" in done.stderr


def test_who_waits_for_a_lock_that_sweep_removes_takes_a_new_one(store):
    path = store.path("locks", "x")
    with open(path, "wb") as file:
        file.write(b"no-space\0disk full\0")
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    words = "from fairlead.store.layout import *; print(Lock(Store(sys.argv[1]), 'x').__enter__().shared)"
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; {words}", store.root],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as waiter:
        deadline = time.monotonic() + 10
        while not os.path.exists(f"/proc/{waiter.pid}/wchan") or "flock" not in _stack(waiter.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        leftovers._sweep_lock(path)
        os.close(fd)
        assert waiter.stdout.read() == b"False\n"


def _stack(pid):
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        number = file.read().split()[0]
    return "flock" if number == {"x86_64": "73", "aarch64": "32"}[os.uname().machine] else ""


def test_held_tree_cannot_be_set_aside(store):
    chain = stores.add_tree(store)
    fd = layers.hold(store, chain)
    try:
        with pytest.raises(errors.BusyError):
            layers.set_aside(store, chain)
    finally:
        os.close(fd)
    assert layers.set_aside(store, chain).startswith(store.path("quarantine"))
    assert not layers.exists(store, chain)
