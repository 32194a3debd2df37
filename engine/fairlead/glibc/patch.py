"""Rewrite a host library so that it asks the polyfill for what the image's glibc lacks (pure).

Rules:
- No byte of code or data moves. One writable segment is appended that holds a new dynamic section,
  Verneed, string table, program headers and, for old loaders, relocations; the old tables stay
  where they are, unused.
- Verneed is split: entries that the image lacks name the polyfill. They keep their numbers, so that
  .gnu.version stays right; only a symbol that leaves a version which the image has gets a new one.
- No PT_NOTE is taken for the new segment: notes hold the build-id and the properties that say what
  a processor may enforce.
- DT_RPATH and DT_RUNPATH become one DT_RPATH: libraries that this one opens by dlopen inherit it.
- The same input gives the same bytes. What cannot be rewritten with certainty is ``elf.ElfError``.
- Section headers follow what moved, for linkers and debuggers (``sections``).

Source: gabi, chapter 5; LSB 5.0 symbol versioning; glibc elf/dl-load.c, elf/dl-version.c;
"Proposal for a new section type SHT_RELR" (generic-abi, 2017).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead.glibc import arch, dynamic, polyfill, sections, versions
from fairlead.glibc.binding import Decision
from fairlead.host import elf, ldso

_FILE_ALIGN = 0x1000
_MAX_GAP = 64 << 20  # of a program, between the file's end and the new segment: its .bss
_MAX_RELATIVE = 1 << 22
# What prelink leaves: sums over the file as it was, and what a prelinked program may rely on.
_PRELINK = frozenset((0x6FFFFDF5, 0x6FFFFDF7, 0x6FFFFDF8, 0x6FFFFEF8, 0x6FFFFEF9))
_NOWHERE = b"/.fairlead/no"
_RELR = frozenset((elf.DT_RELR, dynamic.DT_RELRSZ, dynamic.DT_RELRENT))


class _Asked(NamedTuple):
    """What becomes of a file's versions.

    Attributes:
        needs: the new Verneed.
        numbers: offset in the file → new entry of .gnu.version.
        polyfill: whether the file needs it.
    """

    needs: tuple[tuple[int, tuple[dynamic.Aux, ...]], ...]
    numbers: dict[int, int]
    polyfill: bool


def patch(
    data: bytes,
    file: str,
    decision: Decision,
    search: str = "",
    names: Mapping[str, str] | None = None,
) -> bytes:
    """Return a library that runs on the image's glibc; the same object if nothing is to be done.

    Args:
        data: the host's file.
        file: its name, for messages.
        decision: for the whole closure; ``nothing`` changes only search path and names.
        search: directory in the container that holds the libraries; empty to leave DT_RPATH alone.
        names: SONAMEs that become others, in DT_SONAME, DT_NEEDED and Verneed.

    Raises:
        elf.ElfError: the file is damaged, for another machine, was not planned for, or cannot be
            rewritten.
    """
    assert decision.action != "impossible"
    old = dynamic.parse(data, file)
    processor = arch.of(old.machine)
    if old.machine != decision.machine or not processor:
        raise elf.ElfError(f"{file}: made for machine {old.machine}, not {decision.machine}")
    renamed = names or {}
    strings = bytearray(old.strings)  # grows, so that old offsets stay right
    asked = _asked(data, old, decision, strings, renamed)
    expand = decision.expand and old.tag(elf.DT_RELR) is not None
    relocations = _relocations(data, old, processor) if expand else b""
    tags = _tags(old, asked, decision, strings, search, renamed)
    if expand:
        tags = _expanded(tags, relocations, processor)
    if tags == list(old.tags) and asked.needs == old.needs and not asked.numbers:
        return data
    return _append(data, old, processor, tags, asked, bytes(strings), relocations)


def hide(data: bytes, paths: Iterable[str]) -> bytes:
    """Return a library that finds nothing at some paths which are compiled in.

    In place, so that nothing moves: each becomes a path of the same length, slashes at its end,
    below the directory in which the image has nothing.

    Raises:
        elf.ElfError: a path is too short for that.
    """
    for path in paths:
        if len(path) < len(_NOWHERE):
            raise elf.ElfError(f"{path}: too short to be led elsewhere")
        text = re.compile(rb"(?<=\0)%s(?=\0)" % re.escape(path.encode("ascii")))
        data = text.sub(_NOWHERE.ljust(len(path), b"/"), data)
    return data


def _add(strings: bytearray, text: str) -> int:
    """Append to a string table; return the offset."""
    place = len(strings)
    strings += text.encode("utf-8", "surrogateescape") + b"\0"
    return place


# -- versions -------------------------------------------------------------------------------


def _asked(
    data: bytes,
    old: dynamic.Dynamic,
    decision: Decision,
    strings: bytearray,
    names: Mapping[str, str],
) -> _Asked:
    """Split Verneed: what the image has, and what the polyfill has."""
    kept: list[tuple[int, tuple[dynamic.Aux, ...]]] = []
    led: list[dynamic.Aux] = []
    release = versions.number(decision.family)
    for place, entries in old.needs:
        library = old.string(place)
        stay = []
        for entry in entries:
            key = library, old.string(entry.name)
            if key in decision.redirect:
                led.append(entry)
            elif key not in decision.dropped:
                if key[0] in ldso.GLIBC and versions.number(key[1]) > release:
                    raise elf.ElfError(f"{old.file}: needs {key[1]}, which is not in the plan")
                stay.append(entry)
        if stay:
            renamed = names.get(library)
            kept.append((_add(strings, renamed) if renamed else place, tuple(stay)))
    numbers, added, elsewhere = _remapped(data, old, decision, strings)
    led += added
    if led:
        kept.append((_add(strings, polyfill.SONAME), tuple(led)))
    return _Asked(tuple(kept), numbers, bool(led) or elsewhere)


def _remapped(
    data: bytes, old: dynamic.Dynamic, decision: Decision, strings: bytearray
) -> tuple[dict[int, int], list[dynamic.Aux], bool]:
    """Return new entries of .gnu.version, their versions, and whether a symbol lies elsewhere."""
    numbers: dict[int, int] = {}
    added: dict[str, dynamic.Aux] = {}
    if not decision.remap and not decision.elsewhere:
        return {}, [], False
    elsewhere = False
    with elf.Reader(old.file, data) as reader:
        used = [entry.number & ~elf.HIDDEN for _, entries in old.needs for entry in entries]
        free = 1 + max((1, *used, *reader.definitions()))
        versym = old.tag(elf.DT_VERSYM) or 0
        for index, want in reader.wants(ldso.GLIBC):
            elsewhere = elsewhere or (want.symbol, want.version) in decision.elsewhere
            if (want.library, want.version, want.symbol) not in decision.remap:
                continue
            if want.version not in added:
                number = free + len(added)
                if number >= elf.HIDDEN:
                    raise elf.Damaged(f"{old.file}: no number is left for another version")
                name = _add(strings, want.version)
                key = polyfill.sysv_hash(want.version)
                added[want.version] = dynamic.Aux(key, 0, number, name)
            numbers[old.offset(versym + 2 * index, 2)] = added[want.version].number
    return numbers, list(added.values()), elsewhere


def _tags(
    old: dynamic.Dynamic,
    asked: _Asked,
    decision: Decision,
    strings: bytearray,
    search: str,
    names: Mapping[str, str],
) -> list[tuple[int, int]]:
    """Return the new dynamic section; what points into the new segment keeps its old value."""
    tags = [(elf.DT_NEEDED, _add(strings, polyfill.SONAME))] if asked.polyfill else []
    for tag, value in old.tags:
        kept = value
        if tag in (elf.DT_NEEDED, elf.DT_SONAME):
            name = old.string(value)
            if tag == elf.DT_NEEDED and name in decision.unneeded:
                continue
            kept = _add(strings, names[name]) if name in names else value
        elif (tag in (elf.DT_RPATH, elf.DT_RUNPATH) and search) or tag in _PRELINK:
            continue
        elif tag in (elf.DT_VERNEED, elf.DT_VERNEEDNUM):
            if not asked.needs:
                continue
            kept = len(asked.needs) if tag == elf.DT_VERNEEDNUM else value
        tags.append((tag, kept))
    if asked.needs and not old.needs:
        tags += [(elf.DT_VERNEED, 0), (elf.DT_VERNEEDNUM, len(asked.needs))]
    if search:
        tags.append((elf.DT_RPATH, _add(strings, search)))
    return tags


# -- relocations ----------------------------------------------------------------------------


def _relocations(data: bytes, old: dynamic.Dynamic, processor: arch.Arch) -> bytes:
    """Return DT_RELR written out as RELATIVE relocations, followed by the file's own table."""
    places = _relative_places(data, old)
    table = b"".join(
        dynamic.RELA.pack(
            place, processor.relative, struct.unpack_from("<q", data, old.offset(place, 8))[0]
        )
        for place in places
    )
    own, size = old.tag(elf.DT_RELA), old.tag(elf.DT_RELASZ) or 0
    if own is None or not size:
        return table
    if old.tag(dynamic.DT_RELAENT) != dynamic.RELA.size or size % dynamic.RELA.size:
        raise elf.Damaged(f"{old.file}: relocation table of {size} bytes")
    jumps, jumps_size = old.tag(elf.DT_JMPREL), old.tag(elf.DT_PLTRELSZ) or 0
    if jumps is not None and own <= jumps < own + size:
        if jumps + jumps_size != own + size:  # ld.so knows them only at the end
            raise elf.Damaged(f"{old.file}: its relocation tables overlap")
        size = jumps - own
    start = old.offset(own, size)
    return table + data[start : start + size]


