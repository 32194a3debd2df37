"""Write the shared library that defines the versions which an image's glibc lacks (pure).

Rules:
- The same decision gives the same bytes: everything is sorted, nothing depends on time or machine.
- A function is a stub that jumps through a slot of the global offset table, bound by the loader to
  the older version in the image's glibc or to ``libfairlead-glibc.so``. Data is zero, in .bss.
- Every definition is hidden (``name@version``) and no version has index 2: a reference without a
  version, and ``dlsym``, never find it, so nobody but a patched library is led here (glibc
  elf/dl-lookup.c, check_match).
- Bound at load (BIND_NOW), then the table is read-only (RELRO); no executable stack, no text
  relocation.
- Unwinding passes through: one frame description covers all stubs.

What lies where::

    R   headers, .dynsym, .gnu.hash, .gnu.version, Verdef, Verneed, relocations, .eh_frame, strings
    RX  the stubs
    RW  dynamic section and slots (read-only after binding), then data
    -   section headers, for linkers: who links to a patched library is led here for its versions

Source: System V ABI, chapter 5; LSB 5.0, 10.6 (.eh_frame_hdr) and symbol versioning; glibc
elf/dl-lookup.c.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fairlead.glibc import arch, dynamic, sections, versions
from fairlead.glibc.binding import Binding, Decision
from fairlead.host import elf

SONAME = "libfairlead-polyfill.so"
IMPLEMENTATION = "libfairlead-glibc.so"
_RESERVED = "FAIRLEAD_1"  # takes version index 2, see above
_SEGMENTS = 7
_DATA = ("data", "alias")
_ALIGN = 0x1000  # in the file; addresses keep arch.page apart
_FUNCTION, _OBJECT = 0x12, 0x11  # STB_GLOBAL with STT_FUNC, STT_OBJECT
_SYMBOL = struct.Struct("<IBBHQQ")
_VERDEF = struct.Struct("<HHHHIII")
_NODELETE, _NOW, _BIND_NOW = 8, 1, 8


class _Names(NamedTuple):
    """What the tables of symbols and versions are made from.

    Attributes:
        targets: (symbol, version, library) that slots hold; version and library empty for new ones.
        defined: bindings in the order of the hash table.
        buckets: of that table.
        numbers: version → its index in Verdef.
        asked: (library, version) → its index in Verneed.
    """

    targets: tuple[tuple[str, str, str], ...]
    defined: tuple[Binding, ...]
    buckets: int
    numbers: dict[str, int]
    asked: dict[tuple[str, str], int]


class _Block(NamedTuple):
    """Where one table lies, and its size."""

    address: int
    size: int


def sysv_hash(name: str) -> int:
    """Return the hash that Verdef and Verneed carry (gabi, DT_HASH)."""
    value = 0
    for byte in name.encode("utf-8", "surrogateescape"):
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def gnu_hash(name: str) -> int:
    """Return the hash that DT_GNU_HASH carries."""
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def write(decision: Decision, search: str = "") -> bytes:
    """Return the polyfill for a decision.

    Args:
        decision: one whose action is ``down-bind``.
        search: directory in the container that holds ``libfairlead-glibc.so``; empty to leave it to
            the loader's other rules.
    """
    processor = arch.of(decision.machine)
    assert processor
    names = _names(decision)
    needed = _needed(decision, names)
    strings, text = _strings(names, needed, search)
    at, read_end = _place(processor, names, strings, len(text))
    stubs = arch.STUB * sum(item.kind not in _DATA for item in names.defined)
    tags = _tags(at, names, needed, strings, search)
    slots = _slots(names)
    places = _places(processor, read_end, stubs, len(tags), len(slots))
    values, memory_end = _values(names, places)
    segments = _segments(processor, places, read_end, memory_end, at["frame"])
    blocks = {
        0: _header(decision.machine, segments),
        at["symbols"].address: _symbol_table(names, strings, values),
        at["hash"].address: _hash_table(names),
        at["versym"].address: _versym(names),
        at["verdef"].address: _verdef(names, strings),
        at["verneed"].address: _verneed(names, strings),
        at["rela"].address: b"".join(
            dynamic.RELA.pack(places.slots + 8 * i, symbol << 32 | processor.glob_dat, 0)
            for i, symbol in enumerate(slots)
        ),
        at["frame"].address: _frame(processor, at["frame"].address, places.code, stubs),
        at["strings"].address: text,
        places.code_offset: _stubs(processor, names, places.code, places.slots),
        places.data_offset: b"".join(dynamic.DYN.pack(*tag) for tag in tags),
    }
    image = bytearray(places.data_offset + places.data_end - places.data)
    for offset, content in blocks.items():
        image[offset : offset + len(content)] = content
    sections.append(image, _sections(at, places, names, len(tags)))
    return bytes(image)


def _sections(
    at: dict[str, _Block], places: _Places, names: _Names, tags: int
) -> list[sections.Section]:
    """Return what a linker must find, the symbols first: they say "defined in section 1"."""

    def table(kind: int, name: str, link: int, entry: int = 0, info: int = 0) -> sections.Section:
        block = at[name]
        place = sections.Place(block.address, block.address, block.size, info)
        return sections.Section(kind, place, link, entry)

    own = sections.Place(places.data_offset, places.data, dynamic.DYN.size * tags)
    asked = len({library for library, _ in names.asked})
    found = [
        table(sections.DYNSYM, "symbols", 2, _SYMBOL.size, 1),
        table(sections.STRTAB, "strings", 0),
        table(sections.VERSYM, "versym", 1, 2),
        table(sections.VERDEF, "verdef", 2, 0, len(names.numbers) + 2),
        sections.Section(sections.DYNAMIC, own, 2, dynamic.DYN.size),
    ]
    return [*found, table(sections.VERNEED, "verneed", 2, 0, asked)] if asked else found


class _Places(NamedTuple):
    """Where code and data lie: offsets in the file, addresses in memory."""

    code_offset: int
    code: int
    code_size: int
    data_offset: int
    data: int
    slots: int
    data_end: int
    objects: int


def _places(processor: arch.Arch, start: int, stubs: int, tags: int, slots: int) -> _Places:
    """Lay out code and data after the tables; segments never share a page of memory."""
    code_offset = _up(start, _ALIGN)
    data_offset = _up(code_offset + stubs, _ALIGN)
    data = data_offset + 2 * processor.page
    first_slot = data + dynamic.DYN.size * tags
    end = first_slot + 8 * slots
    objects = _up(end, processor.page)
    code = code_offset + processor.page
    return _Places(code_offset, code, stubs, data_offset, data, first_slot, end, objects)


def _up(value: int, align: int) -> int:
    return (value + align - 1) & -align


def _names(decision: Decision) -> _Names:
    every = (*decision.bindings, *decision.imports)
    targets = {
        (item.target, item.target_version, item.library) for item in every if item.kind not in _DATA
    }
    wanted = {item.version for item in decision.bindings} | {
        version for _, version in decision.redirect
    }
    ordered = sorted(wanted, key=lambda name: (versions.number(name), name))
    numbers = {name: index for index, name in enumerate(ordered, 3)}
    pairs = sorted({(library, version) for _, version, library in targets if library})
    asked = {pair: index for index, pair in enumerate(pairs, 3 + len(numbers))}
    buckets = max(1, len(every) // 2)
    defined = sorted(
        every,
        key=lambda item: (gnu_hash(item.symbol) % buckets, item.symbol, item.version),
    )
    return _Names(tuple(sorted(targets)), tuple(defined), buckets, numbers, asked)


def _needed(decision: Decision, names: _Names) -> tuple[str, ...]:
    """Return DT_NEEDED: libc last, as libpthread's definitions come before its stand-ins."""
    own = (IMPLEMENTATION,) if any(not library for _, _, library in names.targets) else ()
    others = tuple(name for name in decision.libraries if name != "libc.so.6")
    return (*own, *others, "libc.so.6")


