"""Run inside demo/python-mpi under srun: pytest --with-mpi test_mpi4py.py."""

import os

import pytest
from hello_mpi import mapped_libmpi
from mpi4py import MPI


@pytest.mark.mpi(min_size=2)
def test_ranks_form_one_world():
    assert MPI.COMM_WORLD.size == int(os.environ["SLURM_NTASKS"])
    assert MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank) == sum(range(MPI.COMM_WORLD.size))


@pytest.mark.mpi(min_size=2)
def test_large_message_arrives_whole():
    world = MPI.COMM_WORLD
    sent = bytes([world.rank + 1]) * (4 << 20)
    received = bytearray(len(sent))
    world.Sendrecv(
        sent, (world.rank + 1) % world.size, 0, received, (world.rank - 1) % world.size, 0
    )
    assert received == bytes([(world.rank - 1) % world.size + 1]) * len(sent)


@pytest.mark.mpi(min_size=2)
def test_one_libmpi_is_mapped():
    assert len(mapped_libmpi()) == 1, mapped_libmpi()
