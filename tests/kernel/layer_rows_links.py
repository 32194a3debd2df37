"""Rows of the table: hard links, symbolic links, replacement."""

from __future__ import annotations

import tarmaker as tar
from layer_row import LOWER, SECOND, A, B, Row
from tarmaker import directory, fifo, file, hardlink, header, symlink

LINKS = (
    Row(
        "a_hard_link_to_a_lower_file",
        (LOWER, (hardlink(b"l", b"d/old"),)),
        has={b"l": b"old"},
        shared=((b"l", b"d/old"),),
    ),
    Row(
        "a_hard_link_to_a_symlink_links_the_symlink",
        ((symlink(b"s", b"/etc/passwd"), hardlink(b"l", b"s")),),
        has={b"l": b"/etc/passwd"},
        shared=((b"l", b"s"),),
    ),
    Row(
        "an_absolute_hard_link_stays_in_the_root",
        ((A, hardlink(b"l", b"/a")),),
        has={b"l": b"A"},
        warns={"clamped": 1},
    ),
    Row(
        "a_hard_link_with_dot_dot_stays_in_the_root",
        ((A, hardlink(b"l", b"../../../a")),),
        has={b"l": b"A"},
        warns={"clamped": 1},
    ),
    Row(
        "a_hard_link_does_not_reach_the_canary",
        ((hardlink(b"l", b"../canary/file"),),),
        "missing file",
    ),
    Row(
        "a_hard_link_through_a_link_does_not_reach_the_canary",
        ((symlink(b"s", b"../canary"), hardlink(b"l", b"s/file")),),
        "missing file",
    ),
    Row(
        "a_hard_link_through_a_linked_directory",
        ((*LOWER, symlink(b"s", b"/d"), hardlink(b"l", b"s/old")),),
        shared=((b"l", b"d/old"),),
    ),
    Row(
        "a_forward_hard_link_is_refused",
        ((hardlink(b"l", b"a"), A),),
        "entry 'l': hard link to a missing file",
    ),
    Row(
        "a_hard_link_to_a_missing_file_is_refused",
        ((A, hardlink(b"l", b"d/none")),),
        "hard link to a missing file",
    ),
    Row("a_hard_link_to_itself_is_refused", ((A, hardlink(b"a", b"a")),), "hard link to itself"),
    Row(
        "a_hard_link_to_itself_by_another_path_is_refused",
        ((*LOWER, symlink(b"s", b"d"), hardlink(b"d/old", b"s/../d/./old")),),
        "hard link to itself",
    ),
    Row(
        "a_hard_link_to_a_directory_is_refused",
        ((*LOWER, hardlink(b"l", b"d")),),
        "hard link to a directory",
    ),
    Row(
        "a_hard_link_to_the_root_is_refused", ((hardlink(b"l", b"/"),),), "hard link to a directory"
    ),
    Row(
        "a_hard_link_to_a_whited_out_file_is_refused",
        (LOWER, (file(b".wh.a"), hardlink(b"l", b"a"))),
        "missing file",
    ),
    Row(
        "a_hard_link_in_place_of_its_targets_directory_is_refused",
        ((*LOWER, hardlink(b"d", b"d/old")),),
        "missing file",
    ),
    Row("a_hard_link_without_a_target_is_refused", ((hardlink(b"l", b""),),), "names no file"),
    Row(
        "a_hard_links_own_attributes_are_ignored",
        (
            (
                file(b"a", b"A", mode=0o640, mtime=7 * SECOND),
                hardlink(b"l", b"a", mode=0o4777, mtime=9 * SECOND, uid=5),
            ),
        ),
        modes={b"l": 0o640},
        mtimes={b"l": 7 * SECOND},
    ),
    Row(
        "a_hard_links_size_is_no_body",
        ((A, header(b"l", tar.LINK, 4096, link=b"a"), B),),
        has={b"b": b"B"},
        meant=((A, hardlink(b"l", b"a"), B),),
    ),
    Row(
        "a_hard_link_replaces",
        ((*LOWER, B, hardlink(b"b", b"a")),),
        has={b"b": b"lower"},
        warns={"duplicate": 1},
    ),
    Row(
        "changing_one_of_two_linked_names_leaves_the_other",
        ((A, hardlink(b"l", b"a")), (file(b"a", b"changed"),)),
        has={b"a": b"changed", b"l": b"A"},
        apart=((b"a", b"l"),),
    ),
    Row("a_hard_link_to_a_fifo", ((fifo(b"p"), hardlink(b"l", b"p")),), shared=((b"l", b"p"),)),
    Row(
        "a_file_goes_through_an_absolute_link_in_the_image",
        ((directory(b"real"), symlink(b"s", b"/real")), (file(b"s/f", b"F"),)),
        has={b"real/f": b"F", b"s": b"/real"},
    ),
    Row(
        "a_file_goes_through_a_link_that_climbs",
        ((directory(b"real"), symlink(b"s", b"../../../../real")), (file(b"s/f", b"F"),)),
        has={b"real/f": b"F"},
    ),
    Row(
        "an_absolute_link_deep_down_starts_at_the_root",
        (
            (directory(b"d/real"), directory(b"real"), symlink(b"d/s", b"/real")),
            (file(b"d/s/f", b"F"),),
        ),
        has={b"real/f": b"F"},
        gone=(b"d/real/f",),
    ),
    Row(
        "a_missing_target_of_a_link_is_created_in_the_root",
        ((symlink(b"s", b"/var/tmp/x"), file(b"s/f", b"F")),),
        has={b"var/tmp/x/f": b"F"},
        modes={b"var/tmp/x": 0o755},
        mtimes={b"var": 0},
    ),
    Row(
        "a_link_to_the_canary_leads_back_into_the_root",
        ((symlink(b"s", b"../canary"), file(b"s/file", b"gotcha"), directory(b"s/dir", 0o700)),),
        has={b"canary/file": b"gotcha"},
    ),
    Row(
        "a_chain_of_links_stays_in_the_root",
        (
            (
                symlink(b"s", b"t/.."),
                symlink(b"t", b"u/../.."),
                directory(b"u"),
                file(b"s/canary/file", b"x"),
            ),
        ),
        has={b"canary/file": b"x"},
    ),
    Row(
        "a_directory_replaces_a_link_and_its_target_stays",
        ((*LOWER, symlink(b"s", b"d")), (directory(b"s", 0o700), file(b"s/f", b"F"))),
        has={b"s/f": b"F", b"d/old": b"old"},
        gone=(b"d/f",),
        modes={b"d": 0o750},
    ),
    Row("a_link_replaces_a_directory", (LOWER, (symlink(b"d", b"a"),)), has={b"d": b"a"}),
    Row("a_file_replaces_a_directory", (LOWER, (file(b"d", b"D"),)), has={b"d": b"D"}),
    Row("a_directory_replaces_a_file", (LOWER, (directory(b"a", 0o700),)), modes={b"a": 0o700}),
    Row(
        "a_file_replaces_a_link_and_not_its_target",
        ((*LOWER, symlink(b"s", b"a")), (file(b"s", b"S"),)),
        has={b"s": b"S", b"a": b"lower"},
    ),
    Row(
        "a_file_over_a_link_does_not_change_the_targets_mode",
        ((symlink(b"s", b"../canary/file"),), (file(b"s", b"S", mode=0o4777),)),
        has={b"s": b"S"},
        modes={b"s": 0o777},
    ),
    Row(
        "a_directory_over_a_link_to_the_canary",
        ((symlink(b"s", b"../canary"),), (directory(b"s", 0o777),)),
        modes={b"s": 0o777},
    ),
    Row(
        "a_regular_file_as_a_parent_is_refused",
        ((A, file(b"a/b")),),
        "entry 'a/b': a parent is not a directory",
    ),
    Row(
        "a_fifo_as_a_parent_is_refused",
        ((fifo(b"p"), file(b"p/b")),),
        "a parent is not a directory",
    ),
    Row(
        "a_link_to_a_file_as_a_parent_is_refused",
        ((A, symlink(b"s", b"a"), file(b"s/b")),),
        "not a directory",
    ),
    Row(
        "a_loop_of_links_in_a_parent_is_refused",
        ((symlink(b"s", b"t"), symlink(b"t", b"s"), file(b"s/b")),),
        "too many symbolic links",
    ),
    Row(
        "a_loop_of_links_over_a_whiteout_is_refused",
        ((symlink(b"s", b"s"), file(b"s/.wh.b")),),
        "too many symbolic links",
    ),
    Row(
        "a_link_with_a_target_of_4095_bytes",
        ((symlink(b"s", b"t" * 4095),),),
        has={b"s": b"t" * 4095},
    ),
    Row("a_link_with_a_target_too_long_is_refused", ((symlink(b"s", b"t" * 5000),),), "too long"),
    Row(
        "a_maze_of_links_is_refused",
        (
            (
                directory(b"a"),
                *(symlink(b"l%d" % n, b"a/../" * 500 + b"a") for n in range(20)),
                symlink(b"m", b"../".join(b"l%d/" % n for n in range(20))),
                file(b"m/x"),
            ),
        ),
        "too many symbolic links",
    ),
    Row("an_empty_symlink_is_refused", ((symlink(b"s", b""),),), "symbolic link is empty"),
    Row(
        "a_lower_directory_found_through_a_link_keeps_its_attributes",
        ((directory(b"d", 0o500, mtime=3 * SECOND), symlink(b"s", b"d")), (file(b"s/f", b"F"),)),
        has={b"d/f": b"F"},
        modes={b"d": 0o500},
        mtimes={b"d": 3 * SECOND},
    ),
)
