"""The matrix's Python program: a sum over all ranks and 4 MiB around the ring, through mpi4py."""

import ctypes
import sys

from mpi4py import MPI


def main() -> int:
    """Talk, tell, and return the rank's exit status."""
    world = MPI.COMM_WORLD
    total = world.allreduce(world.rank)
    out, received = bytearray([world.rank]) * (4 << 20), bytearray(4 << 20)
    before = (world.rank - 1) % world.size
    world.Sendrecv(
        [out, MPI.BYTE], (world.rank + 1) % world.size, 7, [received, MPI.BYTE], before, 7
    )
    bad = ctypes.CDLL("/opt/mpi/libreport.so").report(
        b"mpi4py",
        world.rank,
        world.size,
        int(total == world.size * (world.size - 1) // 2),
        int(received == bytearray([before]) * (4 << 20)),
        MPI.Get_library_version().encode(),
    )
    world.Barrier()
    ctypes.CDLL("/opt/mpi/libreport.so").rest()
    return int(bad)


sys.exit(main())
