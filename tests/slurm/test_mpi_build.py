"""Users compile in containers whose MPI is the host's: the linker finds it, and what it makes runs with either MPI.

The images are directories: what tests/bed/mpi_roots.sh has to compile in, bullseye's (on whose glibc the host's MPI is
down-bound) and bookworm's.
"""

import os
import shutil
import subprocess
import tempfile

import jobs
import pytest
from jobs import output, srun

BED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed")
PLACE = f"/var/tmp/fairlead-build-{os.getpid()}"
PMI = {"openmpi": "pmix", "mpich": "pmi2"}
VERSION = {"openmpi": "Open MPI v4.1.4", "mpich": "MPICH Version: 4.0.2"}
C = """
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char version[MPI_MAX_LIBRARY_VERSION_STRING];
	int rank, sum, length;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	MPI_Get_library_version(version, &length);
	printf("rank %d sum %d %.*s\\n", rank, sum, (int)strcspn(version, ",\\n"), version);
	fflush(stdout);
	MPI_Barrier(MPI_COMM_WORLD);
	usleep(500 * 1000); /* programs/settle.h says why */
	MPI_Finalize();
	return 0;
}
"""
FORTRAN = """
program t
  use mpi
  integer :: rank, total, error
  call mpi_init(error)
  call mpi_comm_rank(mpi_comm_world, rank, error)
  call mpi_allreduce(rank, total, 1, mpi_integer, mpi_sum, mpi_comm_world, error)
  print '(a,i0,a,i0)', 'rank ', rank, ' sum ', total
  call mpi_barrier(mpi_comm_world, error)
  call sleep(1)
  call mpi_finalize(error)
end program
"""


