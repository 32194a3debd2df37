"""A directory of shared blobs is used where it is right, and passed over with a line where it is not."""

import os

import pytest
import stores

from fairlead import errors
from fairlead.image.manifest import Descriptor
from fairlead.store import blobs, shared_blobs

DATA = b"the compressed layer" * 1000
DIGEST = stores.sha256(DATA)
LAYER = Descriptor(media_type="x", digest=DIGEST, size=len(DATA))


@pytest.fixture
def shared(tmp_path):
    os.makedirs(tmp_path / "shared/blobs/sha256")
    return tmp_path / "shared"


def path(shared):
    return shared / "blobs/sha256" / DIGEST[7:]


def copy(shared, tmp_path):
    return shared_blobs.copy(str(shared), LAYER, str(tmp_path / "staged"))


def test_layer_is_copied_and_verified(shared, tmp_path, capfd):
    path(shared).write_bytes(DATA)
    writer = copy(shared, tmp_path)
    assert os.pread(writer.fd, 1 << 20, 0) == DATA
    os.close(writer.fd)
    assert capfd.readouterr().err == ""


def test_absent_layer_is_the_registry_s_without_a_word(shared, tmp_path, capfd):
    assert copy(shared, tmp_path) is None
    assert copy(tmp_path / "nothing", tmp_path) is None
    assert capfd.readouterr().err == ""


def altered(file):
    file.write_bytes(b"T" + DATA[1:])


def shortened(file):
    file.write_bytes(DATA[:-1])


def fifo(file):
    os.mkfifo(file)


def folder(file):
    file.mkdir()


def loop(file):
    file.symlink_to(file.name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (altered, "its content is not what its name says"),
        (shortened, f"is not a file of {len(DATA)} bytes"),
        (fifo, "is not a file of"),
        (folder, "is not a file of"),
        (loop, "Too many levels of symbolic links"),
    ],
)
def test_anything_else_is_passed_over_with_a_line(shared, tmp_path, capfd, make, words):
    make(path(shared))
    assert copy(shared, tmp_path) is None
    line = capfd.readouterr().err
    assert line.startswith(f"fairlead: {path(shared)}: ")
    assert line.endswith("; fetching from the registry\n")
    assert words in line


def test_failing_read_is_the_shared_disk_s_and_passed_over(shared, tmp_path, capfd, monkeypatch):
    path(shared).write_bytes(DATA)

    def failing(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shared_blobs.os, "read", failing)
    assert copy(shared, tmp_path) is None
    assert "Input/output error; fetching from the registry" in capfd.readouterr().err


def test_failing_write_is_the_store_s_and_ends_the_pull(shared, tmp_path, monkeypatch):
    path(shared).write_bytes(DATA)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs.os, "write", full)
    with pytest.raises(errors.SpaceError):
        copy(shared, tmp_path)
