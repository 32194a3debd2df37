"""SIF files (Apptainer, Singularity): where the root file system lies in one.

::

    0     a line for the shell, 32 bytes
    32    "SIF_MAGIC", version "01", architecture, uuid, two times
    80    descriptors free, descriptors in all, their offset, their length, data offset, data length
    ...   descriptors of 585 bytes: type, used, ids, offset and length in the file, ..., 384 bytes
          that depend on the type; of a partition: kind of file system, role, architecture

Rules:
- Hostile input: the number of descriptors is bounded, offsets and lengths lie within the file.
- Only the primary system partition is taken, and only if it is squashfs: ext3 and encrypted ones
  would need a mount by root or a key.

Source: the SIF specification and ``pkg/sif`` of sylabs/sif (global header, descriptor, arch.go).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, NoReturn

from fairlead import errors
from fairlead.image import files

MAX_DESCRIPTORS = 4096
_HEADER = struct.Struct("<32s10s3s3s16s8q")
_DESCRIPTOR = struct.Struct("<iBIII7q128s384s")
_EXTRA = struct.Struct("<ii3s")
_PARTITION, _OCI_INDEX = 0x4004, 0x400A
_PRIMARY = 2
_SQUASHFS = 1
_KINDS = {2: "ext3", 3: "an archive", 4: "raw data", 5: "encrypted squashfs"}
_HINT = "build the file again"
_MACHINES = {
    "01": "386",
    "02": "amd64",
    "03": "arm",
    "04": "arm64",
    "05": "ppc64",
    "06": "ppc64le",
    "07": "mips",
    "08": "mipsle",
    "09": "mips64",
    "10": "mips64le",
    "11": "s390x",
    "12": "riscv64",
}


class Partition(NamedTuple):
    """The primary system partition: its place in bytes, its machine in Go's words or empty."""

    offset: int
    size: int
    architecture: str


def partition(fd: int, end: int, where: str) -> Partition:
    """Return the partition that holds the root file system of the file in fd, of ``end`` bytes.

    Raises:
        errors.ArchiveError: it is no SIF file, damaged, or has no squashfs partition.
    """
    if end < _HEADER.size:
        _refuse(where, "is cut short")
    header = _HEADER.unpack(files.read_at(fd, 0, _HEADER.size, where))
    magic, version, count, first = header[1], header[2], header[8], header[9]
    if magic != b"SIF_MAGIC\0" or version != b"01\0":
        _refuse(where, "is no SIF file of version 01")
    if not 0 <= count <= MAX_DESCRIPTORS:
        _refuse(where, f"has {count} descriptors, more than {MAX_DESCRIPTORS}")
    if not _HEADER.size <= first <= end - count * _DESCRIPTOR.size:
        _refuse(where, "is cut short or damaged: its descriptors lie outside")
    table = files.read_at(fd, first, count * _DESCRIPTOR.size, where)
    kinds = set()
    for descriptor in _DESCRIPTOR.iter_unpack(table):
        kind, used, offset, size, extra = (descriptor[i] for i in (0, 1, 5, 6, 13))
        if not used:
            continue
        kinds.add(kind)
        system, role, machine = _EXTRA.unpack(extra[: _EXTRA.size])
        if kind != _PARTITION or role != _PRIMARY:
            continue
        if system != _SQUASHFS:
            _refuse(
                where,
                f"its root file system is {_KINDS.get(system, f'of kind {system}')}, not squashfs",
                "build it again as SIF with squashfs and without encryption",
            )
        if not 0 < offset <= end or not 0 < size <= end - offset:
            _refuse(where, "is cut short or damaged: its root file system lies outside")
        return Partition(offset, size, _MACHINES.get(machine[:2].decode("latin-1"), ""))
    if _OCI_INDEX in kinds:
        _refuse(where, "holds an OCI image and no partition", "name the image itself, or build SIF")
    raise errors.ArchiveError(f"{where}: has no primary system partition", hint=_HINT)


def _refuse(where: str, why: str, hint: str = _HINT) -> NoReturn:
    raise errors.ArchiveError(f"{where}: {why}", hint=hint)
