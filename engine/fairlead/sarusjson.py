"""A site's ``sarus.json`` as settings: read at every launch (``sarus_json``), or once by migrate.

Rules:
- What has a setting of ours becomes its value; what has none is said by ``fairlead migrate`` and
  ``fairlead config --check``, and stops nothing.
- A field that is not of the form that Sarus documents is an error, or a remark of migrate's.
- The file, like Sarus' own check has it, belongs to root, or to whom the file belongs that names
  it, and nobody else may write to it.

Source: Sarus 1.7, "Configuration file reference".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from fairlead import errors, jsontext
from fairlead.keys import Value


class Found(NamedTuple):
    """What one field becomes: a setting with its value, or a remark why it is none."""

    field: str
    setting: str
    value: Value = ""
    remark: str = ""


def read(path: str, owner: int) -> dict[str, Any]:
    """Return the fields of a site's file.

    Args:
        path: of the file.
        owner: whose it may be, beside root's.

    Raises:
        errors.ConfigError: it cannot be read, is malformed, or others could change it.
    """
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}") from error
    if info.st_uid not in {0, owner} or stat.S_IMODE(info.st_mode) & 0o022:
        raise errors.ConfigError(
            f"{path}: others than root may change it "
            f"(uid {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o})",
            hint="chown root and chmod go-w it",
        )
    try:
        return parse(text)
    except ValueError as error:
        raise errors.ConfigError(f"{path}: {error}") from error


def settings(path: str, owner: int) -> tuple[Found, ...]:
    """Return what the fields of a site's file become.

    Raises:
        errors.ConfigError: as ``read``; or one is not of its form.
    """
    table = read(path, owner)
    try:
        return tuple(found for field, value in table.items() for found in convert(field, value))
    except ValueError as error:
        raise errors.ConfigError(f"{path}: {error}") from error


def parse(text: str | bytes) -> dict[str, Any]:
    """Return the fields of a file.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        table = jsontext.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    if not isinstance(table, dict):
        raise ValueError("is no JSON object")
    return table


def convert(field: str, value: Any) -> tuple[Found, ...]:
    """Return what a field becomes; nothing where it has no setting.

    Raises:
        ValueError: it is not of the form that Sarus documents.
    """
    if field not in CONVERTERS:
        return ()
    try:
        return tuple(CONVERTERS[field](field, value))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{field}: is not of the form that Sarus documents") from error


_Converter = Callable[[str, Any], Iterator[Found]]


def _site_mounts(field: str, value: Any) -> Iterator[Found]:
    mounts = []
    for mount in value:
        if mount.get("type") != "bind":
            yield Found(field, "", remark=f"type {mount.get('type')!r} is not bind")
            continue
        readonly = ":ro" if "readonly" in mount.get("flags", {}) else ""
        paths = [str(mount[end]).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
                 for end in ("source", "destination")]  # fmt: skip
        mounts.append(":".join(paths) + readonly)
    yield Found(field, "site_mounts", tuple(mounts))


def _environment(field: str, value: Any) -> Iterator[Found]:
    lines = []
    for part, sign in (("set", "="), ("prepend", "^="), ("append", "+=")):
        given = value.get(part, {})
        # Older releases: a list of objects with one field each.
        pairs = given.items() if isinstance(given, dict) else [*chain(*(i.items() for i in given))]
        lines += [f"{name}{sign}{text}" for name, text in pairs]
    lines += [f"-{name}" for name in value.get("unset", [])]
    yield Found(field, "site_env", tuple(lines))


def _user_mounts(field: str, value: Any) -> Iterator[Found]:
    below = _texts(value.get("notAllowedPrefixesOfPath", []))
    exactly = _texts(value.get("notAllowedPaths", []))
    places = (*(f"{path.rstrip('/')}/" for path in below), *(f"/{p.strip('/')}" for p in exactly))
    yield Found(field, "forbidden_targets", places)


def _policy(field: str, value: Any) -> Iterator[Found]:
    if value.get("enforce") is True:
        yield Found(field, "signature_policy", str(value["path"]))
    else:
        where = f"where there is no policy.json, copy {value['path']}"
        yield Found(field, "", remark=f"is a fallback: {where}")


def _text(setting: str) -> _Converter:
    def converter(field: str, value: Any) -> Iterator[Found]:
        if not isinstance(value, str):
            raise TypeError(field)
        yield Found(field, setting, value)

    return converter


def _list(setting: str) -> _Converter:
    def converter(field: str, value: Any) -> Iterator[Found]:
        yield Found(field, setting, _texts([value] if isinstance(value, str) else value))

    return converter


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(item) for item in values)


CONVERTERS: dict[str, _Converter] = {
    "siteMounts": _site_mounts,
    "environment": _environment,
    "userMounts": _user_mounts,
    "containersPolicy": _policy,
    "hooksDir": _list("hooks_dirs"),
    "insecureRegistries": _list("insecure_registries"),
    "defaultMPIType": _text("mpi_profile"),
}
