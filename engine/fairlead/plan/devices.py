"""Devices that were asked for, by path or by CDI name, as mounts and variables of a plan. Pure.

Rules:
- A device node is bound from the host, as whoever has no privilege makes them; its owner and mode
  stay the host's. It must be one that the user may open.
- Rights are not narrowed: without a device cgroup nobody can take from a container what its user
  has. Whoever asks for less than that is refused; ``m`` is granted by no container and asks for
  nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from fairlead import errors
from fairlead.host import cdi, devices
from fairlead.plan import env, mounts
from fairlead.plan import request as launch

# Directories in /dev that hold files.
NO_DEVICES = ("hugepages", "mqueue", "pts", "shm", "fd", "")


class Asked(NamedTuple):
    """A device node that was asked for by its path."""

    host: str
    container: str
    permissions: str  # some of r, w and m; empty: what the user has


def parse(text: str) -> Asked:
    """Return what ``HOST[:CONTAINER][:rwm]`` asks for.

    Raises:
        errors.UsageError: it has another form, or a path that cannot be a device's.
    """
    host, *rest = text.split(":")
    container = rest.pop(0) if rest and rest[0].startswith("/") else host
    permissions = rest.pop(0) if rest else ""
    if not host.startswith("/") or rest or set(permissions) - set("rwm") or text.endswith(":"):
        raise errors.UsageError(
            f"device {text!r}: neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name",
            hint="write e.g. /dev/fuse or nvidia.com/gpu=0",
        )
    launch.check_path(host, "device", errors.UsageError)
    launch.check_path(container, "device in the container", errors.UsageError)
    parts = [part for part in container.split("/") if part not in ("", ".")]
    if parts[:1] != ["dev"] or len(parts) < 2 or ".." in parts:
        raise errors.UsageError(
            f"device {text!r}: {container} is not below /dev", hint="write HOST:/dev/NAME"
        )
    return Asked(host, container, permissions)


def of_volumes(request: launch.Request) -> launch.Request:
    """Return a request whose mounts of devices ask for devices.

    What pyxis's users write, ``--container-mounts=/dev/infiniband``, would as a mount be ``nodev``
    and hide the devices that are there anyway.
    """
    found = tuple(volume for volume in request.volumes if _is_device(volume))
    words = (f"{volume.source}:{volume.destination}" for volume in found)
    volumes = tuple(volume for volume in request.volumes if volume not in found)
    return request._replace(devices=(*request.devices, *words), volumes=volumes)


def _is_device(volume: launch.Volume) -> bool:
    source, destination = (path.split("/") for path in (volume.source, volume.destination))
    return (
        volume.kind == "bind"
        and source[:2] == destination[:2] == ["", "dev"]
        and source[2] not in NO_DEVICES
        and len(destination) > 2
        and ":" not in volume.source + volume.destination
        and "optional" not in volume.flags
    )


def check(text: str) -> None:
    """Raise unless a text asks for a device.

    Raises:
        errors.UsageError
    """
    if not is_cdi(text):
        parse(text)


def is_cdi(text: str) -> bool:
    """Tell whether a device is asked for by its CDI name."""
    return not text.startswith("/") and cdi.is_name(text)


def may_use(node: devices.Node, permissions: str) -> bool:
    """Tell whether the user has the rights that are wanted; none named: any."""
    if permissions == cdi.NO_RIGHTS:
        return True
    if not set(permissions) & set("rw"):
        return node.readable or node.writable
    return (node.readable or "r" not in permissions) and (node.writable or "w" not in permissions)


def mount(node: devices.Node, destination: str, permissions: str, why: str) -> mounts.Mount:
    """Return the mount of a device node.

    Raises:
        errors.DeviceError: it is none, or the user may not use it in this way.
    """
    if not node.kind:
        raise errors.DeviceError(f"{node.path}: is no device ({why})")
    if not may_use(node, permissions):
        wanted = "".join(letter for letter in "rw" if letter in permissions)
        raise errors.DeviceError(
            f"{node.path}: you may not {_WORDS[wanted]} it ({why})",
            hint="check its owner and mode, and that the job was given the device",
        )
    more = {
        "r": node.writable,
        "w": node.readable,
        cdi.NO_RIGHTS: node.readable or node.writable,
    }.get(permissions.replace("m", ""))
    if more:
        raise errors.DeviceError(
            f"{node.path}: you may {_has(node)} it, which a container cannot narrow to "
            f"{permissions!r} ({why})",
            hint="ask for rw",
        )
    number = f"{node.major}:{node.minor}"
    options = (number, "block") if node.kind == "b" else (number,)
    return mounts.Mount(destination, "device", node.path, options, why)


def _has(node: devices.Node) -> str:
    return _WORDS["r" * node.readable + "w" * node.writable]


_WORDS = {"": "open", "r": "read", "w": "write", "rw": "read and write"}

# Options of the runtime specification that need no word of ours: what every mount here is anyhow.
_ALWAYS = frozenset(
    ("bind", "rw", "nosuid", "nodev", "exec", "private", "rprivate", "slave", "rslave")
)


def cdi_mount(given: cdi.Mount, why: str) -> mounts.Mount:
    """Return a mount that a CDI specification wants.

    Raises:
        errors.DeviceError: of a type, or with an option, that a container of ours cannot have.
    """
    if given.type == "tmpfs":
        return mounts.Mount(given.destination, "tmpfs", "tmpfs", _tmpfs_options(given, why), why)
    if given.type not in ("", "bind", "rbind", "none"):
        raise errors.DeviceError(f"mount of type {given.type!r} at {given.destination} ({why})")
    kept = ("rbind",) if "rbind" in given.options or given.type == "rbind" else ()
    for option in given.options:
        if option in ("ro", "noexec"):
            kept = (*kept, option)
        elif option not in _ALWAYS and option != "rbind":
            raise errors.DeviceError(
                f"mount option {option!r} at {given.destination} cannot be had ({why})"
            )
    return mounts.Mount(given.destination, "bind", given.source, kept, why)


def _tmpfs_options(given: cdi.Mount, why: str) -> tuple[str, ...]:
    kept: tuple[str, ...] = ()
    for option in given.options:
        if option.startswith(("size=", "mode=")):
            kept = (*kept, option)
        elif option not in _ALWAYS:
            raise errors.DeviceError(
                f"mount option {option!r} at {given.destination} cannot be had ({why})"
            )
    return kept


def variables(device: cdi.Device) -> tuple[env.Variable, ...]:
    """Return the variables that a CDI device sets."""
    pairs = (item.partition("=") for edits in device.edits for item in edits.env)
    return tuple(env.Variable(name, value, reason(device)) for name, _, value in pairs)


def refuse(device: cdi.Device, groups: frozenset[int]) -> None:
    """Raise for what a CDI device wants and an ordinary user cannot have.

    Raises:
        errors.DeviceError
    """
    for edits in device.edits:
        if edits.refused:
            raise errors.DeviceError(
                f"{device.name}: {edits.refused[0]} takes root ({device.origin})",
                hint="ask the administrator for a CDI specification without it",
            )
        missing = [str(gid) for gid in edits.gids if gid and gid not in groups]
        if missing:
            raise errors.DeviceError(
                f"{device.name}: wants group {missing[0]}, which you are not in ({device.origin})",
                hint="a container has the groups of its user",
            )


def reason(device: cdi.Device) -> str:
    """Return why a CDI device's things are there."""
    return f"{device.name}, {device.origin}"
