"""Slurm's client programs in a container, where the request asks for them."""

from __future__ import annotations

import os
import sys

from fairlead import errors
from fairlead.host import clients, witness
from fairlead.plan import clients as plan_clients
from fairlead.plan import edits as plan_edits
from fairlead.plan import request as launch_request


def edits(
    request: launch_request.Request,
) -> tuple[plan_edits.Edits, tuple[witness.Seen, ...]]:
    """Return what brings them, and what was looked at.

    Raises:
        errors.SlurmError: they cannot be had.
    """
    starter = _starter()
    found = clients.find(request.environ)
    brought = plan_clients.brought(found, starter, request.environ)
    return brought, (witness.file(starter), *found.seen)


def _starter() -> str:
    """Return the program that stands for each client; beside the interpreter's environment."""
    prefix = os.path.dirname(os.path.dirname(os.path.dirname(sys.executable)))
    path = f"{prefix}/libexec/fairlead/fairlead-hosted"
    if not os.access(path, os.X_OK):
        raise errors.SlurmError(
            f"{path}: is not there", hint="install Fairlead where Slurm's headers are"
        )
    return path
