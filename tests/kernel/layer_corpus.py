"""The table of layer semantics, row by row: what goes in, and what must come out.

``parts`` of a layer are entries, or raw bytes where the point is the encoding; then ``meant`` says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tarmaker as tar
from tarmaker import Entry, device, directory, fifo, file, hardlink, header, padded, pax, symlink

Part = Entry | bytes
SECOND = 10**9


class Row(NamedTuple):
    """One claim. The expectations name paths without a leading slash."""

    claim: str
    layers: tuple[tuple[Part, ...], ...]
    refused: str = ""  # part of the message; nothing else is looked at then
    has: Mapping[bytes, bytes] = {}  # content of files, targets of links
    gone: tuple[bytes, ...] = ()
    modes: Mapping[bytes, int] = {}
    mtimes: Mapping[bytes, int] = {}
    xattrs: Mapping[bytes, tuple[tuple[bytes, bytes], ...]] = {}
    shared: tuple[tuple[bytes, bytes], ...] = ()
    apart: tuple[tuple[bytes, bytes], ...] = ()
    warns: Mapping[str, int] = {}
    meant: tuple[tuple[Entry, ...], ...] | None = None
    end: bytes = tar.END
    umask: int = 0o022


A, B = file(b"a", b"A"), file(b"b", b"B")
LOWER = (directory(b"d", 0o750, mtime=5 * SECOND), file(b"d/old", b"old"), file(b"a", b"lower"))
OPAQUE = file(b"d/.wh..wh..opq")
XATTRS = ((b"user.one", b"1"), (b"user.two", b"\0\xff"))

WHITEOUTS = (
    Row("a_whiteout_removes_a_lower_file", (LOWER, (file(b".wh.a"),)), gone=(b"a",)),
    Row("a_whiteout_removes_a_lower_file_in_a_directory", (LOWER, (file(b"d/.wh.old"),)), gone=(b"d/old",),
        mtimes={b"d": 5 * SECOND}),
    Row("a_whiteout_removes_a_lower_directory", (LOWER, (file(b".wh.d"),)), gone=(b"d", b"d/old")),
    Row("a_whiteout_of_nothing_is_silent", (LOWER, (file(b".wh.none"), file(b"d/.wh.none"))), has={b"a": b"lower"}),
    Row("a_whiteout_with_content_is_applied_and_warned_of", (LOWER, (file(b".wh.a", b"x" * 1000), B)), gone=(b"a",),
        has={b"b": b"B"}, warns={"whiteout content": 1}),
    Row("a_whiteout_typed_as_a_directory_is_applied", (LOWER, (directory(b".wh.a"),)), gone=(b"a", b".wh.a")),
    Row("a_whiteout_typed_as_a_link_is_applied", (LOWER, (hardlink(b".wh.a", b"d/old"),)), gone=(b"a", b".wh.a")),
    Row("a_whiteout_after_the_file_keeps_the_new_one", (LOWER, (A, file(b".wh.a"))), has={b"a": b"A"}),
    Row("a_whiteout_before_the_file_keeps_the_new_one", (LOWER, (file(b".wh.a"), A)), has={b"a": b"A"}),
    Row("a_whiteout_after_a_link_keeps_the_link", (LOWER, (hardlink(b"l", b"a"), file(b".wh.l"), file(b".wh.a"))),
        has={b"l": b"lower"}, gone=(b"a",)),
    Row("a_whiteout_after_the_directory_removes_lower_children_only",
        (LOWER, (directory(b"d", 0o711), file(b"d/new", b"new"), file(b".wh.d"))),
        has={b"d/new": b"new"}, gone=(b"d/old",), modes={b"d": 0o711}),
    Row("a_whiteout_of_a_directory_that_is_only_implied_leaves_a_plain_one",
        (LOWER, (file(b"d/new", b"new"), file(b".wh.d"))),
        has={b"d/new": b"new"}, gone=(b"d/old",), modes={b"d": 0o755}, mtimes={b"d": 0}),
    Row("a_whiteout_spares_what_lies_deep_below",
        ((*LOWER, directory(b"d/s"), directory(b"d/s/t"), file(b"d/s/x"), file(b"d/s/t/y"), directory(b"d/u")),
         (file(b"d/s/t/new", b"new"), file(b".wh.d"))),
        has={b"d/s/t/new": b"new"}, gone=(b"d/old", b"d/s/x", b"d/s/t/y", b"d/u")),
    Row("a_whiteout_looks_into_directories_that_the_layer_only_passed_through",
        ((*LOWER, directory(b"d/s"), file(b"d/s/x")), (file(b"d/s/.wh.x"), file(b".wh.d"))), gone=(b"d",)),
    Row("a_whiteout_keeps_a_file_that_replaced_a_directory", (LOWER, (file(b"d", b"D"), file(b".wh.d"))),
        has={b"d": b"D"}, gone=(b"d/old",)),
    Row("a_whiteout_keeps_a_directory_that_replaced_a_file", (LOWER, (directory(b"a"), file(b".wh.a"))),
        modes={b"a": 0o755}),
    Row("opaque_first", (LOWER, (OPAQUE, directory(b"d", 0o711), file(b"d/new", b"new"))),
        has={b"d/new": b"new"}, gone=(b"d/old", b"d/.wh..wh..opq"), modes={b"d": 0o711}),
    Row("opaque_amid", (LOWER, (directory(b"d", 0o711), OPAQUE, file(b"d/new", b"new"))),
        has={b"d/new": b"new"}, gone=(b"d/old",), modes={b"d": 0o711}),
    Row("opaque_last", (LOWER, (directory(b"d", 0o711), file(b"d/new", b"new"), OPAQUE)),
        has={b"d/new": b"new"}, gone=(b"d/old",), modes={b"d": 0o711}),
    Row("opaque_without_the_directory_keeps_its_attributes", (LOWER, (file(b"d/new", b"new"), OPAQUE)),
        has={b"d/new": b"new"}, gone=(b"d/old",), modes={b"d": 0o750}, mtimes={b"d": 5 * SECOND}),
    Row("opaque_deep_keeps_what_the_layer_put_below",
        ((directory(b"d"), directory(b"d/s"), directory(b"d/s/t"), file(b"d/s/t/x"), file(b"d/s/y")),
         (file(b"d/s/t/new", b"new"), OPAQUE)),
        has={b"d/s/t/new": b"new"}, gone=(b"d/s/t/x", b"d/s/y")),
    Row("opaque_at_the_root", (LOWER, (B, file(b".wh..wh..opq"))), has={b"b": b"B"}, gone=(b"a", b"d")),
    Row("opaque_in_a_missing_directory_creates_nothing", (LOWER, (file(b"m/.wh..wh..opq"), file(b"m/n/.wh..wh..opq"))),
        gone=(b"m",)),
    Row("opaque_in_a_missing_directory_then_the_directory", (LOWER, (file(b"m/.wh..wh..opq"), file(b"m/f", b"F"))),
        has={b"m/f": b"F"}),
    Row("opaque_where_a_lower_file_stands_then_the_directory",
        (LOWER, (file(b"a/.wh..wh..opq"), directory(b"a"), file(b"a/f", b"F"))), has={b"a/f": b"F"}),
    Row("a_whiteout_without_a_name_is_refused", (LOWER, (file(b"d/.wh."),)), "names nothing"),
    Row("a_whiteout_of_dot_is_refused", (LOWER, (file(b"d/.wh.."),)), "names nothing"),
    Row("a_whiteout_of_dot_dot_is_refused", (LOWER, (file(b"d/.wh..."),)), "names nothing"),
    Row("a_whiteout_resolves_a_linked_parent_in_the_root",
        ((*LOWER, symlink(b"l", b"/d"), symlink(b"m", b"../../../d")), (file(b"l/.wh.old"), B)), gone=(b"d/old",)),
    Row("a_whiteout_through_a_link_to_the_canary_hits_nothing",
        ((symlink(b"l", b"../canary"), symlink(b"m", b"/../../canary/dir")), (file(b"l/.wh.file"), file(b"m/.wh.file"))),
        has={b"l": b"../canary"}),
    Row("a_whiteout_removes_the_link_and_not_its_target", ((*LOWER, symlink(b"l", b"d")), (file(b".wh.l"),)),
        gone=(b"l",), has={b"d/old": b"old"}),
    Row("a_whiteout_in_a_missing_parent_creates_nothing", (LOWER, (file(b"m/n/.wh.x"),)), gone=(b"m",)),
    Row("a_whiteout_as_a_directory_is_refused", (LOWER, (file(b".wh.etc/f"),)), "stands as a directory"),
    Row("a_whiteout_as_a_deep_directory_is_refused", (LOWER, (file(b"d/.wh.x/y/z"),)), "stands as a directory"),
    Row("an_opaque_marker_as_a_directory_is_refused", (LOWER, (file(b"d/.wh..wh..opq/f"),)), "stands as a directory"),
    Row("aufs_links_are_honoured_and_their_directory_skipped",
        ((directory(b".wh..wh.plnk", 0o700), file(b".wh..wh.plnk/1.2", b"shared", mode=0o640), file(b".wh..wh.aufs"),
          directory(b".wh..wh.orph"), hardlink(b"x", b".wh..wh.plnk/1.2"), hardlink(b"y", b".wh..wh.plnk/1.2")),
         (file(b"z", b"Z"),)),
        has={b"x": b"shared", b"y": b"shared"}, shared=((b"x", b"y"),), modes={b"x": 0o640},
        gone=(b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph")),
    Row("aufs_links_end_with_their_layer",
        ((file(b".wh..wh.plnk/1.2", b"shared"),), (hardlink(b"x", b".wh..wh.plnk/1.2"),)), "missing file"),
)

LINKS = (
    Row("a_hard_link_to_a_lower_file", (LOWER, (hardlink(b"l", b"d/old"),)), has={b"l": b"old"},
        shared=((b"l", b"d/old"),)),
    Row("a_hard_link_to_a_symlink_links_the_symlink", ((symlink(b"s", b"/etc/passwd"), hardlink(b"l", b"s")),),
        has={b"l": b"/etc/passwd"}, shared=((b"l", b"s"),)),
    Row("an_absolute_hard_link_stays_in_the_root", ((A, hardlink(b"l", b"/a")),), has={b"l": b"A"},
        warns={"clamped": 1}),
    Row("a_hard_link_with_dot_dot_stays_in_the_root", ((A, hardlink(b"l", b"../../../a")),), has={b"l": b"A"},
        warns={"clamped": 1}),
    Row("a_hard_link_does_not_reach_the_canary", ((hardlink(b"l", b"../canary/file"),),), "missing file"),
    Row("a_hard_link_through_a_link_does_not_reach_the_canary",
        ((symlink(b"s", b"../canary"), hardlink(b"l", b"s/file")),), "missing file"),
    Row("a_hard_link_through_a_linked_directory", ((*LOWER, symlink(b"s", b"/d"), hardlink(b"l", b"s/old")),),
        shared=((b"l", b"d/old"),)),
    Row("a_forward_hard_link_is_refused", ((hardlink(b"l", b"a"), A),), "entry 'l': hard link to a missing file"),
    Row("a_hard_link_to_a_missing_file_is_refused", ((A, hardlink(b"l", b"d/none")),), "hard link to a missing file"),
    Row("a_hard_link_to_itself_is_refused", ((A, hardlink(b"a", b"a")),), "hard link to itself"),
    Row("a_hard_link_to_itself_by_another_path_is_refused",
        ((*LOWER, symlink(b"s", b"d"), hardlink(b"d/old", b"s/../d/./old")),), "hard link to itself"),
    Row("a_hard_link_to_a_directory_is_refused", ((*LOWER, hardlink(b"l", b"d")),), "hard link to a directory"),
    Row("a_hard_link_to_the_root_is_refused", ((hardlink(b"l", b"/"),),), "hard link to a directory"),
    Row("a_hard_link_to_a_whited_out_file_is_refused", (LOWER, (file(b".wh.a"), hardlink(b"l", b"a"))), "missing file"),
    Row("a_hard_link_in_place_of_its_targets_directory_is_refused", ((*LOWER, hardlink(b"d", b"d/old")),),
        "missing file"),
    Row("a_hard_link_without_a_target_is_refused", ((hardlink(b"l", b""),),), "names no file"),
    Row("a_hard_links_own_attributes_are_ignored",
        ((file(b"a", b"A", mode=0o640, mtime=7 * SECOND), hardlink(b"l", b"a", mode=0o4777, mtime=9 * SECOND, uid=5)),),
        modes={b"l": 0o640}, mtimes={b"l": 7 * SECOND}),
    Row("a_hard_links_size_is_no_body", ((A, header(b"l", tar.LINK, 4096, link=b"a"), B),), has={b"b": b"B"},
        meant=((A, hardlink(b"l", b"a"), B),)),
    Row("a_hard_link_replaces", ((*LOWER, B, hardlink(b"b", b"a")),), has={b"b": b"lower"}, warns={"duplicate": 1}),
    Row("changing_one_of_two_linked_names_leaves_the_other",
        ((A, hardlink(b"l", b"a")), (file(b"a", b"changed"),)), has={b"a": b"changed", b"l": b"A"},
        apart=((b"a", b"l"),)),
    Row("a_hard_link_to_a_fifo", ((fifo(b"p"), hardlink(b"l", b"p")),), shared=((b"l", b"p"),)),
    Row("a_file_goes_through_an_absolute_link_in_the_image",
        ((directory(b"real"), symlink(b"s", b"/real")), (file(b"s/f", b"F"),)), has={b"real/f": b"F", b"s": b"/real"}),
    Row("a_file_goes_through_a_link_that_climbs",
        ((directory(b"real"), symlink(b"s", b"../../../../real")), (file(b"s/f", b"F"),)), has={b"real/f": b"F"}),
    Row("an_absolute_link_deep_down_starts_at_the_root",
        ((directory(b"d/real"), directory(b"real"), symlink(b"d/s", b"/real")), (file(b"d/s/f", b"F"),)),
        has={b"real/f": b"F"}, gone=(b"d/real/f",)),
    Row("a_missing_target_of_a_link_is_created_in_the_root", ((symlink(b"s", b"/var/tmp/x"), file(b"s/f", b"F")),),
        has={b"var/tmp/x/f": b"F"}, modes={b"var/tmp/x": 0o755}, mtimes={b"var": 0}),
    Row("a_link_to_the_canary_leads_back_into_the_root",
        ((symlink(b"s", b"../canary"), file(b"s/file", b"gotcha"), directory(b"s/dir", 0o700)),),
        has={b"canary/file": b"gotcha"}),
    Row("a_chain_of_links_stays_in_the_root",
        ((symlink(b"s", b"t/.."), symlink(b"t", b"u/../.."), directory(b"u"), file(b"s/canary/file", b"x")),),
        has={b"canary/file": b"x"}),
    Row("a_directory_replaces_a_link_and_its_target_stays",
        ((*LOWER, symlink(b"s", b"d")), (directory(b"s", 0o700), file(b"s/f", b"F"))), has={b"s/f": b"F",
        b"d/old": b"old"}, gone=(b"d/f",), modes={b"d": 0o750}),
    Row("a_link_replaces_a_directory", (LOWER, (symlink(b"d", b"a"),)), has={b"d": b"a"}),
    Row("a_file_replaces_a_directory", (LOWER, (file(b"d", b"D"),)), has={b"d": b"D"}),
    Row("a_directory_replaces_a_file", (LOWER, (directory(b"a", 0o700),)), modes={b"a": 0o700}),
    Row("a_file_replaces_a_link_and_not_its_target", ((*LOWER, symlink(b"s", b"a")), (file(b"s", b"S"),)),
        has={b"s": b"S", b"a": b"lower"}),
    Row("a_file_over_a_link_does_not_change_the_targets_mode",
        ((symlink(b"s", b"../canary/file"),), (file(b"s", b"S", mode=0o4777),)), has={b"s": b"S"}, modes={b"s": 0o777}),
    Row("a_directory_over_a_link_to_the_canary", ((symlink(b"s", b"../canary"),), (directory(b"s", 0o777),)),
        modes={b"s": 0o777}),
    Row("a_regular_file_as_a_parent_is_refused", ((A, file(b"a/b")),), "entry 'a/b': a parent is not a directory"),
    Row("a_fifo_as_a_parent_is_refused", ((fifo(b"p"), file(b"p/b")),), "a parent is not a directory"),
    Row("a_link_to_a_file_as_a_parent_is_refused", ((A, symlink(b"s", b"a"), file(b"s/b")),), "not a directory"),
    Row("a_loop_of_links_in_a_parent_is_refused", ((symlink(b"s", b"t"), symlink(b"t", b"s"), file(b"s/b")),),
        "too many symbolic links"),
    Row("a_loop_of_links_over_a_whiteout_is_refused", ((symlink(b"s", b"s"), file(b"s/.wh.b")),),
        "too many symbolic links"),
    Row("a_link_with_a_target_of_4095_bytes", ((symlink(b"s", b"t" * 4095),),), has={b"s": b"t" * 4095}),
    Row("a_link_with_a_target_too_long_is_refused", ((symlink(b"s", b"t" * 5000),),), "too long"),
    Row("an_empty_symlink_is_refused", ((symlink(b"s", b""),),), "symbolic link is empty"),
    Row("a_lower_directory_found_through_a_link_keeps_its_attributes",
        ((directory(b"d", 0o500, mtime=3 * SECOND), symlink(b"s", b"d")), (file(b"s/f", b"F"),)),
        has={b"d/f": b"F"}, modes={b"d": 0o500}, mtimes={b"d": 3 * SECOND}),
)

DEEP = b"/".join([b"n" * 200] * 40)

NAMES = (
    Row("a_name_that_climbs_is_clamped", ((file(b"../x", b"X"),),), has={b"x": b"X"}, warns={"clamped": 1}),
    Row("an_absolute_name_is_clamped", ((file(b"/x", b"X"),),), has={b"x": b"X"}, warns={"clamped": 1}),
    Row("dot_dot_amid_is_resolved_by_the_letters", ((symlink(b"a", b"/d/e"), file(b"a/../b", b"B")),),
        has={b"b": b"B"}, warns={"clamped": 1}),
    Row("dot_dot_at_the_end_means_the_directory_above",
        ((directory(b"x/y", 0o700), directory(b"x/y/..", 0o711), file(b"x/y/../f", b"F")),),
        has={b"x/f": b"F"}, modes={b"x": 0o711, b"x/y": 0o700}, warns={"clamped": 2}),
    Row("a_leading_dot_is_nothing", ((file(b"./x", b"X"), file(b"./d/./f", b"F")),), has={b"x": b"X", b"d/f": b"F"}),
    Row("an_absolute_path_of_the_host_is_clamped", ((file(b"/etc/../../../etc/passwd", b"X"),),),
        has={b"etc/passwd": b"X"}),
    Row("slashes_are_one", ((file(b"d//f", b"F"), directory(b"e///")),), has={b"d/f": b"F"}),
    Row("the_roots_mode_is_applied_keeping_its_owners_access", ((directory(b"./", 0o051, uid=7),),),
        modes={b"": 0o751}),
    Row("the_roots_sticky_bit_and_time", ((directory(b"/", 0o7777, mtime=5 * SECOND), A),), modes={b"": 0o1777},
        mtimes={b"": 5 * SECOND}),
    Row("a_root_that_no_layer_lists_stays_as_it_was", ((A,),), modes={b"": 0o755}, mtimes={b"": SECOND}),
    Row("a_root_as_a_symlink_is_refused", ((symlink(b"/", b"/etc"),),), "root is not a directory"),
    Row("a_root_as_a_symlink_by_dot_is_refused", ((symlink(b"/.", b"/etc"),),), "root is not a directory"),
    Row("a_root_as_a_file_is_refused", ((file(b"./", b""),),), "root is not a directory"),
    Row("a_root_as_a_device_0_0_is_refused", ((device(b"./", 0, 0),),), "root is not a directory"),
    Row("an_empty_name_is_refused", ((file(b""),),), "name is empty"),
    Row("the_last_of_two_files_wins", ((A, file(b"a", b"second", mode=0o600)),), has={b"a": b"second"},
        modes={b"a": 0o600}, warns={"duplicate": 1}),
    Row("the_last_of_two_directories_wins", ((directory(b"d", 0o700), file(b"d/f", b"F"), directory(b"d", 0o711)),),
        has={b"d/f": b"F"}, modes={b"d": 0o711}, warns={"duplicate": 1}),
    Row("a_duplicate_of_another_type_wins", ((directory(b"d"), file(b"d/f"), file(b"d", b"D"), symlink(b"d", b"x")),),
        has={b"d": b"x"}, warns={"duplicate": 2}),
    Row("a_name_of_255_bytes", ((file(b"x" * 255, b"X"), file(b"d/" + b"y" * 255, b"Y")),),
        has={b"x" * 255: b"X", b"d/" + b"y" * 255: b"Y"}),
    Row("a_name_of_256_bytes_is_refused", ((file(b"x" * 256),),), "longer than 255"),
    Row("a_directory_name_of_256_bytes_is_refused", ((file(b"x" * 256 + b"/f"),),), "longer than 255"),
    Row("a_whiteout_of_a_name_of_255_bytes", ((file(b"x" * 255, b"X"),), (file(b".wh." + b"x" * 255),)),
        gone=(b"x" * 255,)),
    Row("a_path_over_4096_bytes", ((file(DEEP + b"/f", b"F"), hardlink(b"l", DEEP + b"/f")),),
        has={DEEP + b"/f": b"F"}, shared=((DEEP + b"/f", b"l"),)),
    Row("a_whiteout_over_4096_bytes_down", ((file(DEEP + b"/f", b"F"), file(DEEP + b"/g", b"G")),
        (file(DEEP + b"/.wh.f"), file(DEEP + b"/h", b"H"))), gone=(DEEP + b"/f",), has={DEEP + b"/h": b"H"}),
    Row("names_are_bytes",
        ((file(b"\xff\xfe", b"1"), file(b"new\nline", b"2"), file(b"back\\slash", b"3"), file(b"Case", b"4"),
          file(b"case", b"5"), file("ü".encode(), b"6"), symlink(b"\x80", b"\x81\n")),),
        has={b"\xff\xfe": b"1", b"new\nline": b"2", b"back\\slash": b"3", b"Case": b"4", b"case": b"5",
             "ü".encode(): b"6", b"\x80": b"\x81\n"}),
)

# GNU sparse, written by hand: the header's own map, blocks that continue it, and the three PAX versions.
HOLES = bytes(4096) + b"x" * 512 + bytes(8192 - 4608) + b"y" * 100 + bytes(1900)
PIECES = ((4096, 512), (8192, 100))
STORED = b"x" * 512 + b"y" * 100
SPARSE = file(b"s", HOLES)


def gnu_map(pairs: tuple[tuple[int, int], ...]) -> bytes:
    return b"".join(tar.octal(offset, 12) + tar.octal(size, 12) for offset, size in pairs)


def gnu_sparse(pairs: tuple[tuple[int, int], ...], stored: bytes, size: int, *, in_header: int = 4) -> bytes:
    block = bytearray(header(b"s", b"S", len(stored), magic=b"ustar  \0"))
    block[345:512] = bytes(167)
    block[386 : 386 + 24 * len(pairs[:in_header])] = gnu_map(pairs[:in_header])
    block[482] = len(pairs) > in_header
    block[483:495] = tar.octal(size, 12)
    result, rest = tar.checksummed(bytes(block)), pairs[in_header:]
    while rest:
        result += gnu_map(rest[:21]).ljust(504, b"\0") + bytes([len(rest) > 21]) + bytes(7)
        rest = rest[21:]
    return result + padded(stored)


def pax_sparse(records: tuple[tuple[bytes, bytes], ...], stored: bytes, size: int = len(HOLES)) -> bytes:
    sizes = ((b"GNU.sparse.size", b"%d" % size),)
    return pax(*sizes, *records) + header(b"GNUSparseFile.0/s", b"0", len(stored)) + padded(stored)


def pax_sparse_1(text: bytes, stored: bytes, size: int = len(HOLES), minor: bytes = b"0") -> bytes:
    records = (
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", minor), (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"%d" % size),
    )  # fmt: skip
    body = padded(text) + stored
    return pax(*records) + header(b"GNUSparseFile.0/s", b"0", len(body)) + padded(body)


MANY = tuple((n * 1024, 2) for n in range(60))
MANY_HOLES = b"".join(b"zz" + bytes(1022) for _ in MANY)
SPARSE_00 = tuple(
    each
    for offset, size in PIECES
    for each in ((b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % size))
)

FORMATS = (
    Row("gnu_long_names", ((tar.gnu_long(b"l" * 200 + b"/f"), tar.gnu_long(b"t" * 300, b"K"),
        header(b"l" * 100, b"2", link=b"t" * 100, magic=b"ustar  \0", mode=0o777)),),
        has={b"l" * 200 + b"/f": b"t" * 300}, meant=((symlink(b"l" * 200 + b"/f", b"t" * 300),),)),
    Row("ustar_prefix", ((header(b"name", prefix=b"some/where", size=1) + padded(b"P"),),), has={b"some/where/name": b"P"},
        meant=((file(b"some/where/name", b"P"),),)),
    Row("gnu_headers_have_no_prefix", ((header(b"name", prefix=b"12345", magic=b"ustar  \0"),),), has={b"name": b""},
        gone=(b"12345",), meant=((file(b"name"),),)),
    Row("v7_headers_and_their_directories", ((header(b"d/", b"\0", magic=bytes(8), mode=0o755), header(b"d/f", b"\0", 1,
        magic=bytes(8)) + padded(b"F")),), has={b"d/f": b"F"}, meant=((directory(b"d"), file(b"d/f", b"F")),)),
    Row("a_name_of_100_bytes_without_a_nul", ((header(b"n" * 100, size=1) + padded(b"N"),),), has={b"n" * 100: b"N"},
        meant=((file(b"n" * 100, b"N"),),)),
    Row("pax_path_and_size", ((pax((b"path", b"p/q"), (b"size", b"3")) + header(b"x", size=0) + padded(b"abc"), B),),
        has={b"p/q": b"abc", b"b": b"B"}, meant=((file(b"p/q", b"abc"), B),)),
    Row("a_pax_record_of_no_value_takes_back", ((pax((b"path", b"p"), (b"path", b"")) + header(b"x"),),),
        has={b"x": b""}, meant=((file(b"x"),),)),
    Row("pax_beats_gnu", ((tar.gnu_long(b"gnu") + pax((b"path", b"pax")) + header(b"x"),),), has={b"pax": b""},
        meant=((file(b"pax"),),)),
    Row("unknown_pax_records_are_ignored", ((pax((b"comment", b"\xff\0"), (b"VENDOR.x", b"y"), (b"atime", b"junk"))
        + tar.write(A),),), has={b"a": b"A"}, meant=((A,),)),
    Row("a_solaris_header_is_pax", ((tar.extended(tar.record(b"path", b"p"), b"X") + header(b"x"),),), has={b"p": b""},
        meant=((file(b"p"),),)),
    Row("pax_counts_for_one_entry_only", ((pax((b"path", b"p")) + header(b"x"), B),), has={b"p": b"", b"b": b"B"},
        meant=((file(b"p"), B),)),
    Row("a_global_pax_header_is_ignored", ((tar.extended(tar.record(b"path", b"evil"), b"g"), A, B),),
        has={b"a": b"A", b"b": b"B"}, gone=(b"evil",), meant=((A, B),)),
    Row("a_pax_header_of_a_megabyte", ((tar.extended(tar.record(b"comment", b"c" * ((1 << 20) - 17))), A),),
        has={b"a": b"A"}, meant=((A,),)),
    Row("a_pax_header_over_a_megabyte_is_refused", ((tar.extended(tar.record(b"comment", b"c" * (1 << 20))), A),),
        "larger than the limit"),
    Row("a_global_header_over_a_megabyte_is_refused", ((header(b"g", b"g", (1 << 20) + 1),),), "larger than the limit"),
    Row("a_gnu_name_over_a_megabyte_is_refused", ((header(b"L", b"L", (1 << 20) + 1),),), "larger than the limit"),
    Row("a_nul_in_a_pax_path_is_refused", ((pax((b"path", b"a\0b")) + header(b"x"),),), "holds a NUL"),
    Row("a_nul_in_a_pax_linkpath_is_refused", ((pax((b"linkpath", b"a\0b")) + header(b"x", b"2"),),), "holds a NUL"),
    Row("a_nul_in_a_pax_key_is_refused", ((tar.extended(b"12 a\0b=cde\n") + header(b"x"),),), "is malformed"),
    Row("a_pax_record_too_long_is_refused", ((tar.extended(b"99 path=a\n") + header(b"x"),),), "is malformed"),
    Row("a_pax_record_too_short_is_refused", ((tar.extended(b"2 path=a\n") + header(b"x"),),), "is malformed"),
    Row("a_pax_record_without_newline_is_refused", ((tar.extended(b"10 path=ab") + header(b"x"),),), "is malformed"),
    Row("a_pax_record_without_key_is_refused", ((tar.extended(b"6 =ab\n") + header(b"x"),),), "is malformed"),
    Row("a_pax_length_of_garbage_is_refused", ((tar.extended(b"x path=a\n") + header(b"x"),),), "is malformed"),
    Row("a_pax_length_past_64_bits_is_refused", ((tar.extended(b"18446744073709551626 p=a\n") + header(b"x"),),),
        "is malformed"),
    Row("two_pax_headers_in_a_row_are_refused", ((pax((b"path", b"p")), pax((b"path", b"q")), A),), "two extended"),
    Row("a_pax_header_without_entry_is_refused", ((A, pax((b"path", b"p"))),), "without its entry"),
    Row("a_gnu_name_without_entry_is_refused", ((A, tar.gnu_long(b"p")),), "without its entry", end=b""),
    Row("a_bad_checksum_is_refused", ((A, tar.write(B)[:148] + b"000001\0 " + tar.write(B)[156:]),), "bad checksum"),
    Row("a_checksum_of_signed_bytes", ((header(b"\xff", b"0")[:148] + tar.octal(
        sum(header(b"\xff", b"0")[:148]) + sum(header(b"\xff", b"0")[156:]) + 8 * 32 - 256, 7) + b" "
        + header(b"\xff", b"0")[156:],),), has={b"\xff": b""}, meant=((file(b"\xff"),),)),
    Row("a_number_of_garbage_is_refused", ((header(b"x", mode=b"12x4567\0"),),), "malformed"),
    Row("a_negative_size_is_refused", ((header(b"x", size=tar.base256(-1, 12)),),), "size is negative"),
    Row("a_size_of_2_62_is_refused", ((header(b"x", size=tar.base256(1 << 62, 12)),),), "limit of bytes"),
    Row("a_size_past_63_bits_is_refused", ((header(b"x", size=tar.base256(1 << 64, 12)),),), "size is negative"),
    Row("a_pax_size_of_2_62_is_refused", ((pax((b"size", b"%d" % (1 << 62))) + header(b"x"),),), "limit of bytes"),
    Row("a_pax_size_past_64_bits_is_refused", ((pax((b"size", b"%d" % (1 << 64))) + header(b"x"),),), "malformed"),
    Row("a_negative_pax_size_is_refused", ((pax((b"size", b"-1")) + header(b"x"),),), "malformed"),
    Row("sizes_that_add_up_past_the_limit_are_refused", ((file(b"a", b"AA"), header(b"x", size=(1 << 40) - 1),),), "limit of bytes"),
    Row("contiguous_is_regular", ((header(b"x", b"7", 1) + padded(b"X"),),), has={b"x": b"X"},
        meant=((file(b"x", b"X"),),)),
    *(Row(f"type_{name}_is_refused", ((A, header(b"x", letter)),), "type is unknown")
      for name, letter in (("8", b"8"), ("9", b"9"), ("V", b"V"), ("M", b"M"), ("D", b"D"), ("N", b"N"), ("s", b"s"),
                           ("A", b"A"), ("z", b"z"), ("blank", b" "), ("ff", b"\xff"))),
    Row("gnu_sparse", ((gnu_sparse(PIECES, STORED, len(HOLES)), B),), has={b"s": HOLES}, meant=((SPARSE, B),)),
    Row("two_gnu_sparse_files", ((gnu_sparse(PIECES, STORED, len(HOLES)), gnu_sparse(((0, 2),), b"zz", 9)),),
        has={b"s": b"zz" + bytes(7)}, warns={"duplicate": 1}, meant=((SPARSE, file(b"s", b"zz" + bytes(7))),)),
    Row("gnu_sparse_with_more_blocks", ((gnu_sparse(MANY, b"zz" * 60, len(MANY_HOLES)), B),), has={b"s": MANY_HOLES},
        meant=((file(b"s", MANY_HOLES), B),)),
    Row("gnu_sparse_of_nothing_but_holes", ((gnu_sparse((), b"", 5000), B),), has={b"s": bytes(5000)},
        meant=((file(b"s", bytes(5000)), B),)),
    Row("pax_sparse_0_0", ((pax_sparse(((b"path", b"s"), *SPARSE_00), STORED), B),), has={b"s": HOLES},
        meant=((SPARSE, B),)),
    Row("pax_sparse_0_1", ((pax_sparse(((b"GNU.sparse.name", b"s"), (b"GNU.sparse.map", b"4096,512,8192,100")), STORED), B),),
        has={b"s": HOLES}, meant=((SPARSE, B),)),
    Row("pax_sparse_1_0", ((pax_sparse_1(b"2\n4096\n512\n8192\n100\n", STORED), B),), has={b"s": HOLES},
        meant=((SPARSE, B),)),
    Row("pax_sparse_1_0_over_several_blocks", ((pax_sparse_1(b"60\n" + b"".join(b"%d\n%d\n" % each for each in MANY),
        b"zz" * 60, len(MANY_HOLES)), B),), has={b"s": MANY_HOLES}, meant=((file(b"s", MANY_HOLES), B),)),
    Row("a_sparse_files_logical_size_counts", ((gnu_sparse(((0, 2),), b"zz", 1 << 30),
        pax_sparse(((b"GNU.sparse.map", b"0,0"),), b"", 1 << 40)),), "limit of bytes"),
    Row("a_sparse_map_that_goes_back_is_refused", ((gnu_sparse(((512, 512), (0, 100)), STORED, 9000),),), "map is malf"),
    Row("a_sparse_map_that_overlaps_is_refused", ((gnu_sparse(((0, 512), (500, 100)), STORED, 9000),),), "map is malf"),
    Row("a_sparse_map_past_the_end_is_refused", ((gnu_sparse(PIECES, STORED, 8200),),), "map is malformed"),
    Row("a_sparse_map_that_wraps_is_refused", ((pax_sparse(((b"GNU.sparse.map", b"18446744073709551615,2"),), b"zz"),),),
        "map is malformed"),
    Row("a_sparse_map_of_less_than_is_stored_is_refused", ((gnu_sparse(((0, 100),), STORED, 9000),),), "does not fit"),
    Row("a_sparse_map_of_more_than_is_stored_is_refused", ((gnu_sparse(((0, 5000),), STORED, 9000),),), "does not fit"),
    Row("half_a_sparse_pair_is_refused", ((pax_sparse(((b"GNU.sparse.map", b"0,512,4096"),), STORED),),), "malformed"),
    Row("sparse_pairs_out_of_turn_are_refused", ((pax_sparse(((b"GNU.sparse.numbytes", b"1"),), b"z"),),), "malformed"),
    Row("a_sparse_map_of_garbage_is_refused", ((pax_sparse_1(b"2\n4096\nx\n8192\n100\n", STORED),),), "map is malformed"),
    Row("a_sparse_map_longer_than_the_body_is_refused", ((pax_sparse_1(b"9999\n1\n1\n", b""),),), "map is malformed"),
    Row("a_sparse_map_of_too_many_pieces_is_refused", ((pax_sparse_1(b"99999999\n", b""),),), "too long"),
    Row("a_sparse_version_of_the_future_is_refused", ((pax_sparse_1(b"0\n", b"", minor=b"1"),),), "format is unknown"),
    Row("a_sparse_file_without_its_size_is_refused", ((pax((b"GNU.sparse.map", b"0,1")) + header(b"s", size=1)
        + padded(b"z"),),), "no file size"),
)

ATTRIBUTES = (
    Row("user_xattrs_are_set", ((file(b"f", xattrs=XATTRS), directory(b"d", xattrs=XATTRS)),),
        xattrs={b"f": XATTRS, b"d": XATTRS}),
    Row("user_xattrs_on_what_the_owner_cannot_write", ((file(b"f", mode=0, xattrs=XATTRS), directory(b"d", 0,
        xattrs=XATTRS)),), xattrs={b"f": XATTRS, b"d": XATTRS}, modes={b"f": 0, b"d": 0}),
    Row("an_xattr_of_no_bytes", ((file(b"f", xattrs=((b"user.empty", b""),)),),), xattrs={b"f": ((b"user.empty", b""),)}),
    Row("a_replaced_directorys_xattrs_are_cleared_first",
        ((directory(b"d", xattrs=XATTRS),), (directory(b"d", xattrs=((b"user.three", b"3"),)),)),
        xattrs={b"d": ((b"user.three", b"3"),)}),
    Row("a_directory_listed_without_xattrs_loses_them", ((directory(b"d", 0, xattrs=XATTRS),), (directory(b"d"),)),
        xattrs={b"d": ()}),
    Row("the_roots_xattrs", ((directory(b"/", xattrs=XATTRS),), (directory(b"./", xattrs=XATTRS[:1]),)),
        xattrs={b"": XATTRS[:1]}),
    Row("a_replaced_files_xattrs_are_gone", ((file(b"f", xattrs=XATTRS),), (file(b"f"),)), xattrs={b"f": ()}),
    Row("an_opaque_directory_keeps_its_xattrs", ((directory(b"d", xattrs=XATTRS),), (OPAQUE, file(b"d/x"))),
        xattrs={b"d": XATTRS}),
    Row("a_whited_out_directory_does_not_keep_its_xattrs", ((directory(b"d", xattrs=XATTRS),),
        (file(b"d/x"), file(b".wh.d"))), xattrs={b"d": ()}),
    Row("dangerous_xattrs_are_dropped", ((file(b"f", xattrs=tuple((name, b"y") for name in (
        b"security.capability", b"security.selinux", b"system.nfs4_acl", b"system.posix_acl_access", b"trusted.overlay.opaque",
        b"trusted.x", b"user.overlay.opaque", b"user.overlay.redirect", b"user.", b"user", b"User.x", b"x"))),
        directory(b"d", xattrs=((b"user.overlay.opaque", b"y"), (b"user.overlay.whiteout", b"y")))),),
        xattrs={b"f": (), b"d": ()}),
    Row("xattrs_of_what_cannot_have_them_are_dropped", ((symlink(b"s", b"x", xattrs=XATTRS), fifo(b"p", xattrs=XATTRS)),),
        has={b"s": b"x"}),
    Row("owners_up_to_4294967294", ((file(b"f", uid=2**32 - 2, gid=2**32 - 2),),), has={b"f": b""}),
    Row("owners_up_to_4294967294_in_pax", ((pax((b"uid", b"4294967294"), (b"gid", b"4294967294")) + header(b"f"),),),
        has={b"f": b""}, meant=((file(b"f"),),)),
    Row("a_uid_of_2_32_less_1_is_refused", ((file(b"f", uid=2**32 - 1),),), "owner or group"),
    Row("a_gid_of_2_32_is_refused", ((file(b"f", gid=2**32),),), "owner or group"),
    Row("a_negative_uid_is_refused", ((header(b"f", uid=tar.base256(-1, 8)),),), "owner or group"),
    Row("a_pax_uid_of_2_32_less_1_is_refused", ((pax((b"uid", b"4294967295")) + header(b"f"),),), "owner or group"),
    Row("a_pax_gid_of_2_64_is_refused", ((pax((b"gid", b"18446744073709551616")) + header(b"f"),),), "malformed"),
    Row("a_negative_pax_uid_is_refused", ((pax((b"uid", b"-1")) + header(b"f"),),), "malformed"),
    Row("set_id_bits_are_stripped_and_sticky_stays", ((file(b"f", mode=0o6755), directory(b"d", 0o7777),
        file(b"t", mode=0o1644)),), modes={b"f": 0o755, b"d": 0o1777, b"t": 0o1644}),
    Row("a_file_type_in_the_mode_is_ignored", ((header(b"f", mode=0o100640),),), modes={b"f": 0o640},
        meant=((file(b"f", mode=0o640),),)),
    Row("modes_do_not_depend_on_the_umask", ((file(b"f", mode=0o666), directory(b"d", 0o777), file(b"d/x/y", b"Y",
        mode=0o777), fifo(b"p", mode=0o666), file(b"x", b"X", xattrs=XATTRS)),), modes={b"f": 0o666, b"d": 0o777,
        b"d/x": 0o755, b"d/x/y": 0o777, b"p": 0o666}, umask=0o777),
    Row("devices_are_skipped", ((device(b"c", 1, 3), device(b"d/b", 8, 0, tar.BLOCK), B),), gone=(b"c", b"d"),
        has={b"b": b"B"}),
    Row("a_device_does_not_let_what_it_replaces_show_through", (LOWER, (device(b"a", 1, 3), device(b"d", 1, 5))),
        gone=(b"a", b"d")),
    Row("a_device_0_0_is_a_whiteout", (LOWER, (device(b"a", 0, 0), device(b"d", 0, 0), device(b"n/x", 0, 0))),
        gone=(b"a", b"d", b"n")),
    Row("a_device_0_0_spares_its_own_layer", (LOWER, (A, device(b"a", 0, 0))), has={b"a": b"A"}),
    Row("a_block_device_0_0_is_a_device", (LOWER, (device(b"x", 0, 0, tar.BLOCK),)), gone=(b"x",)),
    Row("a_device_under_a_file_is_refused", ((A, device(b"a/x", 1, 3)),), "not a directory"),
    Row("a_fifo_is_created", ((fifo(b"p", mode=0o4620, mtime=5 * SECOND),),), modes={b"p": 0o620},
        mtimes={b"p": 5 * SECOND}),
    Row("a_fifo_replaces_and_is_replaced", ((A, fifo(b"p")), (fifo(b"a"), file(b"p", b"P"))), has={b"p": b"P"}),
    Row("directories_without_access_get_their_children",
        ((directory(b"d", 0, mtime=3 * SECOND), directory(b"d/e", 0, mtime=4 * SECOND), file(b"d/e/f", b"F", mode=0),
          directory(b"r", 0o555), file(b"r/f", b"F", mode=0o444)),),
        has={b"d/e/f": b"F", b"r/f": b"F"}, modes={b"d": 0, b"d/e": 0, b"d/e/f": 0, b"r": 0o555},
        mtimes={b"d": 3 * SECOND, b"d/e": 4 * SECOND}),
    Row("later_layers_work_in_directories_without_access",
        ((directory(b"d", 0, mtime=3 * SECOND), directory(b"d/e", 0o100, mtime=4 * SECOND), file(b"d/e/f", b"F"),
          directory(b"d/g", 0o400), file(b"d/g/h")),
         (file(b"d/e/new", b"new"), file(b"d/e/.wh.f"), file(b"d/.wh.g"), hardlink(b"l", b"d/e/new"))),
        has={b"d/e/new": b"new"}, gone=(b"d/e/f", b"d/g"), modes={b"d": 0, b"d/e": 0o100},
        mtimes={b"d": 3 * SECOND, b"d/e": 4 * SECOND}, shared=((b"d/e/new", b"l"),)),
    Row("a_directory_without_access_that_is_only_passed_through",
        ((directory(b"d", 0, mtime=3 * SECOND), directory(b"d/e")), (file(b"d/e/f", b"F"),)),
        has={b"d/e/f": b"F"}, modes={b"d": 0}, mtimes={b"d": 3 * SECOND}),
    Row("a_directory_without_access_is_replaced", ((directory(b"d", 0), directory(b"d/e", 0o555), file(b"d/e/f")),
        (file(b"d", b"D"),)), has={b"d": b"D"}),
    Row("an_opaque_directory_without_access", ((directory(b"d", 0), directory(b"d/e", 0o555), file(b"d/e/f")),
        (OPAQUE,)), gone=(b"d/e",), modes={b"d": 0}),
    Row("fractions_of_a_second_are_kept", ((file(b"f", mtime=1_234_567_890_123_456_789), directory(b"d",
        mtime=1_234_567_890_987_654_321), symlink(b"s", b"x", mtime=3 * SECOND + 1)),),
        mtimes={b"f": 1_234_567_890_123_456_789, b"d": 1_234_567_890_987_654_321, b"s": 3 * SECOND + 1}),
    Row("a_time_before_1970", ((file(b"f", mtime=-SECOND * 3 // 2), file(b"g", mtime=-5 * SECOND)),),
        mtimes={b"f": -1_500_000_000, b"g": -5 * SECOND}),
    Row("times_are_clamped_to_2_34_seconds",
        ((file(b"f", mtime=2**40 * SECOND), file(b"g", mtime=-(2**40) * SECOND), file(b"h", mtime=2**34 * SECOND + 1),
          file(b"i", mtime=2**34 * SECOND - 1), directory(b"d", mtime=2**40 * SECOND)),),
        mtimes={b"f": 2**34 * SECOND, b"g": -(2**34) * SECOND, b"h": 2**34 * SECOND, b"i": 2**34 * SECOND - 1,
                b"d": 2**34 * SECOND}),
    Row("a_pax_time_of_many_digits", ((pax((b"mtime", b"9" * 400 + b"." + b"9" * 400)) + header(b"f"),
        pax((b"mtime", b"-" + b"9" * 400)) + header(b"g"), pax((b"mtime", b"1.1234567891")) + header(b"h")),),
        mtimes={b"f": 2**34 * SECOND, b"g": -(2**34) * SECOND, b"h": 1_123_456_789}, meant=((
        file(b"f", mtime=2**40 * SECOND), file(b"g", mtime=-(2**40) * SECOND), file(b"h", mtime=1_123_456_789)),)),
    Row("a_pax_time_of_garbage_is_refused", ((pax((b"mtime", b"1.5x")) + header(b"f"),),), "time in its extended"),
    Row("a_pax_time_without_digits_is_refused", ((pax((b"mtime", b"-.5")) + header(b"f"),),), "time in its extended"),
    Row("a_directorys_time_survives_its_children", ((directory(b"d", mtime=3 * SECOND), file(b"d/f")), (file(b"d/g"),),
        (file(b"d/.wh.f"),)), mtimes={b"d": 3 * SECOND}),
)

ENDS = (
    Row("an_empty_archive", ((),)),
    Row("zero_bytes", ((),), end=b""),
    Row("no_end_blocks", ((A, B),), has={b"a": b"A", b"b": b"B"}, end=b""),
    Row("one_end_block", ((A,),), has={b"a": b"A"}, end=bytes(512)),
    Row("many_end_blocks", ((A,),), has={b"a": b"A"}, end=bytes(10240)),
    Row("garbage_behind_the_end_is_ignored", ((A,),), has={b"a": b"A"}, gone=(b"b",),
        end=tar.END + tar.write(B) + b"garbage"),
    Row("no_padding_at_the_end", ((A, header(b"b", size=1) + b"B"),), has={b"b": b"B"}, meant=((A, B),), end=b""),
    Row("an_entry_with_pax_at_the_very_end", ((file(b"f", b"x" * 512, mtime=SECOND + 1),),), mtimes={b"f": SECOND + 1},
        end=b""),
    Row("half_a_header_is_refused", ((A, tar.write(B)[:300]),), "cut short", end=b""),
    Row("half_a_body_is_refused", ((A, tar.write(file(b"b", b"x" * 2000))[:1500]),), "entry 'b': the archive is cut",
        end=b""),
    Row("a_body_without_a_byte_is_refused", ((A, header(b"b", size=1)),), "cut short", end=b""),
    Row("half_the_padding_is_refused", ((A, tar.write(B)[:700]),), "cut short", end=b""),
    Row("half_a_pax_header_is_refused", ((A, pax((b"path", b"p"))[:600]),), "cut short", end=b""),
    Row("half_a_sparse_map_is_refused", ((gnu_sparse(MANY, b"", 1 << 20)[:600],),), "cut short", end=b""),
    Row("a_lone_block_of_zeros_is_refused", ((A, bytes(512), B),), "zeros stands amid"),
)

ROWS = WHITEOUTS + LINKS + NAMES + FORMATS + ATTRIBUTES + ENDS


def archives(row: Row) -> tuple[bytes, ...]:
    """Return the row's layers as they are fed."""
    return tuple(tar.archive(*parts, end=row.end) for parts in row.layers)


def meant(row: Row) -> tuple[tuple[Entry, ...], ...]:
    """Return the row's layers as the model reads them."""
    if row.meant is not None:
        return row.meant
    layers = tuple(tuple(part for part in parts if isinstance(part, Entry)) for parts in row.layers)
    assert row.refused or all(len(one) == len(parts) for one, parts in zip(layers, row.layers, strict=True)), row.claim
    return layers
