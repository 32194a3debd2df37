"""Whichever way a step ends, in whichever phase, nothing of it is left; requeued jobs start clean.

==================  =========================================================================================
way to die          shown by (phases: resolve, pull, convert, mount, inject, gate, run)
==================  =========================================================================================
scancel, TERM,      kill_sweep.py at random moments of all phases (here a few, by hand hundreds);
KILL, Ctrl-C twice  test_life.py (engine, run), test_shared_store.py (pull)
srun killed         kill_sweep.py
USR1                engine and run: here; once and no more: test_life.py
time limit          is TERM, then KILL of the step: kill_sweep.py
--kill-on-bad-exit  here (run)
requeue             here (pull, run)
preemption          here (run)
slurmstepd killed   kill_sweep.py (all phases); here (run); what its tasks have started: test_epilog.py
slurmd killed       here (run)
out of memory       here (pull, both stores); kill_sweep.py: engine and storekeeper get SIGKILL in all phases
storekeeper         kill_sweep.py; tests/e2e/test_keeper.py
broker              kill_sweep.py, by hand; tests/kernel/test_broker.py
task that builds    kill_sweep.py, test_life.py
disk full           pull: test_bad_input.py; convert: here; upper: test_upper_steps.py
every system call   tests/faults/sweep: the engine and the storekeeper, killed or failing at each
==================  =========================================================================================
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
import uuid

import jobs
import kill_sweep as sweep
import psutil
import pytest
import remains
from installation import installed_prefix, plugin_words, prefix, replace
from jobs import SMALL
from kill_sweep import images

BED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed")
SEED = 22


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """After each test: as before, and no node out of service."""
    before = remains.mounts()
    yield
    remains.assert_nothing(before)
    assert jobs.nodes_out_of_service() == []


@pytest.fixture(scope="module")
def server():
    with sweep.registry() as registry:
        yield registry


@contextlib.contextmanager
def job(*words, client="srun", **variables):
    """A job of a name of its own, cancelled in the end; its process and the name."""
    name = f"death-{uuid.uuid4().hex[:8]}"
    process = jobs.start(client, f"--job-name={name}", *words, **variables)
    try:
        yield process, name
    finally:
        jobs.run("scancel", f"--name={name}")
        process.kill()
        process.communicate()
        jobs.wait_for(lambda: not jobs.run("squeue", "-h", f"--name={name}").stdout, 120)


@pytest.mark.parametrize("store", ["site", "own"])
def test_nothing_is_left_whichever_way_a_step_ends(server, store):
    chance = random.Random(f"{SEED} {store}")
    # A storekeeper that dies with its broker leaves its stage to the next one (ADR 28).
    ways = [way for way in sweep.WAYS if not way.startswith("broker")][store == "own" :: 2]
    results = [
        sweep.kill(server, way, chance.choice(sweep.MOMENTS), store, chance, again=number % 3 == 0)
        for number, way in enumerate(ways)
    ]
    assert not [result for result in results if result.left or result.again]


def test_percentiles_are_those_of_the_nearest_rank():
    values = [float(n) for n in range(1, 201)]
    assert (sweep.percentile(values, 0.5), sweep.percentile(values, 0.99)) == (100, 198)
    assert sweep.percentile([7.0], 0.99) == 7.0


# -- signals ---------------------------------------------------------------------------------------


def test_signal_of_the_user_reaches_the_application_and_its_status_is_the_steps():
    script = "trap 'echo got; exit 7' USR1; echo up; while :; do sleep 0.1; done"
    with job(f"--container={SMALL}", "sh", "-c", script) as (process, name):
        assert process.stdout.readline() == "up\n"
        jobs.run("scancel", "--signal=USR1", f"--name={name}")
        shown, _ = process.communicate(timeout=60)
        assert shown == "got\n"
        assert process.returncode == 7


def test_signal_of_the_user_ends_a_pull(server):
    """It was for the application, which is not there yet: as without a container before exec."""
    built = sweep.make_image()
    image = server.add("signal/pull", "1", built)
    sweep.slow_down(server, built, "pull")
    with job(f"--container={image}", "sleep", "300") as (process, name):
        jobs.wait_for(lambda: server.count("GET", built.layer_digests[-1]), 60)
        jobs.run("scancel", "--signal=USR1", f"--name={name}")
        process.communicate(timeout=60)
        assert process.returncode != 0
    server.heal()


def test_one_rank_that_fails_ends_the_step_where_that_is_asked_for():
    script = 'test "$SLURM_PROCID" = 3 && exit 5; exec sleep 300'
    with job("-N2", "-n4", "--kill-on-bad-exit=1", f"--container={SMALL}", "sh", "-c", script) as (
        process,
        _,
    ):
        process.communicate(timeout=60)
        # srun tells the largest: 128 + SIGTERM is that of the others, as without a container.
        assert process.returncode in {5, 143}


# -- the node's own programs -----------------------------------------------------------------------


def test_tasks_end_with_a_slurmstepd_that_is_killed():
    with job("-n4", f"--container={SMALL}", "sh", "-c", "echo up; exec sleep 300") as (process, _):
        for _ in range(4):
            assert process.stdout.readline() == "up\n"
        (stepd,) = remains.pids("slurmstepd: [")
        os.kill(stepd, signal.SIGKILL)
        jobs.wait_for(lambda: not remains.processes(), 60)


def go_on(task):
    """Make a file in a container's root: as its user, whose ids alone are known there."""
    path = f"/proc/{task}/root/go"
    subprocess.run(["touch", path], preexec_fn=jobs.become_user, check=True)


