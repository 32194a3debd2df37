"""An open ELF file: bounded access to its bytes, its headers and its dynamic section.

The half of the ELF reader that every file goes through; its rules are told in ``host.elf``, which
reads versions, symbols and constants on top of this.

Source: System V ABI (gabi), chapters 4 and 5; glibc elf/elf.h.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
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

MAX_FILE = 4 << 30
MAX_HEADERS = 256
MAX_DYNAMIC = 4096
MAX_STRING = 4096

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_DYN = struct.Struct("<QQ")
_WORDS3 = struct.Struct("<III")


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


class Headers:
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
