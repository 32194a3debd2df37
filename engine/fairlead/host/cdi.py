"""Container Device Interface: what the administrator's specifications say of a device.

A specification (JSON or YAML, in /etc/cdi and /var/run/cdi) names devices of one kind,
``vendor.com/class``, and for each what a container needs: nodes, mounts, variables, hooks. A user
asks for ``vendor.com/class=name``, or ``=all`` for every device of a kind.

Rules:
- Specifications are read strictly: unknown fields, versions and forms are errors, and so is what
  others than root could change (``host.owned``).
- A device of a later directory replaces one of an earlier; two of one directory with the same name
  are a conflict, and neither is used.
- A faulty specification stops those only who ask for what it may have: whoever finds no device is
  told of it.

Source: CDI specification 1.1.0 (container-device-interface, SPEC.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from fairlead import errors
from fairlead.host import hooks, owned, strict

VERSIONS = ("0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "1.0", "1.1")
NODE_TYPES = ("c", "b", "u", "p")
ALL = "all"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")


class Node(NamedTuple):
    """A device node: where in the container, where on the host, and as what; "" and -1: unsaid."""

    path: str
    host_path: str
    type: str = ""
    major: int = -1
    minor: int = -1
    permissions: str = ""


class Mount(NamedTuple):
    """A mount, as in the runtime specification."""

    source: str
    destination: str
    type: str
    options: tuple[str, ...]


class Edits(NamedTuple):
    """What a container needs for a device; ``refused`` names what nobody without privilege has."""

    env: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[hooks.Hook, ...] = ()
    gids: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()


class Spec(NamedTuple):
    """One specification; ``rank`` is its directory's."""

    path: str
    rank: int
    kind: str
    edits: Edits
    devices: tuple[tuple[str, Edits], ...]


class Registry(NamedTuple):
    """The node's specifications, and of those that cannot be used why."""

    specs: tuple[Spec, ...]
    faults: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


class Device(NamedTuple):
    """A device that was asked for, with what it needs, its kind's part first."""

    name: str
    origin: str
    edits: tuple[Edits, ...]


def read(directories: tuple[str, ...], root: owned.Root = owned.HOST) -> Registry:
    """Read the specifications of this node."""
    specs, faults = [], []
    for rank, directory in enumerate(directories):
        try:
            paths = owned.names(directory, (".json", ".yaml"), errors.DeviceError, root)
        except errors.DeviceError as error:
            faults.append(error.message)
            continue
        for path in paths:
            try:
                specs.append(parse(owned.read(path, errors.DeviceError, root), path, rank))
            except errors.DeviceError as error:
                faults.append(error.message)
    return Registry(tuple(specs), tuple(faults), directories)


def is_name(text: str) -> bool:
    """Tell whether a text has the form ``vendor.com/class=name``."""
    kind, _, name = text.partition("=")
    return _is_kind(kind) and _is_device(name)


def find(registry: Registry, wanted: Iterable[str]) -> tuple[Device, ...]:
    """Return the devices that were asked for; a specification's own part comes once.

    Raises:
        errors.DeviceError: one is unknown, or named by two specifications.
    """
    found: list[Device] = []
    begun: set[str] = set()
    for text in dict.fromkeys(wanted):
        kind, _, name = text.partition("=")
        names = _names(registry, kind)
        for each in names if name == ALL and ALL not in names and names else (name,):
            spec, edits = _find(registry, kind, each)
            parts = (edits,) if spec.path in begun else (spec.edits, edits)
            begun.add(spec.path)
            found.append(Device(f"{kind}={each}", spec.path, parts))
    return tuple(found)


def kinds(registry: Registry) -> frozenset[str]:
    """Return the kinds of devices that there are."""
    return frozenset(spec.kind for spec in registry.specs)


def _names(registry: Registry, kind: str) -> tuple[str, ...]:
    found = (name for spec in registry.specs if spec.kind == kind for name, _ in spec.devices)
    return tuple(dict.fromkeys(found))


