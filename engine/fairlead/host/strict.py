"""Tables of the administrator's (JSON, YAML), read strictly: a field that nobody knows is an error.

``record`` takes a table apart by a table of readers; each reader gets a value and where it stands,
and gives what it means. ``null`` counts as absent, as the formats' own readers have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fairlead import jsontext

MAX_TEXT = 4000

Fields = Mapping[str, Callable[[object, str], Any]]


class WrongError(ValueError):
    """Something does not follow the schema; the text says where."""


def json(data: bytes) -> object:
    """Return the value of a JSON text in which no object names a field twice."""
    try:
        return jsontext.loads(data, unique)
    except WrongError:
        raise
    except (ValueError, RecursionError) as error:
        raise WrongError(f"is no JSON: {error}") from error


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return pairs as a table; none may come twice."""
    table: dict[Any, Any] = {}
    for name, value in pairs:
        if name in table:
            raise WrongError(f"names {name!r} twice")
        table[name] = value
    return table


def record(
    value: object, fields: Fields, required: tuple[str, ...] = (), where: str = ""
) -> dict[str, Any]:
    """Return the fields of a table, each read by its reader."""
    prefix = f"{where}." if where else ""
    table = mapping(value, where)
    for name in table:
        if name not in fields:
            raise WrongError(f"{prefix}{name}: unknown field")
    found = {
        name: fields[name](item, f"{prefix}{name}")
        for name, item in table.items()
        if item is not None
    }
    for name in required:
        if name not in found:
            raise WrongError(f"{prefix}{name}: missing")
    return found


def mapping(value: object, where: str) -> dict[str, object]:
    """Check a table with text names."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise WrongError(f"{where or 'the file'}: is no object")
    return value


def items(value: object, where: str, read: Callable[[object, str], Any]) -> tuple[Any, ...]:
    """Return a list's elements, each read by the reader."""
    if not isinstance(value, list):
        raise WrongError(f"{where}: is no list")
    return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(value))


def text(value: object, where: str) -> str:
    """Check a text of one line."""
    if not isinstance(value, str):
        raise WrongError(f"{where}: {value!r} is no string")
    if len(value) > MAX_TEXT or any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise WrongError(f"{where}: is too long, or holds a control character")
    return value


def texts(value: object, where: str) -> tuple[str, ...]:
    """Check a list of texts."""
    return items(value, where, text)


def path(value: object, where: str) -> str:
    """Check an absolute path without ``..``."""
    found = text(value, where)
    if not found.startswith("/") or ".." in found.split("/"):
        raise WrongError(f"{where}: {found!r} is no absolute path")
    return found


def variables(value: object, where: str) -> tuple[str, ...]:
    """Check a list of ``NAME=VALUE``."""
    found = texts(value, where)
    for item in found:
        if "=" not in item[1:]:
            raise WrongError(f"{where}: {item!r} is not NAME=VALUE")
    return found


def number(value: object, where: str) -> int:
    """Check a number of 32 bits, not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise WrongError(f"{where}: {value!r} is no number from 0 to 4294967295")
    return value


def truth(value: object, where: str) -> bool:
    """Check true or false."""
    if not isinstance(value, bool):
        raise WrongError(f"{where}: {value!r} is neither true nor false")
    return value
