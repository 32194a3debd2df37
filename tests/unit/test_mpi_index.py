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


# -- each odd thing has its own place


def survey_of(tmp_path):
    return survey.survey(str(tmp_path))


def test_every_program_that_is_linked_to_mpi_is_noted_with_its_linkage(tmp_path):
    library = elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40")
    user(tmp_path, library, "opt/plain")
    user(tmp_path, library, "opt/fixed", "-Wl,-rpath,/opt/x,--disable-new-dtags")
    user(tmp_path, library, "opt/run", "-Wl,-rpath,$ORIGIN/lib,--enable-new-dtags")
    elf_forge.library(tmp_path / "opt/MPI.so", "int MPI_Init(); int f(){return MPI_Init();}",
                      f"-L{tmp_path}/usr/lib", "-l:libmpi.so.40")  # fmt: skip
    os.chmod(tmp_path / "opt/plain", 0o4755)
    found = {item.path: item for item in survey_of(tmp_path).programs}
    assert found.keys() == {"/opt/plain", "/opt/fixed", "/opt/run", "/opt/MPI.so"}
    assert found["/opt/fixed"].rpath == "/opt/x"
    assert found["/opt/run"].runpath == "$ORIGIN/lib"
    assert found["/opt/plain"].needed == ("libmpi.so.40",)
    assert (found["/opt/plain"].setid, found["/opt/run"].setid) == (True, False)
    assert (found["/opt/plain"].interpreter, found["/opt/MPI.so"].interpreter) == (LOADER, "")


@pytest.mark.parametrize(
    ("soname", "text", "abi_class", "needs"),
    [
        ("libmpi_abi.so.1", elf_forge.MPICH, "mpi-abi", "MPI_Init"),
        ("libmpi.so.12", elf_forge.MPICH, "mpich-abi", "MPI_Init"),
        (
            "libmpi.so.40",
            elf_forge.OPENMPI.format(world=512, version="4.1.4"),
            "openmpi-4",
            "MPI_Init",
        ),
    ],
)
def test_library_that_programs_want_and_the_image_lacks_is_noted(
    tmp_path, soname, text, abi_class, needs
):
    library = elf_forge.library(tmp_path / f"root/{soname}", text, soname=soname)
    user(tmp_path / "root", library, "opt/app")
    os.unlink(library)
    found = survey.survey(str(tmp_path / "root"))
    assert found.libraries == ()
    assert found.lacking == ((abi_class, (soname,)),)
    assert found.needs == ((abi_class, needs),)


def test_libmpi_12_of_openmpi_1_is_not_taken_for_mpich(tmp_path):
    """OpenMPI 1.10 calls itself libmpi.so.12, the very name of the MPICH ABI."""
    text = elf_forge.OPENMPI.format(world=1024, version="1.10.2")
    library = elf_forge.library(tmp_path / "libmpi.so.12", text)
    use = "extern char ompi_mpi_comm_world[1024]; int main(){return ompi_mpi_comm_world[0];}"
    program(tmp_path / "opt/app", f"-L{tmp_path}", "-l:libmpi.so.12", text=use)
    os.unlink(library)
    assert dict(survey_of(tmp_path).lacking) == {"openmpi-so12": ("libmpi.so.12",)}


def test_path_of_a_library_in_a_program_that_is_not_linked_to_it_is_noted(tmp_path):
    text = 'const char *p = "/opt/x/lib/libmpi.so.12"; int main(){return p[0];}'
    program(tmp_path / "bin/loads", text=text)
    program(tmp_path / "bin/not", text='const char *p = "libmpi is nice"; int main(){return p[0];}')
    assert survey_of(tmp_path).dlopens == (("/bin/loads", "/opt/x/lib/libmpi.so.12"),)


def test_search_for_paths_has_a_limit_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MAX_SEARCHED_BYTES", 1)
    text = 'const char *p = "/opt/x/lib/libmpi.so.12"; int main(){return p[0];}'
    for name in "ab":
        program(tmp_path / name, text=text)
    found = survey_of(tmp_path)
    assert len(found.dlopens) == 1
    assert any("were searched for a path of libmpi" in note for note in found.notes)


