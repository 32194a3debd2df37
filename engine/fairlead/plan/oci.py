"""A plan as an OCI runtime-spec configuration (``config.json``, version 1.1.0). Pure.

Devices are binds, as a runtime without privilege makes them; what the specification has no word for
(layers of the root, generated files) stands in annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairlead.host import facts
from fairlead.plan.plan import Plan

OURS = ("optional", "strict", "dev")  # mount options that only our own executor knows


def config(plan: Plan, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration; the plan's changes apply to environ, the job's environment."""
    uid = [{"containerID": plan.uid, "hostID": plan.uid, "size": 1}]
    gid = [{"containerID": plan.gid, "hostID": plan.gid, "size": 1}]
    sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
    return {
        "ociVersion": "1.1.0",
        "process": {
            "terminal": False,
            "user": {"uid": plan.uid, "gid": plan.gid},
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
            "namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": uid,
            "gidMappings": gid,
            "rootfsPropagation": "rslave",
        },
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
