"""How the world check gets into a container (``c_ext/world``). Pure.

A small library is loaded into every program of the step. When MPI_Init has returned it compares the
size of the world with the number of tasks. An MPI of the container that is known not to meet this
PMI is ended in MPI_Init by one line that says why: which MPI an interpreter loads is certain there.

Rules:
- /etc/ld.so.preload carries it, not LD_PRELOAD: a wrapper that clears the environment (``env -i``)
  loses PMI's variables and with them the world, which is the very case to be found. A user's
  LD_PRELOAD stays as it is and comes first. The image's own /etc/ld.so.preload is kept.
- musl reads no such file: there LD_PRELOAD carries it, after what the image or the user put there.
- What it must know stands in a file, for the same reason; the step's numbers are templates, so that
  a kept plan serves steps of any size.
"""

from __future__ import annotations

from typing import NamedTuple

from fairlead.plan import mounts

PLACE = "/.fairlead/world"
LIBRARY = f"{PLACE}/check.so"
INJECTED = "/.fairlead/mpi/"
MAX_REFUSALS = 3584  # bytes; the check reads 4096
_WHY = "MPI's world must have as many ranks as the step has tasks (mpi_world_check)"


class World(NamedTuple):
    """What the check is told.

    Attributes:
        library: the check's own file on the host.
        tasks: of the step.
        node: index of this node in the step.
        end: the step's job and number, ``JOB.STEP``, for the socket on which slurmstepd hears that
            a rank has lost its world (``spank_shim/lost_world.h``).
        injected: every libmpi must be the host's.
        preload: the image's /etc/ld.so.preload.
        musl: the image's programs run on musl.
        refused: (paths of libraries in the container, why they are not to start).
    """

    library: str
    tasks: int
    node: int
    end: str
    injected: bool
    preload: str
    musl: bool
    refused: tuple[tuple[tuple[str, ...], str], ...] = ()


def step_mounts(world: World) -> list[mounts.Mount]:
    """Return what is mounted for the check."""
    # First, because a template loses a slash at its end.
    library = _refusals(world) + (f"library {INJECTED}\n" if world.injected else "")
    told = f"{library}tasks {world.tasks}\nend fairlead.{world.end}.{world.node}\nnode {world.node}"
    end = "fairlead.${SLURM_JOB_ID}.${SLURM_STEP_ID}.${SLURM_NODEID}"
    template = f"{library}tasks ${{SLURM_STEP_NUM_TASKS}}\nend {end}\nnode ${{SLURM_NODEID}}"
    size = ("mode=0700", "size=64k", "nr_inodes=16")
    made = [
        mounts.Mount(PLACE, "tmpfs", "tmpfs", size, _WHY),
        mounts.Mount(f"{PLACE}/step", "file", told, (), _WHY, template),
        mounts.Mount(LIBRARY, "bind", world.library, ("ro",), _WHY),
    ]
    if not world.musl:
        kept = (
            world.preload
            if not world.preload or world.preload[-1] == "\n"
            else f"{world.preload}\n"
        )
        made.append(mounts.Mount("/etc/ld.so.preload", "file", f"{kept}{LIBRARY}\n", (), _WHY))
    return made


def _refusals(world: World) -> str:
    """Return the lines about MPIs that are not to start; paths and words come from an image."""
    text = ""
    for paths, reason in world.refused:
        plain = [path for path in paths if path.isprintable() and not set(path) & set(" $")]
        words = "".join(c if c.isprintable() and c != "$" else "?" for c in reason)
        line = f"refuse {' '.join(plain)}\t{words}\n"
        if plain and len((text + line).encode("utf-8", "surrogateescape")) <= MAX_REFUSALS:
            text += line
    return text


def variables(world: World) -> tuple[tuple[str, str | None], ...]:
    """Return what is set for the check."""
    return (("LD_PRELOAD", LIBRARY),) if world.musl else ()