def _relative_places(data: bytes, old: dynamic.Dynamic) -> list[int]:
    """Return the addresses in DT_RELR: an address, or a bitmap of the 63 words that follow."""
    size = old.tag(dynamic.DT_RELRSZ) or 0
    start = old.offset(old.tag(elf.DT_RELR) or 0, size) if size else 0
    if size % 8 or old.tag(dynamic.DT_RELRENT) not in (8, None):
        raise elf.Damaged(f"{old.file}: DT_RELR of {size} bytes")
    places: list[int] = []
    base = 0
    for (word,) in struct.iter_unpack("<Q", data[start : start + size]):
        if not word & 1:
            places.append(word)
            base = word + 8
        else:
            bits = word >> 1
            places += [base + 8 * index for index in range(63) if bits >> index & 1]
            base += 63 * 8
        if len(places) > _MAX_RELATIVE:
            raise elf.Damaged(f"{old.file}: more than {_MAX_RELATIVE} relative relocations")
    return places


def _expanded(
    tags: list[tuple[int, int]], relocations: bytes, processor: arch.Arch
) -> list[tuple[int, int]]:
    """Return the dynamic section with the written-out table in place of DT_RELR."""
    gone = {*_RELR, elf.DT_RELA, elf.DT_RELASZ, dynamic.DT_RELAENT, dynamic.DT_RELACOUNT}
    leading = 0
    for _, kind, _ in dynamic.RELA.iter_unpack(relocations):
        if kind != processor.relative:
            break
        leading += 1
    found = [item for item in tags if item[0] not in gone]
    if not relocations:
        return found
    return [
        *found,
        (elf.DT_RELA, 0),
        (elf.DT_RELASZ, len(relocations)),
        (dynamic.DT_RELAENT, dynamic.RELA.size),
        (dynamic.DT_RELACOUNT, leading),
    ]


