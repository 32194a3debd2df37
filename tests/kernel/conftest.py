"""The broker's program, and a store for it, for every module of this floor that needs one."""

import os
import shutil
import subprocess
import tempfile

import pytest
from broker_bed import ROOT, Bed


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    place = tmp_path_factory.mktemp("broker")
    os.symlink(f"{ROOT}/c_ext", place / "c_ext")
    subprocess.run(["cp", "-r", f"{ROOT}/spank_shim", place / "spank_shim"], check=True)
    subprocess.run(["make", "-s", "-C", place / "spank_shim", "-B", "fairlead-broker"], check=True)
    return str(place / "spank_shim/fairlead-broker")


@pytest.fixture
def bed(program):
    # Not below pytest's own directory, which every other pytest of this machine closes to others.
    place = tempfile.mkdtemp(prefix="fairlead-broker-", dir="/var/tmp")
    yield Bed(place, program)
    shutil.rmtree(place)
