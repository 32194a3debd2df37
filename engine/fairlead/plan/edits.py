"""What a launch gets beyond image and MPI: device nodes, mounts, variables, hooks. Only a value.

It stands apart from those who make it (``plan.devices``, ``plan.hooks``), which most launches do
not need and do not import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fairlead.plan import env, mounts

if TYPE_CHECKING:
    from fairlead.host import hooks


class Edits(NamedTuple):
    """What a plan gets.

    ``notes`` are for the user, ``hooks`` in the order in which they run, ``accounts`` entries of
    passwd.
    """

    mounts: tuple[mounts.Mount, ...] = ()
    variables: tuple[env.Variable, ...] = ()
    hooks: tuple[hooks.Hook, ...] = ()
    notes: tuple[str, ...] = ()
    links: tuple[mounts.Link, ...] = ()
    accounts: tuple[str, ...] = ()


NONE = Edits()


def joined(one: Edits, other: Edits) -> Edits:
    """Return two edits as one; of device nodes with one place the later stays."""
    places = {mount.destination for mount in other.mounts if mount.type == "device"}
    kept = tuple(
        mount for mount in one.mounts if mount.type != "device" or mount.destination not in places
    )
    return Edits(
        (*kept, *other.mounts),
        (*one.variables, *other.variables),
        (*one.hooks, *other.hooks),
        tuple(dict.fromkeys((*one.notes, *other.notes))),
        (*one.links, *other.links),
        (*one.accounts, *other.accounts),
    )