def narrow(path, text):
    os.makedirs(path.parent, exist_ok=True)
    path.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(60) + text)
    path.chmod(0o755)


def test_32_bit_files_that_name_mpi_are_noted(tmp_path):
    narrow(tmp_path / "bin/old", b"\0libc.so.6\0libmpi.so.12\0")
    narrow(tmp_path / "bin/other", b"\0libc.so.6\0")
    narrow(tmp_path / "lib32/libmpi.so.12", b"")
    found = survey_of(tmp_path)
    assert found.narrow == ("/bin/old", "/lib32/libmpi.so.12")
    assert found.libraries == ()


def test_32_bit_files_are_searched_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MAX_NARROW_BYTES", 100)
    narrow(tmp_path / "bin/old", bytes(200) + b"\0libmpi.so.12\0")
    assert survey_of(tmp_path).narrow == ()


@pytest.mark.parametrize(
    ("content", "names"),
    [(b"/opt/a.so /opt/libmpi.so.12\n# x\n/b.so:c.so\n", ("/opt/a.so", "/opt/libmpi.so.12", "/b.so", "c.so")), (b"", ()), (b"\xff\0" * 9, ("\udcff\0" * 9,))],
)  # fmt: skip
def test_what_every_program_is_made_to_load_is_noted(tmp_path, content, names):
    os.makedirs(tmp_path / "etc")
    (tmp_path / "etc/ld.so.preload").write_bytes(content)
    assert survey_of(tmp_path).preloaded == names


def test_preload_file_is_not_read_through_the_host(tmp_path):
    os.makedirs(tmp_path / "root/etc")
    (tmp_path / "secret").write_text("host")
    os.symlink(tmp_path / "secret", tmp_path / "root/etc/ld.so.preload")
    assert survey.survey(str(tmp_path / "root")).preloaded == ()


def test_loader_that_the_image_lacks_is_noted(tmp_path):
    program(tmp_path / "bin/app", text="int main(){return 0;}")
    assert survey_of(tmp_path).loaderless == (LOADER,)
    os.makedirs(tmp_path / "lib64")
    os.symlink("/lib/x.so", tmp_path / LOADER[1:])
    assert survey_of(tmp_path).loaderless == (LOADER,), "a symlink to nothing is none"
    os.makedirs(tmp_path / "lib")
    (tmp_path / "lib/x.so").write_bytes(b"")
    assert survey_of(tmp_path).loaderless == ()


def test_versions_of_the_compilers_libraries_are_noted(tmp_path):
    script = tmp_path / "map"
    script.write_text(
        "GLIBCXX_3.4 { f; }; GLIBCXX_3.4.30 { g; }; GLIBCXX_3.4.9 { h; }; CXXABI_1.3 { i; }; CXXABI_TM_1 { j; };"
    )
    text = "void f(){} void g(){} void h(){} void i(){} void j(){}"
    elf_forge.library(tmp_path / "usr/lib/libstdc++.so.6", text, f"-Wl,--version-script={script}")
    assert survey_of(tmp_path).runtimes == (("libstdc++.so.6", ("GLIBCXX_3.4.30", "CXXABI_1.3")),)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense" * 100, b"glibc-ld.so.cache1.1" + b"\xff" * 300]
)
def test_cache_of_nonsense_is_said(tmp_path, content):
    os.makedirs(tmp_path / "etc")
    (tmp_path / "etc/ld.so.cache").write_bytes(content)
    assert any("ld.so.cache is not understood" in note for note in survey_of(tmp_path).notes)


def test_enormous_and_corrupt_files_are_survived(tmp_path):
    os.makedirs(tmp_path / "usr/lib")
    with open(tmp_path / "usr/lib/libmpi.so.40", "wb") as file:
        file.write(b"\x7fELF\x02\x01")
        file.truncate(5 << 30)  # a hole: beyond what the reader takes for a library
    library = elf_forge.mpich(tmp_path / "usr/lib/libmpich.so.12")
    with open(library, "r+b") as file:
        file.truncate(os.path.getsize(library) // 2)
    found = survey_of(tmp_path)
    assert found.libraries == ()
    assert sorted(found.unseen) == ["/usr/lib/libmpi.so.40", "/usr/lib/libmpich.so.12"]
