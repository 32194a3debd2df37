"""--container-save: the root of a step's container, when its last task has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import jobs
import psutil
import pytest
from jobs import REGISTRY, SMALL, USER

SRUN = ("srun", "-N1", "-n1", f"--container={SMALL}")


@pytest.fixture
def place() -> Iterator[str]:
    made = f"{USER.pw_dir}/save-{os.getpid()}-{time.monotonic_ns()}"
    assert jobs.run("mkdir", made).returncode == 0
    yield made
    jobs.run("rm", "-rf", made)


def test_a_file_relative_to_the_jobs_directory_holds_what_was_written(place: str) -> None:
    done = jobs.run(*SRUN, "--container-save=box.sqsh", "sh", "-c", "echo kept > /new", cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shown = jobs.run("srun", "-n1", "--container=./box.sqsh", "cat", "/new", cwd=place)
    assert (shown.returncode, shown.stdout) == (0, "kept\n"), shown.stderr
    assert jobs.run("ls", "-A", cwd=place).stdout == "box.sqsh\n"


def test_every_task_of_the_node_has_ended_first(place: str) -> None:
    script = "sleep $SLURM_LOCALID; echo x > /task$SLURM_LOCALID"
    done = jobs.run(
        *("srun", "-N1", "-n3", "--overcommit", f"--container={SMALL}"),
        *("--container-save=box.sqsh", "sh", "-c", script),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    shown = jobs.run("srun", "-n1", "--container=./box.sqsh", "sh", "-c", "ls /task*", cwd=place)
    assert shown.stdout == "/task0\n/task1\n/task2\n", shown.stderr


def test_status_is_the_tasks_and_it_is_saved_all_the_same(place: str) -> None:
    done = jobs.run(*SRUN, "--container-save=box.sqsh", "sh", "-c", "touch /new; exit 7", cwd=place)
    assert done.returncode == 7
    assert jobs.run("ls", cwd=place).stdout == "box.sqsh\n"


def test_an_image_goes_to_the_registry_as_one_more_layer(place: str) -> None:
    target = f"{REGISTRY}/demo/saved:{time.monotonic_ns()}"
    done = jobs.run(*SRUN, f"--container-save=docker://{target}", "sh", "-c", "echo 1 > /new")
    assert done.returncode == 0, done.stderr
    shown = jobs.run("srun", "-n1", f"--container={target}", "cat", "/new")
    assert (shown.returncode, shown.stdout) == (0, "1\n"), shown.stderr


def test_a_failure_to_save_is_the_steps(place: str) -> None:
    done = jobs.run(*SRUN, "--container-save=absent/box.sqsh", "true", cwd=place)
    assert done.returncode == 125
    line = f"error [archive]: {place}/absent/box.sqsh: cannot be written: No such file or directory"
    assert done.stderr.count(line) == 1, done.stderr


def is_left(process: psutil.Process) -> bool:
    words = " ".join(process.info["cmdline"] or [])
    is_users = bool(process.info["uids"]) and process.info["uids"].real == USER.pw_uid
    return is_users and ("sleep 97" in words or "fairlead.run.saver" in words)


def test_a_cancelled_step_leaves_no_process_and_no_half_file(place: str) -> None:
    process = jobs.start(
        *SRUN, "--container-save=box.sqsh", "sh", "-c", "echo up; exec sleep 97", cwd=place
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.terminate()
    process.terminate()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(map(is_left, jobs.processes("cmdline", "uids"))):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [name for name in os.listdir(place) if name.endswith(".part")] == []
