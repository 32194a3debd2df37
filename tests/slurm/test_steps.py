"""Steps of every shape: side by side, into a running job, on more tasks than cores, bound, with other streams.

What a step is to Slurm it must be with a container as without; so most rows run both and compare.
"""

import os
import shutil
import tempfile
from collections import Counter

import jobs
import pytest
from installation import installed_prefix, prefix
from jobs import REGISTRY, SMALL, output, srun

ENTRY = f"{REGISTRY}/demo/entry:1"
WHERE = "echo ${FAIRLEAD_CONTAINER:-host}"


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    assert jobs.nodes_out_of_service() == []


@pytest.fixture
def place():
    """A directory of the user's that all nodes and all containers see."""
    path = tempfile.mkdtemp(prefix="fairlead-steps-", dir="/tmp")
    os.chmod(path, 0o755)
    os.chown(path, jobs.USER.pw_uid, jobs.USER.pw_gid)
    yield path
    shutil.rmtree(path)


def content(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def names(shown: str) -> Counter[str]:
    """How often each image was seen, without its digest."""
    return Counter(line.partition("@")[0] for line in shown.split())


def allocation(script: str, *options: str, **variables: str) -> str:
    """Run a script in an allocation and return what it printed: without sbatch's wait."""
    return output(jobs.run("salloc", "-Q", *options, "sh", "-c", script, timeout=300, **variables))


def test_ten_exact_steps_at_once_in_two_images():
    script = f"""
for i in 1 2 3 4 5; do
    srun --exact -n1 -c1 sh -c '{WHERE}' &
    srun --exact -n1 -c1 --container={ENTRY} sh -c '{WHERE}' &
done
wait
"""
    shown = allocation(script, "-N1", "-n10", f"--container={SMALL}")
    assert names(shown) == {SMALL: 5, ENTRY: 5}


def test_first_launch_of_many_steps_at_once_pulls_and_all_run(place, other_prefix):
    """Nothing is in the store, and ten steps on two nodes want two images of it in one moment."""
    os.symlink(f"{installed_prefix()}/venv/bin/python", f"{other_prefix}/venv/bin/python")
    script = f"""
for i in 1 2 3 4 5; do
    srun --overlap -N1 -r$((i % 2)) -n1 sh -c '{WHERE}' &
    srun --overlap -N1 -r$((i % 2)) -n1 --container={ENTRY} sh -c '{WHERE}' &
done
wait
"""
    with prefix(other_prefix):
        words = ("-N2", "-n2", f"--container={SMALL}")
        shown = allocation(script, *words, FAIRLEAD_STORE=f"{place}/store")
    assert names(shown) == {SMALL: 5, ENTRY: 5}
    assert os.listdir(f"{place}/store/tmp") == []


def test_steps_into_a_running_job(place):
    """--overlap beside a running step, --jobid from outside of the job, sattach."""
    fifo = f"{place}/go"
    os.mkfifo(fifo)
    os.chown(fifo, jobs.USER.pw_uid, jobs.USER.pw_gid)
    script = f"srun -n1 --container={SMALL} sh -c 'echo first {SMALL}; read x < {fifo}; echo $x'"
    log = f"{place}/log"
    job = output(
        jobs.run("sbatch", "--parsable", "-n2", f"--output={log}", f"--wrap={script}")
    ).strip()
    try:
        jobs.wait_for(lambda: os.path.exists(log) and "first" in content(log), 60)
        into = ("srun", f"--jobid={job}", "--overlap", "-n1")
        named = jobs.run(*into, f"--container={ENTRY}", "sh", "-c", WHERE)
        assert names(output(named)) == {ENTRY: 1}
        assert output(jobs.run(*into, "sh", "-c", WHERE)) == "host\n"
        attached = jobs.start("sattach", f"{job}.0")
        # What was printed before comes again: from here on it is attached.
        assert attached.stdout.readline().startswith("first")
        with open(fifo, "w", encoding="utf-8") as file:
            file.write("goes on\n")
        shown, _ = attached.communicate(timeout=60)
        assert "goes on" in shown
        jobs.wait_for(lambda: "goes on" in content(log), 60)
    finally:
        jobs.run("scancel", job)


def test_more_tasks_than_cores():
    shown = output(srun("-N1", "-O", "-n40", "sh", "-c", "echo $SLURM_PROCID", container=SMALL))
    assert sorted(map(int, shown.split())) == list(range(40))


@pytest.mark.parametrize("bind", ["rank", "map_cpu:1,0", "mask_cpu:0x1,0x3", "none"])
def test_binding_is_the_same_inside(bind):
    words = (
        "-N1",
        "-n2",
        "-l",
        f"--cpu-bind={bind}",
        "grep",
        "Cpus_allowed_list",
        "/proc/self/status",
    )
    inside, outside = srun(*words, container=SMALL), srun(*words)
    assert sorted(output(inside).splitlines()) == sorted(output(outside).splitlines())


def test_distribution_of_ranks_is_the_same_inside():
    words = (
        "-N2",
        "-n4",
        "-m",
        "cyclic",
        "sh",
        "-c",
        "echo $SLURM_PROCID $SLURM_NODEID $SLURM_LOCALID",
    )
    inside, outside = srun(*words, container=SMALL), srun(*words)
    assert sorted(output(inside).splitlines()) == sorted(output(outside).splitlines())


def test_streams_of_a_step(place):
    """Labels, one task's input, a file per task, and output that nobody holds back."""
    words = ("-l", "-n3", f"--container={SMALL}")
    assert sorted(output(jobs.run("srun", *words, "echo", "hi")).splitlines()) == [
        "0: hi",
        "1: hi",
        "2: hi",
    ]
    fed = jobs.run("sh", "-c", f"echo fed | srun -l -n2 --input=1 --container={SMALL} cat")
    assert output(fed) == "1: fed\n"
    output(jobs.run("srun", "-n2", f"--container={SMALL}", f"--output={place}/%t", "sh", "-c",
                    "echo $SLURM_PROCID"))  # fmt: skip
    assert [content(f"{place}/{task}") for task in (0, 1)] == ["0\n", "1\n"]
    fifo = f"{place}/go"
    os.mkfifo(fifo)
    os.chown(fifo, jobs.USER.pw_uid, jobs.USER.pw_gid)
    started = jobs.start("srun", "-u", f"--container={SMALL}", "sh", "-c",
                         f"printf held; read x < {fifo}; echo; echo $x")  # fmt: skip
    assert started.stdout.read(4) == "held"  # no newline has been written yet
    with open(fifo, "w", encoding="utf-8") as file:
        file.write("on\n")
    assert started.communicate(timeout=60)[0] == "\non\n"


def test_window_of_a_terminal_is_the_steps():
    command = f"stty rows 33 cols 77; srun --pty --container={SMALL} /bin/busybox stty size"
    assert "33 77" in output(jobs.run("script", "-qec", command, "/dev/null", TERM="xterm"))
