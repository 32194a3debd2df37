"""Writes tar archives header by header, above all the ones that tarfile refuses to write.

An ``Entry`` says what an entry means; ``archive`` writes entries, and raw bytes between them, in the plainest format
that can hold them (ustar, else with a PAX header). The layer model reads the same entries.
"""

from __future__ import annotations

from typing import NamedTuple

FILE, LINK, SYMLINK, CHAR, BLOCK, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
SIZE = 512
END = bytes(2 * SIZE)


class Entry(NamedTuple):
    """One entry, as it is meant; mtime in nanoseconds."""

    name: bytes
    type: bytes = FILE
    data: bytes = b""
    mode: int = 0o644
    mtime: int = 1_500_000_000_000_000_000
    link: bytes = b""
    uid: int = 0
    gid: int = 0
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def file(name: bytes, data: bytes = b"", **rest: object) -> Entry:
    return Entry(name, FILE, data, **rest)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **rest: object) -> Entry:
    return Entry(name, DIR, mode=mode, **rest)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **rest: object) -> Entry:
    return Entry(name, SYMLINK, link=target, mode=0o777, **rest)  # type: ignore[arg-type]


def hardlink(name: bytes, target: bytes, **rest: object) -> Entry:
    return Entry(name, LINK, link=target, **rest)  # type: ignore[arg-type]


def fifo(name: bytes, **rest: object) -> Entry:
    return Entry(name, FIFO, **rest)  # type: ignore[arg-type]


def device(name: bytes, major: int, minor: int, type: bytes = CHAR) -> Entry:
    return Entry(name, type, major=major, minor=minor)


def octal(value: int, size: int) -> bytes:
    return b"%0*o\0" % (size - 1, value)


def base256(value: int, size: int) -> bytes:
    """GNU's form for numbers that octal cannot hold."""
    field = (value + (1 << (8 * size)) if value < 0 else value).to_bytes(size, "big")
    return bytes([field[0] | 0x80]) + field[1:]


def number(value: int, size: int) -> bytes:
    return octal(value, size) if 0 <= value < 8 ** (size - 1) else base256(value, size)


def checksummed(block: bytes) -> bytes:
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def header(name: bytes = b"", type: bytes = FILE, size: int | bytes = 0, **fields: object) -> bytes:
    """One header block; any field may be given as raw bytes."""

    def field(key: str, default: object, width: int) -> bytes:
        value = fields.get(key, default)
        raw = value if isinstance(value, bytes) else number(int(value), width)  # type: ignore[call-overload]
        assert len(raw) <= width, key
        return raw.ljust(width, b"\0")

    size_field = size if isinstance(size, bytes) else number(size, 12)
    block = b"".join(
        [
            name[:100].ljust(100, b"\0"),
            field("mode", 0o644, 8),
            field("uid", 0, 8),
            field("gid", 0, 8),
            size_field.ljust(12, b"\0"),
            field("mtime", 1_500_000_000, 12),
            b" " * 8,
            type,
            field("link", b"", 100),
            field("magic", b"ustar\00000", 8),
            bytes(64),
            field("major", 0, 8),
            field("minor", 0, 8),
            field("prefix", b"", 155),
            bytes(12),
        ]
    )
    assert len(block) == SIZE
    return checksummed(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SIZE)


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record; its length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def extended(records: bytes, type: bytes = b"x") -> bytes:
    return header(b"PaxHeaders/x", type, len(records)) + padded(records)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    return extended(b"".join(record(*each) for each in records))


def gnu_long(text: bytes, type: bytes = b"L") -> bytes:
    return header(b"././@LongLink", type, len(text) + 1, magic=b"ustar  \0") + padded(text + b"\0")


def seconds(mtime: int) -> bytes:
    sign, size = (b"-", -mtime) if mtime < 0 else (b"", mtime)
    return sign + b"%d.%09d" % divmod(size, 10**9)


def write(entry: Entry) -> bytes:
    records = [(b"SCHILY.xattr." + name, value) for name, value in entry.xattrs]
    if len(entry.name) > 100:
        records.append((b"path", entry.name))
    if len(entry.link) > 100:
        records.append((b"linkpath", entry.link))
    if entry.mtime % 10**9:
        records.append((b"mtime", seconds(entry.mtime)))
    head = header(
        entry.name,
        entry.type,
        len(entry.data),
        link=entry.link[:100],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        major=entry.major,
        minor=entry.minor,
        mtime=entry.mtime // 10**9,
    )
    return (pax(*records) if records else b"") + head + padded(entry.data)


def archive(*parts: Entry | bytes, end: bytes = END) -> bytes:
    return b"".join(part if isinstance(part, bytes) else write(part) for part in parts) + end
