"""Where the members of a tar archive lie: headers in, a table of offsets out.

For archives that hold images, not for layers (``c_ext/tar.c`` reads those). The data stays in the
archive and is read there by offset.

Rules:
- Hostile input: entries, the length of names and extended headers are bounded, every header's
  checksum is verified, and no member reaches beyond the end of the file.
- A name is cleaned of ``.`` and doubled slashes; an entry whose name holds ``..`` cannot be found.
- A link leads to another member of the same archive, never out of it.

Source: POSIX.1-2017 pax "ustar Interchange Format"; GNU tar manual "Basic Tar Format".
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from fairlead import errors
from fairlead.image import files

MAX_ENTRIES = 100_000
MAX_NAMES = 16 << 20  # bytes of all names
MAX_EXTENDED = 1 << 20
MAX_HOPS = 8
_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_LINKS = {b"1": "hard", b"2": "symbolic"}


class Member(NamedTuple):
    """A member's data, or where a link leads (as written, and whether from the archive's root)."""

    offset: int
    size: int
    link: str = ""
    from_root: bool = False


class Table(NamedTuple):
    """Members by name, the last of a name; ``repeated`` holds the names that stand twice."""

    members: dict[str, Member]
    repeated: frozenset[str]


class _Extended(NamedTuple):
    """What extended headers say about the next entry."""

    name: str | None = None
    link: str | None = None
    size: int | None = None


def read(fd: int, end: int, where: str) -> Table:
    """Return the members of the archive in fd, which has ``end`` bytes.

    Raises:
        errors.ArchiveError: it is no tar archive, damaged, cut short, or too large to index.
    """
    members: dict[str, Member] = {}
    repeated: set[str] = set()
    extended, at, entries, names = _Extended(), 0, 0, 0
    while at + _BLOCK <= end:
        head = files.read_at(fd, at, _BLOCK, where)
        if not any(head):
            return Table(members, frozenset(repeated))
        _check(head, where, at)
        kind, size = head[156:157], _number(head[124:136], where, at)
        data, at = at + _BLOCK, at + _BLOCK
        if kind in {b"x", b"g", b"L", b"K"}:
            if size > MAX_EXTENDED:
                _refuse(where, f"an extended header has {size} bytes, more than {MAX_EXTENDED}")
            if kind != b"g":  # global headers are ignored, as in layers
                extended = _extend(extended, kind, files.read_at(fd, data, size, where), where)
        else:
            name = _clean(extended.name if extended.name is not None else _name(head))
            size = extended.size if extended.size is not None else size
            if kind not in _REGULAR:
                size = 0 if kind in {*_LINKS, b"3", b"4", b"5", b"6"} else size
            entries, names = entries + 1, names + len(name)
            if entries > MAX_ENTRIES or names > MAX_NAMES:
                _refuse(where, f"has more than {MAX_ENTRIES} entries or {MAX_NAMES} bytes of names")
            if kind in _REGULAR or kind in _LINKS:
                link = (extended.link or _text(head[157:257])) if kind in _LINKS else ""
                if name in members:
                    repeated.add(name)
                members[name] = Member(data, size, link, kind == b"1")
            extended = _Extended()
        at += -(-size // _BLOCK) * _BLOCK
        if data + size > end:
            _refuse(where, f"is cut short: an entry goes on to byte {data + size} of {end}")
    if at < end:
        _refuse(where, "is cut short, or no tar archive")
    return Table(members, frozenset(repeated))


def follow(table: Table, name: str, where: str) -> Member | None:
    """Return the member of a name, through links within the archive; None if there is none.

    Raises:
        errors.ArchiveError: a link leads out of the archive, or round in circles.
    """
    for _ in range(MAX_HOPS):
        member = table.members.get(name)
        if member is None or not member.link:
            return member
        base = "" if member.from_root else name.rpartition("/")[0]
        target = _join(base, member.link)
        if target is None:
            _refuse(where, f"{name} is a link out of the archive, to {member.link[:200]!r}")
        name = target
    raise errors.ArchiveError(f"{where}: {name} is a link that leads in circles")


def _join(base: str, link: str) -> str | None:
    if link.startswith("/"):
        return None
    parts = base.split("/") if base else []
    for part in link.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in {"", "."})


def _name(head: bytes) -> str:
    name = _text(head[:100])
    # Only POSIX's "ustar\0" has a prefix; GNU's "ustar  " keeps times there.
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _check(head: bytes, where: str, at: int) -> None:
    told = _number(head[148:156], where, at)
    if sum(head[:148]) + sum(head[156:]) + 8 * ord(" ") != told:
        _refuse(where, f"the checksum of the header at byte {at} is wrong")


def _number(field: bytes, where: str, at: int) -> int:
    if field[0] & 0x80:  # GNU: binary, for what octal digits cannot hold; 0xff begins a negative
        value = int.from_bytes(field[1:], "big")
        if field[0] == 0x80 and value < 1 << 62:
            return value
        _refuse(where, f"the header at byte {at} holds an absurd size")
    digits = field.strip(b" \0")
    if not all(byte in b"01234567" for byte in digits):
        _refuse(where, f"is no tar archive, or damaged at byte {at}")
    return int(digits, 8) if digits else 0


def _extend(before: _Extended, kind: bytes, data: bytes, where: str) -> _Extended:
    if kind == b"L":
        return before._replace(name=_text(data))
    if kind == b"K":
        return before._replace(link=_text(data))
    at = 0
    while at < len(data):
        length, _, rest = data[at : at + 32].partition(b" ")
        if not length.isdigit() or len(rest) == 0 or not at < at + int(length) <= len(data):
            _refuse(where, "an extended header is damaged")
        record = data[at + len(length) + 1 : at + int(length)]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            _refuse(where, "an extended header is damaged")
        if key == b"path":
            before = before._replace(name=value.decode(errors="surrogateescape"))
        elif key == b"linkpath":
            before = before._replace(link=value.decode(errors="surrogateescape"))
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                _refuse(where, "an extended header holds an absurd size")
            before = before._replace(size=int(value))
        at += int(length)
    return before


def _refuse(where: str, why: str) -> NoReturn:
    raise errors.ArchiveError(f"{where}: {why}")
