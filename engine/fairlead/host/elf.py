"""Read ELF files: what a library needs, what it offers, what it was built for.

Rules:
- ELF64, little-endian only: the machines that Slurm runs on. Everything else is ``NotElf``.
- The file is hostile input (it may come from an image): every offset, count and size is checked
  against the file and against the limits below before it is used. What breaks a rule is
  ``Damaged``; no other exception leaves this module, and no loop runs further than a limit.
- Only what the dynamic loader reads is read (program headers and what they point to); section
  headers are ignored, because a file without them runs just as well.
- mmap, so that a 40 MB libmpich costs the few pages that are looked at.

Own reader and no pyelftools: importing that costs 60 ms and parsing a library 50 ms; this takes 2
ms and 0.1 ms, and an index looks at thousands of files.

Source: System V ABI (gabi), chapters 4 and 5; LSB 5.0 symbol versioning; glibc elf/elf.h.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Container, Iterator
from itertools import islice
from typing import NamedTuple

from fairlead.host.elf_headers import (
    DT_FLAGS_1,
    DT_GNU_HASH,
    DT_HASH,
    DT_JMPREL,
    DT_NEEDED,
    DT_PLTRELSZ,
    DT_RELA,
    DT_RELASZ,
    DT_RELR,
    DT_RPATH,
    DT_RUNPATH,
    DT_SONAME,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMTAB,
    DT_VERDEF,
    DT_VERDEFNUM,
    DT_VERNEED,
    DT_VERNEEDNUM,
    DT_VERSYM,
    ET_DYN,
    MACHINES,
    MAX_DYNAMIC,
    MAX_FILE,
    MAX_HEADERS,
    MAX_STRING,
    PT_DYNAMIC,
    PT_LOAD,
    Damaged,
    Elf,
    Elf32,
    ElfError,
    Headers,
    NotElf,
)

__all__ = [  # both halves, for those who import this one
    "DT_FLAGS_1",
    "DT_GNU_HASH",
    "DT_HASH",
    "DT_JMPREL",
    "DT_NEEDED",
    "DT_PLTRELSZ",
    "DT_RELA",
    "DT_RELASZ",
    "DT_RELR",
    "DT_RPATH",
    "DT_RUNPATH",
    "DT_SONAME",
    "DT_STRSZ",
    "DT_STRTAB",
    "DT_SYMTAB",
    "DT_VERDEF",
    "DT_VERDEFNUM",
    "DT_VERNEED",
    "DT_VERNEEDNUM",
    "DT_VERSYM",
    "ET_DYN",
    "HIDDEN",
    "MACHINES",
    "MAX_DYNAMIC",
    "MAX_FILE",
    "MAX_HEADERS",
    "MAX_STRING",
    "MAX_VERSIONS",
    "PT_DYNAMIC",
    "PT_LOAD",
    "Damaged",
    "Elf",
    "Elf32",
    "ElfError",
    "NotElf",
    "Reader",
    "Want",
    "read",
]

STT_OBJECT, STT_TLS = 1, 6
HIDDEN = 0x8000  # in a versym entry: not what a reference without a version gets

MAX_VERSIONS = 16384
MAX_SYMBOLS = 1 << 18
MAX_STRINGS = 1 << 16

_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_VERDEF = struct.Struct("<HHHHIII")
_WORD = struct.Struct("<I")
_WORDS2 = struct.Struct("<II")
_WORDS4 = struct.Struct("<IIII")
_PATHS = re.compile(rb"(?<=\0)(?:/|\$\{)[\x21-\x7e]{3,255}(?=\0)")


class Need(NamedTuple):
    """One version that a file asks of a library (an entry of Verneed)."""

    library: str
    version: str
    weak: bool
    number: int


class Symbol(NamedTuple):
    """One dynamic symbol. ``version`` may be empty; ``library`` is set for undefined ones only.

    ``hidden`` definitions (``name@version``, not ``name@@version``) are for old programs only.
    """

    name: str
    version: str
    library: str
    defined: bool
    weak: bool
    is_object: bool
    size: int
    value: int
    hidden: bool = False
    thread_local: bool = False


class Want(NamedTuple):
    """One versioned symbol that a file asks of a library."""

    library: str
    version: str
    symbol: str
    weak: bool
    thread_local: bool


class Reader(Headers):
    """An open ELF file, with what its tables hold."""

    # -- versions ---------------------------------------------------------------------------

    def needs(self) -> tuple[Need, ...]:
        """Return every version that this file asks of its libraries (Verneed)."""
        found: list[Need] = []
        if DT_VERNEED not in self._tags:
            return ()
        offset = self._offset(self._tags[DT_VERNEED])
        for _ in range(min(self._tags.get(DT_VERNEEDNUM, 0), MAX_VERSIONS)):
            _, count, file, first, step = self._at(_VERNEED, offset)
            library, entry = self._string(file), offset + first
            for _ in range(count):
                _, flags, number, name, next_entry = self._at(_VERNAUX, entry)
                found.append(Need(library, self._string(name), bool(flags & 2), number & 0x7FFF))
                if len(found) > MAX_VERSIONS:
                    raise Damaged(f"{self.path}: more than {MAX_VERSIONS} needed versions")
                if not next_entry:
                    break
                entry += next_entry
            if not step:
                break
            offset += step
        return tuple(found)

    def definitions(self) -> dict[int, str]:
        """Return the versions that this file defines (Verdef), without its own name."""
        found: dict[int, str] = {}
        if DT_VERDEF not in self._tags:
            return found
        offset = self._offset(self._tags[DT_VERDEF])
        for _ in range(min(self._tags.get(DT_VERDEFNUM, 0), MAX_VERSIONS)):
            _, flags, index, _, _, first, step = self._at(_VERDEF, offset)
            name, _ = self._at(_WORDS2, offset + first)
            if not flags & 1:
                found[index & 0x7FFF] = self._string(name)
            if not step:
                break
            offset += step
        return found

    # -- symbols ----------------------------------------------------------------------------

    def symbols(self) -> Iterator[Symbol]:
        """Yield the dynamic symbols that other files can see or must provide (global and weak)."""
        if DT_SYMTAB not in self._tags:
            return
        count = self._symbol_count()
        start = self._offset(self._tags[DT_SYMTAB])
        table = self._bytes(start, count * _SYM.size)
        versions: tuple[int, ...] = ()
        if DT_VERSYM in self._tags:
            raw = self._bytes(self._offset(self._tags[DT_VERSYM]), count * 2)
            versions = struct.unpack(f"<{count}H", raw)
        defined = self.definitions() if versions else {}
        needed = {need.number: need for need in self.needs()} if versions else {}
        for index, (name, info, _other, section, value, size) in enumerate(_SYM.iter_unpack(table)):
            binding = info >> 4
            if index == 0 or binding == 0:  # the null symbol; local ones
                continue
            number = versions[index] & 0x7FFF if versions else 1
            need = None if section else needed.get(number)
            version = need.version if need else defined.get(number, "") if section else ""
            yield Symbol(
                self._string(name),
                version,
                need.library if need else "",
                section != 0,
                binding == 2,
                info & 15 == STT_OBJECT,
                size,
                value,
                bool(versions and versions[index] & HIDDEN),
                info & 15 == STT_TLS,
            )

    def wants(self, libraries: Container[str]) -> Iterator[tuple[int, Want]]:
        """Yield the versioned symbols that this file asks of some libraries, with their indexes.

        A program's copy of a library's variable counts: it is defined, under a needed version. Much
        faster than ``symbols()``.
        """
        needed = {need.number: need for need in self.needs() if need.library in libraries}
        if not needed or not {DT_SYMTAB, DT_VERSYM} <= self._tags.keys():
            return
        count = self._symbol_count()
        table = self._offset(self._tags[DT_SYMTAB])
        raw = self._bytes(self._offset(self._tags[DT_VERSYM]), count * 2)
        for index, number in enumerate(struct.unpack(f"<{count}H", raw)):
            need = needed.get(number & 0x7FFF)
            if not need:
                continue
            name, info, *_ = self._at(_SYM, table + index * _SYM.size)
            if info >> 4:
                weak, thread_local = info >> 4 == 2, info & 15 == STT_TLS
                text = self._string(name)
                yield index, Want(need.library, need.version, text, weak, thread_local)

    @property
    def relative(self) -> bool:
        """Tell whether the file has compressed relative relocations (DT_RELR, glibc 2.36)."""
        return DT_RELR in self._tags

    def _symbol_count(self) -> int:
        """Return the length of the symbol table, which only the hash tables tell."""
        if DT_HASH in self._tags:
            count = self._at(_WORDS2, self._offset(self._tags[DT_HASH]))[1]
        elif DT_GNU_HASH in self._tags:
            count = self._gnu_hash_count(self._offset(self._tags[DT_GNU_HASH]))
        else:
            count = 0
        if count > MAX_SYMBOLS:
            raise Damaged(f"{self.path}: {count} symbols")
        return count

    def _gnu_hash_count(self, offset: int) -> int:
        """Follow the last chain to its end; chains lie in symbol order, so it ends the table."""
        buckets, first, bloom, _ = self._at(_WORDS4, offset)
        if buckets > MAX_SYMBOLS or bloom > MAX_SYMBOLS:
            raise Damaged(f"{self.path}: hash table of {buckets} buckets")
        start = offset + _WORDS4.size + 8 * bloom
        last = max(struct.unpack(f"<{buckets}I", self._bytes(start, 4 * buckets)), default=0)
        if last < first:  # nothing is exported, so the table says nothing of the length
            return max(first, self._relocated_count())
        chain = start + 4 * buckets
        while last < MAX_SYMBOLS:
            if self._at(_WORD, chain + 4 * (last - first))[0] & 1:
                return last + 1
            last += 1
        raise Damaged(f"{self.path}: hash chain has no end")

    def _relocated_count(self) -> int:
        """Return the length up to the last symbol that a relocation asks the loader for."""
        last = -1
        for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if self._tags.get(size):
                whole = self._tags[size] // _RELA.size * _RELA.size
                raw = self._bytes(self._offset(self._tags.get(table, 0)), whole)
                last = max(last, *(info >> 32 for _, info, _ in _RELA.iter_unpack(raw)))
        return last + 1

    def text(self, symbol: Symbol) -> str:
        """Return the characters of a data symbol up to the first NUL, "" for .bss."""
        try:
            data = self._bytes(self._offset(symbol.value), min(symbol.size, MAX_STRING))
        except Damaged:  # .bss: zeros that the file does not hold
            return ""
        return data.split(b"\0")[0].decode("utf-8", "surrogateescape")

    # -- data -------------------------------------------------------------------------------

    def _constants(self) -> Iterator[tuple[int, int]]:
        """Yield the bounds of the segments that hold constants, those without code.

        Segments may overlap in a hostile file: no more bytes are searched than the file has.
        """
        budget = self.size
        for _, offset, size, flags in self._loads:
            if not flags & 1 and offset < self.size and budget > 0:
                end = min(self.size, offset + size, offset + budget)
                budget -= end - offset
                yield offset, end

    def _matches(self, pattern: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
        for start, end in self._constants():
            yield from pattern.finditer(self._data, start, end)

    def contains(self, *texts: bytes) -> bool:
        """Tell whether the constants hold one of some texts; far faster than a pattern."""
        return any(
            self._data.find(text, start, end) >= 0
            for start, end in self._constants()
            for text in texts
        )

    def paths(self) -> set[str]:
        """Return the strings that are like paths, or templates for one (``${prefix}/...``)."""
        found = islice(self._matches(_PATHS), MAX_STRINGS)
        return {match.group().decode("ascii") for match in found}

    def search(self, pattern: re.Pattern[bytes], limit: int = 64) -> list[bytes]:
        """Return the first matches of a pattern in the constants (of its group, if it has one)."""
        group = 1 if pattern.groups else 0
        return [match.group(group) for match in islice(self._matches(pattern), limit)]


def read(path: str) -> Elf:
    """Return the headers of a file.

    Raises:
        NotElf, Damaged, OSError.
    """
    with Reader(path) as reader:
        return reader.elf