def test_step_outlives_a_slurmd_that_is_killed():
    with job(
        "-w",
        "n1",
        f"--container={SMALL}",
        "sh",
        "-c",
        "echo up; while [ ! -e /go ]; do sleep 0.1; done; echo done",
    ) as (process, _):
        assert process.stdout.readline() == "up\n"
        os.kill(remains.slurmd("n1"), signal.SIGKILL)
        subprocess.run([f"{BED}/cluster", "up"], check=True, capture_output=True)
        (task,) = (
            pid for pid in remains.pids("while [ ! -e /go ]") if psutil.Process(pid).name() == "sh"
        )
        go_on(task)
        shown, _ = process.communicate(timeout=60)
        assert shown == "done\n"
        assert process.returncode == 0


# -- memory and disk -------------------------------------------------------------------------------


# What a door of the installation does besides, in this test: its memory is limited, and taken when the moment has come.
GREEDY = """
import os, threading, time
with open("{group}/cgroup.procs", "w") as file:
    file.write("0")
def take():
    while not os.path.exists("{moment}"):
        time.sleep(0.02)
    held = []
    while True:
        held.append(os.urandom(1 << 20))
threading.Thread(target=take, daemon=True).start()
"""


@pytest.fixture
def small_memory():
    """A cgroup of 150 MiB that everybody may enter; its directory."""
    roots = [
        place
        for place in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")
        if os.path.exists(f"{place}/cgroup.procs")
    ]
    group = f"{roots[0]}/fairlead-death-{uuid.uuid4().hex[:8]}"
    os.mkdir(group)
    limit = "memory.limit_in_bytes" if roots[0].endswith("memory") else "memory.max"
    with open(f"{group}/{limit}", "w", encoding="ascii") as file:
        file.write(str(150 << 20))
    os.chmod(f"{group}/cgroup.procs", 0o666)
    yield group
    jobs.wait_for(lambda: _removed(group), 60)


def _removed(group):
    with contextlib.suppress(OSError):
        os.rmdir(group)
    return not os.path.exists(group)


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("engine", "the engine was killed by signal 9 (Killed) (the job's memory limit?)"),
        ("keeper", "the storekeeper ended without an answer"),
    ],
)
def test_process_that_the_kernel_kills_for_memory_is_one_line(
    server, own_programs, small_memory, door, words
):
    built = sweep.make_image()
    image = server.add(f"memory/{door}", "1", built)
    sweep.slow_down(server, built, "pull")
    moment = f"{own_programs}/now"
    with open(f"{installed_prefix()}/libexec/fairlead/{door}.py", encoding="utf-8") as file:
        script = GREEDY.format(group=small_memory, moment=moment) + file.read()
    replace(f"{own_programs}/libexec/fairlead/{door}.py", script)
    with (
        prefix(own_programs, site=door == "keeper"),
        job("-n2", f"--container={image}", "true", FAIRLEAD_RESOLVE="start") as (process, _),
    ):
        jobs.wait_for(lambda: server.count("GET", built.layer_digests[-1]), 60)
        with open(moment, "w", encoding="ascii"):
            pass
        _, told = process.communicate(timeout=120)
    server.heal()
    assert process.returncode == 125, told
    (line,) = [line for line in told.splitlines() if "fairlead: error" in line]
    assert words in line


def test_disk_that_is_full_while_a_layer_is_converted_is_one_line(server):
    """Two megabytes, and twenty of zeros, which are few bytes in the registry and pass every forecast."""
    layer = images.layer({f"zeros/{n}": bytes(2 << 20) for n in range(10)})
    image = server.add("full/disk", "1", images.image([layer]))
    place = "/var/lib/fairlead-bed/tiny"
    with plugin_words():
        result = jobs.run(
            "srun", "-w", "n1", f"--container={image}", "true", FAIRLEAD_STORE=f"{place}/death"
        )
    assert result.returncode == 125
    (line,) = jobs.error_lines(result)
    assert "error [no-space]" in line
    assert f"{place}/death" in line
    there = f"/proc/{remains.slurmd('n1')}/root{place}/death"
    assert os.listdir(f"{there}/tmp") == []
    subprocess.run(["rm", "-rf", there], check=True)