# -- the new segment ------------------------------------------------------------------------


def _append(
    data: bytes,
    old: dynamic.Dynamic,
    processor: arch.Arch,
    tags: list[tuple[int, int]],
    asked: _Asked,
    strings: bytes,
    relocations: bytes,
) -> bytes:
    """Return the file with the new segment, and with the program headers that are in it."""
    offset, address = _place(data, old, processor)
    verneed = _verneed(asked.needs)
    size = dynamic.DYN.size * (len(tags) + 1)
    at_verneed = _up(size, 16)
    at_relocations = _up(at_verneed + len(verneed), 16)
    at_headers = _up(at_relocations + len(relocations), 16)
    at_strings = at_headers + dynamic.PHDR.size * (len(old.segments) + 1)
    end = at_strings + len(strings)
    pointers = {
        elf.DT_STRTAB: address + at_strings,
        elf.DT_STRSZ: len(strings),
        elf.DT_VERNEED: address + at_verneed,
    }
    if relocations:
        pointers[elf.DT_RELA] = address + at_relocations
    segments = _segments(old, (offset, address, end), size, at_headers, processor.page)
    blob = bytearray(end)
    for index, (tag, value) in enumerate(tags):
        dynamic.DYN.pack_into(blob, index * dynamic.DYN.size, tag, pointers.get(tag, value))
    blob[at_verneed : at_verneed + len(verneed)] = verneed
    blob[at_relocations : at_relocations + len(relocations)] = relocations
    for index, segment in enumerate(segments):
        dynamic.PHDR.pack_into(blob, at_headers + index * dynamic.PHDR.size, *segment)
    blob[at_strings:] = strings
    image = bytearray(data)
    image += bytes(offset - len(data))
    image += blob
    for place, number in asked.numbers.items():
        struct.pack_into("<H", image, place, number)
    struct.pack_into("<Q", image, 32, offset + at_headers)  # e_phoff
    struct.pack_into("<H", image, 56, len(segments))  # e_phnum
    moved = {
        sections.DYNAMIC: (0, size, 0),
        sections.STRTAB: (at_strings, len(strings), 0),
        sections.VERNEED: (at_verneed, len(verneed), len(asked.needs)),
    }
    places = {
        kind: sections.Place(offset + at, address + at, length, count)
        for kind, (at, length, count) in moved.items()
    }
    sections.lead(image, old, len(data), places, expanded=bool(relocations))
    return bytes(image)