def _find(registry: Registry, kind: str, name: str) -> tuple[Spec, Edits]:
    having = [
        (spec, edits)
        for spec in registry.specs
        if spec.kind == kind
        for known, edits in spec.devices
        if known == name
    ]
    if not having:
        _unknown(registry, kind, name)
    highest = max(spec.rank for spec, _ in having)
    having = [(spec, edits) for spec, edits in having if spec.rank == highest]
    if len(having) > 1:
        raise errors.DeviceError(
            f"{kind}={name}: {having[0][0].path} and {having[1][0].path} both have it",
            hint="ask the administrator to remove one",
        )
    return having[0]


def _unknown(registry: Registry, kind: str, name: str) -> NoReturn:
    import difflib

    known = [f"{spec.kind}={each}" for spec in registry.specs for each, _ in spec.devices]
    near = difflib.get_close_matches(f"{kind}={name}", known, 3)
    same = [each for each in known if each.startswith(f"{kind}=")]
    shown = sorted(dict.fromkeys(near or same or known))[:8]
    where = ", ".join(registry.directories)
    fault = f"; not used: {registry.faults[0]}" if registry.faults else ""
    raise errors.DeviceError(
        f"{kind}={name}: no CDI specification in {where} has it{fault}",
        hint=f"there are {', '.join(shown)}" if shown else "this node has no CDI devices",
    )


# -- one specification -----------------------------------------------------------------------------


def parse(data: bytes, path: str, rank: int = 0) -> Spec:
    """Return what a specification says.

    Raises:
        errors.DeviceError: it does not follow the schema of its version.
    """
    try:
        value = strict.json(data) if path.endswith(".json") else _yaml(data)
        table = strict.record(value, _SPEC, ("cdiVersion", "kind", "devices"))
        _check_version(table)
    except strict.WrongError as wrong:
        raise errors.DeviceError(f"{path}: {wrong}", hint="correct the CDI specification") from None
    edits = table.get("containerEdits", {})
    devices = tuple(
        (each["name"], _edits(each["containerEdits"], path)) for each in table["devices"]
    )
    return Spec(path, rank, table["kind"], _edits(edits, path), devices)


