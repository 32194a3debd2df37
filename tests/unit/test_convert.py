"""Decompression, DiffID and the way into the tree; what a layer's entries mean is tested in tests/kernel."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tarfile
import threading

import pytest
import zstandard

from fairlead import errors, sinks
from fairlead.store import convert

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
SKIPPABLE = b"\x50\x2a\x4d\x18" + (9).to_bytes(4, "little") + b"toc-bytes"


def archive(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


FILES = {"a": b"A" * 3_000_000, "b": os.urandom(700_000), "c": b""}
TAR = archive(**FILES)


def diff_id(data, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


def raw_zstd(data, window_log):
    """A frame that stores its blocks and asks for a window, without anybody having to fill one."""
    head = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])  # RFC 8878, 3.1.1.1
    pieces = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    last = len(pieces) - 1
    return head + b"".join(
        (len(piece) << 3 | (number == last)).to_bytes(3, "little") + piece
        for number, piece in enumerate(pieces)
    )


def halves(compress, data, between=b""):
    middle = len(data) // 2
    return compress(data[:middle]) + between + compress(data[middle:])


@pytest.fixture
def apply(tmp_path):
    """Apply a blob to a new tree; returns the stats, or raises."""

    def run(blob, wanted=diff_id(TAR), media_type=GZIP, **options):
        root = tmp_path / f"root{len(os.listdir(tmp_path))}"
        root.mkdir()
        fd = os.open(root, os.O_RDONLY)
        stream = blob if isinstance(blob, io.RawIOBase | str) else io.BytesIO(blob)
        try:
            with sinks.LayerTree(fd) as tree:
                stats = convert.apply(stream, media_type, wanted, tree, **options)
        finally:
            os.close(fd)
            assert threading.active_count() == 1, "a thread was left behind"
        return stats, {path.name: path.read_bytes() for path in root.iterdir()}

    return run


@pytest.mark.parametrize(
    "blob",
    [
        TAR,
        gzip.compress(TAR),
        halves(gzip.compress, TAR),
        gzip.compress(TAR) + bytes(1000),
        b"".join(gzip.compress(TAR[at : at + 100_000]) for at in range(0, len(TAR), 100_000)),
        zstd(TAR),
        halves(zstd, TAR),
        halves(zstd, TAR, SKIPPABLE),
        SKIPPABLE + zstd(TAR),
        zstd(TAR) + SKIPPABLE,
        raw_zstd(TAR, 27),
    ],
    ids=["plain", "gzip", "gzip-two-members", "gzip-padded", "gzip-many-members", "zstd", "zstd-two-frames",
         "zstd-skippable-amid", "zstd-skippable-first", "zstd-skippable-last", "zstd-128-MiB-window"],
)  # fmt: skip
def test_every_compression_is_read_whole_whatever_the_media_type_says(apply, blob):
    stats, files = apply(blob)
    assert files == FILES
    assert (stats.entries, stats.bytes) == (3, sum(map(len, FILES.values())))


def test_large_windows_are_had_one_at_a_time_and_given_back_whatever_happens(apply):
    wide = raw_zstd(TAR, 27)
    for broken in (wide[:-10], wide[:50] + b"\xff" * 50):
        with pytest.raises((errors.DigestError, errors.LayerError)):
            apply(broken)
    watched = Watched(wide)
    assert apply(watched)[1] == FILES
    assert watched.seen == {False, True}  # looked at first, then read
    with convert._LARGE_WINDOW:
        assert apply(raw_zstd(TAR, 23))[1] == FILES, "a common one waits for nobody"
    assert not convert._LARGE_WINDOW.locked()


class Watched(io.RawIOBase):
    """A stream that notes, at each reading, whether somebody has the large window."""

    def __init__(self, data):
        super().__init__()
        self._data, self.seen = io.BytesIO(data), set()

    def readable(self):
        return True

    def readinto(self, buffer):
        self.seen.add(convert._LARGE_WINDOW.locked())
        return self._data.readinto(buffer)


def test_first_frame_says_what_all_frames_may_have(apply):
    middle = len(TAR) // 2
    with pytest.raises(errors.LayerError, match="too much memory"):
        apply(zstd(TAR[:middle]) + raw_zstd(TAR[middle:], 27))


def test_a_path_is_opened_and_read(apply, tmp_path):
    (tmp_path / "blob").write_bytes(gzip.compress(TAR))
    assert apply(str(tmp_path / "blob"))[1] == FILES


@pytest.mark.parametrize(
    ("blob", "name"), [(lzma.compress(TAR), "xz"), (bz2.compress(TAR), "bzip2")]
)
def test_compressions_outside_the_specification_are_refused_by_name(apply, blob, name):
    with pytest.raises(
        errors.LayerError, match=f"^layer {diff_id(TAR)}: {name} compression"
    ) as caught:
        apply(blob)
    assert "zstd" in caught.value.hint


@pytest.mark.parametrize("name", ["BZhello", "\x1f\x8bname", "\xfd7zXZ"])
def test_an_archive_whose_first_name_looks_compressed_is_read(apply, name):
    data = archive(**{name: b"x"})
    assert data.startswith(name.encode("latin-1"))
    assert apply(data, diff_id(data))[1] == {os.fsdecode(name.encode("latin-1")): b"x"}


def test_another_diff_id_is_refused(apply):
    with pytest.raises(errors.DigestError, match=f"layer sha256:{'0' * 64}: .*{diff_id(TAR)}"):
        apply(gzip.compress(TAR), f"sha256:{'0' * 64}")


def test_sha512_diff_ids(apply):
    assert apply(gzip.compress(TAR), diff_id(TAR, "sha512"))[1] == FILES


def test_what_follows_the_archive_is_hashed(apply):
    more = TAR + b"trailing garbage" * 10
    assert apply(gzip.compress(more), diff_id(more))[1] == FILES
    with pytest.raises(errors.DigestError):
        apply(gzip.compress(more), diff_id(TAR))


def test_zero_bytes_are_an_empty_layer(apply):
    assert apply(b"", diff_id(b"")) == (sinks.LayerStats(0, 0, 0, ()), {})
    with pytest.raises(errors.DigestError):
        apply(b"", diff_id(TAR))


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (gzip.compress(TAR)[:-4], "gzip stream is damaged: it is cut short"),
        (gzip.compress(TAR)[:30], "gzip stream is damaged: it is cut short"),
        (gzip.compress(TAR)[:-8] + bytes(8), "gzip stream is damaged: CRC"),
        (gzip.compress(TAR) + b"garbage", "gzip stream is damaged"),
        (
            gzip.compress(TAR)[:20] + b"\xff" * 50 + gzip.compress(TAR)[70:],
            "gzip stream is damaged",
        ),
        (zstd(TAR) + b"garbage", "zstd stream is damaged"),
        (zstd(TAR)[:30] + b"\xff" * 50 + zstd(TAR)[80:], "zstd stream is damaged"),
        (raw_zstd(TAR, 28), "zstd stream is damaged: .*memory"),
        (raw_zstd(TAR, 31), "zstd stream is damaged: .*memory"),
    ],
)
def test_a_damaged_stream_is_refused(apply, blob, words):
    with pytest.raises(errors.LayerError, match=words):
        apply(blob)


def test_a_zstd_stream_cut_short_is_refused(apply):
    with pytest.raises(errors.DigestError):
        apply(zstd(TAR)[:-1000])


def test_what_is_no_archive_is_refused_with_the_layers_name(apply):
    with pytest.raises(errors.LayerError, match=f"layer {diff_id(TAR)}: .*checksum"):
        apply(b"<html>" * 1000)


def test_a_bomb_is_refused_before_it_has_unpacked(apply, monkeypatch):
    monkeypatch.setattr(convert, "RATIO_FROM_BYTES", 8 << 20)
    bomb = zstd(archive(zeros=bytes(64 << 20)))
    with pytest.raises(errors.LayerError, match="1000 times larger"):
        apply(bomb)


def test_a_large_ratio_is_no_bomb_while_it_is_small(apply):
    data = archive(zeros=bytes(32 << 20))
    assert len(apply(zstd(data), diff_id(data))[1]["zeros"]) == 32 << 20


class Dripping(io.RawIOBase):
    """A stream that gives little at a time, as a socket does, and may fail."""

    def __init__(self, data, step, error=None):
        self.data, self.step, self.error, self.at = data, step, error, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self.data[self.at : self.at + min(self.step, len(buffer))]
        if not piece and self.error:
            raise self.error
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


@pytest.mark.parametrize(
    "blob", [TAR, gzip.compress(TAR), zstd(TAR)], ids=["plain", "gzip", "zstd"]
)
def test_a_stream_that_drips_is_read_whole_and_left_open(apply, blob):
    stream = Dripping(blob, 1009)
    assert apply(stream)[1] == FILES
    assert not stream.closed


@pytest.mark.parametrize(
    "blob", [TAR, gzip.compress(TAR), zstd(TAR)], ids=["plain", "gzip", "zstd"]
)
def test_the_streams_own_error_comes_through(apply, blob):
    failure = errors.RegistryError("it broke off")
    with pytest.raises(errors.RegistryError) as caught:
        apply(Dripping(blob[: len(blob) // 2], 4096, failure))
    assert caught.value is failure


class Recorder:
    def __init__(self):
        self.events = []

    def start(self, key, label, total):
        self.events.append(("start", key, total))

    def advance(self, key, count):
        self.events.append(("advance", key, count))

    def finish(self, key):
        self.events.append(("finish", key))


def test_progress_counts_the_compressed_bytes(apply):
    progress, blob = Recorder(), gzip.compress(TAR)
    apply(blob, progress=progress, size=len(blob))
    first, *middle, last = progress.events
    assert first[::2] == ("start", len(blob))
    assert sum(count for _, _, count in middle) == len(blob)
    assert last == ("finish", first[1])


def test_progress_ends_also_with_an_error(apply):
    progress = Recorder()
    with pytest.raises(errors.LayerError):
        apply(b"x" * 2000, progress=progress)
    assert progress.events[-1][0] == "finish"


def test_memory_does_not_depend_on_the_layer(tmp_path):
    script = """
