"""The broker's program, a store for it, and an ordinary user's place, for the modules that need them."""

import os
import shutil
import subprocess
import tempfile

import pytest
from broker_bed import ROOT, Bed
from mpi_images import ORDINARY


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    place = tmp_path_factory.mktemp("broker")
    os.symlink(f"{ROOT}/c_ext", place / "c_ext")
    subprocess.run(["cp", "-r", f"{ROOT}/spank_shim", place / "spank_shim"], check=True)
    subprocess.run(
        ["make", "-s", "-C", place / "spank_shim", "-B", "fairlead-broker", "fairlead-sweep"],
        check=True,
    )
    return str(place / "spank_shim/fairlead-broker")


@pytest.fixture
def bed(program):
    # Not below pytest's own directory, which every other pytest of this machine closes to others.
    place = tempfile.mkdtemp(prefix="fairlead-broker-", dir="/var/tmp")
    yield Bed(place, program)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def base():
    """A directory that the ordinary user can reach; pytest's own becomes 0700 whenever another run starts."""
    path = tempfile.mkdtemp(prefix="fairlead-mpi-", dir="/var/tmp")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def space(base):
    """A directory of the ordinary user's."""
    path = f"{base}/space"
    os.mkdir(path)
    if ORDINARY:
        os.chown(path, ORDINARY, ORDINARY)
    return path
