"""Nothing that was to be contained ever runs on the host, and no node is drained by it."""

import os
import subprocess

import jobs
import pytest
from jobs import SMALL, srun
from test_life import installed_prefix, other_prefix, prefix  # noqa: F401 - a fixture

BED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed")


@pytest.fixture
def marker():
    """A file that the command would make if it ran on the host."""
    path = f"/tmp/fairlead-ran-{os.getpid()}"
    yield path
    if os.path.exists(path):
        os.unlink(path)
        raise AssertionError("the command ran")


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    assert jobs.nodes_out_of_service() == []


@pytest.fixture(scope="module")
def bare_node():
    """n4 without the plugin."""
    subprocess.run([f"{BED}/cluster", "node-without-plugin", "n4"], check=True)
    yield "n4"
    subprocess.run([f"{BED}/cluster", "node-with-plugin", "n4"], check=True)


def test_node_without_the_plugin_does_not_run_the_command(bare_node, marker):
    result = srun("-w", bare_node, "-n1", "touch", marker, container=SMALL)
    assert result.returncode != 0
    assert "this node has no fairlead plugin" in result.stderr


def test_node_without_the_plugin_runs_jobs_without_a_container(bare_node):
    assert srun("-w", bare_node, "-n1", "true").returncode == 0


def test_one_node_of_two_without_the_plugin(bare_node, marker):
    result = srun(
        "-w",
        f"n1,{bare_node}",
        "-N2",
        "-n2",
        "sh",
        "-c",
        f'test "$SLURMD_NODENAME" = n1 || touch {marker}',
        container=SMALL,
    )
    assert result.returncode != 0
    assert "this node has no fairlead plugin" in result.stderr


def test_multi_prog_on_a_node_without_the_plugin(bare_node, marker):
    conf = "/tmp/fairlead-closed.conf"
    with open(conf, "w", encoding="utf-8") as file:
        file.write(f"0 touch {marker}\n")
    try:
        result = srun("-w", bare_node, "-n1", "--multi-prog", conf, container=SMALL)
    finally:
        os.unlink(conf)
    assert result.returncode != 0
    assert "/.fairlead/exec" in result.stderr


def test_step_of_a_batch_job_on_a_node_without_the_plugin(bare_node, marker):
    with pytest.raises(AssertionError, match="no-fairlead-plugin"):
        jobs.batch(f"srun touch {marker}", "-w", bare_node, f"--container={SMALL}")


def broken(place, script):
    wrapper = f"{place}/venv/bin/python"
    with open(wrapper, "w", encoding="utf-8") as file:
        file.write(script)
    os.chmod(wrapper, 0o755)


def refused(marker, *words):
    result = srun("-n4", "touch", marker, container=SMALL)
    assert result.returncode == 125
    lines = jobs.error_lines(result)
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_missing_interpreter(other_prefix, marker):  # noqa: F811
    with prefix(other_prefix):
        refused(marker, "error [slurm]", "engine did not start", "venv/bin/python")


def test_engine_that_ends_without_an_answer(other_prefix, marker):  # noqa: F811
    broken(other_prefix, "#!/bin/sh\nexit 3\n")
    with prefix(other_prefix):
        refused(marker, "engine did not start", "status 3")


def test_engine_that_is_killed(other_prefix, marker):  # noqa: F811
    broken(other_prefix, "#!/bin/sh\nkill -9 $$\n")
    with prefix(other_prefix):
        refused(marker, "killed by signal 9", "memory limit")


def test_engine_that_answers_nonsense(other_prefix, marker):  # noqa: F811
    broken(
        other_prefix,
        "#!/usr/bin/python3\nimport socket\nsocket.socket(fileno=3).send(b'x' * 100)\n",
    )
    with prefix(other_prefix):
        refused(marker, "error [slurm]", "answer")


def test_missing_helper_program(other_prefix, marker):  # noqa: F811
    os.unlink(f"{other_prefix}/libexec")
    os.makedirs(f"{other_prefix}/libexec/fairlead")
    os.symlink(
        f"{installed_prefix()}/libexec/fairlead/engine.py",
        f"{other_prefix}/libexec/fairlead/engine.py",
    )
    os.symlink(f"{installed_prefix()}/venv/bin/python", f"{other_prefix}/venv/bin/python")
    with prefix(other_prefix):
        result = srun("-n2", "touch", marker, container=SMALL)
    assert result.returncode == 125
    assert "fairlead-enter" in result.stderr


def test_batch_script_inside_with_a_broken_engine_does_not_drain(other_prefix, marker):  # noqa: F811
    broken(other_prefix, "#!/bin/sh\nexit 3\n")
    with prefix(other_prefix), pytest.raises(AssertionError, match="engine did not start"):
        jobs.batch(f"touch {marker}", f"--container={SMALL}", "--container-batch")


def test_root_gets_no_container(marker):
    environ = {"PATH": jobs.PATH, "HOME": "/root"}
    result = subprocess.run(
        ["srun", f"--container={SMALL}", "touch", marker],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 125
    assert "error [root]" in result.stderr
