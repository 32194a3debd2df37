"""The store's root, locks and staging: whose they are, and what the dead leave behind."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time

import pytest

from fairlead import config as settings
from fairlead import errors
from fairlead.store import layout, leftovers
from fairlead.store.layout import Lock, Stage

fork = multiprocessing.get_context("fork")


def config(root):
    return settings.load(
        {"FAIRLEAD_STORE": str(root), "HOME": "/nonexistent"}, site_file="/nonexistent"
    )


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    return layout.open_store(config(root))


# -- the root --------------------------------------------------------------------------------------


def test_new_store_is_private_and_versioned(root, store):
    assert root.stat().st_mode & 0o7777 == 0o700
    assert (root / "version").read_text() == "1\n"
    assert {path.name for path in root.iterdir()} == {
        "version",
        "blobs",
        "trees",
        "images",
        "tmp",
        "locks",
    }
    assert os.listdir(root / "tmp") == []


def test_store_is_opened_again(store):
    assert layout.open_store(config(store.root)) == store


def test_missing_parents_are_made(tmp_path):
    layout.open_store(config(tmp_path / "a/b/store"))
    assert (tmp_path / "a/b").stat().st_mode & 0o022 == 0


def test_symlink_is_refused(root, tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "real")
    with pytest.raises(errors.StoreError, match="is not a real directory"):
        layout.open_store(config(root))


def test_file_is_refused(root):
    root.write_text("")
    with pytest.raises(errors.StoreError, match="is not a real directory"):
        layout.open_store(config(root))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_other_owner_is_refused(root):
    root.mkdir(mode=0o700)
    os.chown(root, 12345, 0)
    with pytest.raises(errors.StoreError, match="belongs to uid 12345, not to you"):
        layout.open_store(config(root))


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_writable_by_others_is_refused(root, mode):
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(errors.StoreError, match=f"others may write there .mode {mode:04o}"):
        layout.open_store(config(root))


def test_readable_by_others_is_closed(root):
    root.mkdir(mode=0o755)
    layout.open_store(config(root))
    assert root.stat().st_mode & 0o7777 == 0o700


def test_foreign_directory_is_refused_and_left_alone(root):
    root.mkdir()
    (root / "thesis.tex").write_text("x")
    with pytest.raises(
        errors.StoreError, match=r"is not empty and no store .it holds 'thesis.tex'"
    ):
        layout.open_store(config(root))
    assert os.listdir(root) == ["thesis.tex"]


def test_half_made_store_is_completed(root):
    (root / "blobs").mkdir(parents=True)
    (root / "tmp").mkdir()
    layout.open_store(config(root))
    assert (root / "blobs/sha512").is_dir()


def test_newer_layout_is_refused(store):
    with open(store.path("version"), "w") as file:
        file.write("2\n")
    with pytest.raises(
        errors.StoreError, match="has the layout version '2', this Fairlead knows 1"
    ):
        layout.open_store(config(store.root))


def test_relative_path_is_refused():
    with pytest.raises(errors.StoreError, match="must be an absolute path"):
        layout.open_store(config("relative/store"))


def test_parent_where_anybody_may_rename_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(errors.StoreError, match="no sticky bit"):
        layout.open_store(config(tmp_path / "open/store"))
    (tmp_path / "open").chmod(0o1777)
    layout.open_store(config(tmp_path / "open/store"))


def test_many_processes_may_make_the_store_at_once(root):
    def work(_):
        layout.open_store(config(root))

    with fork.Pool(8) as pool:
        pool.map(layout.open_store, [config(root)] * 32)
    assert os.listdir(root / "tmp") == []


# -- locks -----------------------------------------------------------------------------------------


def test_lock_leaves_no_file(store):
    with Lock(store, "x"):
        assert os.listdir(store.path("locks")) == ["x"]
    assert os.listdir(store.path("locks")) == []


def test_only_one_holds_a_lock(store):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(20):
            with Lock(store, "x"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def _hold(store, ready, seconds=60.0, error=None):
    with Lock(store, "x"):
        ready.set()
        time.sleep(seconds)
        if error is not None:
            raise error


def _child(*args):
    process = fork.Process(target=_silent, args=args)
    process.start()
    return process


def _silent(*args):
    try:
        _hold(*args)
    except (errors.Error, KeyboardInterrupt):
        os._exit(1)


def test_lock_of_a_killed_holder_is_free_at_once(store):
    ready = fork.Event()
    process = _child(store, ready)
    ready.wait()
    os.kill(process.pid, signal.SIGKILL)
    started = time.monotonic()
    with Lock(store, "x"):
        assert time.monotonic() - started < 1
    process.join()


def test_who_waits_fails_with_the_holders_words(store):
    ready = fork.Event()
    process = _child(store, ready, 0.3, errors.LayerError("layer 3 is damaged", hint="rebuild it"))
    ready.wait()
    with pytest.raises(errors.LayerError) as caught, Lock(store, "x"):
        pass
    assert (caught.value.message, caught.value.hint) == ("layer 3 is damaged", "rebuild it")
    process.join()
    with Lock(store, "x"):  # who comes later tries for itself
        pass


def test_refused_login_is_each_process_own_affair(store):
    ready = fork.Event()
    process = _child(store, ready, 0.2, errors.AuthError("no"))
    ready.wait()
    with Lock(store, "x"):
        pass
    process.join()


def test_who_waits_learns_whether_the_work_was_done(store):
    for error, done in (
        (None, True),
        (errors.AuthError("no"), False),
        (KeyboardInterrupt(), False),
    ):
        ready = fork.Event()
        process = _child(store, ready, 0.2, error)
        ready.wait()
        with Lock(store, "x") as lock:
            assert lock.shared is done
        process.join()
    with Lock(store, "x") as lock:
        assert lock.shared is False


def test_note_of_a_killed_holder_is_not_believed(store):
    with open(store.path("locks", "x"), "wb") as file:
        file.write(b"layer\0old news\0")
    os.chmod(store.path("locks", "x"), 0o640)
    with Lock(store, "x"):
        assert os.path.getsize(store.path("locks", "x")) == 0


def test_waiting_thread_can_be_stopped(store):
    stop = threading.Event()
    caught = []

    def wait():
        try:
            with Lock(store, "x", stop):
                pass
        except errors.StoreError as error:
            caught.append(error)

    with Lock(store, "x"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        stop.set()
        thread.join(1)
    assert len(caught) == 1


# -- staging ---------------------------------------------------------------------------------------


def test_stage_is_removed_at_the_end(store):
    with Stage(store) as stage:
        layout.write_file(stage.name(), b"x")
        os.mkdir(stage.name())
        os.mkdir(stage.name(), 0o000)
    assert os.listdir(store.path("tmp")) == []


def test_sweep_spares_the_living(store):
    with Stage(store) as stage:
        leftovers.sweep(store)
        assert os.path.isdir(stage.path)


def test_sweep_removes_what_the_dead_left(store):
    dead = store.path("tmp", "0000.1.1.0")
    os.makedirs(f"{dead}/deep/er")
    os.chmod(f"{dead}/deep", 0)
    with open(store.path("tmp", "file"), "w"):
        pass
    leftovers.sweep(store)
    assert os.listdir(store.path("tmp")) == []


def test_living_are_told_by_their_flock_not_by_their_pid(store):
    # As seen from another pid namespace, or after a pid was used again: the name says nothing.
    with Stage(store) as stage:
        moved = store.path("tmp", "other-boot.999999.1.0")
        os.rename(stage.path, moved)
        leftovers.sweep(store)
        assert os.path.isdir(moved)
        os.rename(moved, stage.path)


def test_stage_swept_between_mkdir_and_flock_is_made_anew(store, monkeypatch):
    real, calls = fcntl.flock, []

    def flock(fd, how):
        if not calls:
            calls.append(how)
            os.rmdir(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd, how)

    monkeypatch.setattr(layout.fcntl, "flock", flock)
    with Stage(store) as stage:
        assert os.path.isdir(stage.path)
        assert stage.path.endswith(".1")


def test_name_that_is_taken_stays_with_the_first(store):
    with Stage(store) as stage:
        for text in (b"first", b"second"):
            name = stage.name()
            layout.write_file(name, text)
            layout.publish(name, store.path("images", "x"))
    with open(store.path("images", "x"), "rb") as file:
        assert file.read() == b"first"


def test_file_system_without_noreplace_gets_a_plain_rename(store, monkeypatch):
    from fairlead import kernel

    def refuse(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(kernel, "rename_noreplace", refuse)
    with Stage(store) as stage:
        for text, won in ((b"first", True), (b"second", False)):
            name = stage.name()
            layout.write_file(name, text)
            assert layout.publish(name, store.path("images", "x")) is won
    with open(store.path("images", "x"), "rb") as file:
        assert file.read() == b"first"
