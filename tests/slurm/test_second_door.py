"""Slurm's own --container, by oci.conf and ``fairlead slurm-run``, on nodes without the plugin."""

import json
import os

import jobs
import pytest
from installation import plugin_line
from jobs import MPICH, SMALL, batch, error_lines, output, srun

pytestmark = pytest.mark.slurm_min(23, 2)

RUN = "exec /usr/local/bin/fairlead slurm-run -- '%e' '%b' %@"


def configuration():
    return os.path.join(os.path.dirname(os.path.realpath("/etc/slurm/slurm.conf")), "oci.conf")


@pytest.fixture(scope="module", autouse=True)
def second_door():
    """As docs/admin.md says, and no plugin on any node; slurmstepd and srun read both files anew."""
    plugstack, conf = plugin_line()[0], configuration()
    with open(plugstack, encoding="utf-8") as file:
        text = file.read()
    with open(conf, "w", encoding="utf-8") as file:
        file.write(f'IgnoreFileConfigJson=true\nCreateEnvFile=null\nRunTimeRun="{RUN}"\n')
    try:
        with open(plugstack, "w", encoding="utf-8"):
            pass
        yield
    finally:
        with open(plugstack, "w", encoding="utf-8") as file:
            file.write(text)
        os.unlink(conf)


def shell(*options, script, container=SMALL, **variables):
    return srun(*options, "/bin/sh", "-c", script, container=container, **variables)


def test_reference_environment_directory_and_status_arrive():
    script = "echo $WORD $FAIRLEAD_CONTAINER; pwd; cat hello; exit 7"
    result = shell("--chdir=/tmp", script=script, WORD="a b")
    word, directory, hello = result.stdout.splitlines()
    assert word.startswith(f"a b {SMALL}@sha256:")
    assert directory == "/opt/demo"
    assert hello == "hello from the small image"
    assert result.returncode == 7
    assert error_lines(result) == []


def test_words_arrive_as_they_were():
    words = ("a b", '"', "$x", "%b", "--", "*")
    assert output(srun("/bin/echo", *words, container=SMALL)) == " ".join(words) + "\n"


def test_stdin_is_the_tasks():
    with open("/etc/os-release", encoding="utf-8") as file:
        expected = file.read()
    assert output(srun("--input=/etc/os-release", "/bin/cat", container=SMALL)) == expected


def test_tasks_of_a_node_share_one_container():
    look = "echo $SLURM_NODEID $(readlink /proc/self/ns/user) $(readlink /proc/self/ns/mnt)"
    shown = output(shell("-N2", "-n7", "-O", script=look)).splitlines()
    assert len(shown) == 7
    places = {tuple(line.split()) for line in shown}
    assert sorted(node for node, *_ in places) == ["0", "1"], places
    assert len({mount for *_, mount in places}) == 2


def test_what_one_task_writes_the_other_reads():
    script = (
        "if [ $SLURM_LOCALID = 1 ]; then echo kept >/note; else "
        "until [ -s /note ]; do sleep 0.1; done; cat /note; fi"
    )
    assert output(shell("-N1", "-n2", "-O", script=script)) == "kept\n"


@pytest.mark.parametrize("step", range(3))
def test_task_that_ends_at_once_still_shared_its_container(step):
    """Nothing is left of the first when the others have joined."""
    script = "[ $SLURM_LOCALID = 0 ] || readlink /proc/self/ns/mnt"
    shown = output(shell("-N1", "-n4", "-O", script=script)).split()
    assert len(shown) == 3
    assert len(set(shown)) == 1


@pytest.mark.parametrize("words", [("/opt/demo/hello_mpi",), ("/bin/sh", "-c", "./hello_mpi; :")])
def test_mpich_over_two_nodes_with_the_hosts_library(words):
    shown = output(srun("--mpi=pmi2", "-N2", "-n4", "-O", *words, container=MPICH))
    assert shown.count(" of 4 on ") == 4
    assert shown.count("the host's MPI") == 4


def test_ranks_of_a_node_copy_from_each_other():
    shown = output(srun("--mpi=pmi2", "-n2", "-O", "/opt/demo/cma", container=MPICH))
    assert shown.count(": ok, single copy by ") == 2
    assert shown.count("4 MiB exchange ok") == 2


@pytest.fixture
def same_path():
    """A directory that has one path on all nodes, which Slurm's PMIx needs; the bed's spool directories have not."""
    with open(configuration(), "a", encoding="utf-8") as file:
        file.write("ContainerPath=/dev/shm/oci-job%j-%s/task-%t\n")
    yield
    with open(configuration(), encoding="utf-8") as file:
        lines = file.readlines()
    with open(configuration(), "w", encoding="utf-8") as file:
        file.writelines(line for line in lines if not line.startswith("ContainerPath"))


@pytest.mark.pmix
def test_openmpi_over_two_nodes(same_path):
    shown = output(
        srun("--mpi=pmix", "-N2", "-n4", "-O", "/opt/demo/hello_mpi", container=jobs.MPI)
    )
    assert shown.count(" of 4 on ") == 4


def test_batch_script_runs_in_the_container():
    printed = batch("echo $FAIRLEAD_CONTAINER; cat hello", f"--container={SMALL}")
    assert printed.startswith(f"{SMALL}@sha256:")
    assert printed.endswith("\nhello from the small image\n")


@pytest.mark.parametrize(
    ("container", "command", "status", "line"),
    [
        (f"{jobs.REGISTRY}/demo/nothing:1", "/bin/true", 125, f"fairlead: error [image-not-found]: {jobs.REGISTRY}/demo/nothing:1: the registry has no such image or tag: manifest unknown (check the name and the tag)"),
        (SMALL, "/bin/nothing", 127, "fairlead: error [command-not-found]: /bin/nothing: not found in the container (check the spelling and the image's PATH)"),
        ("a:b:c", "/bin/true", 125, None),
        ("--help", "/bin/true", 125, None),
    ],
    ids=["image", "command", "reference", "option"],
)  # fmt: skip
def test_failure_is_one_line_on_a_node_and_its_status(container, command, status, line):
    result = srun("-N1", "-n3", "-O", command, container=container)
    assert result.returncode == status
    assert result.stdout == ""
    (said,) = error_lines(result)
    assert line is None or said == line


def test_words_that_reach_the_shell_run_as_the_user():
    """Slurm puts the name into a shell as it is: of the task, which can do what its user can."""
    result = srun("-n1", "/bin/true", container="x'$(id -u >&2)'")
    assert str(jobs.USER.pw_uid) in result.stderr.splitlines()
    assert "0" not in result.stderr.splitlines()
    assert result.returncode == 125


def test_cancelled_step_ends_and_leaves_nothing():
    process = jobs.start("srun", f"--container={SMALL}", "-n2", "-O", "/bin/sleep", "600")
    try:
        step = jobs.wait_for(running, 60)
        jobs.run("scancel", step)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    jobs.wait_for(lambda: not running(), 60)


def running():
    """Return the job whose contained sleep runs."""
    shown = output(jobs.run("fairlead", "ps", "--json"))
    return next((item["job"] for item in json.loads(shown) if item["processes"] == 2), "")


def test_nothing_is_left_in_slurms_directories():
    output(srun("-n2", "-O", "/bin/true", container=SMALL))
    spool = "/var/lib/fairlead-bed/spool"

    def left():
        return [
            name
            for node in os.listdir(spool)
            for name in os.listdir(f"{spool}/{node}")
            if name.startswith("oci-")
        ]

    jobs.wait_for(lambda: not left(), 30)
    assert jobs.nodes_out_of_service() == []