def _strings(names: _Names, needed: tuple[str, ...], search: str) -> tuple[dict[str, int], bytes]:
    """Return the string table, and where each string lies in it."""
    texts = {SONAME, _RESERVED, search, *names.numbers, *needed}
    texts |= {text for target in names.targets for text in target}
    texts |= {item.symbol for item in names.defined}
    table, strings = bytearray(b"\0"), {"": 0}
    for text in sorted(texts - {""}):
        strings[text] = len(table)
        table += text.encode("utf-8", "surrogateescape") + b"\0"
    return strings, bytes(table)


def _place(
    processor: arch.Arch, names: _Names, strings: dict[str, int], text_size: int
) -> tuple[dict[str, _Block], int]:
    """Return where each table of the first segment lies, and where they end."""
    symbols = 1 + len(names.targets) + len(names.defined)
    sizes = {
        "symbols": _SYMBOL.size * symbols,
        "hash": len(_hash_table(names)),
        "versym": 2 * symbols,
        "verdef": (_VERDEF.size + 8) * (len(names.numbers) + 2),
        "verneed": len(_verneed(names, strings)),
        "rela": dynamic.RELA.size * len(_slots(names)),
        "frame": len(_frame(processor, 0, 0, 0)),
        "strings": text_size,
    }
    at = {}
    start = dynamic.EHDR.size + _SEGMENTS * dynamic.PHDR.size
    for name, size in sizes.items():
        start = _up(start, 8)
        at[name] = _Block(start, size)
        start += size
    return at, start


