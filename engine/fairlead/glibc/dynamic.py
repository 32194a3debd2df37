"""The parts of a dynamic ELF file that down-binding rewrites, taken from its bytes.

Rules:
- Hostile input: each count, offset and size is checked before use; what breaks a rule is
  ``elf.Damaged`` and names the file.
- Only what every loader agrees on is accepted. A file whose program headers say one thing in
  addresses and another in offsets would be read differently by us and by ld.so.

Source: System V ABI (gabi), chapters 4 and 5; LSB 5.0 symbol versioning; glibc elf/dl-load.c.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fairlead.host import elf

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
DYN = struct.Struct("<QQ")
VERNEED = struct.Struct("<HHIII")
VERNAUX = struct.Struct("<IHHII")
RELA = struct.Struct("<QQq")

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_PHDR, PT_GNU_STACK, PT_GNU_RELRO, PT_GNU_EH_FRAME = (
    1,
    2,
    3,
    6,
    0x6474E551,
    0x6474E552,
    0x6474E550,
)
PF_X, PF_W, PF_R = 1, 2, 4
DT_RELAENT, DT_SYMENT, DT_FLAGS = 9, 11, 30
DT_RELRSZ, DT_RELRENT, DT_RELACOUNT = 35, 37, 0x6FFFFFF9


class Segment(NamedTuple):
    """One program header."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory: int
    align: int


class Aux(NamedTuple):
    """One version that is asked of a library; ``name`` is an offset into the string table."""

    hash: int
    flags: int
    number: int
    name: int


class Dynamic(NamedTuple):
    """What is rewritten.

    Attributes:
        file: its name, for messages.
        segments: all program headers.
        tags: (tag, value) of the dynamic section in order, without the end.
        strings: the string table.
        needs: (offset of the library's name, versions asked of it) in order.
    """

    file: str
    machine: int
    segments: tuple[Segment, ...]
    tags: tuple[tuple[int, int], ...]
    strings: bytes
    needs: tuple[tuple[int, tuple[Aux, ...]], ...]

    def tag(self, wanted: int) -> int | None:
        """Return the value of the first entry with a tag."""
        return next((value for tag, value in self.tags if tag == wanted), None)

    def string(self, index: int) -> str:
        """Return a string of the table.

        Raises:
            elf.Damaged.
        """
        end = self.strings.find(b"\0", index, index + elf.MAX_STRING)
        if index >= len(self.strings) or end < 0:
            raise elf.Damaged(f"{self.file}: string {index:#x} lies outside the string table")
        return self.strings[index:end].decode("utf-8", "surrogateescape")

    def offset(self, address: int, size: int) -> int:
        """Return where some bytes of memory lie in the file.

        Raises:
            elf.Damaged: the file does not hold them.
        """
        return _offset(self.file, self.segments, address, size)


def _offset(file: str, segments: tuple[Segment, ...], address: int, size: int) -> int:
    for item in segments:
        if item.type == PT_LOAD and item.address <= address < item.address + item.size:
            if size <= item.address + item.size - address:
                return address - item.address + item.offset
            break
    raise elf.Damaged(f"{file}: {size} bytes at address {address:#x} lie in no segment")


def parse(data: bytes, file: str) -> Dynamic:
    """Return the parts of a file.

    Raises:
        elf.NotElf: no ELF64 little-endian file. elf.Damaged: it breaks a rule, or is static.
    """
    if len(data) < EHDR.size or data[:6] != b"\x7fELF\x02\x01":
        raise elf.NotElf(f"{file}: not ELF64 little-endian")
    header = EHDR.unpack_from(data)
    segments = _segments(data, file, header[5], header[9], header[10])
    dynamic = [item for item in segments if item.type == PT_DYNAMIC]
    if len(dynamic) != 1:
        raise elf.Damaged(f"{file}: {len(dynamic)} dynamic segments")
    tags = _tags(data, file, segments, dynamic[0])
    values = dict(reversed(tags))
    strings = b""
    if elf.DT_STRTAB in values:
        size = values.get(elf.DT_STRSZ, 0)
        start = _offset(file, segments, values[elf.DT_STRTAB], size)
        strings = data[start : start + size]
    if not strings or strings[-1]:
        raise elf.Damaged(f"{file}: string table without an end")
    needs = _needs(data, file, segments, values)
    return Dynamic(file, header[2], segments, tags, strings, needs)


