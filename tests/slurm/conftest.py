"""The cluster of tests/bed must be up: ``./test slurm`` sees to that."""

import subprocess

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cluster():
    answer = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True)
    if answer.returncode:
        pytest.skip("no Slurm cluster answers; ./test slurm starts one")
