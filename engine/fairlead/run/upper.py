"""Where a container writes to its own root: in memory, or on a disk that the broker gives.

Memory needs nobody's help. A disk whose room is limited takes root, since no unprivileged way
limits a directory: the broker of the node's shared store makes it (``spank_shim/broker_upper.h``).

Rules:
- A disk that was asked for and cannot be had is an error; memory never takes its place, because the
  job may have been sized without that memory.
- How much it may be is the broker's to say, from root's configuration; nothing here enforces it.
"""

from __future__ import annotations

import errno

from fairlead import errors, kernel
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch_request

_LESS = 'ask for less with upper_size (FAIRLEAD_UPPER_SIZE), or set upper = "memory"'


def check(request: launch_request.Request, broker: int) -> None:
    """Raise if the request wants a disk where nobody can give one; before anything is fetched.

    Raises:
        errors.UpperError: there is no broker.
    """
    if request.writable and request.upper == "disk" and broker < 0:
        where = "this node has no shared store" if request.step else "this is no Slurm step"
        raise errors.UpperError(
            f'upper = "disk": {where}, whose broker would give the disk; no user can limit a '
            "directory"
        )


def mounts(plan: launch_plan.Plan, broker: int) -> tuple[int, ...]:
    """Return the mount that a plan wants after its layers: none where it writes to memory.

    Raises:
        errors.SpaceError, errors.UpperError: it cannot be had.
    """
    if plan.upper != "disk":
        return ()
    try:
        return (kernel.broker_upper(broker, plan.upper_size),)
    except OSError as error:
        raise _refused(error) from error


def _refused(error: OSError) -> errors.Error:
    what = f'upper = "disk": {error.filename}'
    if error.errno == errno.ENOSPC:
        return errors.SpaceError(f"{what}: {error.strerror}", hint=_LESS)
    if error.errno == errno.EDQUOT:
        return errors.UpperError(what, hint=_LESS)
    return errors.UpperError(f"{what}: {error.strerror}")
