"""Random layers: few names and many kinds, so that entries meet each other and their lower layers."""

from __future__ import annotations

import tarmaker as tar
from hypothesis import strategies as st
from tarmaker import Entry


def entries(name, type=st.just(tar.FILE), **rest):
    """Build entries from strategies for some fields; hypothesis itself would make up the others too."""
    return st.fixed_dictionaries({"name": name, "type": type, **rest}).map(
        lambda fields: Entry(**fields)
    )


WORDS = st.sampled_from([b"a", b"b", b"c"])
DEEPER = st.lists(WORDS, min_size=1, max_size=3).map(b"/".join)
PREFIXES = st.sampled_from([b"", b"", b"", b"", b"./", b"/", b"../", b"a/../", b"b/./"])
PATHS = st.builds(bytes.__add__, PREFIXES, DEEPER)
MARKERS = st.builds(
    lambda head, marker: head + marker,
    st.sampled_from([b"", b"", b"a/", b"b/", b"a/b/", b"c/a/", b"/"]),
    st.sampled_from([b".wh.a", b".wh.b", b".wh.c", b".wh..wh..opq", b".wh..wh.aufs"]),
)
ODD = st.sampled_from(
    [b"./", b"/", b"..", b".wh.", b"a/.wh...", b".wh.a/b", b".wh..wh.plnk/1.1", b".wh..wh.plnk"]
)
TARGETS = st.one_of(
    PATHS,
    st.sampled_from(
        [
            b"/",
            b"..",
            b".",
            b"../..",
            b"/a",
            b"../canary",
            b"a/../../b",
            b"/canary/dir",
            b"c/",
            b"nowhere",
        ]
    ),
)
MODES = st.sampled_from([0, 0o100, 0o400, 0o555, 0o700, 0o755, 0o1777, 0o6755])
TIMES = st.sampled_from([0, 1_000_000_001, -1, 5 * 10**9, -(10**9) - 500_000_000, 2**40 * 10**9])
XATTRS = st.lists(
    st.tuples(
        st.sampled_from([b"user.x", b"user.y", b"user.overlay.opaque", b"security.capability"]),
        st.binary(max_size=4),
    ),
    max_size=2,
    unique_by=lambda pair: pair[0],
).map(tuple)

FILES = entries(PATHS, data=st.binary(max_size=20), mode=MODES, mtime=TIMES, xattrs=XATTRS)
DIRECTORIES = entries(PATHS, st.just(tar.DIR), mode=MODES, mtime=TIMES, xattrs=XATTRS)
SYMLINKS = entries(PATHS, st.just(tar.SYMLINK), link=TARGETS, mtime=TIMES)
HARDLINKS = entries(PATHS, st.just(tar.LINK), link=PATHS)
OTHERS = st.one_of(
    entries(PATHS, st.just(tar.FIFO), mode=MODES, mtime=TIMES),
    entries(
        PATHS,
        st.sampled_from([tar.CHAR, tar.BLOCK]),
        major=st.integers(0, 1),
        minor=st.integers(0, 1),
    ),
    entries(ODD, st.sampled_from([tar.FILE, tar.DIR, tar.SYMLINK]), mode=MODES, link=TARGETS),
)
WHITEOUTS = entries(MARKERS, data=st.sampled_from([b"", b"", b"x"]))

ENTRIES = st.one_of(
    FILES, DIRECTORIES, DIRECTORIES, SYMLINKS, HARDLINKS, WHITEOUTS, WHITEOUTS, OTHERS
)
LAYERS = st.lists(st.lists(ENTRIES, max_size=8), min_size=1, max_size=3)
