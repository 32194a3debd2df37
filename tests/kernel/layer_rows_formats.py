"""Rows of the table: the tar format and its dialects."""

from __future__ import annotations

import tarmaker as tar
from layer_row import A, B, Row
from tarmaker import device, directory, file, header, padded, pax, symlink

# GNU sparse, written by hand: the header's own map, blocks that continue it, and the three PAX versions.
HOLES = bytes(4096) + b"x" * 512 + bytes(8192 - 4608) + b"y" * 100 + bytes(1900)
PIECES = ((4096, 512), (8192, 100))
STORED = b"x" * 512 + b"y" * 100
SPARSE = file(b"s", HOLES)


def gnu_map(pairs: tuple[tuple[int, int], ...]) -> bytes:
    return b"".join(tar.octal(offset, 12) + tar.octal(size, 12) for offset, size in pairs)


def gnu_sparse(
    pairs: tuple[tuple[int, int], ...], stored: bytes, size: int, *, in_header: int = 4
) -> bytes:
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


def pax_sparse(
    records: tuple[tuple[bytes, bytes], ...], stored: bytes, size: int = len(HOLES)
) -> bytes:
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
    Row(
        "gnu_long_names",
        (
            (
                tar.gnu_long(b"l" * 200 + b"/f"),
                tar.gnu_long(b"t" * 300, b"K"),
                header(b"l" * 100, b"2", link=b"t" * 100, magic=b"ustar  \0", mode=0o777),
            ),
        ),
        has={b"l" * 200 + b"/f": b"t" * 300},
        meant=((symlink(b"l" * 200 + b"/f", b"t" * 300),),),
    ),
    Row(
        "ustar_prefix",
        ((header(b"name", prefix=b"some/where", size=1) + padded(b"P"),),),
        has={b"some/where/name": b"P"},
        meant=((file(b"some/where/name", b"P"),),),
    ),
    Row(
        "gnu_headers_have_no_prefix",
        ((header(b"name", prefix=b"12345", magic=b"ustar  \0"),),),
        has={b"name": b""},
        gone=(b"12345",),
        meant=((file(b"name"),),),
    ),
    Row(
        "star_headers_have_a_shorter_prefix",
        ((tar.checksummed(header(b"name", prefix=b"p" * 131 + b"12345")[:508] + b"tar\0"),),),
        has={b"p" * 131 + b"/name": b""},
        meant=((file(b"p" * 131 + b"/name"),),),
    ),
    Row(
        "numbers_with_blanks_around",
        ((header(b"x", mode=b"  640 \0", size=b"         1 \0", uid=b"\0 7 \0") + padded(b"X"),),),
        has={b"x": b"X"},
        modes={b"x": 0o640},
        meant=((file(b"x", b"X", mode=0o640),),),
    ),
    Row(
        "a_number_past_63_bits_is_refused",
        ((header(b"x", mtime=b"\x80" + b"\xff" * 11),),),
        "malformed",
    ),
    Row(
        "a_device_number_out_of_range_is_refused",
        ((header(b"x", b"3", major=tar.base256(1 << 32, 8)),),),
        "out of range",
    ),
    Row("a_device_number_of_garbage_is_refused", ((header(b"x", b"4", minor=b"x"),),), "malformed"),
    Row(
        "a_checksum_of_garbage_is_refused",
        ((header(b"x")[:148] + b"garbage " + header(b"x")[156:],),),
        "bad checksum",
    ),
    Row(
        "a_header_type_in_v7_has_no_device_numbers",
        ((header(b"x", b"3", magic=bytes(8), major=b"junk"),),),
        gone=(b"x",),
        meant=((device(b"x", 0, 0),),),
    ),
    Row(
        "v7_headers_and_their_directories",
        (
            (
                header(b"d/", b"\0", magic=bytes(8), mode=0o755),
                header(b"d/f", b"\0", 1, magic=bytes(8)) + padded(b"F"),
            ),
        ),
        has={b"d/f": b"F"},
        meant=((directory(b"d"), file(b"d/f", b"F")),),
    ),
    Row(
        "a_name_of_100_bytes_without_a_nul",
        ((header(b"n" * 100, size=1) + padded(b"N"),),),
        has={b"n" * 100: b"N"},
        meant=((file(b"n" * 100, b"N"),),),
    ),
    Row(
        "pax_path_and_size",
        ((pax((b"path", b"p/q"), (b"size", b"3")) + header(b"x", size=0) + padded(b"abc"), B),),
        has={b"p/q": b"abc", b"b": b"B"},
        meant=((file(b"p/q", b"abc"), B),),
    ),
    Row(
        "a_pax_record_of_no_value_takes_back",
        ((pax((b"path", b"p"), (b"path", b"")) + header(b"x"),),),
        has={b"x": b""},
        meant=((file(b"x"),),),
    ),
    Row(
        "pax_numbers_of_no_value_take_back",
        (
            (
                pax((b"size", b"9"), (b"size", b""), (b"mtime", b"9"), (b"mtime", b""))
                + header(b"x", size=1)
                + padded(b"X"),
            ),
        ),
        has={b"x": b"X"},
        meant=((file(b"x", b"X"),),),
    ),
    Row(
        "pax_beats_gnu",
        ((tar.gnu_long(b"gnu") + pax((b"path", b"pax")) + header(b"x"),),),
        has={b"pax": b""},
        meant=((file(b"pax"),),),
    ),
    Row(
        "unknown_pax_records_are_ignored",
        ((pax((b"comment", b"\xff\0"), (b"VENDOR.x", b"y"), (b"atime", b"junk")) + tar.write(A),),),
        has={b"a": b"A"},
        meant=((A,),),
    ),
    Row(
        "a_solaris_header_is_pax",
        ((tar.extended(tar.record(b"path", b"p"), b"X") + header(b"x"),),),
        has={b"p": b""},
        meant=((file(b"p"),),),
    ),
    Row(
        "pax_counts_for_one_entry_only",
        ((pax((b"path", b"p")) + header(b"x"), B),),
        has={b"p": b"", b"b": b"B"},
        meant=((file(b"p"), B),),
    ),
    Row(
        "a_global_pax_header_is_ignored",
        ((tar.extended(tar.record(b"path", b"evil"), b"g"), A, B),),
        has={b"a": b"A", b"b": b"B"},
        gone=(b"evil",),
        meant=((A, B),),
    ),
    Row(
        "a_pax_header_of_a_megabyte",
        ((tar.extended(tar.record(b"comment", b"c" * ((1 << 20) - 17))), A),),
        has={b"a": b"A"},
        meant=((A,),),
    ),
    Row(
        "a_pax_header_over_a_megabyte_is_refused",
        ((tar.extended(tar.record(b"comment", b"c" * (1 << 20))), A),),
        "larger than the limit",
    ),
    Row(
        "a_global_header_over_a_megabyte_is_refused",
        ((header(b"g", b"g", (1 << 20) + 1),),),
        "larger than the limit",
    ),
    Row(
        "a_gnu_name_over_a_megabyte_is_refused",
        ((header(b"L", b"L", (1 << 20) + 1),),),
        "larger than the limit",
    ),
    Row(
        "a_nul_in_a_pax_path_is_refused",
        ((pax((b"path", b"a\0b")) + header(b"x"),),),
        "holds a NUL",
    ),
    Row(
        "a_nul_in_a_pax_linkpath_is_refused",
        ((pax((b"linkpath", b"a\0b")) + header(b"x", b"2"),),),
        "holds a NUL",
    ),
    Row(
        "a_nul_in_a_pax_key_is_refused",
        ((tar.extended(b"12 a\0b=cde\n") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "a_pax_record_too_long_is_refused",
        ((tar.extended(b"99 path=a\n") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "a_pax_record_too_short_is_refused",
        ((tar.extended(b"2 path=a\n") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "a_pax_record_without_newline_is_refused",
        ((tar.extended(b"10 path=ab") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "a_pax_record_without_key_is_refused",
        ((tar.extended(b"6 =ab\n") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "a_pax_length_of_garbage_is_refused",
        ((tar.extended(b"x path=a\n") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "a_pax_length_past_64_bits_is_refused",
        ((tar.extended(b"18446744073709551626 p=a\n") + header(b"x"),),),
        "is malformed",
    ),
    Row(
        "two_pax_headers_in_a_row_are_refused",
        ((pax((b"path", b"p")), pax((b"path", b"q")), A),),
        "two extended",
    ),
    Row("a_pax_header_without_entry_is_refused", ((A, pax((b"path", b"p"))),), "without its entry"),
    Row(
        "a_gnu_name_without_entry_is_refused",
        ((A, tar.gnu_long(b"p")),),
        "without its entry",
        end=b"",
    ),
    Row(
        "a_bad_checksum_is_refused",
        ((A, tar.write(B)[:148] + b"000001\0 " + tar.write(B)[156:]),),
        "bad checksum",
    ),
    Row(
        "a_checksum_of_signed_bytes",
        (
            (
                header(b"\xff", b"0")[:148]
                + tar.octal(
                    sum(header(b"\xff", b"0")[:148])
                    + sum(header(b"\xff", b"0")[156:])
                    + 8 * 32
                    - 256,
                    7,
                )
                + b" "
                + header(b"\xff", b"0")[156:],
            ),
        ),
        has={b"\xff": b""},
        meant=((file(b"\xff"),),),
    ),
    Row("a_number_of_garbage_is_refused", ((header(b"x", mode=b"12x4567\0"),),), "malformed"),
    Row(
        "a_negative_size_is_refused",
        ((header(b"x", size=tar.base256(-1, 12)),),),
        "size is negative",
    ),
    Row(
        "a_size_of_2_62_is_refused",
        ((header(b"x", size=tar.base256(1 << 62, 12)),),),
        "limit of bytes",
    ),
    Row(
        "a_size_past_63_bits_is_refused",
        ((header(b"x", size=tar.base256(1 << 64, 12)),),),
        "size is negative",
    ),
    Row(
        "a_pax_size_of_2_62_is_refused",
        ((pax((b"size", b"%d" % (1 << 62))) + header(b"x"),),),
        "limit of bytes",
    ),
    Row(
        "a_pax_size_past_64_bits_is_refused",
        ((pax((b"size", b"%d" % (1 << 64))) + header(b"x"),),),
        "malformed",
    ),
    Row("a_negative_pax_size_is_refused", ((pax((b"size", b"-1")) + header(b"x"),),), "malformed"),
    Row(
        "sizes_that_add_up_past_the_limit_are_refused",
        (
            (
                file(b"a", b"AA"),
                header(b"x", size=(1 << 40) - 1),
            ),
        ),
        "limit of bytes",
    ),
    Row(
        "contiguous_is_regular",
        ((header(b"x", b"7", 1) + padded(b"X"),),),
        has={b"x": b"X"},
        meant=((file(b"x", b"X"),),),
    ),
    *(
        Row(f"type_{name}_is_refused", ((A, header(b"x", letter)),), "type is unknown")
        for name, letter in (
            ("8", b"8"),
            ("9", b"9"),
            ("V", b"V"),
            ("M", b"M"),
            ("D", b"D"),
            ("N", b"N"),
            ("s", b"s"),
            ("A", b"A"),
            ("z", b"z"),
            ("blank", b" "),
            ("ff", b"\xff"),
        )
    ),
    Row(
        "gnu_sparse",
        ((gnu_sparse(PIECES, STORED, len(HOLES)), B),),
        has={b"s": HOLES},
        meant=((SPARSE, B),),
    ),
    Row(
        "two_gnu_sparse_files",
        ((gnu_sparse(PIECES, STORED, len(HOLES)), gnu_sparse(((0, 2),), b"zz", 9)),),
        has={b"s": b"zz" + bytes(7)},
        warns={"duplicate": 1},
        meant=((SPARSE, file(b"s", b"zz" + bytes(7))),),
    ),
    Row(
        "gnu_sparse_with_more_blocks",
        ((gnu_sparse(MANY, b"zz" * 60, len(MANY_HOLES)), B),),
        has={b"s": MANY_HOLES},
        meant=((file(b"s", MANY_HOLES), B),),
    ),
    Row(
        "gnu_sparse_of_nothing_but_holes",
        ((gnu_sparse((), b"", 5000), B),),
        has={b"s": bytes(5000)},
        meant=((file(b"s", bytes(5000)), B),),
    ),
    Row(
        "pax_sparse_0_0",
        ((pax_sparse(((b"path", b"s"), *SPARSE_00), STORED), B),),
        has={b"s": HOLES},
        meant=((SPARSE, B),),
    ),
    Row(
        "pax_sparse_0_1",
        (
            (
                pax_sparse(
                    ((b"GNU.sparse.name", b"s"), (b"GNU.sparse.map", b"4096,512,8192,100")), STORED
                ),
                B,
            ),
        ),
        has={b"s": HOLES},
        meant=((SPARSE, B),),
    ),
    Row(
        "pax_sparse_1_0",
        ((pax_sparse_1(b"2\n4096\n512\n8192\n100\n", STORED), B),),
        has={b"s": HOLES},
        meant=((SPARSE, B),),
    ),
    Row(
        "pax_sparse_1_0_over_several_blocks",
        (
            (
                pax_sparse_1(
                    b"60\n" + b"".join(b"%d\n%d\n" % each for each in MANY),
                    b"zz" * 60,
                    len(MANY_HOLES),
                ),
                B,
            ),
        ),
        has={b"s": MANY_HOLES},
        meant=((file(b"s", MANY_HOLES), B),),
    ),
    Row(
        "a_sparse_files_logical_size_counts",
        (
            (
                gnu_sparse(((0, 2),), b"zz", 1 << 30),
                pax_sparse(((b"GNU.sparse.map", b"0,0"),), b"", 1 << 40),
            ),
        ),
        "limit of bytes",
    ),
    Row(
        "a_sparse_map_that_goes_back_is_refused",
        ((gnu_sparse(((512, 512), (0, 100)), STORED, 9000),),),
        "map is malf",
    ),
    Row(
        "a_sparse_map_that_overlaps_is_refused",
        ((gnu_sparse(((0, 512), (500, 100)), STORED, 9000),),),
        "map is malf",
    ),
    Row(
        "a_sparse_map_past_the_end_is_refused",
        ((gnu_sparse(PIECES, STORED, 8200),),),
        "map is malformed",
    ),
    Row(
        "a_sparse_map_that_wraps_is_refused",
        ((pax_sparse(((b"GNU.sparse.map", b"18446744073709551615,2"),), b"zz"),),),
        "map is malformed",
    ),
    Row(
        "a_sparse_map_of_less_than_is_stored_is_refused",
        ((gnu_sparse(((0, 100),), STORED, 9000),),),
        "does not fit",
    ),
    Row(
        "a_sparse_map_of_more_than_is_stored_is_refused",
        ((gnu_sparse(((0, 5000),), STORED, 9000),),),
        "does not fit",
    ),
    Row(
        "half_a_sparse_pair_is_refused",
        ((pax_sparse(((b"GNU.sparse.map", b"0,512,4096"),), STORED),),),
        "malformed",
    ),
    Row(
        "sparse_pairs_out_of_turn_are_refused",
        ((pax_sparse(((b"GNU.sparse.numbytes", b"1"),), b"z"),),),
        "malformed",
    ),
    Row(
        "a_sparse_map_of_garbage_is_refused",
        ((pax_sparse_1(b"2\n4096\nx\n8192\n100\n", STORED),),),
        "map is malformed",
    ),
    Row(
        "a_sparse_map_longer_than_the_body_is_refused",
        ((pax_sparse_1(b"9999\n1\n1\n", b""),),),
        "map is malformed",
    ),
    Row(
        "a_sparse_map_of_too_many_pieces_is_refused",
        ((pax_sparse_1(b"99999999\n", b""),),),
        "too long",
    ),
    Row(
        "a_sparse_version_of_the_future_is_refused",
        ((pax_sparse_1(b"0\n", b"", minor=b"1"),),),
        "format is unknown",
    ),
    Row(
        "a_sparse_file_without_its_size_is_refused",
        ((pax((b"GNU.sparse.map", b"0,1")) + header(b"s", size=1) + padded(b"z"),),),
        "no file size",
    ),
)