def _segments(
    data: bytes, file: str, start: int, entry_size: int, count: int
) -> tuple[Segment, ...]:
    """Return the program headers, if loaders cannot disagree about what they map."""
    if not 0 < count < elf.MAX_HEADERS or entry_size != PHDR.size:
        raise elf.Damaged(f"{file}: {count} program headers of {entry_size} bytes")
    if start > len(data) - count * PHDR.size:
        raise elf.Damaged(f"{file}: program headers lie outside the file")
    found = tuple(Segment(*PHDR.unpack_from(data, start + i * PHDR.size)) for i in range(count))
    end = 0
    for item in found:
        if item.type not in (PT_LOAD, PT_DYNAMIC):
            continue
        if item.offset + item.size > len(data) or item.address + item.memory >= 1 << 47:
            raise elf.Damaged(f"{file}: a segment lies outside the file or beyond memory")
        if item.type == PT_LOAD:
            align = max(item.align, 1)
            if align & (align - 1) or (item.address - item.offset) % align:
                raise elf.Damaged(f"{file}: segment at {item.address:#x} is aligned wrongly")
            if item.memory < item.size or item.address < end:
                raise elf.Damaged(
                    f"{file}: segment at {item.address:#x} overlaps or is out of order"
                )
            end = item.address + item.memory
    if not end:
        raise elf.Damaged(f"{file}: no segment is loaded")
    return found


def _tags(
    data: bytes, file: str, segments: tuple[Segment, ...], dynamic: Segment
) -> tuple[tuple[int, int], ...]:
    if _offset(file, segments, dynamic.address, dynamic.size) != dynamic.offset:
        raise elf.Damaged(f"{file}: its dynamic segment has two places")
    count = dynamic.size // DYN.size
    if count > elf.MAX_DYNAMIC:
        raise elf.Damaged(f"{file}: more than {elf.MAX_DYNAMIC} dynamic entries")
    found: list[tuple[int, int]] = []
    for index in range(count):
        tag, value = DYN.unpack_from(data, dynamic.offset + index * DYN.size)
        if tag == 0:
            return tuple(found)
        found.append((tag, value))
    raise elf.Damaged(f"{file}: its dynamic section has no end")


def _needs(
    data: bytes, file: str, segments: tuple[Segment, ...], values: dict[int, int]
) -> tuple[tuple[int, tuple[Aux, ...]], ...]:
    """Return Verneed; its records are linked by offsets, so both chains are bounded."""
    if elf.DT_VERNEED not in values:
        return ()
    found: list[tuple[int, tuple[Aux, ...]]] = []
    address, total = values[elf.DT_VERNEED], 0
    while True:
        place = _offset(file, segments, address, VERNEED.size)
        _, count, name, first, step = VERNEED.unpack_from(data, place)
        entry, versions = address + first, []
        while True:  # as ld.so, by the links; the counts must agree
            total += 1
            if total > elf.MAX_VERSIONS:
                raise elf.Damaged(f"{file}: more than {elf.MAX_VERSIONS} needed versions")
            place = _offset(file, segments, entry, VERNAUX.size)
            key, flags, number, text, next_entry = VERNAUX.unpack_from(data, place)
            versions.append(Aux(key, flags, number, text))
            if not next_entry:
                break
            entry += next_entry
        if len(versions) != count:
            raise elf.Damaged(f"{file}: {count} needed versions announced, {len(versions)} found")
        found.append((name, tuple(versions)))
        if not step:
            break
        address += step
    if len(found) != values.get(elf.DT_VERNEEDNUM):
        raise elf.Damaged(f"{file}: DT_VERNEEDNUM disagrees with the {len(found)} libraries found")
    return tuple(found)
