"""The devices of a launch: what was asked for, looked at on this host as the user."""

from __future__ import annotations

import os

from fairlead import config as settings
from fairlead import errors
from fairlead.host import cdi
from fairlead.host import devices as nodes
from fairlead.plan import devices, mounts
from fairlead.plan import edits as plan_edits
from fairlead.plan import request as launch


def edits(request: launch.Request, config: settings.Config) -> plan_edits.Edits:
    """Return what a launch gets for the devices that were asked for.

    Raises:
        errors.UsageError, errors.DeviceError: one is unknown, malformed or not for this user.
    """
    made = plan_edits.NONE
    for text in dict.fromkeys(request.devices):
        if not devices.is_cdi(text):
            made = plan_edits.joined(made, _by_path(text))
    names = tuple(text for text in request.devices if devices.is_cdi(text))
    if names:
        made = plan_edits.joined(made, by_name(cdi.read(config.cdi_dirs), names))
    return made


def _by_path(text: str) -> plan_edits.Edits:
    asked = devices.parse(text)
    try:
        node = nodes.look(asked.host)
    except OSError as error:
        raise errors.DeviceError(f"{asked.host}: {error.strerror}") from error
    mount = devices.mount(node, asked.container, asked.permissions, "asked for by its path")
    return plan_edits.Edits(mounts=(mount,))


def by_name(registry: cdi.Registry, names: tuple[str, ...]) -> plan_edits.Edits:
    """Return what a launch gets for CDI devices."""
    made = plan_edits.NONE
    groups = frozenset((os.getgid(), *os.getgroups()))
    every = {text.partition("=")[0] for text in names if text.endswith(f"={cdi.ALL}")}
    for device in cdi.find(registry, names):
        devices.refuse(device, groups)
        why = devices.reason(device)
        found, left = _nodes(device, why, lenient=device.name.partition("=")[0] in every)
        bound = (devices.cdi_mount(each, why) for part in device.edits for each in part.mounts)
        made = plan_edits.joined(
            made,
            plan_edits.Edits(
                (*found, *bound),
                devices.variables(device),
                tuple(each for part in device.edits for each in part.hooks),
                tuple(f"{device.name}: without {path}, which you may not open" for path in left),
            ),
        )
    return made


def _nodes(
    device: cdi.Device, why: str, *, lenient: bool
) -> tuple[tuple[mounts.Mount, ...], tuple[str, ...]]:
    """Return a CDI device's nodes, and those that are left out: of all, those of other jobs."""
    found, left = [], []
    for wanted in (node for part in device.edits for node in part.nodes):
        try:
            node = nodes.look(wanted.host_path)
        except OSError as error:
            raise errors.DeviceError(f"{wanted.host_path}: {error.strerror} ({why})") from error
        if lenient and node.kind and not devices.may_use(node, wanted.permissions):
            left.append(wanted.host_path)
            continue
        _check(wanted, node, why)
        found.append(devices.mount(node, wanted.path, wanted.permissions, why))
    return tuple(found), tuple(left)


def _check(wanted: cdi.Node, node: nodes.Node, why: str) -> None:
    """Raise where a node is another than its specification says."""
    kind = {"u": "c"}.get(wanted.type, wanted.type)
    if kind == "p":
        raise errors.DeviceError(f"{wanted.host_path}: a FIFO is no device ({why})")
    said = (kind or node.kind, wanted.major, wanted.minor)
    seen = (node.kind, node.major, node.minor)
    if any(a not in (b, -1) for a, b in zip(said, seen, strict=True)):
        raise errors.DeviceError(
            f"{wanted.host_path}: is {_shown(*seen)}, not {_shown(*said)} ({why})",
            hint="ask the administrator to write the CDI specification anew",
        )


def _shown(kind: str, major: int, minor: int) -> str:
    numbers = (str(number) if number >= 0 else "*" for number in (major, minor))
    return f"{kind or 'no device'} {':'.join(numbers)}"
