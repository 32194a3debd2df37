"""Environment definition files (EDF) of CSCS's Container Engine: found, read, checked, inherited.

An EDF is a TOML file that says what a container is made of::

    base_environment = "common"             # or a list: inherited, in this order
    image = "nvcr.io#nvidia/pytorch:24.01"
    mounts = ["${SCRATCH}:/scratch", "./data.sqsh:/data:sqsh"]
    workdir = "/scratch"
    entrypoint = false                      # the default
    writable = true                         # the default
    devices = ["nvidia.com/gpu=all"]
    [env]
    OMP_NUM_THREADS = "8"
    DEBUG = ""                              # unsets it
    [annotations]
    com.hooks.mpi.enabled = "true"

Rules:
- A name without a slash is looked for in the directories of ``EDF_PATH`` (``~/.edf``), with or
  without ``.toml``; anything else is a path. What is relative starts from the working directory.
- A list or table of the inheriting file is appended, anything else of it overrides.
- ``${NAME}`` and ``${NAME:-default}`` are variables of the job, ``$$`` is a dollar. Values of
  ``[env]`` stay templates here: they may also name variables of the image, which is not known yet.
- Hostile: regular files of at most 1 MiB, no control characters outside of ``[env]``, bounded
  depth and number of files.
- Every value knows its ``FILE:LINE``. All mistakes of all files are collected, not only the first.

Source: docs.cscs.ch/software/container-engine/edf and /run.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fairlead import errors
from fairlead.image import files, tomllines

SUFFIX = ".toml"
LIMIT_BYTES = 1 << 20
MAX_LEVELS = 10
MAX_FILES = 64
KEYS = {
    "base_environment": "a string or an array of strings",
    "image": "a string",
    "workdir": "a string",
    "entrypoint": "true or false",
    "writable": "true or false",
    "mounts": "an array of strings",
    "devices": "an array of strings",
    "env": "a table of strings",
    "annotations": "a table of strings",
}
_SCALARS: dict[str, type] = {"image": str, "workdir": str, "entrypoint": bool, "writable": bool}
_TYPES = {
    str: "a string", bool: "a boolean", int: "an integer", float: "a float", list: "an array",
    dict: "a table",
}  # fmt: skip
_TEMPLATE = re.compile(r"\$(\$|\{([^}]*)(\}?))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Text(NamedTuple):
    """A value of a file and its ``FILE:LINE``."""

    value: str
    origin: str


class Flag(NamedTuple):
    """The same for true and false."""

    value: bool
    origin: str


class Entry(NamedTuple):
    """One entry of a table. The value of a variable is a template; empty unsets it."""

    name: str
    value: str
    origin: str


class Definition(NamedTuple):
    """What an EDF and those that it inherits from say together.

    Attributes:
        name: as it was asked for.
        files: every file that was read, the inheriting ones first.
        digest: of all that was read from them; SHA-256, hex.
        image, workdir, entrypoint, writable: None where no file says so; an empty text where what
            it says cannot be expanded.
        mounts, devices: of all files, the inherited ones first.
        env, annotations: one entry per name.
    """

    name: str
    files: tuple[str, ...] = ()
    digest: str = ""
    image: Text | None = None
    workdir: Text | None = None
    entrypoint: Flag | None = None
    writable: Flag | None = None
    mounts: tuple[Text, ...] = ()
    devices: tuple[Text, ...] = ()
    env: tuple[Entry, ...] = ()
    annotations: tuple[Entry, ...] = ()


class UndefinedError(errors.EdfError):
    """A variable that the file names is not there, though it may be elsewhere."""


class _Reading(NamedTuple):
    """One reading of a file and what it inherits: its surroundings, and what it has met so far."""

    environ: Mapping[str, str]
    cwd: str
    look: Callable[[str], object]
    problems: list[errors.EdfError]
    read: list[str]
    content: list[bytes]


class _File(NamedTuple):
    """A file that is being read."""

    path: str
    lines: dict[tomllines.Place, int]
    reading: _Reading

    def origin(self, *place: str | int) -> str:
        """Return ``FILE:LINE`` of a key, or of the closest that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.path}:{self.lines.get(place, 1)}"

    def wrong(self, place: tuple[str | int, ...], message: str, hint: str = "") -> None:
        """Note a mistake."""
        error = errors.EdfError(f"{self.origin(*place)}: {message}", hint=hint)
        self.reading.problems.append(error)


