"""A node's tasks meet in the file of the first one's environment, and hear of each other nothing that is not true."""

import os
import subprocess

import pytest

from fairlead import errors
from fairlead.run import rendezvous
from fairlead.store import layout

ENVIRON = b"SLURM_JOB_ID=7\0SLURM_LOCALID=%d\0SLURM_GTIDS=4,5,6\0WORD=a b\nc\0"


@pytest.fixture
def step(tmp_path):
    """The directories that Slurm makes for three tasks of a step."""
    for task in range(3):
        (tmp_path / f"task-{task}").mkdir()
        (tmp_path / f"task-{task}/environment").write_bytes(ENVIRON % task)
    return tmp_path


def path(step, task):
    return str(step / f"task-{task}/environment")


def place(step, task):
    return rendezvous.task(path(step, task), rendezvous.read(path(step, task)))


def test_environment_is_read_as_it_is(step):
    environ = rendezvous.read(path(step, 1))
    assert environ["WORD"] == "a b\nc"
    assert environ["SLURM_LOCALID"] == "1"


def test_first_task_and_how_many_others_there_are(step):
    assert place(step, 0).first
    assert place(step, 0).others == 2
    assert not place(step, 2).first
    assert place(step, 2).meeting == place(step, 0).meeting == path(step, 0)


@pytest.mark.parametrize("content", [b"", b"A=1\nSLURM_JOB_ID=7\n", b"A=1\0", b"SLURM_JOB_ID=x\0"])
def test_what_is_no_environment_of_a_task_is_one_line(step, content):
    with open(path(step, 0), "wb") as file:
        file.write(content)
    with pytest.raises(errors.SlurmError) as caught:
        rendezvous.read(path(step, 0))
    assert caught.value.line() == (
        f"error [slurm]: {path(step, 0)}: no environment of a Slurm task, in strings that end with NUL "
        "(oci.conf takes CreateEnvFile=null, and '%e' in RunTimeRun)"
    )


def test_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(errors.SlurmError) as caught:
        rendezvous.read(str(tmp_path / "none"))
    assert caught.value.line() == (
        f"error [slurm]: {tmp_path}/none: cannot read the task's environment: No such file or directory "
        "(oci.conf takes CreateEnvFile=null, and '%e' in RunTimeRun)"
    )


def test_failure_of_the_first_ends_the_others_with_its_status(step):
    fd = rendezvous.lead(place(step, 0))
    rendezvous.tell(fd, "failed 127")
    os.close(fd)
    assert rendezvous.meet(place(step, 1)) == rendezvous.Standing((), b"", 127)


def test_first_that_has_ended_is_named(step):
    with subprocess.Popen(["sleep", "60"]) as process:
        ticks = layout.start_time(str(process.pid))
        process.kill()
    fd = rendezvous.lead(place(step, 0))
    rendezvous.tell(fd, f"building {process.pid} {ticks}")
    os.close(fd)
    with pytest.raises(errors.SlurmError) as caught:
        rendezvous.meet(place(step, 1))
    assert caught.value.line() == (
        "error [slurm]: the node's first task, which was to make the container, has ended (see what it said)"
    )


def test_first_that_never_begins_is_not_waited_for_for_ever(step, monkeypatch):
    monkeypatch.setattr(rendezvous, "_BEGINS_S", 0.0)
    with pytest.raises(errors.SlurmError) as caught:
        rendezvous.meet(place(step, 1))
    assert caught.value.line() == (
        f"error [slurm]: {path(step, 0)}: the node's first task did not begin within 0 s "
        "(start the step again)"
    )


@pytest.mark.parametrize("line", ["ready x 1 1", "ready 1", "gone 1 2 3", "ready 1 2 3" + "4" * 60])
def test_what_is_not_a_whole_line_is_looked_at_again(step, line, monkeypatch):
    monkeypatch.setattr(rendezvous, "_BEGINS_S", 0.0)
    with open(path(step, 0), "wb") as file:
        file.write(f"fairlead {line}".ljust(63).encode() + b"\n")
    with pytest.raises(errors.SlurmError) as caught:
        rendezvous.meet(place(step, 1))
    assert "did not begin" in str(caught.value)


def test_first_waits_until_the_others_have_joined(step, monkeypatch):
    fd = rendezvous.lead(place(step, 0))
    naps = []

    def nap(seconds):
        naps.append(seconds)
        with open(path(step, 0), "ab") as file:
            file.write(b".")

    monkeypatch.setattr(rendezvous.time, "sleep", nap)
    rendezvous.wait(fd, 2)
    os.close(fd)
    assert len(naps) == 2


def test_others_that_do_not_come_are_not_waited_for_for_ever(step, monkeypatch):
    monkeypatch.setattr(rendezvous, "_JOINS_S", 0.0)
    fd = rendezvous.lead(place(step, 0))
    rendezvous.wait(fd, 2)
    os.close(fd)


def test_process_that_is_no_container_is_not_joined(step):
    """Its namespace is this process's own: there is nothing to enter."""
    fd = rendezvous.lead(place(step, 0))
    rendezvous.tell(fd, f"ready {os.getpid()} 1 {fd}")
    os.close(fd)
    with pytest.raises(errors.ContainerError) as caught:
        rendezvous.meet(place(step, 1))
    assert caught.value.line().startswith("error [container]: process ")