def _tags(
    at: dict[str, _Block],
    names: _Names,
    needed: tuple[str, ...],
    strings: dict[str, int],
    search: str,
) -> list[tuple[int, int]]:
    tags = [(elf.DT_NEEDED, strings[name]) for name in needed]
    tags.append((elf.DT_SONAME, strings[SONAME]))
    if search:
        tags.append((elf.DT_RPATH, strings[search]))
    tags += [
        (elf.DT_GNU_HASH, at["hash"].address),
        (elf.DT_STRTAB, at["strings"].address),
        (elf.DT_STRSZ, at["strings"].size),
        (elf.DT_SYMTAB, at["symbols"].address),
        (dynamic.DT_SYMENT, _SYMBOL.size),
        (elf.DT_VERSYM, at["versym"].address),
        (elf.DT_VERDEF, at["verdef"].address),
        (elf.DT_VERDEFNUM, len(names.numbers) + 2),
        (dynamic.DT_FLAGS, _BIND_NOW),
        (elf.DT_FLAGS_1, _NOW | _NODELETE),
    ]
    if at["rela"].size:
        tags += [
            (elf.DT_RELA, at["rela"].address),
            (elf.DT_RELASZ, at["rela"].size),
            (dynamic.DT_RELAENT, dynamic.RELA.size),
        ]
    if names.asked:
        tags += [
            (elf.DT_VERNEED, at["verneed"].address),
            (elf.DT_VERNEEDNUM, len({library for library, _ in names.asked})),
        ]
    return [*tags, (0, 0)]


def _header(machine: int, segments: list[dynamic.Segment]) -> bytes:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    size = dynamic.EHDR.size
    header = dynamic.EHDR.pack(
        ident,
        elf.ET_DYN,
        machine,
        1,
        0,
        size,
        0,
        0,
        size,
        dynamic.PHDR.size,
        len(segments),
        0,
        0,
        0,
    )
    return header + b"".join(dynamic.PHDR.pack(*segment) for segment in segments)


def _segments(
    processor: arch.Arch, places: _Places, read_end: int, memory_end: int, frame: _Block
) -> list[dynamic.Segment]:
    page, data = processor.page, places.data
    writable, code = dynamic.PF_R | dynamic.PF_W, dynamic.PF_R | dynamic.PF_X
    size = places.data_end - data

    def segment(
        kind: int, flags: int, offset: int, address: int, size: int, memory: int, align: int
    ) -> dynamic.Segment:
        return dynamic.Segment(kind, flags, offset, address, address, size, memory, align)

    load = dynamic.PT_LOAD
    found = [segment(load, dynamic.PF_R, 0, 0, read_end, read_end, page)]
    if places.code_size:
        where = places.code_offset, places.code, places.code_size, places.code_size
        found.append(segment(load, code, *where, page))
    found += [
        segment(load, writable, places.data_offset, data, size, memory_end - data, page),
        segment(
            dynamic.PT_DYNAMIC,
            writable,
            places.data_offset,
            data,
            places.slots - data,
            places.slots - data,
            8,
        ),
        segment(
            dynamic.PT_GNU_RELRO,
            dynamic.PF_R,
            places.data_offset,
            data,
            size,
            places.objects - data,
            1,
        ),
        segment(dynamic.PT_GNU_STACK, writable, 0, 0, 0, 0, 16),
    ]
    if places.code_size:
        at = frame.address
        found.append(
            segment(dynamic.PT_GNU_EH_FRAME, dynamic.PF_R, at, at, frame.size, frame.size, 4)
        )
    return found


def _slots(names: _Names) -> list[int]:
    """Return the index of the symbol whose address each slot gets: targets of stubs, then data.

    Data is looked up like everything else, since a program may have a copy of it, which counts.
    """
    first = 1 + len(names.targets)
    data = {item.symbol: first + i for i, item in enumerate(names.defined) if item.kind == "data"}
    shared = [data[item.target] for item in names.defined if item.kind == "alias"]
    return [*range(1, first), *shared]


def _values(names: _Names, places: _Places) -> tuple[list[int], int]:
    """Return the address of each definition, and where memory ends: at a page's end for RELRO."""
    code, objects = places.code, places.objects
    pointer = places.slots + 8 * len(names.targets)
    values = []
    for item in names.defined:
        if item.kind == "data":
            values.append(objects)
            objects += _up(item.size, 16)
        elif item.kind == "alias":
            values.append(pointer)
            pointer += 8
        else:
            values.append(code)
            code += arch.STUB
    return values, objects


