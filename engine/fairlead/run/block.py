"""A plan in the flat form that C executes: the launch block (``c_ext/block.h`` draws it)."""

from __future__ import annotations

import os
import struct

from fairlead import kernel
from fairlead.plan import env
from fairlead.plan import mounts as plan_mounts
from fairlead.plan import plan as launch

_FLAGS = {
    "ro": kernel.lib.BIND_READONLY,
    "optional": kernel.lib.BIND_OPTIONAL,
    "dev": kernel.lib.BIND_DEVICES,
    "noexec": kernel.lib.BIND_NOEXEC,
    "strict": kernel.lib.TARGET_STRICT,
    "private": kernel.lib.BIND_PRIVATE,
    "rprivate": kernel.lib.BIND_PRIVATE | kernel.lib.BIND_PROPAGATE_ALL,
    "unbindable": kernel.lib.BIND_UNBINDABLE,
    "runbindable": kernel.lib.BIND_UNBINDABLE | kernel.lib.BIND_PROPAGATE_ALL,
}
_NEW = ("tmpfs", "sysfs", "mqueue")
# What a mount is without a word: slave of the host's, by namespace.c.
_OF_ITSELF = ("rw", "slave", "rslave")
_MAGIC = b"FAIRLD1\0"


def record(op: int, flags: int, *strings: str) -> bytes:
    """Return one record; a string may not hold a NUL (refused by the C side)."""
    parts = [struct.pack("=HHI", op, len(strings), flags)]
    for string in strings:
        data = os.fsencode(string)
        parts += (struct.pack("=I", len(data)), data, b"\0")
    return b"".join(parts)


def join(records: list[bytes]) -> bytes:
    """Return the whole block for a list of records."""
    body = b"".join(records)
    return _MAGIC + struct.pack("=II", len(_MAGIC) + 8 + len(body), len(records)) + body


def compile_plan(plan: launch.Plan, after: str = "") -> bytes:
    """Return the launch block of a plan, and of what is to be run when the container has ended.

    The command is proven to exist while the root is built, once per node; a plan without one
    (``--multi-prog``: each task has its own) leaves that to the tasks.
    """
    return join([*records(plan), *([record(kernel.lib.OP_AFTER, 0, after)] if after else [])])


def after(data: bytes) -> str:
    """Return what a launch block says is to be run when its container has ended; empty: nothing.

    Raises:
        ValueError: it is no launch block.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("no launch block")
    at = len(_MAGIC) + 8
    while at < len(data):
        op, count, _ = struct.unpack_from("=HHI", data, at)
        at += 8
        for _ in range(count):
            (size,) = struct.unpack_from("=I", data, at)
            if op == kernel.lib.OP_AFTER:
                return os.fsdecode(data[at + 4 : at + 4 + size])
            at += 4 + size + 1
    return ""


def compile_entry(workdir: str) -> bytes:
    """Return the block of who joins a container that stands: its directory, and nothing else."""
    return join([record(kernel.lib.OP_WORKDIR, 0, workdir)])


def records(plan: launch.Plan, *, templates: bool = False) -> list[bytes]:
    """Return the records of a plan; with templates, what differs in every step stands as one."""
    lib = kernel.lib
    made = [record(lib.OP_ROOT, _root_flags(plan), *plan.layers)]
    if plan.kept:
        made.append(record(lib.OP_UPPER, 0, "", *plan.kept))
    elif plan.upper == "disk":
        layers = sum(layer.startswith("mount:") for layer in plan.layers)
        made.append(record(lib.OP_UPPER, 0, plan.upper_size, f"mount:{layers}"))
    elif plan.upper_size:
        made.append(record(lib.OP_UPPER, 0, plan.upper_size))
    made += [_mount(mount, template=templates) for mount in plan.mounts]
    made += [record(lib.OP_SYMLINK, 0, link.content, link.path) for link in plan.links]
    if plan.makes_workdir:
        made.append(record(lib.OP_DIRECTORY, 0, plan.workdir))
    words = (*plan.arguments, *plan.command)
    if words:
        made.append(
            record(
                lib.OP_COMMAND, 0, words[0], env.value(plan.variables, "PATH") or env.DEFAULT_PATH
            )
        )
    made.append(record(lib.OP_WORKDIR, 0, plan.workdir))
    for variable in plan.variables:
        if variable.task:
            made.append(record(lib.OP_ENV_TASK, 0, variable.name, variable.value or ""))
        elif variable.value is None:
            made.append(record(lib.OP_ENV_UNSET, 0, variable.name))
        else:
            made.append(record(lib.OP_ENV_SET, 0, variable.name, variable.value))
    made += [record(lib.OP_ARGUMENT, 0, word) for word in plan.arguments]
    return made


def _root_flags(plan: launch.Plan) -> int:
    lib = kernel.lib
    further = {"net": lib.ROOT_NET, "ipc": lib.ROOT_IPC, "uts": lib.ROOT_UTS}
    flags: int = lib.ROOT_READONLY if plan.readonly else 0
    flags |= lib.ROOT_REMAP if plan.remap_root else 0
    for name in plan.unshare:
        flags |= further[name]
    return flags


def _mount(mount: plan_mounts.Mount, *, template: bool) -> bytes:
    lib = kernel.lib
    flags = 0
    for option in mount.options:
        flags |= _FLAGS.get(option, 0)
    if mount.type in _NEW:
        words = (*_FLAGS, *_OF_ITSELF)
        options = ",".join(option for option in mount.options if option not in words)
        kind = () if mount.type == "tmpfs" else (mount.type,)
        return record(lib.OP_TMPFS, flags, mount.destination, options, *kind)
    if mount.type == "file":
        if template and mount.template:
            return record(
                lib.OP_FILE, flags | lib.RECORD_TEMPLATE, mount.destination, mount.template
            )
        return record(lib.OP_FILE, flags, mount.destination, mount.source)
    if mount.type == "device":
        major, minor = mount.options[0].split(":")
        number = int(major) << 20 | int(minor)
        return record(lib.OP_DEVICE, number, mount.source, mount.destination, *mount.options[1:])
    if "rbind" not in mount.options:
        flags |= lib.BIND_SHALLOW
    if template and mount.template:
        return record(lib.OP_BIND, flags | lib.RECORD_TEMPLATE, mount.template, mount.template)
    return record(lib.OP_BIND, flags, mount.source, mount.destination)
