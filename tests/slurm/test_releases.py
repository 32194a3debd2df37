"""One plugin binary on newer releases of Slurm than this machine's, each in a root and namespaces of its own.

All tests of this floor on each release: tests/slurm/matrix.
"""

import os
import subprocess

import pytest

RELEASE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed/release")
SUITES = ("trixie", "sid")


@pytest.fixture(scope="module")
def runs():
    """All at a time: most of it is unpacking and waiting."""
    started = {
        suite: subprocess.Popen(
            [RELEASE, suite, "--quick"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for suite in SUITES
    }
    yield started
    for process in started.values():
        process.terminate()
        process.wait()


@pytest.mark.parametrize("suite", SUITES)
def test_release_runs_what_this_one_runs(runs, suite):
    shown = runs[suite].communicate()[0]
    assert runs[suite].returncode == 0, shown
    assert "checks passed" in shown
