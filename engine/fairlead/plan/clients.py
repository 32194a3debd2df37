"""What a container gets so that Slurm's client programs run in it. Pure.

    /.fairlead/slurm/loader    the host's loader
    /.fairlead/slurm/lib/N     directories of the host's libraries
    /.fairlead/slurm/bin       the directory of the programs
    /usr/bin/NAME              for each program: what starts it with these (spank_shim/hosted.c)

Rules:
- Plugins, configuration and sockets are at their own paths, by which Slurm's programs name them.
- All of it can only be read; what of the image lies at one of these paths is covered.
- A ``srun`` in the container that does not load Fairlead's plugin, as an image's own would not,
  must not start: it would take the container that was inherited for the one that it was asked for.
  The value that seals a job's environment (spank_shim/seal.h) refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fairlead import errors
from fairlead.plan import edits, env, mounts

if TYPE_CHECKING:
    from fairlead.host import clients

ROOT = "/.fairlead/slurm"
MAX_LIBRARIES = 8  # spank_shim/hosted.c
SEAL, SEAL_VALUE = "SLURM_WAIT", "this-node-has-no-fairlead-plugin"
SAVED = "SLURM_FAIRLEAD_WAIT"
WHY = "Slurm's client programs"


def brought(found: clients.Clients, starter: str, environ: Mapping[str, str]) -> edits.Edits:
    """Return what a container needs.

    Args:
        found: the host's.
        starter: the program that stands for each of the clients.
        environ: the job's environment.

    Raises:
        errors.SlurmError: the libraries are scattered over more directories than can be named.
    """
    if len(found.libraries) > MAX_LIBRARIES:
        raise errors.SlurmError(
            f"{WHY}: their libraries lie in {len(found.libraries)} directories, at most "
            f"{MAX_LIBRARIES} can be had in a container",
            hint="leave them out",
        )
    trees = (
        (found.loader, f"{ROOT}/loader"),
        *((path, f"{ROOT}/lib/{number}") for number, path in enumerate(found.libraries)),
        (found.directory, f"{ROOT}/bin"),
        *((path, path) for path in _shown(found.paths)),
        *((starter, f"/usr/bin/{name}") for name in found.programs),
    )
    variables = [env.Variable("SLURM_CONF", found.configuration, WHY)]
    given = environ.get(SEAL)
    if given is not None and given != SEAL_VALUE:
        variables.append(env.Variable(SAVED, given, "kept beside the seal"))
    variables.append(env.Variable(SEAL, SEAL_VALUE, "a srun without Fairlead's plugin refuses it"))
    binds = (mounts.Mount(place, "bind", path, ("rbind", "ro"), WHY) for path, place in trees)
    return edits.Edits(tuple(binds), tuple(variables), accounts=found.accounts)


def _shown(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to mount: of a file its directory, unless that is one of the image's trees."""
    shown = []
    for path in paths:
        parent = path.rpartition("/")[0]
        file = path.endswith((".conf", ".so"))
        shown.append(parent if file and parent not in ("", *mounts.IMAGE_TREES) else path)
    return tuple(dict.fromkeys(shown))
