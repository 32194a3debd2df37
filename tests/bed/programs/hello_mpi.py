"""hello_mpi in Python: one line per rank with size, node, library version and the mapped libmpi."""

import os

from mpi4py import MPI


def mapped_libmpi() -> list[str]:
    """Return the paths of every libmpi in this process's memory."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
    return sorted(
        path for path in paths if os.path.basename(path).startswith(("libmpi.so", "libmpich.so"))
    )


def main() -> None:
    """Sum over all ranks, then tell."""
    world = MPI.COMM_WORLD
    total = world.allreduce(1)
    version = MPI.Get_library_version().split(",")[0]
    node = os.environ.get("SLURMD_NODENAME", "no Slurm node")
    print(
        f"rank {world.rank} of {total} on {MPI.Get_processor_name()} ({node}): {version}: {' '.join(mapped_libmpi())}"
    )


if __name__ == "__main__":
    main()