def read(
    name: str, environ: Mapping[str, str], cwd: str, look: Callable[[str], object] = str
) -> tuple[Definition, tuple[errors.EdfError, ...]]:
    """Return what a name or path means, and everything that is wrong with it.

    Args:
        name: what ``--environment`` was given.
        environ: the job's environment: ``EDF_PATH``, ``HOME`` and what the files name.
        cwd: absolute, or empty when it was deleted.
        look: is told each path before it is opened or found missing.
    """
    reading = _Reading(environ, cwd, look, [], [], [])
    found = _inherit(name, (), "", reading) or Definition(name)
    files_read = tuple(dict.fromkeys(reading.read))
    digest = hashlib.sha256(b"\0".join(reading.content)).hexdigest()
    return found._replace(name=name, files=files_read, digest=digest), tuple(reading.problems)


def load(
    name: str, environ: Mapping[str, str], cwd: str, look: Callable[[str], object] = str
) -> Definition:
    """Return what a name or path means.

    Raises:
        errors.EdfError: the first of what is wrong with it.
    """
    definition, problems = read(name, environ, cwd, look)
    if problems:
        raise problems[0]
    return definition


def expand(template: str, lookup: Callable[[str], str | None], origin: str) -> str:
    """Return a template with its variables' values.

    Raises:
        errors.EdfError: a variable is undefined and has no default, or is written wrongly.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        name, separator, default = found[2].partition(":-")
        if not found[3] or not _NAME.fullmatch(name):
            raise errors.EdfError(
                f"{origin}: {found[0]!r} is no variable",
                hint="write ${NAME}, ${NAME:-default}, or $$ for a dollar",
            )
        text = lookup(name)
        if text is None and not separator:
            raise UndefinedError(
                f"{origin}: the variable {name} is not defined",
                hint=f"set it, or write ${{{name}:-default}}",
            )
        return text or default

    return _TEMPLATE.sub(value, template)


# -- finding ---------------------------------------------------------------------------------------


def is_path(name: str) -> bool:
    """Tell whether a name is a path; it is else looked for in ``EDF_PATH``."""
    return "/" in name


def search_path(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the directories of the environment files."""
    text = environ.get("EDF_PATH") or f"{environ.get('HOME') or '/'}/.edf"
    return tuple(folder.rstrip("/") for folder in text.split(":") if folder.startswith("/"))


def _find(name: str, origin: str, reading: _Reading) -> str | None:
    where = f"{origin}: base_environment " if origin else ""
    if not name or not name.isprintable() or len(name) > 4000:
        message = "empty" if not name else "too long, or holds a control character"
        reading.problems.append(
            errors.EdfError(f"{where}{name[:80]!r}: the name is {message}", hint="name a file")
        )
        return None
    if not is_path(name):
        folders = search_path(reading.environ)
    else:
        folders = ("",) if name.startswith("/") else (reading.cwd,) if reading.cwd else ()
    names = (name,) if name.endswith(SUFFIX) else (name + SUFFIX, *([name] * is_path(name)))
    for folder in folders:
        for candidate in names:
            path = candidate if candidate.startswith("/") else f"{folder}/{candidate}"
            path = os.path.normpath(path) if ".." not in path.split("/") else path
            reading.look(path)
            if os.path.lexists(path):
                return path
    reading.problems.append(_not_found(name, where, folders, reading))
    return None


def _not_found(
    name: str, where: str, folders: tuple[str, ...], reading: _Reading
) -> errors.EdfError:
    if is_path(name):
        return errors.EdfError(f"{where}{name}: no such environment file", hint="check the path")
    plain = name.removesuffix(SUFFIX)
    if reading.cwd and os.path.lexists(f"{reading.cwd}/{plain}{SUFFIX}"):
        hint = f"write ./{plain}{SUFFIX} for the file in the working directory"
    else:
        near = difflib.get_close_matches(plain, _names(folders), 1)
        hint = f"did you mean {near[0]}?" if near else "set EDF_PATH, or write the path"
    places = ", ".join(folders) or "EDF_PATH, which holds no absolute path"
    return errors.EdfError(f"{where}{name}: no such environment file in {places}", hint=hint)


