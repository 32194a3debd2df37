"""What one image may cost, and what happens when the kernel says no."""

import errno
import os
import shutil
import subprocess
import sys

import layer_box
import layer_corpus
import pytest
import tarmaker as tar
from layer_box import sandboxed
from layer_corpus import gnu_sparse
from tarmaker import directory, file, hardlink, symlink
from test_layer_sanitized import CONTINUES, DRIVER, IMAGE, SOURCES, Driver

from fairlead.sinks import Limits


@pytest.fixture(scope="module")
def box():
    with layer_box.box() as worker:
        yield worker


def test_entries_are_counted_over_all_layers(box):
    layers = [tar.archive(*(file(b"%d" % number) for number in range(5)))] * 2
    assert not box.apply(*layers, limits=Limits(entries=10)).error
    assert "more entries than the limit" in box.apply(*layers, limits=Limits(entries=9)).error


def test_whiteouts_and_skipped_devices_count_too(box):
    layer = tar.archive(*(file(b".wh.%d" % number) for number in range(10)), tar.device(b"x", 1, 3))
    assert "more entries" in box.apply(layer, limits=Limits(entries=10)).error


def test_bytes_are_counted_over_all_layers(box):
    layers = [tar.archive(file(b"f", b"x" * 1000))] * 2
    assert not box.apply(*layers, limits=Limits(bytes=2000)).error
    assert "limit of bytes" in box.apply(*layers, limits=Limits(bytes=1999)).error


def test_the_size_of_an_extended_header_is_limited(box):
    layer = tar.archive(file(b"n" * 200))
    assert "extended header is larger" in box.apply(layer, limits=Limits(extended_bytes=100)).error


def test_a_tree_as_deep_as_allowed_is_made_and_removed_with_64_descriptors(box):
    deepest = b"/".join([b"d"] * 1023)
    layer = tar.archive(
        file(deepest + b"/f", b"F"), file(deepest + b"/g", b"G"), directory(deepest, 0)
    )
    later = tar.archive(
        file(deepest + b"/.wh.f"), hardlink(deepest + b"/l", deepest + b"/g"), file(b"d/d/.wh.d")
    )
    answer = box.apply(layer, later, look=False)
    assert not answer.error
    assert answer.removed


def test_a_name_deeper_than_the_limit_is_refused(box):
    assert "deeper than the limit" in box.apply(tar.archive(file(b"d/" * 1024 + b"f"))).error


def test_links_do_not_build_a_tree_deeper_than_the_limit(box):
    half = b"/".join([b"d"] * 600)
    layer = tar.archive(directory(half), symlink(b"l", half), directory(b"l/" + half))
    assert "deeper than the limit" in box.apply(layer).error


def test_a_hard_link_deeper_than_the_limit_is_refused(box):
    assert "too deep" in box.apply(tar.archive(hardlink(b"l", b"d/" * 1024 + b"f"))).error


@pytest.mark.parametrize("swap_at", range(512, 512 * 9, 512))
def test_a_directory_swapped_for_a_link_while_we_work_leads_nowhere(box, swap_at):
    layer = tar.archive(
        directory(b"d", 0o700),
        file(b"d/file", b"gotcha", mode=0o777),
        directory(b"d/dir", 0o777),
        file(b"d/dir/file", b"gotcha", mode=0o777),
        file(b"d/.wh.x"),
        file(b"d/dir/.wh..wh..opq"),
        hardlink(b"d/l", b"d/file"),
    )
    answer = box.apply(layer, piece=512, swap_at=swap_at)  # which looks at the canary
    assert answer.kind in ("", "LayerError", "StoreError", "FileNotFoundError")


