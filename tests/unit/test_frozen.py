"""What a job's steps were told a tag means: the first answer counts, and goes with the job."""

import os

import pytest

from fairlead import config, errors
from fairlead.store import frozen, layout

FIRST, SECOND = ("sha256:" + digit * 64 for digit in "12")
JOB = frozen.Job(7, 0, "here")


@pytest.fixture
def store(tmp_path):
    environ = {"HOME": str(tmp_path), "FAIRLEAD_STORE": f"{tmp_path}/store"}
    return layout.open_store(config.load(environ, site_file="/nonexistent"))


def test_first_answer_counts(store):
    assert frozen.digest(store, JOB, "x:1") == ""
    assert frozen.settle(store, JOB, "x:1", FIRST) == FIRST
    assert frozen.settle(store, JOB, "x:1", SECOND) == FIRST
    assert frozen.digest(store, JOB, "x:1") == FIRST
    assert frozen.settle(store, JOB, "x:2", SECOND) == SECOND


@pytest.mark.parametrize(
    "other", [JOB._replace(number=8), JOB._replace(restarts=1), JOB._replace(cluster="there")]
)
def test_another_job_another_start_and_another_cluster_ask_for_themselves(store, other):
    frozen.settle(store, JOB, "x:1", FIRST)
    assert frozen.digest(store, other, "x:1") == ""


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "../x"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "here"}, JOB.name),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_CLUSTER_NAME": "here"}, JOB.name),
        (
            {
                "SLURM_JOB_ID": "9",
                "SLURM_ARRAY_JOB_ID": "7",
                "SLURM_RESTART_COUNT": "2",
                "SLURM_CLUSTER_NAME": "../x",
            },
            frozen.Job(9, 2, "../x").name,
        ),
    ],
)
def test_job_is_told_by_the_environment_and_names_a_plain_file(environ, name):
    job = frozen.job_of(environ)
    assert (job and job.name) == name
    assert job is None or "/" not in job.name


def test_what_is_no_digest_is_refused(store):
    frozen.settle(store, JOB, "x:1", FIRST)
    folder = store.path("jobs", JOB.name)
    (name,) = os.listdir(folder)
    with open(f"{folder}/{name}", "w", encoding="ascii") as file:
        file.write("../../etc/passwd")
    with pytest.raises(errors.StoreError, match="holds no digest"):
        frozen.digest(store, JOB, "x:1")


def test_what_was_kept_goes_with_its_job(store):
    dead, young, away = (
        JOB._replace(number=8),
        JOB._replace(number=9),
        JOB._replace(number=8, cluster="there"),
    )
    for job in (JOB, dead, young, away):
        frozen.settle(store, job, "x:1", FIRST)
    for job in (JOB, dead, away):
        os.utime(store.path("jobs", job.name), (0, 0))
    frozen.forget_ended(store, "here", lambda: None)
    assert len(os.listdir(store.path("jobs"))) == 4
    frozen.forget_ended(store, "here", lambda: frozenset({7}))
    assert set(os.listdir(store.path("jobs"))) == {JOB.name, young.name, away.name}
    frozen.forget_ended(store, "here", lambda: frozenset({7}), age_s=0)
    assert set(os.listdir(store.path("jobs"))) == {JOB.name, away.name}


def test_slurm_is_not_asked_while_nothing_is_old(store):
    frozen.settle(store, JOB, "x:1", FIRST)
    frozen.forget_ended(store, "here", lambda: pytest.fail("asked"))
