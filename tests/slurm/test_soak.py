"""Many launches leave nothing behind; tests/slurm/soak launches a thousand times as many."""

import jobs
import pytest
import soak
from jobs import SMALL
from test_plan_cache import frozen


@pytest.mark.parametrize(
    ("kind", "count"), [("array", 20), ("steps", 50), ("runs", 100), ("engine", 12)]
)
def test_launches_all_run_and_leave_nothing(kind, count):
    image, launch = frozen(SMALL), soak.KINDS[kind]
    launch(image, 8)
    before = soak.look()
    assert launch(image, count) == count
    assert soak.settled(before) == []
    assert jobs.nodes_out_of_service() == []
