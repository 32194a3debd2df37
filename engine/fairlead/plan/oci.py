"""A plan as an OCI runtime-spec configuration (``config.json``, version 1.1.0). Pure.

Devices are binds, as a runtime without privilege makes them; what the specification has no word for
(layers of the root, generated files) stands in annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairlead.host import facts
from fairlead.plan.plan import Plan

# Source: runtime-spec 1.1 ``config-linux.md`` "Default Devices": every runtime brings them.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
           "/dev/ptmx")  # fmt: skip
OURS = ("optional", "strict", "dev", "block")  # mount options that only our own executor knows


def config(plan: Plan, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration; the plan's changes apply to environ, the job's environment."""
    inside = (0, 0) if plan.remap_root else (plan.uid, plan.gid)
    uid = [{"containerID": inside[0], "hostID": plan.uid, "size": 1}]
    gid = [{"containerID": inside[1], "hostID": plan.gid, "size": 1}]
    further = {"net": "network", "ipc": "ipc", "uts": "uts"}
    namespaces = ("user", "mount", *(further[name] for name in plan.unshare))
    sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
    return {
        "ociVersion": "1.1.0",
        "process": {
            "terminal": False,
            "user": {"uid": inside[0], "gid": inside[1]},
            "args": [*plan.arguments, *plan.command],
            "env": _environment(plan, environ),
            "cwd": plan.workdir,
            "capabilities": {name: [] for name in sets},
            "noNewPrivileges": True,
        },
        "root": {"path": plan.layers[-1], "readonly": plan.readonly},
        "hostname": plan.hostname,
        "mounts": _mounts(plan),
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],
            "uidMappings": uid,
            "gidMappings": gid,
            "rootfsPropagation": "rslave",
        },
        "hooks": _hooks(plan),
        "annotations": {
            "org.fairlead.image": plan.image,
            "org.fairlead.layers": ":".join(plan.layers),
            **{
                f"org.fairlead.file{mount.destination.replace('/', '.')}": mount.source
                for mount in plan.mounts
                if mount.type == "file"
            },
        },
    }


def bundle(
    plan: Plan, environ: Mapping[str, str], *, missing: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the configuration of a bundle whose ``rootfs`` holds layers and generated files.

    Any runtime executes it: what stands in annotations for ours alone is left out, so is what is
    missing, and the host name, which is the host's in every container that shares its namespace.
    The user is root inside: runc wants a root to be mapped, crun without it a newuidmap.
    """
    document = config(plan, environ)
    annotations = document["annotations"]
    linux = {
        **document["linux"],
        "uidMappings": [{"containerID": 0, "hostID": plan.uid, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": plan.gid, "size": 1}],
    }
    return {
        **{key: value for key, value in document.items() if key != "hostname"},
        "process": {**document["process"], "user": {"uid": 0, "gid": 0}},
        "linux": linux,
        "root": {"path": "rootfs", "readonly": plan.readonly},
        "mounts": [m for m in document["mounts"] if m["source"] not in {*missing, *DEVICES}],
        "annotations": {"org.fairlead.image": annotations["org.fairlead.image"]},
    }


def _hooks(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for hook in plan.hooks:
        if hook.stage == "precreate":  # of podman's files, not of the specification
            continue
        entry = {"path": hook.path, "args": list(hook.args), "env": list(hook.env)}
        found.setdefault(hook.stage, []).append({**entry, "timeout": hook.timeout_s})
    return found


def _environment(plan: Plan, environ: Mapping[str, str]) -> list[str]:
    merged = dict(environ)
    for variable in plan.variables:
        merged.pop(variable.name, None)
        if variable.task:
            merged[variable.name] = facts.from_template(variable.value or "", environ)
        elif variable.value is not None:
            merged[variable.name] = variable.value
    return [f"{name}={text}" for name, text in merged.items()]


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    entries = []
    for mount in plan.mounts:
        if mount.type == "file":
            continue
        kind = "bind" if mount.type == "device" else mount.type
        options = [option for option in mount.options if option not in OURS and ":" not in option]
        if kind == "bind" and "rbind" not in options:
            options.insert(0, "bind")
        entries.append(
            {
                "destination": mount.destination,
                "type": kind,
                "source": mount.source,
                "options": options,
            }
        )
    return entries
