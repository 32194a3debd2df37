"""Rows of the table: whiteouts, opaque markers, aufs."""

from __future__ import annotations

from layer_row import LOWER, OPAQUE, SECOND, A, B, Row
from tarmaker import directory, file, hardlink, symlink

WHITEOUTS = (
    Row("a_whiteout_removes_a_lower_file", (LOWER, (file(b".wh.a"),)), gone=(b"a",)),
    Row(
        "a_whiteout_removes_a_lower_file_in_a_directory",
        (LOWER, (file(b"d/.wh.old"),)),
        gone=(b"d/old",),
        mtimes={b"d": 5 * SECOND},
    ),
    Row("a_whiteout_removes_a_lower_directory", (LOWER, (file(b".wh.d"),)), gone=(b"d", b"d/old")),
    Row(
        "a_whiteout_of_nothing_is_silent",
        (LOWER, (file(b".wh.none"), file(b"d/.wh.none"))),
        has={b"a": b"lower"},
    ),
    Row(
        "a_whiteout_with_content_is_applied_and_warned_of",
        (LOWER, (file(b".wh.a", b"x" * 1000), B)),
        gone=(b"a",),
        has={b"b": b"B"},
        warns={"whiteout content": 1},
    ),
    Row(
        "a_whiteout_typed_as_a_directory_is_applied",
        (LOWER, (directory(b".wh.a"),)),
        gone=(b"a", b".wh.a"),
    ),
    Row(
        "a_whiteout_typed_as_a_link_is_applied",
        (LOWER, (hardlink(b".wh.a", b"d/old"),)),
        gone=(b"a", b".wh.a"),
    ),
    Row(
        "a_whiteout_after_the_file_keeps_the_new_one",
        (LOWER, (A, file(b".wh.a"))),
        has={b"a": b"A"},
    ),
    Row(
        "a_whiteout_before_the_file_keeps_the_new_one",
        (LOWER, (file(b".wh.a"), A)),
        has={b"a": b"A"},
    ),
    Row(
        "a_whiteout_after_a_link_keeps_the_link",
        (LOWER, (hardlink(b"l", b"a"), file(b".wh.l"), file(b".wh.a"))),
        has={b"l": b"lower"},
        gone=(b"a",),
    ),
    Row(
        "a_whiteout_after_the_directory_removes_lower_children_only",
        (LOWER, (directory(b"d", 0o711), file(b"d/new", b"new"), file(b".wh.d"))),
        has={b"d/new": b"new"},
        gone=(b"d/old",),
        modes={b"d": 0o711},
    ),
    Row(
        "a_whiteout_of_a_directory_that_is_only_implied_leaves_a_plain_one",
        (LOWER, (file(b"d/new", b"new"), file(b".wh.d"))),
        has={b"d/new": b"new"},
        gone=(b"d/old",),
        modes={b"d": 0o755},
        mtimes={b"d": 0},
    ),
    Row(
        "a_whiteout_spares_what_lies_deep_below",
        (
            (
                *LOWER,
                directory(b"d/s"),
                directory(b"d/s/t"),
                file(b"d/s/x"),
                file(b"d/s/t/y"),
                directory(b"d/u"),
            ),
            (file(b"d/s/t/new", b"new"), file(b".wh.d")),
        ),
        has={b"d/s/t/new": b"new"},
        gone=(b"d/old", b"d/s/x", b"d/s/t/y", b"d/u"),
    ),
    Row(
        "a_whiteout_looks_into_directories_that_the_layer_only_passed_through",
        ((*LOWER, directory(b"d/s"), file(b"d/s/x")), (file(b"d/s/.wh.x"), file(b".wh.d"))),
        gone=(b"d",),
    ),
    Row(
        "a_whiteout_keeps_a_file_that_replaced_a_directory",
        (LOWER, (file(b"d", b"D"), file(b".wh.d"))),
        has={b"d": b"D"},
        gone=(b"d/old",),
    ),
    Row(
        "a_whiteout_keeps_a_directory_that_replaced_a_file",
        (LOWER, (directory(b"a"), file(b".wh.a"))),
        modes={b"a": 0o755},
    ),
    Row(
        "opaque_first",
        (LOWER, (OPAQUE, directory(b"d", 0o711), file(b"d/new", b"new"))),
        has={b"d/new": b"new"},
        gone=(b"d/old", b"d/.wh..wh..opq"),
        modes={b"d": 0o711},
    ),
    Row(
        "opaque_amid",
        (LOWER, (directory(b"d", 0o711), OPAQUE, file(b"d/new", b"new"))),
        has={b"d/new": b"new"},
        gone=(b"d/old",),
        modes={b"d": 0o711},
    ),
    Row(
        "opaque_last",
        (LOWER, (directory(b"d", 0o711), file(b"d/new", b"new"), OPAQUE)),
        has={b"d/new": b"new"},
        gone=(b"d/old",),
        modes={b"d": 0o711},
    ),
    Row(
        "opaque_without_the_directory_keeps_its_attributes",
        (LOWER, (file(b"d/new", b"new"), OPAQUE)),
        has={b"d/new": b"new"},
        gone=(b"d/old",),
        modes={b"d": 0o750},
        mtimes={b"d": 5 * SECOND},
    ),
    Row(
        "opaque_deep_keeps_what_the_layer_put_below",
        (
            (
                directory(b"d"),
                directory(b"d/s"),
                directory(b"d/s/t"),
                file(b"d/s/t/x"),
                file(b"d/s/y"),
            ),
            (file(b"d/s/t/new", b"new"), OPAQUE),
        ),
        has={b"d/s/t/new": b"new"},
        gone=(b"d/s/t/x", b"d/s/y"),
    ),
    Row(
        "opaque_and_then_a_whiteout_of_the_directory_itself",
        (LOWER, (OPAQUE, file(b".wh.d"))),
        gone=(b"d",),
    ),
    Row(
        "opaque_at_the_root",
        (LOWER, (B, file(b".wh..wh..opq"))),
        has={b"b": b"B"},
        gone=(b"a", b"d"),
    ),
    Row(
        "opaque_in_a_missing_directory_creates_nothing",
        (LOWER, (file(b"m/.wh..wh..opq"), file(b"m/n/.wh..wh..opq"))),
        gone=(b"m",),
    ),
    Row(
        "opaque_in_a_missing_directory_then_the_directory",
        (LOWER, (file(b"m/.wh..wh..opq"), file(b"m/f", b"F"))),
        has={b"m/f": b"F"},
    ),
    Row(
        "opaque_where_a_lower_file_stands_then_the_directory",
        (LOWER, (file(b"a/.wh..wh..opq"), directory(b"a"), file(b"a/f", b"F"))),
        has={b"a/f": b"F"},
    ),
    Row("a_whiteout_without_a_name_is_refused", (LOWER, (file(b"d/.wh."),)), "names nothing"),
    Row("a_whiteout_of_dot_is_refused", (LOWER, (file(b"d/.wh.."),)), "names nothing"),
    Row("a_whiteout_of_dot_dot_is_refused", (LOWER, (file(b"d/.wh..."),)), "names nothing"),
    Row(
        "a_whiteout_resolves_a_linked_parent_in_the_root",
        ((*LOWER, symlink(b"l", b"/d"), symlink(b"m", b"../../../d")), (file(b"l/.wh.old"), B)),
        gone=(b"d/old",),
    ),
    Row(
        "a_whiteout_through_a_link_to_the_canary_hits_nothing",
        (
            (symlink(b"l", b"../canary"), symlink(b"m", b"/../../canary/dir")),
            (file(b"l/.wh.file"), file(b"m/.wh.file")),
        ),
        has={b"l": b"../canary"},
    ),
    Row(
        "a_whiteout_removes_the_link_and_not_its_target",
        ((*LOWER, symlink(b"l", b"d")), (file(b".wh.l"),)),
        gone=(b"l",),
        has={b"d/old": b"old"},
    ),
    Row(
        "a_whiteout_in_a_missing_parent_creates_nothing",
        (LOWER, (file(b"m/n/.wh.x"),)),
        gone=(b"m",),
    ),
    Row(
        "a_whiteout_as_a_directory_is_refused",
        (LOWER, (file(b".wh.etc/f"),)),
        "stands as a directory",
    ),
    Row(
        "a_whiteout_as_a_deep_directory_is_refused",
        (LOWER, (file(b"d/.wh.x/y/z"),)),
        "stands as a directory",
    ),
    Row(
        "an_opaque_marker_as_a_directory_is_refused",
        (LOWER, (file(b"d/.wh..wh..opq/f"),)),
        "stands as a directory",
    ),
    Row(
        "aufs_links_are_honoured_and_their_directory_skipped",
        (
            (
                directory(b".wh..wh.plnk", 0o700),
                file(b".wh..wh.plnk/1.2", b"shared", mode=0o640),
                file(b".wh..wh.aufs"),
                directory(b".wh..wh.orph"),
                hardlink(b"x", b".wh..wh.plnk/1.2"),
                hardlink(b"y", b".wh..wh.plnk/1.2"),
            ),
            (file(b"z", b"Z"),),
        ),
        has={b"x": b"shared", b"y": b"shared"},
        shared=((b"x", b"y"),),
        modes={b"x": 0o640},
        gone=(b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph"),
    ),
    Row(
        "aufs_files_of_other_kinds_are_skipped",
        (
            (
                directory(b".wh..wh.plnk/x"),
                file(b".wh..wh.plnk/a/b"),
                file(b".wh..wh.orph/x"),
                file(b"d/.wh..wh.any"),
                symlink(b".wh..wh.aufs", b"x"),
            ),
        ),
        gone=(b".wh..wh.plnk", b".wh..wh.orph", b".wh..wh.aufs", b"d"),
    ),
    Row(
        "aufs_links_end_with_their_layer",
        ((file(b".wh..wh.plnk/1.2", b"shared"),), (hardlink(b"x", b".wh..wh.plnk/1.2"),)),
        "missing file",
    ),
)
