"""Nothing that was to be contained ever runs on the host, and no node is drained by it."""

import os
import subprocess

import jobs
import pytest
from installation import installed_prefix, prefix, replace_engine
from jobs import SMALL, srun

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
        FAIRLEAD_GATE_TIMEOUT="3",
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


@pytest.fixture(scope="module")
def plain_client():
    """A slurm.conf whose plugstack is empty: srun and sbatch of a host without the plugin."""
    place = "/var/tmp/fairlead-plain-client"
    os.makedirs(place, exist_ok=True)
    with open(os.path.realpath("/etc/slurm/slurm.conf"), encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("PlugStackConfig")]
    with open(f"{place}/slurm.conf", "w", encoding="utf-8") as file:
        file.writelines([*lines, f"PlugStackConfig={place}/plugstack.conf\n"])
    with open(f"{place}/plugstack.conf", "w", encoding="utf-8"):
        pass
    yield f"{place}/slurm.conf"
    for name in ("slurm.conf", "plugstack.conf"):
        os.unlink(f"{place}/{name}")
    os.rmdir(place)


def test_submitting_host_without_the_plugin(plain_client, marker):
    result = srun("touch", marker, container=SMALL, SLURM_CONF=plain_client)
    assert result.returncode == 125
    assert "where the fairlead plugin is not installed" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--cpu-bind=none",
        "--threads-per-core=1",
        "--ntasks-per-core=1",
        "--wait=3",
        "--hint=nomultithread",
    ],
)
def test_srun_without_the_plugin_in_a_batch_job_of_ours(plain_client, marker, options):
    script = f"SLURM_CONF={plain_client} srun {options} touch {marker} || echo refused"
    shown = jobs.batch(script, f"--container={SMALL}")
    assert "this-node-has-no-fairlead-plugin" in shown
    assert "refused" in shown


def test_seal_survives_every_way_to_hand_the_environment_on(plain_client, marker):
    script = f"SLURM_CONF={plain_client} srun touch {marker} || echo refused"
    for option in ("--export=NONE", "--export=ALL,A=1", "--get-user-env", "--threads-per-core=1"):
        assert "refused" in jobs.batch(script, f"--container={SMALL}", option), option


def test_value_of_the_user_under_the_seal_comes_back():
    shown = jobs.batch("srun sh -c 'echo wait=$SLURM_WAIT'", f"--container={SMALL}", SLURM_WAIT="7")
    assert "wait=7" in shown


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--container=",), "--container: empty"),
        (
            (f"--container={SMALL}", "--bcast=/tmp/fairlead-bcast"),
            "--bcast together with --container",
        ),
    ],
)
def test_srun_options_that_would_lose_the_container(marker, words, text):
    result = jobs.run("srun", *words, "touch", marker)
    assert result.returncode == 125
    assert text in result.stderr


def test_export_file_would_lose_the_container(marker):
    path = "/tmp/fairlead-export"
    with open(path, "wb") as file:
        file.write(b"PATH=/usr/bin:/bin\0")
    try:
        result = jobs.run(
            "sbatch", f"--export-file={path}", f"--container={SMALL}", "--wrap", f"touch {marker}"
        )
    finally:
        os.unlink(path)
    assert result.returncode == 125
    assert "--export-file" in result.stderr


def test_heterogeneous_batch_job_is_contained():
    shown = jobs.batch(
        "srun --het-group=0,1 sh -c 'echo in ${FAIRLEAD_CONTAINER:-host}'",
        f"--container={SMALL}", "-n1", ":", "-n1", f"--container={SMALL}",
    )  # fmt: skip
    assert shown.count(f"in {SMALL}") == 2, shown


def test_heterogeneous_step_with_one_container_on_each_component():
    where = "echo in ${FAIRLEAD_CONTAINER:-host}"
    one = ("-n1", f"--container={SMALL}", "sh", "-c", where)
    shown = jobs.output(jobs.run("srun", *one, ":", *one))
    assert shown.count(f"in {SMALL}") == 2


def test_batch_scripts_words_cannot_switch_the_entering_off():
    script = "grep -E 'NoNewPrivs|CapBnd' /proc/self/status; env | grep -c _FAIRLEAD || true\n"
    path = "/tmp/fairlead-words.sh"
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n" + script)
    log = "/tmp/fairlead-words.out"
    try:
        words = (
            "sbatch",
            "--wait",
            "-o",
            log,
            f"--container={SMALL}",
            "--container-batch",
            path,
            "/.fairlead/exec",
        )
        assert jobs.run(*words).returncode == 0
        with open(log, encoding="utf-8") as file:
            shown = file.read()
    finally:
        os.unlink(path)
        os.unlink(log)
    assert "NoNewPrivs:\t1" in shown
    assert "CapBnd:\t0000000000000000" in shown


@pytest.mark.parametrize("options", [(), ("--multi-prog",)])
def test_privileges_are_gone_whichever_way_the_task_enters(options):
    conf = "/tmp/fairlead-privileges.conf"
    with open(conf, "w", encoding="utf-8") as file:
        file.write("0 grep -E NoNewPrivs|CapBnd /proc/self/status\n")
    try:
        words = (
            (*options, conf)
            if options
            else ("grep", "-E", "NoNewPrivs|CapBnd", "/proc/self/status")
        )
        shown = jobs.output(srun(*words, container=SMALL))
    finally:
        os.unlink(conf)
    assert "NoNewPrivs:\t1" in shown
    assert "CapBnd:\t0000000000000000" in shown


def refused(marker, *words):
    result = srun("-n4", "touch", marker, container=SMALL)
    assert result.returncode == 125
    lines = jobs.error_lines(result)
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_missing_interpreter(other_prefix, marker):
    with prefix(other_prefix):
        refused(marker, "error [slurm]", "engine did not start", "venv/bin/python")


def test_engine_that_ends_without_an_answer(other_prefix, marker):
    replace_engine(other_prefix, "#!/bin/sh\nexit 3\n")
    with prefix(other_prefix):
        refused(marker, "engine did not start", "status 3")


def test_engine_that_is_killed(other_prefix, marker):
    replace_engine(other_prefix, "#!/bin/sh\nkill -9 $$\n")
    with prefix(other_prefix):
        refused(marker, "killed by signal 9", "memory limit")


def test_engine_that_answers_nonsense(other_prefix, marker):
    replace_engine(
        other_prefix,
        "#!/usr/bin/python3\nimport socket\nsocket.socket(fileno=3).send(b'x' * 100)\n",
    )
    with prefix(other_prefix):
        refused(marker, "error [slurm]", "answer")


def test_missing_helper_program(other_prefix, marker):
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


def test_batch_script_inside_with_a_broken_engine_does_not_drain(other_prefix, marker):
    replace_engine(other_prefix, "#!/bin/sh\nexit 3\n")
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
