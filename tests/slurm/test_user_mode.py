"""The same sentences on nodes that have no shared store: every user has one of their own."""

import os

import jobs
import pytest
from installation import plugin_words
from test_bad_input import test_digest_mismatch, test_layer_that_breaks_the_rules
from test_door import (
    test_batch_script_inside,
    test_export_none_keeps_the_container,
    test_files_of_the_user_are_the_hosts,
    test_one_namespace_pair_per_node_and_step,
    test_tasks_run_in_the_image_on_every_node_as_the_user,
)
from test_life import (
    test_no_descriptor_of_ours_reaches_the_application,
    test_nothing_is_left_once_the_application_runs,
)
from test_mpi import test_images_own_library_runs_when_asked, test_mpi4py_world_on_two_nodes

__all__ = (
    "test_batch_script_inside",
    "test_digest_mismatch",
    "test_export_none_keeps_the_container",
    "test_files_of_the_user_are_the_hosts",
    "test_images_own_library_runs_when_asked",
    "test_layer_that_breaks_the_rules",
    "test_mpi4py_world_on_two_nodes",
    "test_no_descriptor_of_ours_reaches_the_application",
    "test_nothing_is_left_once_the_application_runs",
    "test_one_namespace_pair_per_node_and_step",
    "test_tasks_run_in_the_image_on_every_node_as_the_user",
)


@pytest.fixture(autouse=True, scope="module")
def _no_shared_store():
    with plugin_words():
        yield


def test_layers_lie_in_a_tree_of_the_users_own():
    shown = jobs.output(jobs.srun("grep", " / / ", "/proc/self/mountinfo", container=jobs.SMALL))
    assert "lowerdir=/proc/self/fd/" in shown
    assert os.listdir(f"/var/tmp/fairlead-{jobs.USER.pw_uid}.{jobs.USER.pw_gid}/trees")