import hashlib, io, os, sys
from fairlead import sinks
from fairlead.store import convert

class Zeros(io.RawIOBase):
    left = int(sys.argv[2])
    def readable(self):
        return True
    def readinto(self, buffer):
        count = min(len(buffer), self.left)
        buffer[:count] = bytes(count)
        self.left -= count
        return count

digest = hashlib.sha256()
for _ in range(int(sys.argv[2]) >> 20):
    digest.update(bytes(1 << 20))
fd = os.open(sys.argv[1], os.O_RDONLY)
with sinks.LayerTree(fd) as tree:
    convert.apply(Zeros(), "", "sha256:" + digest.hexdigest(), tree)
# Not ru_maxrss: that starts with what the forking parent had.
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    sizes = []  # in KiB
    for megabytes in (16, 256):
        command = [sys.executable, "-c", script, str(tmp_path), str(megabytes << 20)]
        sizes.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    assert sizes[1] - sizes[0] <= 2 << 10
    assert sizes[1] < 64 << 10


def test_closing_waits_for_a_thread_that_is_still_feeding(tmp_path):
    """As after an interrupt: freeing the reader under a running call would be a use after free."""
    fd = os.open(tmp_path, os.O_RDONLY)
    data = archive(**{f"f{number}": bytes(20_000) for number in range(300)})
    tree = sinks.LayerTree(fd)
    tree.begin_layer()
    started = threading.Event()
    outcome = []

    def feed():
        started.set()
        try:
            while True:
                tree.feed(data[: len(data) // 1024 * 512])
                outcome.append("fed")
        except (ValueError, errors.LayerError) as error:
            outcome.append(type(error).__name__)

    thread = threading.Thread(target=feed)
    thread.start()
    started.wait()
    tree.close()
    thread.join()
    os.close(fd)
    assert outcome[-1] in ("ValueError", "LayerError")
