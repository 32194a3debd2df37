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

import mmap
import os
import re
import stat
import struct
from collections.abc import Container, Iterator
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Self

MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64le": 21, "riscv64": 243}

ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SONAME = 1, 4, 5, 6, 10, 14
DT_RPATH, DT_RUNPATH, DT_RELR = 15, 29, 36
DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 7, 8, 23
DT_GNU_HASH, DT_VERSYM, DT_FLAGS_1 = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFB
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
DF_1_PIE = 0x08000000
NT_GNU_BUILD_ID = 3
STT_OBJECT, STT_TLS = 1, 6
HIDDEN = 0x8000  # in a versym entry: not what a reference without a version gets

MAX_FILE = 4 << 30
MAX_HEADERS = 256
MAX_DYNAMIC = 4096
MAX_STRING = 4096
MAX_VERSIONS = 16384
MAX_SYMBOLS = 1 << 18
MAX_STRINGS = 1 << 16

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_DYN = struct.Struct("<QQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_VERDEF = struct.Struct("<HHHHIII")
_WORD = struct.Struct("<I")
_WORDS2 = struct.Struct("<II")
_WORDS3 = struct.Struct("<III")
_WORDS4 = struct.Struct("<IIII")
_PATHS = re.compile(rb"(?<=\0)(?:/|\$\{)[\x21-\x7e]{3,255}(?=\0)")


class ElfError(Exception):
    """The file cannot be used as an ELF file; the message says why."""


class NotElf(ElfError):  # noqa: N818 - a kind of file rather than a failure
    """The file is no ELF64 little-endian file."""


class Elf32(NotElf):
    """The file is an ELF file of a 32-bit machine."""


class Damaged(ElfError):  # noqa: N818 - reads as what the file is
    """The file begins like an ELF file and points outside itself, or beyond a limit."""


class Elf(NamedTuple):
    """What the loader reads first. Strings are decoded with surrogateescape, like paths."""

    type: int
    machine: int
    interp: str
    dynamic: bool
    needed: tuple[str, ...]
    soname: str
    rpath: str
    runpath: str
    build_id: str
    pie: bool

    @property
    def static(self) -> bool:
        """A program that no loader starts: nothing can be injected into it."""
        program = self.type == ET_EXEC or (self.type == ET_DYN and self.pie)
        return program and not self.interp and not self.needed


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


class Reader:
    """An open ELF file. Use as a context manager; the values it returned stay valid afterwards.

    Args:
        path: the file, or what to call it in messages.
        data: its content, if it has been read already; the file is not opened then.

    Raises:
        NotElf, Damaged: from any method. OSError: the file cannot be opened.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        self.path = path
        self._data: mmap.mmap | bytes = self._map(path) if data is None else data
        if self._data[:6] != b"\x7fELF\x02\x01" or len(self._data) < _EHDR.size:
            raise NotElf(f"{path}: not ELF64 little-endian")
        self.size = len(self._data)
        self._loads: list[tuple[int, int, int, int]] = []
        self._tags: dict[int, int] = {}
        self._strings = -1
        try:
            self.elf = self._parse()
        except ElfError:
            self._close()
            raise

    @staticmethod
    def _map(path: str) -> mmap.mmap:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _EHDR.size <= status.st_size <= MAX_FILE:
                raise NotElf(f"{path}: no regular file of a plausible size")
            # Most files of an image are no ELF files: look before mapping.
            if (first := os.pread(descriptor, 6, 0)) != b"\x7fELF\x02\x01":
                kind = Elf32 if first[:5] == b"\x7fELF\x01" else NotElf
                raise kind(f"{path}: not ELF64 little-endian")
            try:
                return mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ)
            except ValueError as error:  # cut short since fstat
                raise Damaged(f"{path}: {error}") from error
        finally:
            os.close(descriptor)

    def _close(self) -> None:
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    # -- bounded access ---------------------------------------------------------------------

    def _at(self, form: struct.Struct, offset: int) -> tuple[int, ...]:
        if not 0 <= offset <= self.size - form.size:
            raise Damaged(f"{self.path}: offset {offset:#x} lies outside the file")
        return form.unpack_from(self._data, offset)

    def _bytes(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self.size or not 0 <= size <= self.size - offset:
            raise Damaged(f"{self.path}: {size} bytes at {offset:#x} lie outside the file")
        return self._data[offset : offset + size]

    def _offset(self, address: int) -> int:
        for start, offset, size, _flags in self._loads:
            if start <= address < start + size:
                return address - start + offset
        raise Damaged(f"{self.path}: address {address:#x} lies in no segment")

    def _string(self, index: int) -> str:
        if index >= self._tags.get(DT_STRSZ, 0) or DT_STRTAB not in self._tags:
            raise Damaged(f"{self.path}: string {index:#x} lies outside the string table")
        if self._strings < 0:
            self._strings = self._offset(self._tags[DT_STRTAB])
        start = self._strings + index
        if start >= self.size:
            raise Damaged(f"{self.path}: string table lies outside the file")
        end = self._data.find(b"\0", start, min(self.size, start + MAX_STRING))
        if end < 0:
            raise Damaged(f"{self.path}: string at {start:#x} has no end")
        return self._data[start:end].decode("utf-8", "surrogateescape")

    # -- headers ----------------------------------------------------------------------------

    def _parse(self) -> Elf:
        header = self._at(_EHDR, 0)
        kind, machine, program_offset, entry_size, count = (
            header[1],
            header[2],
            header[5],
            header[9],
            header[10],
        )
        if count > MAX_HEADERS or (count and entry_size != _PHDR.size):
            raise Damaged(f"{self.path}: {count} program headers of {entry_size} bytes")
        interp, dynamic, build_id = "", None, ""
        notes: list[tuple[int, int]] = []
        for index in range(count):
            segment, flags, offset, address, _, size, _, _ = self._at(
                _PHDR, program_offset + index * _PHDR.size
            )
            if segment == PT_LOAD:
                self._loads.append((address, offset, size, flags))
            elif segment == PT_DYNAMIC:
                dynamic = (offset, size)
            elif segment == PT_INTERP:
                interp = (
                    self._bytes(offset, min(size, MAX_STRING))
                    .split(b"\0")[0]
                    .decode("utf-8", "surrogateescape")
                )
            elif segment == PT_NOTE:
                notes.append((offset, size))
        for offset, size in notes:
            build_id = build_id or self._build_id(offset, size)
        needed = self._dynamic(*dynamic) if dynamic else []
        tags = self._tags
        names = {
            tag: self._string(tags[tag]) for tag in (DT_SONAME, DT_RPATH, DT_RUNPATH) if tag in tags
        }
        return Elf(
            type=kind,
            machine=machine,
            interp=interp,
            dynamic=dynamic is not None,
            needed=tuple(self._string(index) for index in needed),
            soname=names.get(DT_SONAME, ""),
            rpath=names.get(DT_RPATH, ""),
            runpath=names.get(DT_RUNPATH, ""),
            build_id=build_id,
            pie=bool(tags.get(DT_FLAGS_1, 0) & DF_1_PIE),
        )

    def _dynamic(self, offset: int, size: int) -> list[int]:
        needed: list[int] = []
        for index in range(min(size // _DYN.size, MAX_DYNAMIC)):
            tag, value = self._at(_DYN, offset + index * _DYN.size)
            if tag == 0:
                return needed
            if tag == DT_NEEDED:
                needed.append(value)
            else:
                self._tags[tag] = value
        if size // _DYN.size > MAX_DYNAMIC:
            raise Damaged(f"{self.path}: more than {MAX_DYNAMIC} dynamic entries")
        return needed

    def _build_id(self, offset: int, size: int) -> str:
        end = offset + min(size, 4096)
        while offset + 12 <= end:
            name_size, data_size, kind = self._at(_WORDS3, offset)
            if name_size > 4096 or data_size > 4096:
                return ""
            data = offset + 12 + (name_size + 3 & ~3)
            if kind == NT_GNU_BUILD_ID and self._bytes(offset + 12, name_size) == b"GNU\0":
                return self._bytes(data, min(data_size, 64)).hex()
            offset = data + (data_size + 3 & ~3)
        return ""

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
