"""Named containers in jobs: kept between steps on each node, joined while one runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jobs
import pytest
from installation import plugin_line, plugin_words
from jobs import SMALL

NAME = f"box{os.getpid()}"
NAMED = f"srun -N1 -n1 --container={SMALL} --container-name={NAME}"


@pytest.fixture(autouse=True)
def _removed() -> Iterator[None]:
    """This cluster's names outlive jobs, as pyxis's do (``container_scope=global``)."""
    yield
    jobs.run("srun", "-N1", "-n1", "fairlead", "rm", "--container", NAME)


def script(*lines: str) -> tuple[int, str]:
    done = jobs.run("salloc", "-Q", "-N1", "-n2", "bash", "-c", "\n".join(lines))
    return done.returncode, done.stdout + done.stderr


def test_steps_share_what_they_write_and_a_name_alone_takes_up_its_image() -> None:
    write = f"{NAMED} sh -c 'echo kept > /srv-new'"
    bare = f"srun -N1 -n1 --container-name={NAME} cat /srv-new"
    assert script(write, f"{NAMED} cat /srv-new", bare) == (0, "kept\nkept\n")
    assert script(bare) == (0, "kept\n")
    assert jobs.run("srun", "-N1", "-n1", f"--container={SMALL}", "cat", "/srv-new").returncode == 1


def test_a_name_alone_that_nobody_has_is_refused() -> None:
    done = jobs.run("srun", "-N1", "-n1", "--container-name=absent", "true")
    assert done.returncode == 125
    assert "error [container]: absent: there is no container of this name on " in done.stderr


def test_a_step_joins_one_that_runs() -> None:
    status, text = script(
        f"{NAMED} --overlap sh -c 'touch /up; while ! test -e /stop; do sleep 0.1; done' &",
        f"until {NAMED}:exec --overlap test -e /up 2>/dev/null; do sleep 0.3; done",
        f"{NAMED}:no_exec --overlap true",
        f"{NAMED}:exec --container-unshare=net --overlap true",
        "srun -N1 -n1 --overlap fairlead ps --json | grep name",
        f"srun -N1 -n1 --overlap fairlead exec {NAME} touch /stop",
        "wait",
    )
    assert f"error [container]: {NAME}: runs already, as process " in text
    assert "its container has no net namespace of its own" in text
    assert f'"name": "0.{NAME}"' in text
    assert status == 0, text


@pytest.fixture
def scope_is_the_job() -> Iterator[None]:
    words = [word for word in plugin_line()[1].split()[2:] if not word.startswith("container_sc")]
    with plugin_words(*words, "container_scope=job"):
        yield


def test_what_belongs_to_a_job_is_seen_in_it_alone_and_gone_after_it(
    scope_is_the_job: None,
) -> None:
    """On the node of the job: names of jobs that have ended go with the next launch of one."""
    write = f"{NAMED} sh -c 'echo kept > /srv-new'"
    status, text = script(write, f"{NAMED} cat /srv-new", "echo $SLURM_JOB_ID $SLURM_JOB_NODELIST")
    assert status == 0, text
    kept, job, node = text.split()
    assert kept == "kept"
    on_node = ("srun", "-w", node, "-N1", "-n1")
    store = jobs.run(*on_node, "fairlead", "config", "store").stdout.strip()
    there = (*on_node, "ls", f"{store}/containers")
    assert f"{job}.{NAME}" in jobs.run(*there).stdout.split()
    other = (*on_node, f"--container={SMALL}", f"--container-name={NAME}", "test", "-e", "/srv-new")
    assert jobs.run(*other).returncode == 1
    assert f"{job}.{NAME}" not in jobs.run(*there).stdout.split()
