"""A mount in the long syntax of Sarus, podman and docker. Pure.

::

    type=bind,source=/scratch,destination=/data[,readonly]
    type=tmpfs,destination=/cache[,tmpfs-size=1g][,tmpfs-mode=700]

Rules:
- Every key is known or is an error that names it; one that asks for what every mount is anyway is
  granted, one that asks for more is refused.
- A path cannot hold a comma here; the other syntaxes take such.

Source: Sarus 1.7 "Bind mounts", podman-run(1) ``--mount``.
"""

from __future__ import annotations

import os

from fairlead import errors
from fairlead.plan import request as launch

_NAMES = {
    "src": "source",
    "dst": "destination",
    "target": "destination",
    "ro": "readonly",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}
_KEYS = {
    "bind": ("type", "source", "destination", "readonly", "rw", "bind-propagation"),
    "tmpfs": ("type", "destination", "readonly", "rw", "size", "mode"),
}
_PROPAGATIONS = ("private", "rprivate", "slave", "rslave")
_GRAMMAR = "write type=bind,source=SRC,destination=DST[,readonly]"
_TRUE = ("", "true", "1")


def parse(text: str, cwd: str, origin: str = "--mount") -> launch.Volume:
    """Return the mount that a text asks for; a relative source starts from cwd.

    Raises:
        errors.UsageError: a key is unknown or missing, or has a value that it cannot have.
    """
    given: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        key = _NAMES.get(name, name)
        if key in given:
            raise _wrong(origin, text, f"{key} is given twice", "give it once")
        given[key] = value
    kind = given.get("type", "bind")
    if kind not in _KEYS:
        raise _wrong(origin, text, f"type {kind!r} is neither bind nor tmpfs", _GRAMMAR)
    unknown = [key for key in given if key not in _KEYS[kind]]
    if unknown:
        known = ", ".join(_KEYS[kind])
        raise _wrong(origin, text, f"{unknown[0]!r} is not a key of {kind}", f"there are {known}")
    if not given.get("destination"):
        raise _wrong(origin, text, "has no destination", _GRAMMAR)
    flags = _flags(given, origin, text)
    if kind == "tmpfs":
        return launch.Volume("tmpfs", given["destination"], flags, "tmpfs", origin)
    if not given.get("source"):
        raise _wrong(origin, text, "has no source", _GRAMMAR)
    source = os.path.normpath(os.path.join(cwd or "/", given["source"]))
    return launch.Volume(source, given["destination"], flags, "bind", origin)


def _flags(given: dict[str, str], origin: str, text: str) -> tuple[str, ...]:
    flags = []
    for key in ("readonly", "rw"):
        value = given.get(key, "false")
        if value not in (*_TRUE, "false", "0"):
            raise _wrong(origin, text, f"{key}={value}: neither true nor false", f"write {key}")
        if value in _TRUE:
            flags.append("ro" if key == "readonly" else "rw")
    if len(flags) > 1:
        raise _wrong(origin, text, "is both readonly and rw", "give one")
    propagation = given.get("bind-propagation", "rprivate")
    if propagation not in _PROPAGATIONS:
        why = f"bind-propagation={propagation}: no mount leads from a container to the host"
        raise _wrong(origin, text, why, f"one of {', '.join(_PROPAGATIONS)}")
    for key in ("size", "mode"):
        if key not in given:
            continue
        value = given[key]
        number = value.removesuffix("%") if key == "size" else value
        if key == "size" and number == value:
            number = value.rstrip("kKmMgG")
        if not (number.isascii() and number.isdecimal()) or len(value) > 15:
            raise _wrong(origin, text, f"tmpfs-{key}={value}: is no {key}", "e.g. tmpfs-size=1g")
        flags.append(f"{key}={value}")
    return tuple(flags)


def _wrong(origin: str, text: str, why: str, hint: str) -> errors.UsageError:
    return errors.UsageError(f"{origin} {text}: {why}", hint=hint)
