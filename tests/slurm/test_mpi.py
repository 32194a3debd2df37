"""MPI ranks talk inside containers, on two nodes, through the host's library or the image's own."""

import json
import os
import re
import shutil
import subprocess

import jobs
import pytest
from jobs import BULLSEYE, MPI, MPICH, PYTHON, output, srun

LINE = re.compile(
    r"rank (\d) of (\d) on \S+ \((\S+)\): (.*), (the host's MPI|the image's own MPI): (\S+), build-id (\w+)"
)


def build_id(path):
    notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True).stdout
    return re.search(r"Build ID: (\w+)", notes).group(1)


def hello(image, pmi, *options, **variables):
    shown = output(
        srun(f"--mpi={pmi}", "-N2", "-n4", *options, "./hello_mpi", container=image, **variables)
    )
    ranks = LINE.findall(shown)
    assert sorted(rank for rank, *_ in ranks) == ["0", "1", "2", "3"], shown
    assert {size for _, size, *_ in ranks} == {"4"}
    assert len({node for _, _, node, *_ in ranks}) == 2
    return ranks


@pytest.mark.parametrize(
    ("image", "pmi", "library"),
    [
        pytest.param(
            *(MPI, "pmix", "/usr/lib/x86_64-linux-gnu/libmpi.so.40"),
            marks=pytest.mark.host_mpi("openmpi", 4),
        ),
        (MPICH, "pmi2", "/usr/lib/x86_64-linux-gnu/libmpich.so.12"),
    ],
)
@pytest.mark.parametrize("mode", ["", "--container-mpi=host"])
def test_hosts_library_is_the_one_in_the_maps(image, pmi, library, mode):
    ranks = hello(image, pmi, *([mode] if mode else []))
    assert {whose for *_, whose, _, _ in ranks} == {"the host's MPI"}
    assert all(build_id(library).startswith(found) for *_, found in ranks)


@pytest.mark.parametrize(("image", "pmi"), [(MPI, "pmix"), (MPICH, "pmi2")])
def test_images_own_library_runs_when_asked(image, pmi):
    ranks = hello(image, pmi, "--container-mpi=image")
    assert {whose for *_, whose, _, _ in ranks} == {"the image's own MPI"}


@pytest.mark.pmix
def test_mode_comes_from_the_environment_too():
    ranks = hello(MPI, "pmix", FAIRLEAD_MPI="image")
    assert {whose for *_, whose, _, _ in ranks} == {"the image's own MPI"}


@pytest.mark.host_mpi("openmpi", 4)
@pytest.mark.parametrize("mode", [(), ("--container-mpi=host",)], ids=["auto", "host"])
def test_host_newer_than_the_image_is_bound_to_the_images_glibc(mode):
    """bookworm's OpenMPI asks for GLIBC_2.34 and more; bullseye has 2.31, which stays as it is."""
    result = srun("--mpi=pmix", "-N2", "-n4", *mode, "./hello_mpi", container=BULLSEYE)
    ranks = LINE.findall(output(result))
    assert {whose for *_, whose, _, _ in ranks} == {"the host's MPI"}
    assert {size for _, size, *_ in ranks} == {"4"}
    host = build_id("/usr/lib/x86_64-linux-gnu/libmpi.so.40")
    assert all(host.startswith(found) for *_, found in ranks)
    # Where the image is new and the machine busy, how far it is.
    assert [line for line in result.stderr.splitlines() if "pulling" not in line] == []
    libc = output(srun("sh", "-c", "ldd ./hello_mpi | grep libc.so", container=BULLSEYE))
    assert "/lib/x86_64-linux-gnu/libc.so.6" in libc
    plan = output(jobs.run("fairlead", "plan", "--mpi=host", BULLSEYE, "./hello_mpi"))
    assert re.search(r"\d+ symbols above GLIBC_2\.31 down-bound, \d+ moved, \d+ new", plan)


