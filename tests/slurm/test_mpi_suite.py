"""The project's own MPI tests (tests/mpi) run inside of containers under srun, by pytest-mpi, one process per rank."""

import os
import re
import shutil

import pytest
from jobs import PYTHON, output, srun
from test_mpi import build_id

SUITE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "mpi")
MODULE = "test_one_world.py"
PLACE = f"/var/tmp/fairlead-suite-{os.getpid()}"


@pytest.fixture(scope="module")
def suite():
    """Where the ranks find the tests: the checkout may lie where an ordinary user sees nothing."""
    os.makedirs(PLACE)
    os.chmod(PLACE, 0o755)
    shutil.copy(f"{SUITE}/{MODULE}", PLACE)
    yield PLACE
    shutil.rmtree(PLACE)


def written():
    """Return how many tests the module has."""
    with open(f"{SUITE}/{MODULE}", encoding="utf-8") as file:
        return len(re.findall(r"^def test_", file.read(), re.MULTILINE))


@pytest.mark.host_mpi("openmpi", 4)
@pytest.mark.parametrize("whose", ["host", "image"])
def test_every_test_of_the_suite_passes_on_every_rank(suite, whose):
    words = ("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--with-mpi")
    result = srun(
        *("--mpi=pmix", "-N2", "-n4", "--ntasks-per-node=2", f"--container-mpi={whose}"),
        *(*words, f"{suite}/{MODULE}"),
        container=PYTHON,
        cwd=suite,
        FAIRLEAD_HOST_MPI=build_id("/usr/lib/x86_64-linux-gnu/libmpi.so.40"),
        FAIRLEAD_WHOSE=whose,
    )
    shown = output(result)
    ends = re.findall(r"^(\d+) passed in ", shown, re.MULTILINE)
    assert ends == [str(written())] * 4, shown
    assert written() >= 10