def _up(value: int, align: int) -> int:
    return (value + align - 1) & -align


def _place(data: bytes, old: dynamic.Dynamic, processor: arch.Arch) -> tuple[int, int]:
    """Return where the new segment begins, in file and memory: after everything, .bss included."""
    loads = [item for item in old.segments if item.type == dynamic.PT_LOAD]
    end = max(item.address + item.memory for item in loads)
    if not any(item.type == dynamic.PT_INTERP for item in old.segments):
        offset = _up(len(data), _FILE_ALIGN)
        return offset, _up(end, processor.page) + offset % processor.page
    # Kernels before 5.18 tell a program its headers at the first segment plus e_phoff.
    shift = loads[0].address - loads[0].offset
    address = _up(max(end, len(data) + shift), processor.page)
    if address - shift - len(data) > _MAX_GAP:
        raise elf.ElfError(f"{old.file}: a program with more than {_MAX_GAP >> 20} MiB of .bss")
    return address - shift, address


def _segments(
    old: dynamic.Dynamic, new: tuple[int, int, int], dynamic_size: int, at_headers: int, page: int
) -> list[dynamic.Segment]:
    """Return the program headers; new is the offset, address and size of the appended segment."""
    offset, address, end = new
    writable = dynamic.PF_R | dynamic.PF_W
    headers = dynamic.PHDR.size * (len(old.segments) + 1)
    found: list[dynamic.Segment] = []
    last = max(i for i, item in enumerate(old.segments) if item.type == dynamic.PT_LOAD)
    for index, item in enumerate(old.segments):
        if item.type == dynamic.PT_DYNAMIC:
            found.append(
                dynamic.Segment(
                    item.type, writable, offset, address, address, dynamic_size, dynamic_size, 8
                )
            )
        elif item.type == dynamic.PT_PHDR:
            place = address + at_headers
            found.append(
                item._replace(
                    offset=offset + at_headers,
                    address=place,
                    physical=place,
                    size=headers,
                    memory=headers,
                )
            )
        else:
            found.append(item)
        if index == last:
            found.append(
                dynamic.Segment(dynamic.PT_LOAD, writable, offset, address, address, end, end, page)
            )
    return found


def _verneed(needs: tuple[tuple[int, tuple[dynamic.Aux, ...]], ...]) -> bytes:
    table = b""
    for place, (name, entries) in enumerate(needs, 1):
        size = dynamic.VERNEED.size + dynamic.VERNAUX.size * len(entries)
        table += dynamic.VERNEED.pack(
            1, len(entries), name, dynamic.VERNEED.size, size if place < len(needs) else 0
        )
        for index, entry in enumerate(entries, 1):
            more = dynamic.VERNAUX.size if index < len(entries) else 0
            table += dynamic.VERNAUX.pack(entry.hash, entry.flags, entry.number, entry.name, more)
    return table
