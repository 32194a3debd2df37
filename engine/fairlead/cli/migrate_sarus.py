"""A sarus.json as the text of a fairlead.toml; what has no setting is said. Pure.

What its fields mean is ``fairlead.sarusjson``'s to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from fairlead import errors, sarusjson
from fairlead.cli import peers


class Converted(NamedTuple):
    """The text of a fairlead.toml, and a line for each thing that has no place there."""

    settings: str
    remarks: tuple[str, ...]


def convert(path: str, text: str) -> Converted:
    """Return what a sarus.json becomes.

    Raises:
        errors.UsageError: it is no JSON object.
    """
    try:
        table = sarusjson.parse(text)
    except ValueError as error:
        raise errors.UsageError(f"{path}: {error}", hint="name a sarus.json") from error
    lines: list[str] = []
    remarks: list[str] = []
    for field, value in table.items():
        where = f"{path}:{_line(text, field)}: {field}"
        for found in _of_field(field, value):
            if found.remark:
                remarks.append(f"{where}: {found.remark}")
            else:
                lines.extend((f"# {where}", f"{found.setting} = {_toml(found.value)}", ""))
    return Converted("\n".join(lines), tuple(remarks))


def without_place(table: dict[str, Any]) -> Iterator[sarusjson.Found]:
    """Yield a remark for each field of a file that has no setting."""
    for field in table:
        if field in sarusjson.CONVERTERS:
            continue
        known = peers.row(peers.SARUS, field)
        if known is None:
            why = f"not known of Sarus {peers.SARUS.version}"
            yield sarusjson.Found(field, "", remark=why)
        elif known.here != peers.NEEDLESS:
            yield sarusjson.Found(field, "", remark=_why(known))


def _of_field(field: str, value: Any) -> tuple[sarusjson.Found, ...]:
    try:
        return (*sarusjson.convert(field, value), *without_place({field: value}))
    except ValueError as error:
        return (sarusjson.Found(field, "", remark=str(error).removeprefix(f"{field}: ")),)


def _line(text: str, field: str) -> int:
    """Return the line on which a field first stands."""
    found = re.search(rf'"{re.escape(field)}"\s*:', text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _toml(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return text.replace("\x7f", "\\u007f")  # as TOML wants it


def _why(known: peers.Row) -> str:
    why = known.remark.removeprefix("sarus.json").removeprefix(": ") or "nothing corresponds"
    return why if known.here == peers.NONE else f"set {known.here} ({why})"
