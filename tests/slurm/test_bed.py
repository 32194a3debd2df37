"""The bed itself is sound: what fails here is no fault of Fairlead's."""

import os
import re
import subprocess

import pytest
from jobs import REGISTRY, SMALL, output, run, srun

BED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed")
PROGRAM = f"{BED}/programs/hello_mpi.c"


def test_bare_steps_run_on_four_nodes():
    shown = output(srun("-N4", "-n4", "sh", "-c", "echo $SLURMD_NODENAME"))
    assert sorted(shown.split()) == ["n1", "n2", "n3", "n4"]


def test_registry_answers():
    assert "demo/small" in output(run("curl", "-sf", f"http://{REGISTRY}/v2/_catalog"))


@pytest.mark.parametrize(("compiler", "pmi"), [("mpicc.openmpi", "pmix"), ("mpicc.mpich", "pmi2")])
def test_hosts_mpi_works_without_a_container_on_two_nodes(compiler, pmi):
    program = f"/var/tmp/fairlead-bed-hello-{compiler}"
    subprocess.run([compiler, "-O1", "-o", program, PROGRAM], check=True, capture_output=True)
    try:
        shown = output(srun(f"--mpi={pmi}", "-N2", "-n4", program))
    finally:
        os.unlink(program)
    assert shown.count(" of 4 on ") == 4


def test_nodes_with_networks_of_their_own_have_addresses_and_reach_the_registry():
    """As the MPI matrix needs them: OpenMPI 6 does not connect two nodes of one address."""
    environ = {**os.environ, "FAIRLEAD_BED": "net", "FAIRLEAD_BED_NET": "own"}
    look = f"ip -o -4 addr show eth0 | tr -s ' '; curl -sf http://{REGISTRY}/v2/_catalog"
    try:
        subprocess.run([f"{BED}/cluster", "up"], env=environ, check=True, capture_output=True)
        conf = {"SLURM_CONF": "/var/lib/fairlead-bed-net/etc/slurm.conf"}
        shown = output(run("srun", "-N2", "-n2", "-l", "sh", "-c", look, **conf))
    finally:
        subprocess.run([f"{BED}/cluster", "down"], env=environ, check=True, capture_output=True)
    addresses = dict(re.findall(r"^([01]): .* inet (198\.18\.\d+\.\d+)/24", shown, re.MULTILINE))
    assert sorted(addresses) == ["0", "1"], shown
    assert addresses["0"] != addresses["1"]
    assert shown.count("demo/small") == 2


@pytest.mark.parametrize("container", ["", SMALL])
def test_two_nodes_are_two_to_mpi(container):
    """By host name, boot id, System V memory and /dev/shm: what libraries tell machines apart by.

    Not by their network: all nodes have the machine's one address.
    """
    look = "hostname; cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/ipc; stat -c %d /dev/shm"
    shown = output(srun("-N2", "-n2", "-l", "sh", "-c", look, container=container))
    seen = {rank: re.findall(rf"^{rank}: (.*)$", shown, re.MULTILINE) for rank in "01"}
    assert len(seen["0"]) == 4, shown
    assert not set(seen["0"]) & set(seen["1"]), shown