def _names(folders: tuple[str, ...]) -> list[str]:
    found = []
    for folder in folders:
        try:
            found += [item.removesuffix(SUFFIX) for item in os.listdir(folder)]
        except OSError:
            continue
    return found


# -- reading ---------------------------------------------------------------------------------------


def _inherit(
    name: str, chain: tuple[str, ...], origin: str, reading: _Reading
) -> Definition | None:
    """Return a file on top of what it inherits; None if there is no reading it."""
    path = _find(name, origin, reading)
    if path is None:
        return None
    message = ""
    if path in chain:
        message = f"inherits from itself: {' -> '.join((*chain[chain.index(path) :], path))}"
    elif len(chain) > MAX_LEVELS:
        message = f"inherits over more than {MAX_LEVELS} levels: {' -> '.join((*chain, path))}"
    elif len(reading.read) >= MAX_FILES:
        message = f"more than {MAX_FILES} environment files are inherited"
    if message:
        reading.problems.append(errors.EdfError(f"{origin}: {message}", hint="shorten the chain"))
        return None
    reading.read.append(path)
    text = _text(path, reading)
    table = None if text is None else _table(path, text, reading)
    if text is None or table is None:
        return None
    file = _File(path, tomllines.lines(text), reading)
    result = Definition(name)
    for number, base in enumerate(_bases(table, file)):
        where = file.origin("base_environment", number)
        inherited = _inherit(base, (*chain, path), where, reading)
        if inherited is not None:
            result = _over(inherited, result)
    return _over(_own(table, file), result)


def _text(path: str, reading: _Reading) -> str | None:
    try:
        fd, info = files.open_file(path)
        try:
            if info.st_size > LIMIT_BYTES:
                raise errors.EdfError(f"{path}: is larger than 1 MiB", hint="name another file")
            data = files.read_at(fd, 0, info.st_size, path)
        finally:
            os.close(fd)
        reading.content.append(data)
        return data.decode()
    except UnicodeDecodeError:
        problem = errors.EdfError(f"{path}: is not UTF-8", hint="write it as TOML")
    except errors.EdfError as error:
        problem = error
    except errors.Error as error:  # of ``files``, which speaks of images
        problem = errors.EdfError(error.message, hint="check its permissions")
    reading.problems.append(problem)
    return None


def _table(path: str, text: str, reading: _Reading) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, at = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", at)
        last = text.count("\n") + 1
        problem = f"{path}:{line[1] if line else last}: {message}"
    except (RecursionError, ValueError):  # ValueError: an integer of more than 4300 digits
        problem = f"{path}: nested too deeply, or holds a number that is too long"
    reading.problems.append(errors.EdfError(problem, hint="write it as TOML"))
    return None