def _yaml(data: bytes) -> object:
    """Return the value of a YAML text in which no mapping names a key twice."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(loader):  # type: ignore[misc, valid-type] # one of two classes, known at run time
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            pairs = [
                (self.construct_object(key, deep=True), self.construct_object(item, deep=True))
                for key, item in node.value
            ]
            return strict.unique(pairs)

    try:
        return yaml.load(data, Loader)  # noqa: S506 - below SafeLoader
    except strict.WrongError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise strict.WrongError(f"is no YAML: {' '.join(str(error).split())}") from error


def _version(value: object, where: str) -> str:
    text = strict.text(value, where)
    parts = text.removeprefix("v").split(".")
    if len(parts) != 3 or not parts[2].isdecimal() or ".".join(parts[:2]) not in VERSIONS:
        raise strict.WrongError(
            f"{where}: {text!r} is not one of {', '.join(VERSIONS)}, each with .N"
        )
    return ".".join(parts[:2])


def _kind(value: object, where: str) -> str:
    text = strict.text(value, where)
    if not _is_kind(text):
        raise strict.WrongError(f"{where}: {text!r} is not vendor.com/class")
    return text


def _is_kind(text: str) -> bool:
    vendor, slash, device = text.partition("/")
    more = frozenset("_-.")
    return bool(slash) and all(
        part and part[0] in _LETTERS and part[-1] in _LETTERS | _DIGITS
        and not set(part) - _LETTERS - _DIGITS - more
        for part in (vendor, device)
    )  # fmt: skip


def _is_device(text: str) -> bool:
    ends = _LETTERS | _DIGITS
    return bool(text) and {text[0], text[-1]} <= ends and not set(text) - ends - frozenset("_-.:")


def _device_name(value: object, where: str) -> str:
    text = strict.text(value, where)
    if not _is_device(text):
        raise strict.WrongError(f"{where}: {text!r} is no device name")
    return text


def _node_type(value: object, where: str) -> str:
    if value not in NODE_TYPES:
        raise strict.WrongError(f"{where}: {value!r} is not one of {', '.join(NODE_TYPES)}")
    return str(value)


def permissions(value: object, where: str) -> str:
    """Check the rights to a device node: some of r, w and m."""
    text = strict.text(value, where)
    if not text or set(text) - set("rwm") or len(set(text)) != len(text):
        raise strict.WrongError(f"{where}: {text!r} is not of the letters r, w and m")
    return text


def _each(fields: strict.Fields, *required: str) -> Any:
    """Return a reader of a list of tables."""

    def read(value: object, where: str) -> Any:
        return strict.record(value, fields, required, where)

    return lambda value, where: strict.items(value, where, read)


def _anything(value: object, where: str) -> object:
    return value


def _gids(value: object, where: str) -> tuple[int, ...]:
    return strict.items(value, where, strict.number)


def _annotations(value: object, where: str) -> None:
    for name, item in strict.mapping(value, where).items():
        strict.text(item, f"{where}.{name}")


_EDITS: strict.Fields = {
    "env": strict.variables,
    "deviceNodes": _each(
        {
            "path": strict.path,
            "hostPath": strict.path,
            "type": _node_type,
            "major": strict.number,
            "minor": strict.number,
            "fileMode": strict.number,
            "permissions": permissions,
            "uid": strict.number,
            "gid": strict.number,
        },
        "path",
    ),
    "mounts": _each(
        {
            "hostPath": strict.path,
            "containerPath": strict.path,
            "type": strict.text,
            "options": strict.texts,
        },
        "hostPath",
        "containerPath",
    ),
    "hooks": _each({**hooks.HOOK_FIELDS, "hookName": hooks.stage}, "hookName", "path"),
    "additionalGids": _gids,
    "intelRdt": _anything,
    "netDevices": _anything,
}


def _read_edits(value: object, where: str) -> dict[str, Any]:
    return strict.record(value, _EDITS, (), where)


def _devices(value: object, where: str) -> tuple[dict[str, Any], ...]:
    fields = {"name": _device_name, "annotations": _annotations, "containerEdits": _read_edits}
    found: tuple[dict[str, Any], ...] = _each(fields, "name", "containerEdits")(value, where)
    if not found:
        raise strict.WrongError(f"{where}: names no device")
    names = [each["name"] for each in found]
    for name in names:
        if names.count(name) > 1:
            raise strict.WrongError(f"{where}: names {name!r} twice")
    return found


_SPEC: strict.Fields = {
    "cdiVersion": _version,
    "kind": _kind,
    "annotations": _annotations,
    "devices": _devices,
    "containerEdits": _read_edits,
}

# Fields that a version does not have yet. Source: SPEC.md, "Released versions".
_SINCE = {
    "type of a mount": "0.4",
    "hostPath of a deviceNode": "0.5",
    "annotations": "0.6",
    "intelRdt": "0.7",
    "additionalGids": "0.7",
    "netDevices": "1.1",
}


def _check_version(table: dict[str, Any]) -> None:
    """Raise where a specification holds what its version has no word for."""
    version = VERSIONS.index(table["cdiVersion"])
    used = {"annotations"} & set(table)
    edits = [table.get("containerEdits", {})]
    for device in table["devices"]:
        edits.append(device["containerEdits"])
        used |= {"annotations"} & set(device)
    for each in edits:
        used |= set(each) & set(_SINCE)
        if any("type" in mount for mount in each.get("mounts", ())):
            used.add("type of a mount")
        if any("hostPath" in node for node in each.get("deviceNodes", ())):
            used.add("hostPath of a deviceNode")
    for name in sorted(used):
        if VERSIONS.index(_SINCE[name]) > version:
            raise strict.WrongError(f"{name}: needs cdiVersion {_SINCE[name]}.0 or later")


def _edits(table: dict[str, Any], origin: str) -> Edits:
    return Edits(
        env=table.get("env", ()),
        nodes=tuple(_node(each) for each in table.get("deviceNodes", ())),
        mounts=tuple(
            Mount(
                each["hostPath"],
                each["containerPath"],
                each.get("type", ""),
                each.get("options", ()),
            )
            for each in table.get("mounts", ())
        ),
        hooks=tuple(hooks.hook(each["hookName"], each, origin) for each in table.get("hooks", ())),
        gids=table.get("additionalGids", ()),
        refused=tuple(name for name in ("intelRdt", "netDevices") if table.get(name)),
    )


def _node(table: dict[str, Any]) -> Node:
    return Node(
        table["path"],
        table.get("hostPath") or table["path"],
        table.get("type", ""),
        table.get("major", -1),
        table.get("minor", -1),
        table.get("permissions", ""),
    )
