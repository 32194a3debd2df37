"""What a ``precreate`` hook may make of a plan: variables and further mounts. Pure.

The hook sees the plan as ``config.json`` and answers with another. Only two things may differ:

    process.env   any variable set, changed or taken away
    mounts        more of them, of type bind or tmpfs

Rules:
- What comes back is checked like a user's word: the hook may have been told what to answer.
- Any other difference is an error that names the field. The rest of the document was decided from
  what cannot be seen in it.
"""

from __future__ import annotations

from typing import Any

from fairlead.host import cdi, strict
from fairlead.plan import devices, env, mounts
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch

_MOUNT: strict.Fields = {
    "destination": strict.path,
    "type": strict.text,
    "source": strict.text,
    "options": strict.texts,
}


def plan(
    before: launch_plan.Plan, was: dict[str, Any], answer: bytes, origin: str
) -> launch_plan.Plan:
    """Return the plan with what a hook changed.

    Args:
        before: the plan.
        was: the plan as the document that the hook got.
        answer: the document that it gave back.
        origin: what names the hook.

    Raises:
        strict.WrongError: it is no such document, or differs where it may not.
        errors.DeviceError, errors.UsageError: a mount that no container has.
    """
    document = strict.mapping(strict.json(answer), "")
    for name in sorted({*was, *document}):
        if name not in ("process", "mounts"):
            _same(was.get(name), document.get(name), name)
    process = strict.mapping(document.get("process"), "process")
    for name in sorted({*was["process"], *process}):
        if name != "env":
            _same(was["process"].get(name), process.get(name), f"process.{name}")
    return before._replace(
        variables=(
            *before.variables,
            *_variables(was["process"]["env"], process.get("env"), origin),
        ),
        mounts=(*before.mounts, *_mounts(was["mounts"], document.get("mounts"), origin)),
    )


def _same(one: object, other: object, where: str) -> None:
    if one != other:
        raise strict.WrongError(f"{where}: may not be changed (process.env and mounts may)")


def _variables(was: list[str], now: object, origin: str) -> tuple[env.Variable, ...]:
    given = strict.items(now, "process.env", _assignment)
    before = dict(_assignment(item, "") for item in was)
    after = dict(given)
    reason = f"set by the hook of {origin}"
    return (
        *(env.Variable(name, None, reason) for name in before if name not in after),
        *(env.Variable(name, v, reason) for name, v in after.items() if before.get(name) != v),
    )


def _assignment(value: object, where: str) -> tuple[str, str]:
    if not isinstance(value, str) or "=" not in value[1:] or "\0" in value:
        raise strict.WrongError(f"{where}: {value!r} is not NAME=VALUE")
    name, _, text = value.partition("=")
    return name, text


def _mounts(was: list[dict[str, Any]], now: object, origin: str) -> tuple[mounts.Mount, ...]:
    given = strict.items(now, "mounts", lambda item, where: (where, strict.mapping(item, where)))
    for entry in was:
        if entry not in (item for _, item in given):
            raise strict.WrongError(f"mounts: {entry['destination']} was taken away or changed")
    return tuple(_mount(item, where, origin) for where, item in given if item not in was)


def _mount(item: dict[str, object], where: str, origin: str) -> mounts.Mount:
    fields = strict.record(item, _MOUNT, ("destination",), where)
    given = cdi.Mount(
        fields.get("source", ""),
        fields["destination"],
        fields.get("type", ""),
        fields.get("options", ()),
    )
    made = devices.cdi_mount(given, f"asked for by the hook of {origin}")
    asked = launch.Volume(made.source, made.destination, kind=made.type, origin=where)
    launch.check_volume(asked)
    return made
