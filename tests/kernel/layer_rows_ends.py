"""Rows of the table: where archives end, and very wide ones."""

from __future__ import annotations

import tarmaker as tar
from layer_row import SECOND, A, B, Row
from layer_rows_formats import MANY, gnu_sparse
from tarmaker import directory, file, header, pax

ENDS = (
    Row("an_empty_archive", ((),)),
    Row("zero_bytes", ((),), end=b""),
    Row("no_end_blocks", ((A, B),), has={b"a": b"A", b"b": b"B"}, end=b""),
    Row("one_end_block", ((A,),), has={b"a": b"A"}, end=bytes(512)),
    Row("many_end_blocks", ((A,),), has={b"a": b"A"}, end=bytes(10240)),
    Row(
        "garbage_behind_the_end_is_ignored",
        ((A,),),
        has={b"a": b"A"},
        gone=(b"b",),
        end=tar.END + tar.write(B) + b"garbage",
    ),
    Row(
        "no_padding_at_the_end",
        ((A, header(b"b", size=1) + b"B"),),
        has={b"b": b"B"},
        meant=((A, B),),
        end=b"",
    ),
    Row(
        "an_entry_with_pax_at_the_very_end",
        ((file(b"f", b"x" * 512, mtime=SECOND + 1),),),
        mtimes={b"f": SECOND + 1},
        end=b"",
    ),
    Row("half_a_header_is_refused", ((A, tar.write(B)[:300]),), "cut short", end=b""),
    Row(
        "half_a_body_is_refused",
        ((A, tar.write(file(b"b", b"x" * 2000))[:1500]),),
        "entry 'b': the archive is cut",
        end=b"",
    ),
    Row("a_body_without_a_byte_is_refused", ((A, header(b"b", size=1)),), "cut short", end=b""),
    Row("half_the_padding_is_refused", ((A, tar.write(B)[:700]),), "cut short", end=b""),
    Row("half_a_pax_header_is_refused", ((A, pax((b"path", b"p"))[:600]),), "cut short", end=b""),
    Row(
        "half_a_sparse_map_is_refused",
        ((gnu_sparse(MANY, b"", 1 << 20)[:600],),),
        "cut short",
        end=b"",
    ),
    Row("a_lone_block_of_zeros_is_refused", ((A, bytes(512), B),), "zeros stands amid"),
)

WIDE = (
    Row(
        "many_names_in_one_layer_and_whiteouts_of_half",
        (
            tuple(directory(b"d%d" % n) for n in range(3000))
            + tuple(file(b"d%d/f" % n, b"F") for n in range(3000)),
            tuple(file(b"d%d/new" % n) for n in range(3000))
            + tuple(file(b".wh.d%d" % n) for n in range(0, 3000, 2)),
        ),
        has={b"d0/new": b"", b"d1/f": b"F", b"d1/new": b""},
        gone=(b"d0/f", b"d2998/f"),
    ),
    Row(
        "many_markers_cost_no_more_than_many_names",
        (
            tuple(file(b"d%d/f" % n) for n in range(3000)),
            (
                *(file(b"d%d/new" % n) for n in range(3000)),
                *[file(b".wh..wh..opq")] * 3000,
                *[file(b"d1/.wh..wh..opq")] * 3000,
                *[file(b".wh.d2")] * 3000,
            ),
        ),
        has={b"d0/new": b""},
        gone=(b"d0/f", b"d2/f"),
    ),
)
