"""Rows of the table: names."""

from __future__ import annotations

from layer_row import SECOND, A, Row
from tarmaker import device, directory, file, hardlink, symlink

DEEP = b"/".join([b"n" * 200] * 40)

NAMES = (
    Row(
        "a_name_that_climbs_is_clamped",
        ((file(b"../x", b"X"),),),
        has={b"x": b"X"},
        warns={"clamped": 1},
    ),
    Row(
        "an_absolute_name_is_clamped",
        ((file(b"/x", b"X"),),),
        has={b"x": b"X"},
        warns={"clamped": 1},
    ),
    Row(
        "dot_dot_amid_is_resolved_by_the_letters",
        ((symlink(b"a", b"/d/e"), file(b"a/../b", b"B")),),
        has={b"b": b"B"},
        warns={"clamped": 1},
    ),
    Row(
        "dot_dot_at_the_end_means_the_directory_above",
        ((directory(b"x/y", 0o700), directory(b"x/y/..", 0o711), file(b"x/y/../f", b"F")),),
        has={b"x/f": b"F"},
        modes={b"x": 0o711, b"x/y": 0o700},
        warns={"clamped": 2},
    ),
    Row(
        "a_leading_dot_is_nothing",
        ((file(b"./x", b"X"), file(b"./d/./f", b"F")),),
        has={b"x": b"X", b"d/f": b"F"},
    ),
    Row(
        "an_absolute_path_of_the_host_is_clamped",
        ((file(b"/etc/../../../etc/passwd", b"X"),),),
        has={b"etc/passwd": b"X"},
    ),
    Row("slashes_are_one", ((file(b"d//f", b"F"), directory(b"e///")),), has={b"d/f": b"F"}),
    Row(
        "the_roots_mode_is_applied_keeping_its_owners_access",
        ((directory(b"./", 0o051, uid=7),),),
        modes={b"": 0o751},
    ),
    Row(
        "the_roots_sticky_bit_and_time",
        ((directory(b"/", 0o7777, mtime=5 * SECOND), A),),
        modes={b"": 0o1777},
        mtimes={b"": 5 * SECOND},
    ),
    Row(
        "a_root_that_no_layer_lists_stays_as_it_was",
        ((A,),),
        modes={b"": 0o755},
        mtimes={b"": SECOND},
    ),
    Row("a_root_as_a_symlink_is_refused", ((symlink(b"/", b"/etc"),),), "root is not a directory"),
    Row(
        "a_root_as_a_symlink_by_dot_is_refused",
        ((symlink(b"/.", b"/etc"),),),
        "root is not a directory",
    ),
    Row("a_root_as_a_file_is_refused", ((file(b"./", b""),),), "root is not a directory"),
    Row("a_root_as_a_device_0_0_is_refused", ((device(b"./", 0, 0),),), "root is not a directory"),
    Row("an_empty_name_is_refused", ((file(b""),),), "name is empty"),
    Row(
        "the_last_of_two_files_wins",
        ((A, file(b"a", b"second", mode=0o600)),),
        has={b"a": b"second"},
        modes={b"a": 0o600},
        warns={"duplicate": 1},
    ),
    Row(
        "the_last_of_two_directories_wins",
        ((directory(b"d", 0o700), file(b"d/f", b"F"), directory(b"d", 0o711)),),
        has={b"d/f": b"F"},
        modes={b"d": 0o711},
        warns={"duplicate": 1},
    ),
    Row(
        "a_duplicate_of_another_type_wins",
        ((directory(b"d"), file(b"d/f"), file(b"d", b"D"), symlink(b"d", b"x")),),
        has={b"d": b"x"},
        warns={"duplicate": 2},
    ),
    Row(
        "a_name_of_255_bytes",
        ((file(b"x" * 255, b"X"), file(b"d/" + b"y" * 255, b"Y")),),
        has={b"x" * 255: b"X", b"d/" + b"y" * 255: b"Y"},
    ),
    Row("a_name_of_256_bytes_is_refused", ((file(b"x" * 256),),), "longer than 255"),
    Row(
        "a_directory_name_of_256_bytes_is_refused",
        ((file(b"x" * 256 + b"/f"),),),
        "longer than 255",
    ),
    Row(
        "a_whiteout_of_a_name_of_255_bytes",
        ((file(b"x" * 255, b"X"),), (file(b".wh." + b"x" * 255),)),
        gone=(b"x" * 255,),
    ),
    Row(
        "a_path_over_4096_bytes",
        ((file(DEEP + b"/f", b"F"), hardlink(b"l", DEEP + b"/f")),),
        has={DEEP + b"/f": b"F"},
        shared=((DEEP + b"/f", b"l"),),
    ),
    Row(
        "a_whiteout_over_4096_bytes_down",
        (
            (file(DEEP + b"/f", b"F"), file(DEEP + b"/g", b"G")),
            (file(DEEP + b"/.wh.f"), file(DEEP + b"/h", b"H")),
        ),
        gone=(DEEP + b"/f",),
        has={DEEP + b"/h": b"H"},
    ),
    Row(
        "names_are_bytes",
        (
            (
                file(b"\xff\xfe", b"1"),
                file(b"new\nline", b"2"),
                file(b"back\\slash", b"3"),
                file(b"Case", b"4"),
                file(b"case", b"5"),
                file("ü".encode(), b"6"),
                symlink(b"\x80", b"\x81\n"),
            ),
        ),
        has={
            b"\xff\xfe": b"1",
            b"new\nline": b"2",
            b"back\\slash": b"3",
            b"Case": b"4",
            b"case": b"5",
            "ü".encode(): b"6",
            b"\x80": b"\x81\n",
        },
    ),
)
