"""OCI hooks that the administrator has put on this node: ``hooks.d`` files, schema 1.0.0.

A file says what runs (``hook``), at which moments (``stages``) and for which containers (``when``).

Rules:
- Files come from directories that the site's settings name, in the order of their names; a file of
  a later directory replaces one of the same name.
- Everything is checked when it is read: unknown fields, stages and words are errors, and so is what
  others than root could change (``host.owned``).
- Whether a hook applies to a launch is decided by ``plan.hooks``.

Source: containers/common, oci-hooks(5); runtime-spec 1.1, config.md "POSIX-platform Hooks".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fairlead import errors
from fairlead.host import owned, strict

STAGES = (
    *("precreate", "prestart", "createRuntime", "createContainer", "startContainer"),
    *("poststart", "poststop"),
)
TIMEOUT_S = 30
MAX_TIMEOUT_S = 3600


class Hook(NamedTuple):
    """One program at one moment.

    Attributes:
        stage: of the runtime specification.
        path: absolute; of the host, or for ``startContainer`` of the container.
        args: the program's words, its name first; env: its whole environment.
        timeout_s: after which it is killed.
        origin: the file that names it.
    """

    stage: str
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout_s: int
    origin: str


class When(NamedTuple):
    """Conditions; all that are given must hold, None and () are not given.

    ``annotations`` are pairs of patterns; ``commands`` are patterns, of which one must match.
    """

    always: bool | None = None
    bind_mounts: bool | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()


class Rule(NamedTuple):
    """One ``hooks.d`` file."""

    hooks: tuple[Hook, ...]  # the same program, once for each stage
    when: When


def read(directories: tuple[str, ...], root: owned.Root = owned.HOST) -> tuple[Rule, ...]:
    """Read the hooks of this node, in the order in which they run.

    Raises:
        errors.HookError: a file is malformed, or others than root could change something.
    """
    files: dict[str, str] = {}
    for directory in directories:
        for path in owned.names(directory, (".json",), errors.HookError, root):
            files[path.rpartition("/")[2]] = path
    in_order = sorted(files.items(), key=lambda item: (item[0].lower(), item[0]))
    return tuple(parse(owned.read(path, errors.HookError, root), path) for _, path in in_order)


def parse(data: bytes, origin: str) -> Rule:
    """Return what a file says.

    Raises:
        errors.HookError: it does not follow the schema.
    """
    try:
        table = strict.record(strict.json(data), _FILE, ("version", "hook", "when", "stages"))
        when = _when(table["when"])
    except strict.WrongError as wrong:
        raise errors.HookError(f"{origin}: {wrong}") from wrong
    made = table["hook"]
    return Rule(tuple(hook(stage, made, origin) for stage in dict.fromkeys(table["stages"])), when)


def hook(stage: str, table: dict[str, Any], origin: str) -> Hook:
    """Return a hook from its checked fields."""
    path = table["path"]
    return Hook(
        stage,
        path,
        table.get("args") or (path,),
        table.get("env", ()),
        table.get("timeout", TIMEOUT_S),
        origin,
    )


def _version(value: object, where: str) -> str:
    if value != "1.0.0":
        raise strict.WrongError(f"{where}: {value!r} is not 1.0.0")
    return "1.0.0"


def stage(value: object, where: str) -> str:
    """Check the name of a stage."""
    if value not in STAGES:
        raise strict.WrongError(f"{where}: {value!r} is not one of {', '.join(STAGES)}")
    return str(value)


def timeout(value: object, where: str) -> int:
    """Check a time-out in seconds."""
    seconds = strict.number(value, where)
    if not 1 <= seconds <= MAX_TIMEOUT_S:
        raise strict.WrongError(f"{where}: {seconds} is not between 1 and {MAX_TIMEOUT_S} seconds")
    return seconds


HOOK_FIELDS: strict.Fields = {
    "path": strict.path,
    "args": strict.texts,
    "env": strict.variables,
    "timeout": timeout,
}


def _hook(value: object, where: str) -> dict[str, Any]:
    return strict.record(value, HOOK_FIELDS, ("path",), where)


def _pattern(value: object, where: str) -> str:
    import re

    text = strict.text(value, where)
    try:
        re.compile(text)
    except re.error as error:
        raise strict.WrongError(f"{where}: {text!r} is no pattern: {error}") from error
    return text


def _annotations(value: object, where: str) -> tuple[tuple[str, str], ...]:
    table = strict.mapping(value, where)
    return tuple(
        (_pattern(name, where), _pattern(item, f"{where}.{name}")) for name, item in table.items()
    )


def _patterns(value: object, where: str) -> tuple[str, ...]:
    return strict.items(value, where, _pattern)


def _stages(value: object, where: str) -> tuple[str, ...]:
    found = strict.items(value, where, stage)
    if not found:
        raise strict.WrongError(f"{where}: names no stage")
    return found


def _when(table: dict[str, Any]) -> When:
    if not table:
        raise strict.WrongError("when: names no condition")
    return When(
        table.get("always"),
        table.get("hasBindMounts"),
        table.get("annotations", ()),
        table.get("commands", ()),
    )


_WHEN: strict.Fields = {
    "always": strict.truth,
    "hasBindMounts": strict.truth,
    "annotations": _annotations,
    "commands": _patterns,
}
_FILE: strict.Fields = {
    "version": _version,
    "hook": _hook,
    "when": lambda value, where: strict.record(value, _WHEN, (), where),
    "stages": _stages,
}
