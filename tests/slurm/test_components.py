"""Heterogeneous steps and jobs: each component in a container of its own, or on the host by its word."""

import os
import re
import shlex
import shutil
import tempfile

import jobs
import pytest
from jobs import BULLSEYE, MPI, MPICH, REGISTRY, SMALL, error_lines, output

ENTRY = f"{REGISTRY}/demo/entry:1"
SAY = (
    "sh",
    "-c",
    "echo $SLURM_PROCID in=${FAIRLEAD_CONTAINER:-host} label=$SLURM_CONTAINER pwd=$PWD",
)
LINE = (
    "fairlead: error [usage]: one component of the step names a container, another says nothing "
    "about it (give --container to each; none means the host)"
)


@pytest.fixture(autouse=True)
def _no_node_is_drained():
    yield
    assert jobs.nodes_out_of_service() == []


@pytest.fixture
def place():
    """A directory of the user's that all nodes see."""
    path = tempfile.mkdtemp(prefix="fairlead-components-", dir="/tmp")
    os.chown(path, jobs.USER.pw_uid, jobs.USER.pw_gid)
    yield path
    shutil.rmtree(path)


def inside(script, *options, **variables):
    """Run a script in an allocation: its steps start at once, as those of a job of their own do not."""
    return jobs.run("salloc", "-Q", *options, "sh", "-c", script, **variables)


def step(*components, say=SAY, **variables):
    """Run one step of several components; each a list of srun's words before the command."""
    words = [word for options in components for word in (":", "-n1", *options, *say)]
    count = str(len(components))
    script = shlex.join(["srun", *words[1:]])
    return inside(script, f"-N{count}", "--ntasks-per-node=1", **variables)


def seen(result):
    """What each rank said: where it is, its label, its directory; digests left out."""
    lines = sorted(output(result).splitlines())
    return [
        tuple(word.partition("=")[2].partition("@")[0] for word in line.split()[1:])
        for line in lines
    ]


def in_(image, pwd):
    return (image, image, pwd)


HERE = ("host", "", jobs.USER.pw_dir)
SMALL_WORKDIR = "/opt/demo"


def test_each_component_has_its_container_and_options(place):
    shown = step(
        (f"--container={SMALL}", f"--container-mounts={place}:/one:ro"),
        (f"--container={ENTRY}", "--container-workdir=/bin"),
        (f"--container={SMALL}", "--container-workdir=/"),
    )
    assert seen(shown) == [in_(SMALL, SMALL_WORKDIR), in_(ENTRY, "/bin"), in_(SMALL, "/")]


@pytest.mark.parametrize("first", [True, False])
def test_component_that_says_none_runs_on_the_host(first):
    there, here = (f"--container={SMALL}",), ("--container=none",)
    shown = step(here, there) if first else step(there, here)
    expected = [HERE, in_(SMALL, SMALL_WORKDIR)]
    assert seen(shown) == (expected if first else expected[::-1])


def test_export_none_keeps_components_apart():
    say = ("/bin/sh", *SAY[1:])
    one, other = (("--export=NONE", f"--container={image}") for image in (SMALL, ENTRY))
    assert [where for where, *_ in seen(step(one, other, say=say))] == [SMALL, ENTRY]


def test_variable_that_one_component_exports_is_its_own():
    say = ("sh", "-c", "echo $SLURM_PROCID A=$A IN=$FAIRLEAD_CONTAINER")
    shown = step(
        (f"--container={SMALL}", "--export=ALL,A=one"),
        (f"--container={ENTRY}", "--export=ALL,A=two"),
        say=say,
    )
    assert seen(shown) == [("one", SMALL), ("two", ENTRY)]


def test_pyxis_options_of_one_component_are_not_the_others():
    say = ("sh", "-c", "echo $SLURM_PROCID LANGUAGE=${LANGUAGE-unset}")
    shown = step((f"--container-image={SMALL}",), (f"--container={SMALL}",), say=say, LANGUAGE="de")
    assert seen(shown) == [("unset",), ("de",)]


@pytest.mark.parametrize("silent", [0, 1])
def test_component_that_says_nothing_beside_one_in_a_container_is_refused(silent):
    rows = [("-Q",), (f"--container={SMALL}",)]
    rows = rows if silent == 0 else rows[::-1]
    words = [word for options in rows for word in (":", "-n1", *options, *SAY)]
    result = jobs.run("srun", *words[1:])
    assert result.returncode == 125
    assert error_lines(result) == [LINE]


def test_groups_of_a_heterogeneous_job_have_their_containers():
    """In one step, each alone, and all of them in one container."""
    say = " ".join(f"'{word}'" for word in SAY)
    script = f"""
srun --het-group=0 --container={SMALL} {say} : --het-group=1 --container={ENTRY} {say}
srun --het-group=1 --container={ENTRY} {say}
srun --het-group=0,1 --container={SMALL} {say}
"""
    shown = inside(script, "-n1", ":", "-n1")
    assert sorted(where for where, *_ in seen(shown)) == sorted([SMALL, ENTRY, ENTRY, SMALL, SMALL])


def test_jobs_container_is_inherited_by_all_components_but_one_that_names_another():
    say = " ".join(f"'{word}'" for word in SAY)
    script = f"srun -n1 {say} : -n1 --container={ENTRY} {say}"
    shown = inside(script, "-N2", "--ntasks-per-node=1", f"--container={SMALL}")
    assert [where for where, *_ in seen(shown)] == [SMALL, ENTRY]


def test_nothing_of_other_components_is_left_in_the_environment():
    look = (
        "sh",
        "-c",
        "env | grep -c -e ^SLURM_FAIRLEAD_[0-9] -e ^SLURM_FAIRLEAD_COMPONENT || true",
    )
    shown = step((f"--container={SMALL}",), ("--container=none",), say=look)
    assert output(shown).split() == ["0", "0"]


def test_heterogeneous_job_of_sbatch_with_two_containers_is_refused(place):
    words = (f"--container={SMALL}", "-n1", ":", "-n1", f"--container={ENTRY}")
    result = jobs.run("sbatch", *words, "--wrap", f"touch {place}/ran")
    assert result.returncode == 125
    assert error_lines(result) == [
        (
            "fairlead: error [usage]: the components of a heterogeneous job must name the same "
            "container (give each component of its sruns its own)"
        )
    ]


def test_components_that_cannot_be_told_apart_do_not_run(place):
    """The number is gone, what was set aside is there: as of an environment that is forged."""
    result = jobs.run("srun", "--export=ALL,SLURM_FAIRLEAD_1_REF=x", "touch", f"{place}/ran")
    assert result.returncode == 125
    assert "cannot be told apart" in result.stderr
    assert os.listdir(place) == []


def test_ranks_of_two_components_in_two_images_are_one_world():
    one, other = (f"-n2 -N1 --container={image} ./hello_mpi" for image in (MPI, BULLSEYE))
    shown = inside(f"srun --mpi=pmix {one} : {other}", "-N2", "--ntasks-per-node=2")
    assert sorted(re.findall(r"rank (\d) of 4", output(shown))) == ["0", "1", "2", "3"]


def test_ranks_of_two_components_of_a_heterogeneous_job_are_one_world_under_pmi2():
    component = ("-N1", "-n2", f"--container={MPICH}", "./hello_mpi")
    shown = jobs.run("srun", "--mpi=pmi2", *component, ":", *component)
    assert sorted(re.findall(r"rank (\d) of 4", output(shown))) == ["0", "1", "2", "3"]
