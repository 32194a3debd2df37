"""The optional epilog ends what a slurmstepd that was killed left behind, and touches nothing of another job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import jobs
import kill_sweep as sweep
import psutil
import pytest
import remains
from installation import installed_prefix, plugin_words
from jobs import SMALL
from test_death import job

FAMILY = "sleep 300 & echo up; wait"  # a task, and what it has started


def epilog(number, **variables):
    """Run it as slurmd of n1 does: root, in its namespace, a small environment."""
    environ = {
        "SLURM_JOB_ID": number, "SLURM_JOB_UID": str(jobs.USER.pw_uid), "SLURM_JOB_GID": str(jobs.USER.pw_gid),
        "SLURMD_NODENAME": "n1", **variables,
    }  # fmt: skip
    inside = ("nsenter", f"--target={remains.slurmd('n1')}", "--mount", "--wd=/")
    return subprocess.run(
        [*inside, f"{installed_prefix()}/libexec/fairlead/epilog.sh"],
        env={"PATH": jobs.PATH, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def number_of(name):
    return jobs.run("squeue", "-h", f"--name={name}", "-o", "%A").stdout.strip()


def of_job(number, name="sleep"):
    """The job's processes of a name."""
    found = []
    for pid in remains.pids(name):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.name() == name and process.environ().get("SLURM_JOB_ID") == number:
                found.append(pid)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = remains.mounts()
    yield
    remains.assert_nothing(before)
    assert jobs.nodes_out_of_service() == []


def test_processes_of_the_dead_job_end_and_those_of_a_living_one_stay():
    words = ("-w", "n1", f"--container={SMALL}", "sh", "-c", FAMILY)
    with job(*words) as (_, dead), job(*words) as (_, living):
        jobs.wait_for(lambda: of_job(number_of(dead)) and of_job(number_of(living)), 60)
        gone, stays = number_of(dead), number_of(living)
        (stepd,) = remains.pids(f"slurmstepd: [{gone}.0")
        os.kill(stepd, signal.SIGKILL)
        jobs.wait_for(lambda: not of_job(gone, "sh"), 60)
        assert len(of_job(gone)) == 1, (
            "what a task has started outlives it: or this test shows nothing"
        )
        done = epilog(gone)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        jobs.wait_for(lambda: not of_job(gone), 60)
        assert len(of_job(stays)) == 1
        assert len(of_job(stays, "sh")) == 1


def test_half_a_pull_of_the_dead_goes_and_that_of_the_living_stays():
    store = remains.own_store()
    with sweep.registry() as server, plugin_words():
        images = []
        for number in range(2):
            built = sweep.make_image()
            images.append(server.add(f"epilog/{number}", "1", built))
            sweep.slow_down(server, built, "pull")
        with (
            job("-w", "n1", f"--container={images[0]}", "true") as (_, dead),
            job("-w", "n1", f"--container={images[1]}", "true") as (_, living),
        ):
            jobs.wait_for(lambda: len(os.listdir(f"{store}/tmp")) >= 2 and number_of(living), 60)
            gone = number_of(dead)
            (stepd,) = remains.pids(f"slurmstepd: [{gone}.0")[:1]
            os.kill(stepd, signal.SIGSTOP)  # else it, or the task, would remove what this is about
            for task in psutil.Process(stepd).children():
                task.kill()
            os.kill(stepd, signal.SIGKILL)
            stages = set(os.listdir(f"{store}/tmp"))
            jobs.wait_for(lambda: len(remains.pids("engine.py")) == 1, 60)
            epilog(gone)
            left = set(os.listdir(f"{store}/tmp"))
            assert len(left) == 1
            assert left < stages
        server.heal()


@pytest.mark.parametrize(
    "variables",
    [{"SLURM_JOB_UID": "0"}, {"SLURM_JOB_ID": ""}, {"SLURM_JOB_ID": "1 2"}, {"SLURM_JOB_GID": "x"}, {"SLURM_JOB_UID": "../.."}],
)  # fmt: skip
def test_epilog_without_a_job_does_nothing_and_never_fails(variables):
    done = epilog("1", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
