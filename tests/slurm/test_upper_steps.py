"""A root that is written to the node's disk, in real steps: limited, shared by the tasks, and gone."""

from __future__ import annotations

import contextlib
import os
import re

import jobs
import psutil
import pytest
from installation import plugin_line, plugin_words
from jobs import SMALL, error_lines, output
from test_plan_cache import counted, frozen, srun

MIB = 1 << 20
SLEEP = "314"  # no other test's
DISK = {"FAIRLEAD_UPPER": "disk", "FAIRLEAD_UPPER_SIZE": "64M"}
FILL = "dd if=/dev/zero of=/big bs=64k count=2000; stat -c %s /big"


def site_store() -> str:
    found = re.search(r" site=(\S+)", plugin_line()[1])
    if found is None:
        pytest.skip("the installed plugin has no shared store")
    return found[1]


def devices() -> list[str]:
    """The loop devices that are bound to a file of the store that has no name."""
    found = []
    for name in os.listdir("/sys/block"):
        with (
            contextlib.suppress(OSError),
            open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file,
        ):
            text = file.read()
            if text.startswith(site_store()) and "deleted" in text:
                found.append(name)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """After each test: no device, no file, no drained node."""
    before = sorted(os.listdir(site_store()))
    yield
    jobs.wait_for(lambda: devices() == [])
    assert sorted(os.listdir(site_store())) == before
    assert jobs.nodes_out_of_service() == []


@pytest.fixture
def engine(other_prefix):
    """The engine, watched; the image is there."""
    site_store()
    with counted(other_prefix, site=True) as watched:
        output(srun("true", container=frozen(SMALL)))
        watched.starts()
        yield watched


def test_limit_is_no_space_left():
    result = srun("sh", "-c", FILL, container=SMALL, **DISK)
    assert "No space left" in result.stderr
    assert 0.9 * 64 * MIB < int(output(result)) < 64 * MIB


def test_root_lies_on_a_disk_and_is_the_users():
    shown = output(
        srun("sh", "-c", "touch /mine; stat -c %u /mine; df -T /", container=SMALL, **DISK)
    )
    assert shown.split()[0] == str(jobs.USER.pw_uid)
    assert len(devices()) <= 1
    assert "overlay" in shown
    assert 58000 < int(shown.split()[-5]) < 65536, "the disk's blocks, not the memory's"


def test_tasks_of_a_step_share_it():
    script = (
        "echo $SLURM_PROCID > /task.$SLURM_PROCID\n"
        "until [ -s /task.0 -a -s /task.1 -a -s /task.2 -a -s /task.3 ]; do sleep 0.1; done\n"
        "cat /task.*"
    )
    shown = output(srun("-n4", "sh", "-c", script, container=SMALL, **DISK))
    assert sorted(shown.split()) == sorted("0123" * 4)


def test_each_node_and_step_has_its_own():
    two = "srun -N2 -n2 sh -c 'ls /left 2>/dev/null; touch /left; echo $SLURMD_NODENAME'\n"
    shown = jobs.batch(two * 2, f"--container={SMALL}", "-N2", "-n2", "-w", "n1,n2", **DISK)
    assert sorted(shown.split()) == ["n1", "n1", "n2", "n2"]


def test_kept_plan_gets_one_without_python(engine):
    image = frozen(SMALL)
    for starts in (1, 0, 0):
        result = srun("sh", "-c", FILL, container=image, **DISK)
        assert "No space left" in result.stderr
        assert 0.9 * 64 * MIB < int(output(result)) < 64 * MIB
        assert engine.starts() == starts
        jobs.wait_for(lambda: devices() == [])


def test_eight_tasks_share_that_of_a_kept_plan(engine):
    image = frozen(SMALL)
    words = ("-n8", "readlink", "/proc/self/ns/mnt")
    first = output(srun(*words, container=image, **DISK)).split()
    engine.starts()
    second = output(srun(*words, container=image, **DISK)).split()
    assert engine.starts() == 0
    assert (len(first), len(set(first)), len(second), len(set(second))) == (8, 1, 8, 1)


def test_memory_and_disk_are_different_plans(engine):
    image = frozen(SMALL)
    assert int(output(srun("sh", "-c", FILL, container=image, **DISK))) < 64 * MIB
    assert int(output(srun("sh", "-c", FILL, container=image))) == 2000 << 16
    assert engine.starts() == 2


def test_site_maximum_holds_for_the_engine_and_for_a_kept_plan(engine, other_prefix):
    image = frozen(SMALL)
    output(srun("true", container=image, **DISK))
    assert engine.starts() == 1
    words = (f"prefix={other_prefix}", f"site={site_store()}", "upper_max=32M")
    with plugin_words(*words):
        results = [srun("true", container=image, **DISK) for _ in range(2)]
        allowed = srun("true", container=image, **{**DISK, "FAIRLEAD_UPPER_SIZE": "32M"})
    assert [result.returncode for result in results] == [125, 125]
    (line,) = error_lines(results[0])
    assert "error [upper]" in line
    assert "needs 64 MiB, this site allows 32 MiB (upper_max=32M" in line
    assert len(error_lines(results[1])) == 1
    assert "this site allows 32 MiB" in error_lines(results[1])[0]
    output(allowed)


def test_more_than_the_disk_has_is_refused_with_the_figures():
    with plugin_words(f"site={site_store()}", "upper_max=900T"):
        result = srun("true", container=SMALL, **{**DISK, "FAIRLEAD_UPPER_SIZE": "800T"})
    assert result.returncode == 125
    (line,) = error_lines(result)
    assert "error [no-space]" in line
    assert re.search(r"needs \d+ MiB, \d+ MiB free above the \d+ that must stay", line)


def test_node_without_a_shared_store_refuses():
    with plugin_words():
        result = srun("true", container=SMALL, **DISK)
    assert result.returncode == 125
    (line,) = error_lines(result)
    assert "error [upper]" in line
    assert "this node has no shared store" in line


def test_run_refuses_and_plan_shows():
    result = jobs.run("fairlead", "run", SMALL, "true", **DISK)
    assert result.returncode == 125
    assert "this is no Slurm step" in error_lines(result)[0]
    shown = output(jobs.run("fairlead", "plan", SMALL, "true", **DISK))
    assert "root       writable, on the node's disk, at most 64M: " in shown


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_nothing_is_left_of_a_step_that_is_ended(how):
    name = f"fairlead-upper-{os.getpid()}"
    step = jobs.start(
        *("srun", "-w", "n1", f"--job-name={name}", f"--container={SMALL}"),
        *("sh", "-c", f"echo up; exec sleep {SLEEP}"),
        **DISK,
    )
    try:
        assert step.stdout is not None
        assert step.stdout.readline() == "up\n"
        assert len(devices()) == 1
        if how == "killed":
            (task,) = jobs.wait_for(lambda: [p for p in psutil.process_iter() if is_ours(p)])
            (parent,) = (p for p in (task.parent(),) if p and p.name() == "slurmstepd")
            parent.kill()
            task.kill()
            jobs.wait_for(lambda: devices() == [])
        jobs.run("scancel", f"--name={name}")
        step.wait(60)
    finally:
        step.kill()
        step.communicate()
    jobs.wait_for(lambda: not jobs.run("squeue", "-h", f"--name={name}").stdout, 60)


def is_ours(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline() == ["sleep", SLEEP]
    return False
