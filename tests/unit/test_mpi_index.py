"""host.index: one walk finds every MPI in an image, whatever the image contains."""

import os
import shutil

import elf_forge
import pytest

from fairlead import errors
from fairlead.host import index, survey

LOADER = "/lib64/ld-linux-x86-64.so.2"


def program(path, *flags, text="int MPI_Init(); int main(){return MPI_Init(0,0);}"):
    return elf_forge.compile_c(path, text, *flags)


def user(root, library, path, *flags):
    """A program that is linked to a library of the tree."""
    directory, name = os.path.split(str(library))
    return program(root / path, f"-L{directory}", f"-l:{name}", *flags)


def test_every_copy_is_found_wherever_it_lies_and_symlinks_are_not_copies(tmp_path):
    elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40.30.4")
    os.symlink("libmpi.so.40.30.4", tmp_path / "usr/lib/libmpi.so.40")
    elf_forge.openmpi(tmp_path / "opt/app/private/libmpi.so.40")
    elf_forge.mpich(tmp_path / "opt/mpich/lib/libmpi.so.12")
    found = survey.survey(str(tmp_path))
    assert [(item.path, item.abi_class) for item in found.libraries] == [
        ("/opt/app/private/libmpi.so.40", "openmpi-4"),
        ("/opt/mpich/lib/libmpi.so.12", "mpich-abi"),
        ("/usr/lib/libmpi.so.40.30.4", "openmpi-4"),
    ]


def test_what_programs_use_is_noted_with_the_sizes_of_data(tmp_path):
    library = elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40")
    text = "extern char ompi_mpi_comm_world[512]; int MPI_Send(); int mpi_mine(){return 1;} int main(){return MPI_Send(ompi_mpi_comm_world)+mpi_mine();}"
    program(tmp_path / "bin/mpi_app", f"-L{tmp_path}/usr/lib", "-l:libmpi.so.40", text=text)
    found = survey.survey(str(tmp_path))
    assert found.users == ("/bin/mpi_app",)
    assert found.needs == (("openmpi-4", "MPI_Send\nompi_mpi_comm_world 512"),)
    assert found.libc == "glibc"
    assert library


def test_mpi_of_its_own_does_not_count_as_a_program(tmp_path):
    library = elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40")
    user(tmp_path, library, "usr/lib/openmpi/mca_pml_x.so")
    user(tmp_path, library, "usr/bin/ompi_info")
    assert survey.survey(str(tmp_path)).users == ()


def test_dt_rpath_and_neighbours_of_a_private_copy_are_noted(tmp_path):
    library = elf_forge.openmpi(tmp_path / "opt/app/lib/libmpi.so.40")
    elf_forge.library(tmp_path / "opt/app/lib/libopen-pal.so.40")
    user(tmp_path, library, "opt/app/app", "-Wl,-rpath,$ORIGIN/lib,--disable-new-dtags")
    found = survey.survey(str(tmp_path))
    assert any("DT_RPATH $ORIGIN/lib" in note for note in found.notes)
    assert found.neighbours == (("/opt/app/lib", ("libmpi.so.40", "libopen-pal.so.40")),)
    assert found.private == (("/opt/app/lib/libopen-pal.so.40", "libopen-pal.so.40"),)


def test_program_with_mpi_linked_in_is_a_static_suspect(tmp_path):
    text = 'const char *v = "MPICH Version:"; int main(){return v[0];}'
    program(tmp_path / "bin/static_app", "-static", text=text)
    program(tmp_path / "bin/other", "-static", text="int main(){return 0;}")
    assert survey.survey(str(tmp_path)).static == ("/bin/static_app",)


def test_glibc_versions_are_those_of_the_tree(tmp_path):
    directory = tmp_path / f"lib/{elf_forge.TRIPLET}"
    os.makedirs(directory)
    shutil.copy(f"/lib/{elf_forge.TRIPLET}/libc.so.6", directory)
    shutil.copy(f"/lib/{elf_forge.TRIPLET}/libm.so.6", directory)
    versions = dict(survey.survey(str(tmp_path)).glibc)
    assert versions.keys() == {"libc.so.6", "libm.so.6"}
    assert "GLIBC_2.2.5" in versions["libm.so.6"]


def test_hostile_tree_is_survived(tmp_path):
    """FIFOs, loops, names of every kind, ELF rubbish under MPI names, a symlink to the host."""
    root = tmp_path / "root"
    os.makedirs(root / "usr/lib")
    os.mkfifo(root / "usr/lib/libmpi.so.40")
    os.symlink("/", root / "host")
    os.symlink("loop", root / "loop")
    os.symlink("/usr/lib", root / "lib")
    (root / "usr/lib/libmpich.so.12").write_bytes(b"\x7fELF\x02\x01" + b"\xff" * 500)
    (root / "usr/lib/libmpi_cxx.so.40").write_bytes(b"")
    with open(os.fsencode(root / "usr/lib") + b"/lib\xffmpi\n.so", "wb") as file:
        file.write(b"\x7fELF")
    deep = str(root)
    for _ in range(survey.MAX_DEPTH + 20):
        deep += "/d"
        os.mkdir(deep)
    os.makedirs(root / "etc")
    (root / "etc/ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1" + b"\xff" * 300)
    found = index.load(str(root), str(tmp_path / "index.json"))
    assert found.libraries == ()
    deep_one, damaged_one = found.unseen
    assert deep_one.startswith("/d/d/d")
    assert damaged_one == "/usr/lib/libmpich.so.12"
    assert index.load(str(root), str(tmp_path / "index.json")) == found


def test_stored_index_is_used_and_a_damaged_one_is_made_anew(tmp_path):
    elf_forge.openmpi(tmp_path / "root/usr/lib/libmpi.so.40")
    cache = tmp_path / "trees/x.mpi.json"
    os.makedirs(cache.parent)
    first = index.load(str(tmp_path / "root"), str(cache))
    shutil.rmtree(tmp_path / "root")
    assert index.load(str(tmp_path / "root"), str(cache)) == first
    cache.write_text("{}")
    os.makedirs(tmp_path / "root/usr")
    assert index.load(str(tmp_path / "root"), str(cache)).libraries == ()


@pytest.mark.skipif(not os.path.exists(LOADER), reason="no x86-64 glibc")
def test_interpreter_of_programs_is_noted(tmp_path):
    program(tmp_path / "bin/app", text="int main(){return 0;}")
    found = survey.survey(str(tmp_path))
    assert (found.interpreters, found.libc) == ((LOADER,), "glibc")


def test_musl_is_told_from_glibc(tmp_path):
    program(
        tmp_path / "bin/app",
        "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1",
        text="int main(){return 0;}",
    )
    assert survey.survey(str(tmp_path)).libc == "musl"


def test_unreadable_directory_is_noted(tmp_path, monkeypatch):
    os.makedirs(tmp_path / "opt")
    scandir = os.scandir

    def refuse(path):  # root, who runs these tests in CI, may read everything
        if path.endswith("/opt/"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert survey.survey(str(tmp_path)).unseen == ("/opt",)


def test_absent_tree_is_an_error(tmp_path):
    with pytest.raises(errors.StoreError, match="No such file"):
        index.load(str(tmp_path / "gone"), str(tmp_path / "index.json"))