def _bases(table: dict[str, Any], file: _File) -> tuple[str, ...]:
    value = table.get("base_environment", [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        _wrong_type(file, ("base_environment",), value, KEYS["base_environment"])
        return ()
    texts = (
        _expanded(item, ("base_environment", n), file) for n, item in enumerate(values) if item
    )
    return tuple(text.value for text in texts if text is not None)


def _own(table: dict[str, Any], file: _File) -> Definition:
    """Return what one file says, without what it inherits."""
    for key in [key for key in table if key not in KEYS]:
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(KEYS)}"
        file.wrong((key,), f"unknown key {key!r}", hint)
    scalars: dict[str, Any] = {}
    for key, kind in _SCALARS.items():
        if key in table and type(table[key]) is not kind:
            _wrong_type(file, (key,), table[key], KEYS[key])
        elif key in table and kind is bool:
            scalars[key] = Flag(table[key], file.origin(key))
        elif table.get(key):  # an empty string says nothing
            scalars[key] = _expanded(table[key], (key,), file) or Text("", file.origin(key))
    return Definition(
        file.path,
        **scalars,
        mounts=_array(table, "mounts", file),
        devices=_array(table, "devices", file),
        env=_env(table, file),
        annotations=_annotations(table, file),
    )


def _over(upper: Definition, lower: Definition) -> Definition:
    """Return a definition on top of another."""

    def entries(key: str) -> tuple[Entry, ...]:
        both = (*getattr(lower, key), *getattr(upper, key))
        return tuple({entry.name: entry for entry in both}.values())

    return upper._replace(
        image=upper.image or lower.image,
        workdir=upper.workdir or lower.workdir,
        entrypoint=upper.entrypoint or lower.entrypoint,
        writable=upper.writable or lower.writable,
        mounts=(*lower.mounts, *upper.mounts),
        devices=(*lower.devices, *upper.devices),
        env=entries("env"),
        annotations=entries("annotations"),
    )


def _array(table: dict[str, Any], key: str, file: _File) -> tuple[Text, ...]:
    values = table.get(key, [])
    if not isinstance(values, list):
        _wrong_type(file, (key,), values, KEYS[key])
        return ()
    found = []
    for number, value in enumerate(values):
        if not isinstance(value, str):
            _wrong_type(file, (key, number), value, "a string", f"{key}[{number}]")
        elif text := _expanded(value, (key, number), file):
            found.append(text)
    return tuple(found)


def _env(table: dict[str, Any], file: _File) -> tuple[Entry, ...]:
    values = table.get("env", {})
    if not isinstance(values, dict):
        _wrong_type(file, ("env",), values, KEYS["env"])
        return ()
    found = []
    for name, value in values.items():
        place = ("env", name)
        if not name.isprintable() or not name or "=" in name or " " in name:
            file.wrong(place, f"{name!r} is no name of a variable", "write NAME")
        elif not isinstance(value, str):
            hint = "write its value in quotes" if isinstance(value, int | float) else ""
            _wrong_type(file, place, value, "a string", f"env.{name}", hint)
        elif "\0" in value:
            file.wrong(place, f"env.{name} holds a NUL character", "leave it out")
        elif _well_formed(value, file.origin(*place), file):
            found.append(Entry(name, value, file.origin(*place)))
    return tuple(found)


def _well_formed(template: str, origin: str, file: _File) -> bool:
    """Tell whether a template can be expanded once its variables are known."""
    try:
        expand(template, lambda name: name, origin)
    except errors.EdfError as error:
        file.reading.problems.append(error)
        return False
    return True


def _annotations(table: dict[str, Any], file: _File) -> tuple[Entry, ...]:
    """Return the annotations; ``a.b = x`` and nested tables mean the same."""
    values = table.get("annotations", {})
    if not isinstance(values, dict):
        _wrong_type(file, ("annotations",), values, KEYS["annotations"])
        return ()
    found = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), values)]
    while waiting:
        path, value = waiting.pop()
        place = ("annotations", *path)
        name = ".".join(path)
        if isinstance(value, dict):
            waiting += [((*path, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, bool | int):
            found.append(Entry(name, str(value).lower(), file.origin(*place)))
        elif not isinstance(value, str):
            _wrong_type(file, place, value, "a string", f"annotations.{name}")
        elif not name.isprintable() or not name:
            file.wrong(place, f"{name!r} is no name of an annotation", "write a dotted name")
        elif text := _expanded(value, place, file):
            found.append(Entry(name, *text))
    return tuple(found)


def _expanded(template: str, place: tuple[str | int, ...], file: _File) -> Text | None:
    """Return a value with the job's variables in it; None after noting what is wrong with it."""
    origin = file.origin(*place)
    try:
        value = expand(template, file.reading.environ.get, origin)
    except errors.EdfError as error:
        file.reading.problems.append(error)
        return None
    if not all(char >= " " and char != "\x7f" for char in value) or len(value) > 1 << 16:
        key = str(place[0])
        file.wrong(place, f"{key}: {value[:80]!r} is too long, or holds a control character")
        return None
    return Text(value, origin)


def _wrong_type(
    file: _File, place: tuple[str | int, ...], value: object, wanted: str, name: str = "",
    hint: str = "",
) -> None:  # fmt: skip
    shown = _TYPES.get(type(value), "a date or time")
    file.wrong(place, f"{name or place[0]} is {shown}, not {wanted}", hint)
