"""A plan with key and basis in the flat form of the plan cache (``c_ext/plan_entry.h``). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from fairlead import errors, kernel
from fairlead.host import witness
from fairlead.plan import plan as launch_plan
from fairlead.run import basis, block

_MAGIC = b"FAIRPL1\0"


def compile_entry(
    key: bytes, expires_s: int, grounds: basis.Basis, plan: launch_plan.Plan
) -> bytes | None:
    """Return the bytes of an entry; None where the form has no room for it.

    Args:
        key: as the door gave it.
        expires_s: last second of validity, by CLOCK_BOOTTIME.
        grounds: what the plan was made from.
        plan: the launch.
    """
    if any(len(names) >= kernel.lib.BLOCK_MAX_STRINGS for _, names in grounds.prefixes):
        return None
    words = [block.record(kernel.lib.OP_WORD, 0, word) for word in plan.command]
    body = block.join([*_checks(grounds), *words, *block.records(plan, templates=True)])
    tail = struct.pack("=QII", expires_s, len(key), len(body)) + key + body
    data = _MAGIC + struct.pack("=Q", kernel.plan_hash(tail)) + tail
    return data if len(data) <= kernel.lib.PLAN_ENTRY_MAX_SIZE else None


def body(data: bytes) -> bytes:
    """Return the block of an entry that ``compile_entry`` made."""
    start = len(_MAGIC) + 8
    _, key_size, size = struct.unpack_from("=QII", data, start)
    start += struct.calcsize("=QII") + key_size
    return data[start : start + size]


def _checks(grounds: basis.Basis) -> Iterable[bytes]:
    lib = kernel.lib
    for note in grounds.notes:
        yield block.record(lib.OP_NOTE, 0, errors.one_line(note))
    yield block.record(lib.OP_SAME, 0, grounds.compared)
    if grounds.image:
        also = (grounds.injection,) if grounds.injection else ()
        yield block.record(lib.OP_IMAGE, 0, grounds.image, *also)
    for directory in grounds.holds:
        yield block.record(lib.OP_HOLD, 0, directory)
    for seen in grounds.files:
        yield _file(seen)
    for name, value in grounds.asked:
        yield block.record(lib.OP_CHECK_VARIABLE, 0, name, *([] if value is None else [value]))
    for name, present in grounds.presence:
        yield block.record(lib.OP_CHECK_VARIABLE, lib.CHECK_PRESENT if present else 0, name)
    for prefix, names in grounds.prefixes:
        yield block.record(lib.OP_CHECK_NAMES, 0, prefix, *names)
    for one, other in grounds.same:
        yield block.record(lib.OP_CHECK_SAME, 0, one, other)


def _file(seen: witness.Seen) -> bytes:
    lib = kernel.lib
    flags = 0
    flags |= lib.CHECK_KIND if seen.kind else 0
    flags |= lib.CHECK_NOFOLLOW if seen.nofollow else 0
    flags |= lib.RECORD_TEMPLATE if seen.template else 0
    return block.record(lib.OP_CHECK_FILE, flags, seen.path, seen.text)
