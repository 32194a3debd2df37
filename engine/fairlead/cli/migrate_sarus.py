"""A sarus.json as settings of fairlead.toml; what has no setting is said. Pure.

Source: Sarus 1.7, "Configuration reference".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

from fairlead import errors
from fairlead.cli import peers


class Converted(NamedTuple):
    """The text of a fairlead.toml, and a line for each thing that has no place there."""

    settings: str
    remarks: tuple[str, ...]


class _Reading(NamedTuple):
    path: str
    text: str
    lines: list[str]
    remarks: list[str]

    def where(self, key: str) -> str:
        """Return ``FILE:LINE`` of the first place where a key stands."""
        found = re.search(rf'"{re.escape(key)}"\s*:', self.text)
        line = self.text.count("\n", 0, found.start()) + 1 if found else 1
        return f"{self.path}:{line}"

    def remark(self, key: str, why: str) -> None:
        """Note what has no place."""
        self.remarks.append(f"{self.where(key)}: {key}: {why}")

    def set(self, key: str, value: object, origin: str) -> None:
        """Write one setting."""
        text = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
        shown = text.replace("\x7f", "\\u007f")  # as TOML wants it
        self.lines.extend((f"# {self.where(origin)}: {origin}", f"{key} = {shown}", ""))


def convert(path: str, text: str) -> Converted:
    """Return what a sarus.json becomes.

    Raises:
        errors.UsageError: it is no JSON object.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.UsageError(f"{path}: {error}", hint="name a sarus.json") from error
    if not isinstance(table, dict):
        raise errors.UsageError(f"{path}: is no JSON object", hint="name a sarus.json")
    reading = _Reading(path, text, [], [])
    for key, value in table.items():
        known = peers.row(peers.SARUS, key)
        try:
            if key in _CONVERTERS:
                _CONVERTERS[key](reading, key, value)
            elif known is None:
                reading.remark(key, f"not known of Sarus {peers.SARUS.version}")
            elif known.here != peers.NEEDLESS:
                reading.remark(key, _why(known))
        except (TypeError, KeyError, AttributeError, ValueError):
            reading.remark(key, "is not of the form that Sarus documents")
    return Converted("\n".join(reading.lines), tuple(reading.remarks))


def _why(known: peers.Row) -> str:
    why = known.remark.removeprefix("sarus.json").removeprefix(": ") or "nothing corresponds"
    return why if known.here == peers.NONE else f"set {known.here} ({why})"


_Converter = Callable[[_Reading, str, Any], None]


def _site_mounts(reading: _Reading, key: str, value: Any) -> None:
    mounts = []
    for mount in value:
        if mount.get("type") != "bind":
            reading.remark(key, f"type {mount.get('type')!r} is not bind")
            continue
        readonly = ":ro" if "readonly" in mount.get("flags", {}) else ""
        paths = [str(mount[end]).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
                 for end in ("source", "destination")]  # fmt: skip
        mounts.append(":".join(paths) + readonly)
    reading.set("site_mounts", mounts, key)


def _environment(reading: _Reading, key: str, value: Any) -> None:
    lines = []
    for part, sign in (("set", "="), ("prepend", "^="), ("append", "+=")):
        given = value.get(part, {})
        # Older releases: a list of objects with one field each.
        pairs = given.items() if isinstance(given, dict) else [*chain(*(i.items() for i in given))]
        lines += [f"{name}{sign}{text}" for name, text in pairs]
    lines += [f"-{name}" for name in value.get("unset", [])]
    reading.set("site_env", lines, key)


def _policy(reading: _Reading, key: str, value: Any) -> None:
    if value.get("enforce") is True:
        reading.set("signature_policy", str(value["path"]), key)
    else:
        reading.remark(key, f"is a fallback: where there is no policy.json, copy {value['path']}")


def _text(setting: str) -> _Converter:
    def converter(reading: _Reading, key: str, value: Any) -> None:
        if not isinstance(value, str):
            raise TypeError(key)
        reading.set(setting, value, key)

    return converter


def _list(setting: str) -> _Converter:
    def converter(reading: _Reading, key: str, value: Any) -> None:
        values: Iterable[object] = [value] if isinstance(value, str) else value
        reading.set(setting, [str(item) for item in values], key)

    return converter


_CONVERTERS: dict[str, _Converter] = {
    "siteMounts": _site_mounts,
    "environment": _environment,
    "containersPolicy": _policy,
    "hooksDir": _list("hooks_dirs"),
    "insecureRegistries": _list("insecure_registries"),
    "defaultMPIType": _text("mpi_profile"),
}