def compilers(suite):
    """Return the tree to compile in of a Debian release."""
    script = '. "$1/bed.sh"; . "$1/mpi_roots.sh"; mpi_root compilers "$2"'
    words = ["bash", "-c", script, "_", BED, suite]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def trees():
    """Return images: hard links to the trees, without what an ordinary user may not read."""
    made = {}
    for suite in ("bookworm", "bullseye"):
        source = compilers(suite)
        place = made[suite] = f"{os.path.dirname(source)}/work-build-{os.getpid()}-{suite}"
        names = [f"{source}/{name}" for name in ("usr", "bin", "lib", "lib64")]
        for name in ("", "etc", "proc", "sys", "dev", "tmp"):
            os.makedirs(f"{place}/{name}", exist_ok=True)
        subprocess.run(["cp", "-al", *names, place], check=True)
        shutil.copytree(f"{source}/etc/alternatives", f"{place}/etc/alternatives", symlinks=True)
        shutil.copy(f"{source}/etc/ld.so.cache", f"{place}/etc")
    yield made
    for place in made.values():
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def sources():
    """Return a directory of the user's with the sources."""
    os.makedirs(PLACE)
    for name, text in (("t.c", C), ("t.f90", FORTRAN)):
        with open(f"{PLACE}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    os.chown(PLACE, jobs.USER.pw_uid, jobs.USER.pw_gid)
    yield PLACE
    shutil.rmtree(PLACE)


def build(image, family, compiler, name, source, *flags):
    """Compile and link in a container with the host's MPI, as one rank; return what the compiler said."""
    words = (f"{compiler}.{family}", "-Wl,--fatal-warnings", "-o", name, source, *flags)
    options = (f"--mpi={PMI[family]}", "-n1", "--container-mpi=host")
    result = srun(*options, *words, container=image, cwd=PLACE)
    return output(result) + result.stderr


def run(image, family, name, mode):
    options = (f"--mpi={PMI[family]}", "-N2", "-n4", f"--container-mpi={mode}")
    return output(srun(*options, f"{PLACE}/{name}", container=image, cwd=PLACE))


@pytest.mark.host_mpi("openmpi", 4)
@pytest.mark.parametrize("family", ["openmpi", "mpich"])
@pytest.mark.parametrize("suite", ["bookworm", "bullseye"])
def test_program_that_is_linked_in_the_container_runs_with_either_mpi(
    trees, sources, suite, family
):
    image = trees[suite]
    assert build(image, family, "mpicc", f"{suite}-{family}", "t.c") == ""
    whole = [f"rank {rank} sum 6" for rank in range(4)]
    shown = run(image, family, f"{suite}-{family}", "host").replace("\t", " ")
    assert sorted(shown.splitlines()) == [f"{line} {VERSION[family]}" for line in whole]
    shown = run(image, family, f"{suite}-{family}", "image")
    # bullseye's own UCX has words about this machine beside them.
    assert [line[:12] for line in sorted(shown.splitlines()) if line[:5] == "rank "] == whole
    needed = subprocess.run(
        ["readelf", "-dV", f"{PLACE}/{suite}-{family}"], capture_output=True, text=True
    ).stdout
    assert "fairlead" not in needed, "it would run with the host's MPI only"


@pytest.mark.host_mpi("openmpi", 4)
def test_fortran_is_linked_in_the_container(trees, sources):
    assert build(trees["bullseye"], "openmpi", "mpif90", "fortran", "t.f90") == ""
    shown = run(trees["bullseye"], "openmpi", "fortran", "host")
    assert sorted(shown.splitlines()) == [f"rank {rank} sum 6" for rank in range(4)]


@pytest.mark.host_mpi("openmpi", 4)
def test_host_that_is_asked_for_is_no_other_family(trees, sources):
    """The image has two MPIs; the selected MPICH fits none of its programs, OpenMPI is replaced."""
    image = trees["bookworm"]
    assert build(image, "mpich", "mpicc", "left", "t.c") == ""
    prefix = f"{sources}/poor/lib"
    os.makedirs(prefix)
    words = ("gcc", "-shared", "-fPIC", "-Wl,-soname,libmpi.so.12", "-o", f"{prefix}/libmpi.so.12")
    subprocess.run([*words, f"{BED}/mpi_programs/forged.c"], check=True)
    options = ("--mpi=pmi2", "-n2", "--container-mpi=host", f"{PLACE}/left")
    result = srun(*options, container=image, cwd=PLACE, MPI_HOME=os.path.dirname(prefix))
    assert result.returncode == 125
    (line,) = jobs.error_lines(result)
    assert line == (
        f"fairlead: error [mpi]: {PLACE}/left: the host's MPI was injected, and "
        "/usr/lib/x86_64-linux-gnu/libmpich.so.12.2.2 would be loaded "
        "(use --container-mpi=image to run the image's own MPI)"
    )


# -- RELR ------------------------------------------------------------------------------------------

# A table of pointers, so that a place that was not relocated is a crash. getpid: the linker asks for glibc's version of
# packed relocations only where glibc is asked for anything.
TABLE = """
int getpid(void);
static const char *const volatile words[] = { %s };
__attribute__((constructor)) static void look(void)
{
	for (int i = 0; i < 300; i++)
		if (getpid() < 1 || *words[i] != 'w')
			__builtin_trap();
}
"""


@pytest.fixture(scope="module")
def packed(sources):
    """An MPI of the host whose relative relocations are packed: glibc before 2.36 cannot read them."""
    prefix = f"{sources}/packed"
    os.makedirs(f"{prefix}/lib")
    with open(f"{sources}/table.c", "w", encoding="utf-8") as file:
        file.write(TABLE % ('"w",' * 300))
    library = f"{prefix}/lib/libmpi.so.12"
    flags = ("-O1", "-shared", "-fPIC", "-Wl,-z,pack-relative-relocs", "-Wl,-soname,libmpi.so.12")
    forged = f"{BED}/mpi_programs/forged.c"
    subprocess.run(["gcc", *flags, "-o", library, forged, f"{sources}/table.c"], check=True)
    shown = subprocess.run(["readelf", "-dVW", library], capture_output=True, text=True).stdout
    assert "(RELR)" in shown
    assert "GLIBC_ABI_DT_RELR" in shown
    return prefix


@pytest.fixture(scope="module")
def needy(packed):
    """An image of bullseye's glibc with a program that wants an MPI which the image lacks."""
    root, image = compilers("bullseye"), f"{PLACE}/needy"
    libraries = f"{image}/lib/x86_64-linux-gnu"
    for name in (libraries, f"{image}/lib64", *(f"{image}/{n}" for n in ("etc", "proc", "sys"))):
        os.makedirs(name)
    for name in (
        "libc.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "libutil.so.1",
        "libm.so.6",
    ):
        shutil.copy(f"{root}/lib/x86_64-linux-gnu/{name}", libraries)
    shutil.copy(f"{root}/lib/x86_64-linux-gnu/ld-2.31.so", f"{image}/lib64/ld-linux-x86-64.so.2")
    with tempfile.TemporaryDirectory(dir=f"{root}/tmp") as place:
        inside = f"/tmp/{os.path.basename(place)}"
        for name in ("calls.c", "forged.c"):
            shutil.copy(f"{BED}/mpi_programs/{name}", place)
        library = ("-shared", "-fPIC", "-Wl,-soname,libmpi.so.12", "forged.c")
        for name, words in (
            ("libmpi.so.12", library),
            ("calls", ("-w", "calls.c", "./libmpi.so.12")),
        ):
            command = f"cd {inside} && gcc -o {name} {' '.join(words)}"
            subprocess.run(["chroot", root, "sh", "-c", command], check=True)
        shutil.copy(f"{place}/calls", image)
    return image


def test_packed_relocations_of_the_host_are_written_out_for_an_older_loader(needy, packed):
    result = srun("--mpi=pmi2", "-n1", "/calls", container=needy, MPI_HOME=packed)
    assert output(result) == "forged size=1 version=MPICH Version: 3.2 MPICH Release date: forged\n"
