"""host.family: what an MPI library is follows from its symbols; its SONAME may say anything."""

import os

import elf_forge
import pytest

from fairlead.host import elf, family

LIBRARIES = f"/usr/lib/{elf_forge.TRIPLET}"


def examine(path):
    real = os.path.realpath(path)
    with elf.Reader(real) as reader:
        return family.examine(real, reader)


@pytest.mark.parametrize(
    ("name", "role", "kind", "abi_class"),
    [
        ("libmpi.so.40", "c", "openmpi", "openmpi-4"),
        ("libmpi_mpifh.so.40", "mpifh", "openmpi", "openmpi-4"),
        ("libmpi_usempif08.so.40", "usempif08", "openmpi", "openmpi-4"),
        ("libmpi_cxx.so.40", "cxx", "openmpi", "openmpi-4"),
        ("libmpi_mpifh-gfortran.so.40", "mpifh-modules", "openmpi", "openmpi-4"),
        ("libmpich.so.12", "c", "mpich", "mpich-abi"),
        ("libmpichfort.so.12", "fortran", "mpich", "mpich-abi"),
        ("libmpichcxx.so.12", "cxx", "mpich", "mpich-abi"),
    ],
)
def test_debian_libraries_are_recognised(name, role, kind, abi_class):
    if not os.path.exists(f"{LIBRARIES}/{name}"):
        pytest.skip(f"no {name} on this machine")
    found = examine(f"{LIBRARIES}/{name}")
    assert (found.role, found.family, found.abi_class) == (role, kind, abi_class)


def test_versions_come_from_the_library_itself(tmp_path):
    assert examine(elf_forge.openmpi(tmp_path / "libmpi.so.40", version="4.1.7")).version == "4.1.7"
    assert examine(elf_forge.mpich(tmp_path / "libmpi.so.12")).version == "4.0.9"


def test_openmpi_1_10_is_not_taken_for_mpich_although_both_are_libmpi_so_12(tmp_path):
    old = examine(elf_forge.openmpi(tmp_path / "o/libmpi.so.12", "1.10.2", 1024, "libmpi.so.12"))
    true = examine(elf_forge.mpich(tmp_path / "m/libmpi.so.12"))
    assert old.soname == true.soname == "libmpi.so.12"
    assert (old.family, true.family) == ("openmpi", "mpich")
    assert true.abi_class == "mpich-abi"
    assert old.abi_class not in ("mpich-abi", "openmpi-4")


@pytest.mark.parametrize(
    ("world", "soname"), [(1024, "libmpi.so.40"), (1536, "libmpi.so.20"), (512, "libmpi.so.80")]
)
def test_openmpi_of_another_size_or_generation_is_another_class(tmp_path, world, soname):
    assert (
        examine(elf_forge.openmpi(tmp_path / soname, "9.9.9", world, soname)).abi_class
        != "openmpi-4"
    )


def test_openmpi_6_keeps_its_objects_in_a_second_library_and_is_of_the_same_class(tmp_path):
    second = elf_forge.openmpi(tmp_path / "libopen_mpi.so.40", "6.0.0", 512, "libopen_mpi.so.40")
    first = elf_forge.library(
        tmp_path / "libmpi.so.40",
        "extern char ompi_mpi_comm_world[]; char *MPI_Init(void) { return ompi_mpi_comm_world; }",
        f"-L{tmp_path}",
        "-l:libopen_mpi.so.40",
    )
    assert (examine(first).role, examine(first).abi_class) == ("c", "openmpi-4")
    assert (examine(second).role, examine(second).abi_class) == ("open_mpi", "openmpi-4")


def test_standard_abi_library_is_its_own_class(tmp_path):
    found = examine(elf_forge.mpich(tmp_path / "libmpi_abi.so.1", soname="libmpi_abi.so.1"))
    assert (found.family, found.abi_class) == ("abi", "mpi-abi")


def test_library_that_only_has_the_name_is_no_mpi(tmp_path):
    assert examine(elf_forge.library(tmp_path / "libmpi.so.40")) is None


@pytest.mark.parametrize(
    "name", ["libmpi.so", "libmpi.so.40.30.4", "libmpich.so.12", "libmpi_abi_openmpi.so.1.0.0"]
)
def test_names_of_c_libraries(name):
    assert family.role(name) == "c"


@pytest.mark.parametrize(
    "name", ["libmpfr.so.6", "libmpi.a", "libmpi.so.txt", "libmpi4py.so", "mpi.so", "libmpdec.so.3"]
)
def test_names_that_are_no_mpi(name):
    assert family.role(name) == ""


def test_only_the_interface_for_programs_counts_as_exports(tmp_path):
    text = (
        elf_forge.OPENMPI.format(world=512, version="4.1.4") + "int ompi_internal(void){return 1;}"
    )
    with elf.Reader(elf_forge.library(tmp_path / "libmpi.so.40", text)) as reader:
        assert family.public_exports(reader) == {"MPI_Init", "MPI_Send", "ompi_mpi_comm_world 512"}


def test_libc_is_told_by_what_is_needed(tmp_path):
    elf_forge.library(tmp_path / "libc.musl-x86_64.so.1")
    flags = ["-nodefaultlibs", f"-L{tmp_path}", "-Wl,--no-as-needed", "-l:libc.musl-x86_64.so.1"]
    assert (
        family.libc(
            elf.read(
                elf_forge.mpich(tmp_path / "libmpi.so.12", "libmpi.so.12", elf_forge.MPICH, *flags)
            )
        )
        == "musl"
    )
    assert family.libc(elf.read("/bin/sh")) == "glibc"
