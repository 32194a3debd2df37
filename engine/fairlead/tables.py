"""A file of settings, read as a table.

The usual file, plain ``key = value`` lines, is read without a TOML parser: importing that would
cost every launch 3 ms.
"""

from __future__ import annotations

from collections.abc import Container

from fairlead import errors, jsontext


def read(path: str, known: Container[str]) -> dict[str, object]:
    """Return the table in a file, empty if there is none; keys that are not known too.

    Raises:
        errors.ConfigError: it cannot be read, or is no TOML.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - the with statement follows, outside this try
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        if path.startswith("/etc/"):
            raise errors.ConfigError(f"{path}: {error.strerror}") from error
        return {}  # a home directory that this process may not enter is as good as none
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}") from error
    with file:
        text = file.read()
    table = _plain(text, known)
    if table is None:
        import tomllib

        try:
            table = tomllib.loads(text.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f"{path}: {error}") from error
    return table


def _plain(text: bytes, known: Container[str]) -> dict[str, object] | None:
    """Read a file of plain ``key = value`` lines; None for whatever needs a TOML parser.

    Values are one-line strings without escapes, lists of such, ``true`` and ``false``, which TOML
    and JSON write alike.
    """
    table: dict[str, object] = {}
    for line in text.decode(errors="replace").split("\n"):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in words.partition("="))
        plain = words.isprintable() and "\\" not in words and "\ufffd" not in words
        if not equals or not plain or key not in known or key in table:
            return None
        if value[:1] not in {'"', "["} and value not in {"true", "false"}:
            return None
        try:
            table[key] = jsontext.loads(value)
        except ValueError:
            return None
    return table
