"""Section headers of rewritten libraries: for linkers and debuggers, the loader reads none (pure).

A user who compiles in a container links to the libraries that lie there, and a linker finds
symbols, versions and DT_NEEDED of a shared library by its sections alone.

Rules:
- A file's own headers stay where they are; those of what has moved are led to the new place, the
  others still describe bytes that have not moved.
- Packed relocations that were written out become mere bytes: linkers before 2022 stop at their
  type.
- Headers that cannot be trusted (damaged, or inside of what is loaded) are dropped: a library
  without any is as good as before to everything that runs.

Source: gabi, chapter 4; binutils, bfd/elflink.c (elf_link_add_object_symbols).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fairlead.glibc import dynamic

HEADER = struct.Struct("<IIQQQQIIQQ")
PROGBITS, STRTAB, DYNAMIC, DYNSYM, RELR, VERDEF, VERNEED, VERSYM = (
    1,
    3,
    6,
    11,
    19,
    0x6FFFFFFD,
    0x6FFFFFFE,
    0x6FFFFFFF,
)
NAMES = {
    STRTAB: ".dynstr",
    DYNAMIC: ".dynamic",
    DYNSYM: ".dynsym",
    VERDEF: ".gnu.version_d",
    VERNEED: ".gnu.version_r",
    VERSYM: ".gnu.version",
}
_ALLOC = 2
_MAX = 4096


class Place(NamedTuple):
    """Where a table lies now. ``info`` is of Verneed: how many libraries are asked."""

    offset: int
    address: int
    size: int
    info: int = 0


class Section(NamedTuple):
    """One header to be written; ``link`` is the index of the table that it refers to."""

    type: int
    place: Place
    link: int = 0
    entry: int = 0


def lead(
    image: bytearray,
    old: dynamic.Dynamic,
    length: int,
    places: dict[int, Place],
    *,
    expanded: bool,
) -> None:
    """Lead the headers of a file's tables to where these lie now, or drop all headers.

    Args:
        image: the new file, which begins with the old one's bytes; changed in place.
        old: what the old one holds.
        length: the old one's size.
        places: section type → place; ``STRTAB`` is the string table of the dynamic symbols.
        expanded: its packed relocations have been written out.
    """
    (start,) = struct.unpack_from("<Q", image, 40)
    entry, count, _ = struct.unpack_from("<HHH", image, 58)
    headers = _read(image, old, start, entry, count, length)
    symbols = next((item for item in headers if item[1] == DYNSYM), None)
    if not symbols or not symbols[6] < len(headers):
        struct.pack_into("<Q", image, 40, 0)
        struct.pack_into("<HHH", image, 58, 0, 0, 0)
        return
    for index, header in enumerate(headers):
        kind = STRTAB if index == symbols[6] else header[1] if header[1] != STRTAB else 0
        place = places.get(kind)
        new = header
        if place:
            where = place.address, place.offset, place.size
            new = (*header[:3], *where, header[6], place.info or header[7], *header[8:])
        elif kind == RELR and expanded:
            new = (header[0], PROGBITS, *header[2:])
        HEADER.pack_into(image, start + index * HEADER.size, *new)


def _read(
    image: bytearray, old: dynamic.Dynamic, start: int, entry: int, count: int, length: int
) -> list[tuple[int, ...]]:
    """Return a file's section headers; none if there are none that can be changed."""
    end = start + count * HEADER.size
    loaded = any(
        item.type == dynamic.PT_LOAD and start < item.offset + item.size and item.offset < end
        for item in old.segments
    )
    if entry != HEADER.size or not 0 < count <= _MAX or end > length or loaded:
        return []
    return [HEADER.unpack_from(image, start + i * HEADER.size) for i in range(count)]


def append(image: bytearray, rows: list[Section]) -> None:
    """Give a file that has none the headers of its tables."""
    names = b"\0".join((b"", *(NAMES[item.type].encode() for item in rows), b".shstrtab", b""))
    strings = Place(len(image), 0, len(names))
    image += names
    image += bytes(-len(image) % 8)
    start = len(image)
    for item in (Section(0, Place(0, 0, 0)), *rows, Section(STRTAB, strings)):
        at = item.place
        named = NAMES.get(item.type, "") if at.address else ".shstrtab" if item.type else ""
        name = names.index(named.encode() + b"\0") if named else 0
        flags = _ALLOC if at.address else 0
        image += HEADER.pack(
            *(name, item.type, flags, at.address, at.offset, at.size),
            *(item.link, at.info, bool(item.type), item.entry),
        )
    count = len(rows) + 2
    struct.pack_into("<Q", image, 40, start)
    struct.pack_into("<HHH", image, 58, HEADER.size, count, count - 1)
