"""Cells of the MPI matrix that cost little: what runs is what the engine had announced.

All cells: tests/slurm/mpi_matrix --all; the table: docs/mpi-matrix.md.
"""

import mpi_matrix
import pytest
from mpi_cells import QUICK

pytestmark = pytest.mark.host_mpi("openmpi", 4)  # the cells name the MPI of Debian 12


@pytest.mark.parametrize("cell", QUICK, ids=lambda cell: cell.name)
def test_outcome_is_the_verdict(cell):
    result = mpi_matrix.run(cell)
    assert result.outcome in {"host", "image", "refused"}, f"{result.detail}; {result.verdict}"
