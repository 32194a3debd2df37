"""What a rank in a container must find, asked by the ranks themselves.

Runs under pytest-mpi inside of an image with Python, mpi4py, pytest and pytest-mpi, one process per rank:

    srun --mpi=pmix -N2 -n4 --ntasks-per-node=2 --container=IMAGE python3 -m pytest --with-mpi test_one_world.py

FAIRLEAD_HOST_MPI is the build-id of the host's libmpi, FAIRLEAD_WHOSE ("host", "image") says whose must answer.
tests/slurm/test_mpi_suite.py copies this file to where the ranks see it, and counts what passed.
"""

import ctypes
import mmap
import os
import struct

import pytest
from mpi4py import MPI

WORLD = MPI.COMM_WORLD
LARGE = 4 << 20  # above every limit at which OpenMPI, MPICH and UCX change to a single copy
pytestmark = pytest.mark.mpi(min_size=2)


@pytest.fixture(scope="module")
def node():
    """The ranks that share this node's memory."""
    shared = WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    yield shared
    shared.Free()


def pattern(rank, size):
    """Return bytes that differ from rank to rank, and within a page."""
    return (bytes((rank * 37 + at) % 251 for at in range(251)) * (size // 251 + 1))[:size]


def test_world_has_every_task_of_the_step():
    assert int(os.environ["SLURM_NTASKS"]) == WORLD.size
    assert int(os.environ["SLURM_PROCID"]) == WORLD.rank
    assert WORLD.allreduce(WORLD.rank) == sum(range(WORLD.size))


def test_ranks_of_a_node_find_each_other(node):
    names = WORLD.allgather(os.environ["SLURMD_NODENAME"])
    assert len(set(names)) == int(os.environ["SLURM_STEP_NUM_NODES"])
    assert set(node.allgather(os.environ["SLURMD_NODENAME"])) == {names[WORLD.rank]}
    assert node.size == names.count(names[WORLD.rank])


def test_ranks_of_a_node_are_in_one_container_and_those_of_others_are_not(node):
    names = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "user")]
    assert len(set(map(tuple, node.allgather(names)))) == 1
    assert len(set(map(tuple, WORLD.allgather(names)))) == int(os.environ["SLURM_STEP_NUM_NODES"])


def around(step):
    """Send to the rank so many steps on; return what came, and what should have."""
    before = (WORLD.rank - step) % WORLD.size
    received = bytearray(LARGE)
    sent = pattern(WORLD.rank, LARGE)
    WORLD.Sendrecv(sent, (WORLD.rank + step) % WORLD.size, 0, received, before, 0)
    return received, pattern(before, LARGE)


def test_large_message_to_the_next_rank_arrives_whole():
    """With two ranks on a node, for half of the ranks within it."""
    received, expected = around(1)
    assert received == expected


def test_large_message_to_another_node_arrives_whole(node):
    received, expected = around(node.size)
    assert received == expected


def test_large_messages_of_all_ranks_at_once():
    received = bytearray(LARGE)
    WORLD.Alltoall(pattern(WORLD.rank, LARGE), received)
    share = LARGE // WORLD.size
    mine = slice(WORLD.rank * share, (WORLD.rank + 1) * share)
    for rank in range(WORLD.size):
        part = received[rank * share : (rank + 1) * share]
        assert part == pattern(rank, LARGE)[mine]


class Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


def test_ranks_of_a_node_read_each_others_memory(node):
    """Cross-memory attach: what single copies hang on, and what sibling user namespaces forbid."""
    word = ctypes.c_uint64(0xFA17EAD0 + WORLD.rank)
    read = ctypes.CDLL(None, use_errno=True).process_vm_readv
    read.restype = ctypes.c_ssize_t
    for pid, address, value in node.allgather((os.getpid(), ctypes.addressof(word), word.value)):
        found = ctypes.c_uint64()
        here, there = Piece(ctypes.addressof(found), 8), Piece(address, 8)
        count = read(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        assert count == 8, os.strerror(ctypes.get_errno())
        assert found.value == value
    node.Barrier()  # the word must live until all have read it


def test_window_in_shared_memory_is_one_for_the_ranks_of_a_node(node):
    window = MPI.Win.Allocate_shared(8, 8, MPI.INFO_NULL, node)
    try:
        mine, _ = window.Shared_query(node.rank)
        window.Lock_all()
        mine[:] = struct.pack("q", 1000 + node.rank)
        window.Sync()
        node.Barrier()
        window.Sync()
        found = [struct.unpack("q", window.Shared_query(rank)[0])[0] for rank in range(node.size)]
        window.Unlock_all()
        assert found == [1000 + rank for rank in range(node.size)]
    finally:
        window.Free()


def test_dev_shm_is_the_nodes(node):
    path = node.bcast(f"/dev/shm/fairlead-suite-{os.getpid()}")
    if node.rank == 0:
        with open(path, "wb") as file:
            file.write(bytes(mmap.PAGESIZE))
    node.Barrier()
    try:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE) as memory:
            memory[node.rank] = node.rank + 1
            node.Barrier()
            assert list(memory[: node.size]) == [rank + 1 for rank in range(node.size)]
            node.Barrier()
    finally:
        if node.rank == 0:
            os.unlink(path)


def build_id(path):
    """Return the build-id that a library carries in its notes."""
    with open(path, "rb") as file:
        data = file.read()
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for at in range(start, start + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        end = offset + length
        while kind == 4 and offset + 12 <= end:  # PT_NOTE
            name, described, note = struct.unpack_from("<III", data, offset)
            content = offset + 12 + -(-name // 4) * 4
            if note == 3 and data[offset + 12 : offset + 16] == b"GNU\0":
                return data[content : content + described].hex()
            offset = content + -(-described // 4) * 4
    return ""


def test_one_libmpi_is_mapped_and_it_is_the_announced_one():
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
    libraries = [path for path in paths if os.path.basename(path).startswith("libmpi.so")]
    assert len(libraries) == 1, libraries
    whose = "host" if build_id(libraries[0]) == os.environ["FAIRLEAD_HOST_MPI"] else "image"
    assert whose == os.environ["FAIRLEAD_WHOSE"]
