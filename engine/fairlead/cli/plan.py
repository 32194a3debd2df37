"""Show what a launch would do, and why, without doing it.

Takes the options of ``fairlead run``. The image is made ready in the store; nothing is started.
With --json the plan is an OCI runtime-spec configuration with the reasons beside it.
"""

from __future__ import annotations

import argparse
import json

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import run as run_verb
from fairlead.plan import oci
from fairlead.plan import plan as launch
from fairlead.run import launch as prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--json", action="store_true", help="OCI runtime-spec config.json, with reasons"
    )
    run_verb.add_options(parser)
    parser.add_argument("reference", metavar="IMAGE", help="image reference")
    run_verb.add_command(parser)


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print the plan."""
    request, config = run_verb.launch_from(arguments, config)
    plan = prepare.prepare(request, config).plan
    if arguments.json:
        document = {"config": oci.config(plan, request.environ), "reasons": reasons(plan)}
        print(json.dumps(document, indent=2))
    else:
        print(text(plan), end="")
    return 0


def reasons(plan: launch.Plan) -> dict[str, dict[str, str] | list[str]]:
    """Return why root, mounts, variables and the working directory are what they are."""
    return {
        "root": {plan.upper: plan.upper_reason},
        "mounts": {mount.destination: mount.reason for mount in plan.mounts},
        "variables": {variable.name: variable.reason for variable in plan.variables},
        "workdir": {plan.workdir: plan.workdir_reason},
        "mpi": list(plan.mpi),
    }


def text(plan: launch.Plan) -> str:
    """Return the plan for a reader."""
    lines = [f"image      {plan.image}"]
    lines += [f"layer      {layer}" for layer in plan.layers]
    limit = f", at most {plan.upper_size}" if plan.upper_size else ""
    place = "in memory" if plan.upper == "memory" else "on the node's disk"
    root = "read-only" if plan.readonly else f"writable, {place}{limit}"
    lines.append(f"root       {root}: {plan.upper_reason}")
    for mount in plan.mounts:
        shown = "generated" if mount.type == "file" else mount.source
        options = (
            f" ({','.join(mount.options)})" if mount.options and mount.type != "device" else ""
        )
        lines.append(f"mount      {mount.destination} <- {shown}{options}: {mount.reason}")
    for variable in plan.variables:
        change = (
            f"unset {variable.name}"
            if variable.value is None
            else f"{variable.name}={variable.value}"
        )
        lines.append(f"variable   {change}: {variable.reason}")
    lines.append(f"workdir    {plan.workdir}: {plan.workdir_reason}")
    lines.append(f"command    {' '.join((*plan.arguments, *plan.command))}")
    lines += [f"hook       {hook.stage} {hook.path}: {hook.origin}" for hook in plan.hooks]
    lines += [f"mpi        {line}" for line in plan.mpi]
    lines += [f"note       {note}" for note in plan.notes]
    return "\n".join(errors.one_line(line) for line in lines) + "\n"