def _stubs(processor: arch.Arch, names: _Names, code: int, slots: int) -> bytes:
    slot = {target: slots + 8 * index for index, target in enumerate(names.targets)}
    functions = [item for item in names.defined if item.kind not in _DATA]
    return b"".join(
        processor.stub(
            code + arch.STUB * index, slot[item.target, item.target_version, item.library]
        )
        for index, item in enumerate(functions)
    )


def _symbol_table(names: _Names, strings: dict[str, int], values: list[int]) -> bytes:
    table = [_SYMBOL.pack(0, 0, 0, 0, 0, 0)]
    table += [_SYMBOL.pack(strings[name], _FUNCTION, 0, 0, 0, 0) for name, _, _ in names.targets]
    for item, value in zip(names.defined, values, strict=True):
        kind, size = (_OBJECT, item.size) if item.kind in _DATA else (_FUNCTION, arch.STUB)
        # Any section number but 0 says "defined here".
        table.append(_SYMBOL.pack(strings[item.symbol], kind, 0, 1, value, size))
    return b"".join(table)


def _versym(names: _Names) -> bytes:
    numbers = [0]
    numbers += [
        names.asked[library, version] if library else 1 for _, version, library in names.targets
    ]
    # What libfairlead-glibc.so is given has no version, as it asks for none.
    numbers += [
        names.numbers[item.version] | elf.HIDDEN if item.version else 1 for item in names.defined
    ]
    return struct.pack(f"<{len(numbers)}H", *numbers)


def _verdef(names: _Names, strings: dict[str, int]) -> bytes:
    entries = [
        (1, SONAME),
        (2, _RESERVED),
        *((number, name) for name, number in names.numbers.items()),
    ]
    table = b""
    for number, name in entries:
        step = 0 if (number, name) == entries[-1] else 28
        table += _VERDEF.pack(1, number == 1, number, 1, sysv_hash(name), _VERDEF.size, step)
        table += struct.pack("<II", strings[name], 0)
    return table


def _verneed(names: _Names, strings: dict[str, int]) -> bytes:
    table = b""
    libraries = sorted({library for library, _ in names.asked})
    for library in libraries:
        asked = [
            (name, number) for (owner, name), number in names.asked.items() if owner == library
        ]
        size = dynamic.VERNEED.size + dynamic.VERNAUX.size * len(asked)
        step = 0 if library == libraries[-1] else size
        table += dynamic.VERNEED.pack(1, len(asked), strings[library], dynamic.VERNEED.size, step)
        for index, (name, number) in enumerate(asked, 1):
            more = dynamic.VERNAUX.size if index < len(asked) else 0
            table += dynamic.VERNAUX.pack(sysv_hash(name), 0, number, strings[name], more)
    return table


def _hash_table(names: _Names) -> bytes:
    """Return .gnu.hash: Bloom filter, buckets, and the chains that are the definitions in order."""
    first = 1 + len(names.targets)
    hashes = [gnu_hash(item.symbol) for item in names.defined]
    words = 1 << max(0, (len(hashes) // 8).bit_length())
    bloom = [0] * words
    for value in hashes:
        bloom[value // 64 % words] |= 1 << value % 64 | 1 << (value >> 6) % 64
    heads = [0] * names.buckets
    chain = []
    for index, value in enumerate(hashes):
        bucket = value % names.buckets
        heads[bucket] = heads[bucket] or first + index
        last = index + 1 == len(hashes) or hashes[index + 1] % names.buckets != bucket
        chain.append(value & ~1 | last)
    return struct.pack(
        f"<4I{words}Q{names.buckets}I{len(chain)}I",
        names.buckets,
        first,
        words,
        6,
        *bloom,
        *heads,
        *chain,
    )


def _frame(processor: arch.Arch, address: int, code: int, size: int) -> bytes:
    """Return .eh_frame_hdr and .eh_frame for all stubs; their size does not depend on addresses."""
    code_align, data_align, return_column, instructions = processor.frame
    pc_relative = 0x1B  # DW_EH_PE_pcrel | DW_EH_PE_sdata4
    body = struct.pack("<IB", 0, 1) + b"zR\0"
    body += bytes((code_align, data_align & 0x7F, return_column, 1, pc_relative)) + instructions
    body = body.ljust(_up(len(body) + 4, 8) - 4, b"\0")
    cie = struct.pack("<I", len(body)) + body
    header = 20
    start = address + header  # of .eh_frame
    fde = start + len(cie)
    text = struct.pack("<iiI", len(cie) + 4, code - (fde + 8), size) + b"\0"
    text = text.ljust(_up(len(text) + 4, 8) - 4, b"\0")
    table = struct.pack("<BBBB", 1, pc_relative, 0x03, 0x3B)  # count: udata4; table: datarel sdata4
    table += struct.pack("<iIii", header - 4, 1, code - address, fde - address)
    return table + cie + struct.pack("<I", len(text)) + text + b"\0\0\0\0"