@pytest.mark.parametrize(("options", "entries"), [("size=64k", 1), ("nr_inodes=20", 30)])
def test_a_full_file_system_is_a_space_error_that_names_the_path(options, entries):
    layer = tar.archive(
        *(file(b"usr/%d" % number, b"x" * (200_000 // entries)) for number in range(entries))
    )
    with layer_box.box(options) as box:
        answer = box.apply(layer)
    assert answer.kind == "SpaceError"
    assert "/root/usr/" in answer.error
    assert os.strerror(errno.ENOSPC) in answer.error


EVERYTHING = tar.archive(
    directory(b"d", xattrs=((b"user.x", b"1"),)),
    file(b"d/f", b"F" * 1000, xattrs=((b"user.x", b"1"),)),
    gnu_sparse((), b"", 5000),
    symlink(b"l", b"d"),
    file(b"l/g", b"G"),
    hardlink(b"h", b"d/f"),
    tar.fifo(b"p"),
    file(b"d/f", b"again"),
)


@pytest.fixture(scope="module")
def plain_driver():
    """The driver without sanitizers, which do not like to be traced."""
    if not shutil.which("strace"):
        pytest.skip("needs strace to inject errors")
    binary = f"/var/tmp/fairlead-feed-plain-{os.getpid()}"
    subprocess.run(
        ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-o", binary, DRIVER, *SOURCES], check=True
    )
    os.chmod(binary, 0o755)
    yield binary
    os.unlink(binary)


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "EROFS"])
@pytest.mark.parametrize(
    ("call", "nth", "entry"),
    [
        ("mkdirat", 1, "d"), ("fsetxattr", 1, "d"), ("fsetxattr", 2, "d/f"), ("pwrite64", 1, "d/f"), ("pwrite64", 2, "l/g"),
        ("fchmod", 2, "d/f"), ("ftruncate", 1, "s"), ("symlinkat", 1, "l"), ("readlinkat", 1, "l/g"), ("linkat", 1, "h"),
        ("mknodat", 1, "p"), ("unlinkat", 2, "d/f"), ("utimensat", 1, "d/f"), ("openat2", 3, ""),
    ],
)  # fmt: skip
def test_every_failing_call_stops_the_layer_and_names_the_entry(
    plain_driver, call, nth, entry, error
):
    inject = f"inject={call}:error={error}:when={nth}"
    with sandboxed(
        "strace", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject, plain_driver
    ) as process:
        line = Driver(process).feed(EVERYTHING)
    if call == "fsetxattr" and error == "ENOSPC":  # ext4's word for an attribute too large
        assert line.startswith("ok")
        return
    number = getattr(errno, error)
    assert line.startswith(f"failed {number} {entry}"), line
    assert process.returncode == 0, "the tree could not be removed"


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "EROFS"])
@pytest.mark.parametrize(
    ("call", "nth"),
    [("pwrite64", 1), ("pwrite64", 2), ("fallocate", 1), ("fallocate", 3), ("fallocate", 4), ("pread64", 3), ("pread64", 4)],
)  # fmt: skip
def test_every_failing_call_stops_the_image(plain_driver, call, nth, error):
    """The superblock is the last write: no image is whole after a failure."""
    above = tar.archive(hardlink(b"k", b"d/g"), file(b"l/n", b"N" * 3000))
    inject = f"inject={call}:error={error}:when={nth}"
    with sandboxed(
        "strace", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject, plain_driver
    ) as process:
        driver = Driver(process)
        lines = [driver.feed(EVERYTHING, 0, IMAGE), driver.feed(above, 0, IMAGE | CONTINUES)]
    number = getattr(errno, error)
    assert any(line.startswith(f"failed {number} ") for line in lines), lines
    assert process.returncode == 0


def test_markers_do_not_make_us_look_at_everything_again(box):
    names = [file(b"d%d/f" % number) for number in range(2000)]
    markers = [file(b".wh..wh..opq"), file(b".wh.d7")] * 4000
    answer = box.apply(tar.archive(*names), tar.archive(*names, *markers), look=False)
    assert not answer.error
    assert answer.seconds < 8  # forty, if every marker looked


# Runs a command under a seccomp filter that answers system call 452 with an error. Source: seccomp(2).
DENIED = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 452), (0x06, 0, 0, 0x00050000 | int(sys.argv[1])), (0x06, 0, 0, 0x7FFF0000)]
filter = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(filter)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize(
    "error", [errno.ENOSYS, errno.EPERM], ids=["old-kernel", "old-seccomp-filter"]
)
def test_without_fchmodat2_modes_are_set_all_the_same(plain_driver, error):
    with sandboxed(sys.executable, "-c", DENIED, str(error), plain_driver) as process:
        driver = Driver(process)
        assert driver.feed(EVERYTHING).startswith("ok")
        for row in layer_corpus.ATTRIBUTES:
            lines = driver.apply(layer_corpus.archives(row))
            assert lines[-1].startswith("refused" if row.refused else "ok"), row.claim
    assert process.returncode == 0


def test_an_xattr_that_the_file_system_cannot_hold_is_left_out_and_warned_of(box):
    xattrs = ((b"user.large", b"x" * 70_000), (b"user.small", b"1"))
    answer = box.apply(tar.archive(file(b"f", b"F", xattrs=xattrs), directory(b"d", xattrs=xattrs)))
    assert layer_box.warned(answer)["xattr"] == 2
    assert answer.tree[b"/f"][5] == answer.tree[b"/d"][5] == ((b"user.small", b"1"),)
