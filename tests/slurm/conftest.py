"""The cluster of tests/bed must be up: ``./test slurm`` sees to that."""

import os
import shutil
import subprocess

import pytest
from installation import installed_prefix


@pytest.fixture(scope="session", autouse=True)
def _cluster():
    answer = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True)
    if answer.returncode:
        pytest.skip("no Slurm cluster answers; ./test slurm starts one")


@pytest.fixture
def other_prefix():
    """A copy of the installation's outer shape, for a test to break; the engine in it is the real one."""
    place = f"/var/tmp/fairlead-prefix-{os.getpid()}"
    os.makedirs(f"{place}/venv/bin")
    os.symlink(f"{installed_prefix()}/libexec", f"{place}/libexec")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def own_programs(other_prefix):
    """A copy of the installation whose programs can be replaced one by one."""
    os.unlink(f"{other_prefix}/libexec")
    os.makedirs(f"{other_prefix}/libexec/fairlead")
    there = f"{installed_prefix()}/libexec/fairlead"
    for name in os.listdir(there):
        os.symlink(f"{there}/{name}", f"{other_prefix}/libexec/fairlead/{name}")
    os.symlink(f"{installed_prefix()}/venv/bin/python", f"{other_prefix}/venv/bin/python")
    return other_prefix
