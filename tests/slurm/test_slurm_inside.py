"""Slurm's client programs in a container: by the host's loader, whatever C library the image has."""

import os
import shutil
import tempfile

import jobs
import pytest
from jobs import BULLSEYE, MPI, REGISTRY, SMALL, error_lines, output
from test_fails_closed import plain_client
from test_plan_cache import counted, frozen

ENTRY = f"{REGISTRY}/demo/entry:1"
WHERE = "echo in=${FAIRLEAD_CONTAINER:-host}"
__all__ = ["plain_client"]  # a fixture


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    assert jobs.nodes_out_of_service() == []


@pytest.fixture
def place():
    """A directory of the user's that all nodes and all containers see."""
    path = tempfile.mkdtemp(prefix="fairlead-inside-", dir="/tmp")
    os.chown(path, jobs.USER.pw_uid, jobs.USER.pw_gid)
    yield path
    shutil.rmtree(path)


def inside(script, *options, image=SMALL, nodes=1, **variables):
    """Run a script in a container with the clients, as one task of an allocation."""
    words = ("--overlap", "-N1", "-n1", f"--container={image}", "--container-slurm", *options)
    return jobs.run(
        *("salloc", "-Q", f"-N{nodes}", f"-n{2 * nodes}"),
        *("srun", *words, "/bin/sh", "-c", f"cd /tmp; {script}"),
        **variables,
    )


@pytest.mark.parametrize(
    "image", [BULLSEYE, MPI, SMALL], ids=["glibc 2.31", "glibc 2.36", "no libc"]
)
def test_clients_answer_and_launch_from_any_image(image):
    script = f"""
scontrol ping; sinfo -h -p debug -o %P; squeue -h -j $SLURM_JOB_ID -o %T
srun --overlap -n2 -N2 sh -c 'echo $SLURM_NODEID {WHERE[5:]}'
srun --overlap -n1 --container={frozen(ENTRY)} sh -c '{WHERE}'
srun --overlap -n1 --container=none sh -c '{WHERE}'
"""
    lines = output(inside(script, image=image, nodes=2, SLURM_NNODES="2")).splitlines()
    assert lines[0].startswith("Slurmctld(primary)")
    assert lines[0].endswith("is UP")
    assert lines[1:3] == ["debug*", "RUNNING"]
    assert sorted(line.partition("@")[0] for line in lines[3:5]) == [
        f"0 in={image}",
        f"1 in={image}",
    ]
    assert lines[5].startswith(f"in={ENTRY.rpartition(':')[0]}@sha256:")
    assert lines[6] == "in=host"


def test_job_that_is_submitted_inside_runs_as_any_other(place):
    script = f"sbatch --parsable --wait -o {place}/out --wrap '{WHERE}; srun sh -c \"$STEP\"'"
    shown = inside(f"export STEP='{WHERE}'; {script} >/dev/null; cat {place}/out")
    lines = output(shown).splitlines()
    assert lines[0] == "in=host"
    assert lines[1].startswith(f"in={SMALL}@")


def test_container_beside_slurm_submits():
    """``fairlead run`` on a host that submits: the step is on the host, as nothing else was said."""
    words = ("run", "--slurm", SMALL, "/bin/sh", "-c", f"cd /tmp; srun -n1 sh -c '{WHERE}'")
    assert output(jobs.run("fairlead", *words)) == "in=host\n"


def test_environment_file_and_setting_ask_for_them_and_an_option_leaves_them_out(place):
    with open(f"{place}/with.toml", "w", encoding="utf-8") as file:
        file.write(f'image = "{SMALL}"\n[annotations]\ncom.hooks.slurm.enabled = "true"\n')
    os.chmod(f"{place}/with.toml", 0o644)
    there = ("sh", "-c", "command -v sinfo || echo none")
    rows = (
        (("--environment", f"{place}/with.toml"), {}, "/usr/bin/sinfo\n"),
        (("--container", SMALL), {}, "none\n"),
        (("--container", SMALL), {"FAIRLEAD_SLURM_INSIDE": "1"}, "/usr/bin/sinfo\n"),
        (
            ("--container", SMALL, "--no-container-slurm"),
            {"FAIRLEAD_SLURM_INSIDE": "1"},
            "none\n",
        ),
    )
    for words, variables, expected in rows:
        assert output(jobs.run("srun", *words, *there, **variables)) == expected, words


def test_second_launch_starts_no_python(other_prefix):
    os.makedirs(f"{other_prefix}/libexec", exist_ok=True)
    with counted(other_prefix, site=False) as engine:
        words = ("-w", "n1", f"--container={frozen(SMALL)}", "--container-slurm", "sinfo", "-h")
        first = output(jobs.run("srun", *words))
        assert engine.starts() == 1
        assert output(jobs.run("srun", *words)) == first
        assert engine.starts() == 0


def test_srun_without_the_plugin_does_not_start_inside(plain_client, place):
    """It would run its step in the container around it, whatever it was asked for."""
    script = f"SLURM_CONF={plain_client} srun --overlap --container={ENTRY} touch {place}/ran"
    shown = inside(f"{script} || echo refused")
    assert "this-node-has-no-fairlead-plugin" in shown.stderr
    assert shown.stdout == "refused\n"
    assert os.listdir(place) == []


REFUSED = (
    (
        ("--container-remap-root",),
        {},
        (
            "fairlead: error [usage]: Slurm's client programs in a container with "
            "--container-remap-root: they would call themselves root's (drop it, or leave them out "
            "with --no-container-slurm)"
        ),
    ),
    (
        ("--container-unshare=net",),
        {},
        (
            "fairlead: error [usage]: Slurm's client programs in a container with "
            "--container-unshare=net: no node could answer them (drop it, or leave them out with "
            "--no-container-slurm)"
        ),
    ),
    (
        (),
        {"PATH": "/nonexistent"},
        (
            "fairlead: error [slurm]: Slurm's client programs: srun is not in the job's PATH "
            "(install them on this node, or do not ask for them in the container)"
        ),
    ),
)


@pytest.mark.parametrize(("words", "variables", "line"), REFUSED, ids=["root", "net", "no srun"])
def test_what_cannot_be_had_is_one_line(words, variables, line):
    words = (f"--container={SMALL}", "--container-slurm", *words, "/bin/true")
    result = jobs.run(str(shutil.which("srun")), *words, **variables)
    assert result.returncode == 125
    assert error_lines(result) == [line]


def test_image_that_has_another_slurm_account_gets_the_hosts():
    shown = output(inside("grep ^slurm: /etc/passwd; grep -c ^root: /etc/passwd", image=MPI))
    with open("/etc/passwd", encoding="utf-8") as file:
        uid = next(line.split(":")[2] for line in file if line.startswith("slurm:"))
    lines = shown.splitlines()
    assert [line.split(":")[2] for line in lines[:-1]] == [uid]
    assert lines[-1] == "1"
