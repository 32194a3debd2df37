"""What differs between processors: page sizes, relocation numbers, the code of a stub.

A stub jumps to what a slot of the global offset table holds. It is a jump and no call: arguments,
variadic registers, stack and return address stay the caller's, so that ``dlopen``,
``dlsym(RTLD_NEXT)`` and ``setjmp`` see who really called.

Source: x86-64 psABI 1.0; ELF for the Arm 64-bit Architecture (aaelf64) 2023Q3; DWARF 4, 6.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from fairlead.host import elf

STUB = 16  # bytes, on every processor here


class Arch(NamedTuple):
    """One processor.

    Attributes:
        machine: e_machine.
        page: the largest page that its kernels use; segments of one file never share a page.
        base: the oldest version of symbols that its glibc has.
        glob_dat, relative: relocation numbers.
        stub: (address of the stub, address of its slot) → STUB bytes of code.
        frame: DWARF: code alignment, data alignment, return address column, instructions that hold
            at every instruction of a stub (nothing has been pushed).
    """

    machine: int
    page: int
    base: str
    glob_dat: int
    relative: int
    stub: Callable[[int, int], bytes]
    frame: tuple[int, int, int, bytes]


def _stub_x86_64(here: int, slot: int) -> bytes:
    # endbr64; jmp *slot(%rip); int3 …
    return (b"\xf3\x0f\x1e\xfa\xff\x25" + struct.pack("<i", slot - (here + 10))).ljust(
        STUB, b"\xcc"
    )


def _stub_aarch64(here: int, slot: int) -> bytes:
    # bti c; adrp x16, page of the slot; ldr x17, [x16, #offset in the page]; br x17
    pages = ((slot & ~0xFFF) - ((here + 4) & ~0xFFF)) >> 12
    adrp = 0x90000010 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    return struct.pack("<4I", 0xD503245F, adrp, 0xF9400211 | (slot & 0xFFF) >> 3 << 10, 0xD61F0220)


_DEF_CFA, _OFFSET = 0x0C, 0x80  # DW_CFA_def_cfa register offset; DW_CFA_offset | register, factored

ARCHS = {
    "x86_64": Arch(
        machine=elf.MACHINES["x86_64"],
        page=0x1000,
        base="GLIBC_2.2.5",
        glob_dat=6,
        relative=8,
        stub=_stub_x86_64,
        frame=(1, -8, 16, bytes((_DEF_CFA, 7, 8, _OFFSET | 16, 1))),
    ),
    "aarch64": Arch(
        machine=elf.MACHINES["aarch64"],
        page=0x10000,
        base="GLIBC_2.17",
        glob_dat=1025,
        relative=1027,
        stub=_stub_aarch64,
        frame=(4, -8, 30, bytes((_DEF_CFA, 31, 0))),
    ),
}


def of(machine: int) -> Arch | None:
    """Return the processor of an e_machine, None if down-binding is not known for it."""
    return next((arch for arch in ARCHS.values() if arch.machine == machine), None)