@pytest.mark.pmix
def test_images_own_older_library_runs_when_asked():
    shown = output(
        srun("--mpi=pmix", "-N2", "-n4", "--container-mpi=image", "./hello_mpi", container=BULLSEYE)
    )
    assert {whose for *_, whose, _, _ in LINE.findall(shown)} == {"the image's own MPI"}


@pytest.mark.pmix
def test_large_messages_between_ranks_of_a_node_on_an_older_glibc():
    shown = output(srun("--mpi=pmix", "-n2", "./cma", container=BULLSEYE))
    assert shown.count("ok, single copy by cma, 4 MiB exchange ok") == 2


@pytest.mark.pmix
def test_single_copy_between_ranks_of_a_node():
    shown = output(srun("--mpi=pmix", "-n2", "./cma", container=MPI))
    assert shown.count("ok, single copy by cma, 4 MiB exchange ok") == 2


@pytest.mark.pmix
def test_second_pmix_directory_outside_tmp_is_inside():
    """No variable of the step names it; PMIx 5 cannot start without it."""
    place = "/srv/fairlead-pmix"
    os.makedirs(place, exist_ok=True)
    os.chmod(place, 0o1777)
    try:
        options = (
            "--mpi=pmix",
            "sh",
            "-c",
            "ls -d /srv/fairlead-pmix/spmix_appdir_*; ls -d $PMIX_SERVER_TMPDIR",
        )
        shown = output(srun(*options, container=jobs.SMALL, SLURM_PMIX_TMPDIR=place))
    finally:
        shutil.rmtree(place)  # Slurm removes its directory in there when it gets to it
    assert "spmix_appdir_" in shown
    assert "/pmix." in shown


@pytest.mark.host_mpi("openmpi", 4)
def test_mpi4py_world_on_two_nodes():
    shown = output(srun("--mpi=pmix", "-N2", "-n4", "python3", "hello_mpi.py", container=PYTHON))
    ranks = re.findall(r"rank (\d) of 4 on \S+ \((n\d)\): Open MPI v4\S+: (\S+)", shown)
    assert sorted(rank for rank, _, _ in ranks) == ["0", "1", "2", "3"], shown
    assert {path for _, _, path in ranks} == {"/.fairlead/mpi/openmpi-4/lib/libmpi.so.40"}


def fairlead(*words):
    return output(jobs.run("fairlead", *words))


def host_mpis():
    return [entry["name"] for entry in json.loads(fairlead("mpi", "list", "--json"))]


@pytest.mark.host_mpi("openmpi", 4)
def test_preferred_installation_is_named_by_a_variable_of_the_job():
    (name,) = [name for name in host_mpis() if name.startswith("openmpi-")]
    ranks = hello(MPI, "pmix", FAIRLEAD_MPI_PROFILE=name)
    assert {whose for *_, whose, _, _ in ranks} == {"the host's MPI"}


@pytest.mark.pmix
def test_installation_that_no_node_has_is_one_line_with_the_names():
    options = ("--mpi=pmix", "-N2", "-n4", "./hello_mpi")
    result = srun(*options, container=MPI, FAIRLEAD_MPI_PROFILE="openmpi-3")
    assert result.returncode == 125
    (line,) = jobs.error_lines(result)
    assert "error [config]: $FAIRLEAD_MPI_PROFILE: mpi_profile = 'openmpi-3'" in line
    assert all(name in line for name in host_mpis())


@pytest.mark.host_mpi("openmpi", 4)
def test_verb_says_beforehand_what_the_job_does():
    shown = fairlead("mpi", "explain", MPI, "/opt/demo/hello_mpi")
    assert "start it   with srun --mpi=pmix" in shown
    assert "auto       the host's OpenMPI " in shown


@pytest.mark.pmix
def test_trace_inside_a_step_starts_its_own_ranks():
    """The step's PMI, PMIx and Slurm variables would lead the sample's launcher to the step."""
    (name,) = [name for name in host_mpis() if name.startswith("openmpi-")]
    shown = output(srun("--mpi=pmix", "-n1", "fairlead", "mpi", "profile", name))
    assert "trace      2 ranks of " in shown
    assert "missed" not in shown