# -- the job begins again --------------------------------------------------------------------------


def batch_job(image, log, *options):
    """Submit a batch job whose step tells who it is, and that it found its container clean."""
    script = (
        "#!/bin/sh\n"
        "srun sh -c 'test -e /left && echo dirty; touch /left; echo run $SLURM_RESTART_COUNT $FAIRLEAD_CONTAINER; exec sleep 300'\n"
    )
    words = (
        "sbatch",
        "--parsable",
        "--requeue",
        "--open-mode=append",
        f"--output={log}",
        f"--container={image}",
        *options,
    )
    done = subprocess.run(
        words, input=script, preexec_fn=jobs.become_user, cwd=jobs.USER.pw_dir,
        env=jobs.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return jobs.output(done).strip()


@pytest.fixture
def log(tmp_path_factory):
    """A file that the user's jobs may append to."""
    place = tmp_path_factory.mktemp("log")
    for each in (place.parent.parent, place.parent, place):
        os.chmod(each, 0o755)
    path = place / "out"
    path.touch()
    os.chown(path, jobs.USER.pw_uid, jobs.USER.pw_gid)
    return path


@pytest.fixture
def requeued(log):
    """Cancels what was submitted."""
    yield
    jobs.run("scancel", "--user", jobs.USER.pw_name)
    jobs.wait_for(lambda: not jobs.run("squeue", "-h", "--user", jobs.USER.pw_name).stdout, 120)


def run_lines(log):
    """What the steps of a job have told."""
    return [
        line.split() for line in log.read_text().splitlines() if line.startswith(("run", "dirty"))
    ]


def begin_again(number):
    """A requeued job waits for its credentials to be worth nothing; not here."""

    def begun():
        state = jobs.run("squeue", "-h", f"--jobs={number}", "-o", "%T %r").stdout.strip()
        if state == "PENDING BeginTime":
            command = ("scontrol", "update", f"JobId={number}", "StartTime=now")
            subprocess.run(command, capture_output=True)
            time.sleep(1)  # each time puts it off again
        return state.startswith("RUNNING")

    jobs.wait_for(begun, 120)


@pytest.mark.usefixtures("requeued")
def test_requeued_job_starts_clean_with_the_digest_of_its_submission(server, log):
    name = server.add("requeue/x", "1", sweep.make_image())
    number = batch_job(name, log)
    jobs.wait_for(lambda: run_lines(log), 60)
    server.add("requeue/x", "1", sweep.make_image())  # the tag moves
    subprocess.run(["scontrol", "requeue", number], check=True)
    jobs.wait_for(lambda: not remains.processes(), 60)
    begin_again(number)
    jobs.wait_for(lambda: len(run_lines(log)) == 2, 60)
    (_, image), (_, count, again) = run_lines(log)
    assert "@sha256:" in image
    assert (count, again) == ("1", image)


@pytest.mark.usefixtures("requeued")
def test_job_that_is_requeued_during_its_pull_leaves_nothing(server, log):
    built = sweep.make_image()
    name = server.add("requeue/y", "1", built)
    sweep.slow_down(server, built, "pull")
    with plugin_words():
        number = batch_job(name, log)
        jobs.wait_for(lambda: server.count("GET", built.layer_digests[-1]), 60)
        subprocess.run(["scontrol", "requeue", number], check=True)
        remains.assert_nothing(remains.mounts())
        server.heal()
        begin_again(number)
        jobs.wait_for(lambda: run_lines(log), 60)
    assert [line[:2] for line in run_lines(log)] == [["run", "1"]]


@pytest.mark.usefixtures("requeued")
def test_preempted_job_leaves_its_nodes_clean_and_begins_again(log):
    number = batch_job(SMALL, log, "-w", "n4", "--exclusive")
    jobs.wait_for(lambda: run_lines(log), 60)
    words = (
        "--partition=urgent",
        "-w",
        "n4",
        f"--container={SMALL}",
        "sh",
        "-c",
        "test -e /left || echo clean",
    )
    shown = jobs.output(jobs.run("srun", *words))
    assert shown == "clean\n"
    begin_again(number)
    jobs.wait_for(lambda: len(run_lines(log)) == 2, 60)
    assert [line[0] for line in run_lines(log)] == ["run", "run"]
