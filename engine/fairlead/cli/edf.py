"""Check and show environment files (EDF), which describe a container in TOML.

A NAME is looked for in the directories of EDF_PATH (default: ~/.edf); a PATH holds a slash.

Nothing is fetched and nothing is started: whether the image exists, fairlead plan tells.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial

from fairlead import config as settings
from fairlead import errors, log
from fairlead.cli import names
from fairlead.image import edf, reference
from fairlead.plan import definition as definitions
from fairlead.plan import devices
from fairlead.plan import request as launch

EPILOG = """\
examples:
  fairlead edf check ./pytorch.toml
  fairlead edf render pytorch
  fairlead edf render --json pytorch
"""
_IMAGE_GIVEN = frozenset({definitions.IMAGE})
FOUND = 1  # the exit status of a check that found something


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("check", "find every mistake in a file and those that it inherits from; exit status 1"),
        ("render", "show the file with all that it inherits, and where each value stands"),
    ):
        sub = actions.add_parser(action, help=text, description=text)
        if action == "render":
            sub.add_argument("--json", action="store_true", help="as JSON")
        sub.add_argument("name", metavar="NAME|PATH", help="environment file")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Do one action."""
    found, problems = edf.read(arguments.name, os.environ, names.directory())
    if not found.files:
        raise problems[0]
    if arguments.action == "check":
        return _check(found, problems, config)
    if problems:
        raise problems[0]
    if arguments.json:
        print(json.dumps(document(found), indent=2))
    else:
        print(text(found), end="")
    return 0


def _check(
    found: edf.Definition, problems: tuple[errors.EdfError, ...], config: settings.Config
) -> int:
    wrong = [*problems, *mistakes(found, config)]
    for error in wrong:
        log.error(error)
    for line in (*definitions.notes(found), *_undefined(found)):
        log.note(line)
    return FOUND if wrong else 0


def mistakes(found: edf.Definition, config: settings.Config) -> Iterator[errors.EdfError]:
    """Yield what is wrong with values that the file's own grammar allows."""
    cwd = names.directory()
    empty = launch.Request("", (), {}, cwd)
    probes: list[tuple[str, Callable[[], object]]] = [
        (mount.origin, partial(_check_mount, mount, empty)) for mount in found.mounts
    ]
    if found.workdir is not None and found.workdir.value:
        asked = definitions.under(empty, edf.Definition("", workdir=found.workdir), _IMAGE_GIVEN)
        probes.append((found.workdir.origin, partial(launch.check, asked)))
    probes += [
        (device.origin, partial(devices.parse, device.value))
        for device in found.devices
        if not devices.is_cdi(device.value)
    ]
    probes += [("", partial(definitions.flag, found, name)) for name in definitions.FLAGS]
    if found.image is None:
        yield definitions.no_image(found)
    elif found.image.value:
        parse = partial(reference.parse, default_registry=config.default_registry, cwd=cwd or "/")
        probes.append((f"{found.image.origin}: image", partial(parse, found.image.value)))
    for origin, probe in probes:
        try:
            probe()
        except errors.EdfError as error:
            yield error
        except errors.Error as error:
            where = "" if error.message.startswith(origin) else f"{origin}: "
            yield errors.EdfError(f"{where}{error.message}", hint=error.hint)


def _check_mount(mount: edf.Text, empty: launch.Request) -> None:
    launch.check(empty._replace(volumes=(definitions.volume(mount, empty.cwd),)))


def _undefined(found: edf.Definition) -> Iterator[str]:
    for entry in found.env:
        missing: list[str] = []

        def lookup(name: str, missing: list[str] = missing) -> str | None:
            if name not in os.environ:
                missing.append(name)
            return os.environ.get(name)

        try:
            edf.expand(entry.value, lookup, entry.origin)
        except errors.EdfError:
            where = f"{entry.origin}: env.{entry.name}"
            yield f"{where}: {missing[-1]} must come from the image or the job"


def document(found: edf.Definition) -> dict[str, object]:
    """Return a definition for JSON; every value with its origin."""

    def table(entries: tuple[edf.Entry, ...]) -> dict[str, object]:
        return {e.name: {"value": e.value, "origin": e.origin} for e in entries}

    scalars = ("image", "workdir", "entrypoint", "writable")
    given = {key: getattr(found, key) for key in scalars if getattr(found, key) is not None}
    return {
        "files": list(found.files),
        **{key: value._asdict() for key, value in given.items()},
        "mounts": [mount._asdict() for mount in found.mounts],
        "devices": [device._asdict() for device in found.devices],
        "env": table(found.env),
        "annotations": table(found.annotations),
    }


def text(found: edf.Definition) -> str:
    """Return a definition as an environment file that means the same and inherits nothing."""
    lines = [f"# {file}" for file in found.files]
    for key in ("image", "workdir", "entrypoint", "writable"):
        value = getattr(found, key)
        if value is not None:
            lines.append(f"{key} = {_literal(value.value)}  # {value.origin}")
    for key in ("mounts", "devices"):
        values: tuple[edf.Text, ...] = getattr(found, key)
        if values:
            inner = [f"    {_literal(item.value)},  # {item.origin}" for item in values]
            lines += [f"{key} = [", *inner, "]"]
    if found.env:
        lines += ["", "[env]"]
        lines += [f"{_key(e.name)} = {_quoted(e.value)}  # {e.origin}" for e in found.env]
    if found.annotations:
        lines += ["", "[annotations]"]
        inner = [f"{_key(e.name)} = {_literal(e.value)}" for e in found.annotations]
        origins = (entry.origin for entry in found.annotations)
        lines += [f"{line}  # {origin}" for line, origin in zip(inner, origins, strict=True)]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    plain = name.replace("_", "").replace("-", "").replace(".", "")
    bare = plain.isascii() and plain.isalnum() and not {"", "."} & set(name.split("."))
    return name if bare else _quoted(name)


def _literal(value: str | bool) -> str:
    """Return a value whose variables were expanded, so that no dollar of it is one again."""
    return str(value).lower() if isinstance(value, bool) else _quoted(value.replace("$", "$$"))


def _quoted(value: str) -> str:
    shown = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return shown.replace("\x7f", "\\u007f")  # as TOML wants it
