"""host.mpi: the host's MPI is found without a list, described whole, remembered, and found anew when it changes."""

import json
import os
import subprocess
import sys

import elf_forge
import pytest

from fairlead.host import discover, ldso, mpi, plugins

LIBRARIES = f"/usr/lib/{elf_forge.TRIPLET}"
needs_openmpi = pytest.mark.skipif(
    not os.path.exists(f"{LIBRARIES}/libmpi.so.40"), reason="no OpenMPI on this machine"
)
needs_mpich = pytest.mark.skipif(
    not os.path.exists(f"{LIBRARIES}/libmpich.so.12"), reason="no MPICH on this machine"
)


def installation(prefix, version="4.1.4", plugins_text="int plugin(void){return 1;}"):
    """An OpenMPI-like installation: library, internal library that names its directories, plugins, data."""
    lib = prefix / "lib"
    naming = f'const char *names[] = {{"{prefix}", "${{prefix}}/lib", "${{libdir}}/openmpi", "${{datadir}}/openmpi", "{prefix}/share"}};'
    elf_forge.library(lib / "libopen-pal.so.40", naming)
    elf_forge.library(
        lib / "libmpi.so.40", elf_forge.OPENMPI.format(world=512, version=version),
        f"-L{lib}", "-Wl,--no-as-needed", "-l:libopen-pal.so.40", "-Wl,-rpath,$ORIGIN",
    )  # fmt: skip
    elf_forge.library(lib / "openmpi/mca_one.so", plugins_text, soname="")
    os.makedirs(prefix / "share/openmpi")
    (prefix / "share/openmpi/help.txt").write_text("help")
    return prefix


def found(environ, cache):
    return mpi.profiles({"PATH": "/nowhere", **environ}, str(cache))


@pytest.fixture
def only_hints(monkeypatch):
    """Nothing is found by the loader's cache: analysing the system's own MPI takes most of a second."""
    monkeypatch.setattr(ldso, "CACHE", "/nonexistent/ld.so.cache")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("system")


@pytest.fixture(scope="module")
def system(cache):
    """What this machine has, without any hint."""
    return found({}, cache)


def openmpi(profiles):
    return next(profile for profile in profiles if profile.abi_class == "openmpi-4")


@needs_openmpi
def test_debian_openmpi_is_found_whole_without_any_hint(system):
    profile = openmpi(system)
    assert profile.name.startswith("OpenMPI 4.")
    assert "pmix" in profile.pmi
    closure = dict(profile.closure)
    assert closure["libmpi.so.40"].startswith(f"{LIBRARIES}/libmpi.so.40.")
    assert {
        "libopen-rte.so.40",
        "libopen-pal.so.40",
        "libhwloc.so.15",
        "libpmix.so.2",
    } <= closure.keys()
    assert not closure.keys() & ldso.GLIBC
    directories = {item.path for item in profile.plugin_dirs}
    assert f"{LIBRARIES}/openmpi/lib/openmpi3" in directories
    assert f"{LIBRARIES}/pmix2/lib/pmix" in directories
    assert f"{LIBRARIES}/libibverbs" in directories
    assert {"/etc/openmpi", "/usr/share/openmpi"} <= {path for path, _ in profile.data_dirs}
    assert {role for role, _, _ in profile.libraries} >= {"c", "mpifh", "usempif08", "cxx"}
    assert any(need.version == "GLIBC_2.34" and need.by == "libmpi.so.40" for need in profile.glibc)


@needs_mpich
def test_debian_mpich_is_found_with_the_modules_of_ucx(system):
    profile = next(item for item in system if item.abi_class == "mpich-abi")
    assert "pmi2" in profile.pmi
    assert f"{LIBRARIES}/ucx" in {item.path for item in profile.plugin_dirs}
    assert {role for role, _, _ in profile.libraries} == {"c", "cxx", "fortran"}


@needs_openmpi
def test_no_standard_directory_is_taken_for_a_plugin_directory(system):
    directories = [item.path for profile in system for item in profile.plugin_dirs]
    assert not set(directories) & {
        LIBRARIES,
        "/usr/bin",
        "/usr/lib",
        f"/lib/{elf_forge.TRIPLET}",
        f"{LIBRARIES}/tc",
    }
    assert len({os.path.realpath(path) for path in directories}) <= len(set(directories))


def test_a_directory_that_cannot_be_read_is_none_of_its_plugins(tmp_path):
    """libcrypto names /usr/lib/ssl/private, and OpenMPI 6 loads libcrypto; gone is as good as forbidden here."""
    loader = ldso.Loader("/")
    known = loader.closure([])
    assert plugins.plugin_directory(loader, str(tmp_path / "private"), "libx.so", known) is None


@needs_openmpi
def test_plugins_that_drag_in_a_display_are_left_out_with_the_reason(system):
    profile = openmpi(system)
    names = {name for name, _ in profile.closure}
    assert not any(name.startswith(("libX11.", "libxml2.", "libOpenCL.")) for name in names)
    hwloc = [item for item in profile.plugin_dirs if item.path.endswith("/hwloc")]
    for item in hwloc:
        assert all(reason for _, reason in item.left_out)


@needs_openmpi
def test_every_file_that_a_run_maps_is_in_the_profile(tmp_path, system):
    """The static analysis against the kernel's word: run a singleton and compare with its maps."""
    if not os.path.exists("/usr/bin/mpicc.openmpi"):
        pytest.skip("no mpicc.openmpi on this machine")
    source = tmp_path / "p.c"
    source.write_text('#include <mpi.h>\n#include <stdio.h>\nint main(int c,char**v){MPI_Init(&c,&v);'
                      'FILE*f=fopen("/proc/self/maps","r");int k;while((k=fgetc(f))>=0)putchar(k);MPI_Finalize();}')  # fmt: skip
    subprocess.run(["mpicc.openmpi", "-o", tmp_path / "p", source], check=True)
    environ = {**os.environ, "OMPI_MCA_ess_singleton_isolated": "1"}
    maps = subprocess.run(
        [tmp_path / "p"], env=environ, capture_output=True, text=True, check=True
    ).stdout
    mapped = {line.split()[-1] for line in maps.splitlines() if ".so" in line and "r-xp" in line}
    profile = openmpi(system)
    known = {path for _, path in profile.closure}
    known |= {target for item in profile.plugin_dirs for _, target in item.files}
    glibc = {path for path in mapped if os.path.basename(path) in ldso.GLIBC}
    left_out = [f"{item.path}/{name}" for item in profile.plugin_dirs for name, _ in item.left_out]
    dragged_in = {item.real for item in ldso.Loader("/").closure(left_out).libraries.values()}
    assert mapped - known - glibc - dragged_in == set()


def test_prefix_variable_wins_over_what_the_system_has(tmp_path):
    prefix = installation(tmp_path / "site", version="4.1.99")
    assert openmpi(found({"MPI_HOME": str(prefix)}, tmp_path / "cache")).version == "4.1.99"


@pytest.mark.parametrize("variable", ["OPAL_PREFIX", "EBROOTOPENMPI", "LD_LIBRARY_PATH"])
def test_variables_of_module_files_lead_to_the_installation(tmp_path, only_hints, variable):
    prefix = installation(tmp_path / "site", version="4.1.99")
    value = f"/nowhere:{prefix}/lib" if variable == "LD_LIBRARY_PATH" else str(prefix)
    assert openmpi(found({variable: value}, tmp_path / "cache")).version == "4.1.99"


def test_compiler_wrapper_on_the_path_leads_to_its_installation(tmp_path, only_hints):
    prefix = installation(tmp_path / "site", version="4.1.98")
    os.makedirs(prefix / "bin")
    (prefix / "bin/mpicc").write_text("")
    os.makedirs(tmp_path / "links")
    os.symlink(prefix / "bin/mpicc", tmp_path / "links/mpicc")
    for path in (f"{prefix}/bin", f"{tmp_path}/links"):
        assert openmpi(found({"PATH": path}, tmp_path / "cache")).version == "4.1.98"


def test_plugin_and_data_directories_come_from_templates_in_the_strings(tmp_path, only_hints):
    prefix = installation(tmp_path / "site")
    profile = openmpi(found({"MPI_HOME": str(prefix)}, tmp_path / "cache"))
    assert [item.path for item in profile.plugin_dirs] == [f"{prefix}/lib/openmpi"]
    assert (f"{prefix}/share/openmpi", "libopen-pal.so.40") in profile.data_dirs


def test_installation_that_was_moved_is_found_where_it_lies_now(tmp_path, only_hints):
    installation(tmp_path / "built")
    os.rename(tmp_path / "built", tmp_path / "moved")
    profile = openmpi(found({"OPAL_PREFIX": str(tmp_path / "moved")}, tmp_path / "cache"))
    assert [item.path for item in profile.plugin_dirs] == [f"{tmp_path}/moved/lib/openmpi"]
    assert profile.env == (("OPAL_PREFIX", str(tmp_path / "moved")),)


def test_plugins_beside_a_moved_library_come_before_those_at_its_old_place(tmp_path, only_hints):
    built, moved = tmp_path / "usr/lib/triplet", tmp_path / "moved/lib"
    elf_forge.library(built / "ucx/libuct_old.so.0")
    elf_forge.library(moved / "ucx/libuct_new.so.0")
    elf_forge.library(moved / "libucs.so.0", f'const char *names[] = {{"{built}/ucx"}};')
    elf_forge.library(
        moved / "libmpi.so.40", elf_forge.OPENMPI.format(world=512, version="4.1.4"),
        f"-L{moved}", "-Wl,--no-as-needed", "-l:libucs.so.0", "-Wl,-rpath,$ORIGIN",
    )  # fmt: skip
    profile = openmpi(found({"MPI_HOME": str(tmp_path / "moved")}, tmp_path / "cache"))
    assert [(item.path, [name for name, _ in item.files]) for item in profile.plugin_dirs] == [
        (f"{moved}/ucx", ["libuct_new.so.0"])
    ]


def test_plugin_with_a_missing_library_is_left_out_with_the_reason(tmp_path, only_hints):
    prefix = installation(tmp_path / "site")
    elf_forge.library(tmp_path / "gone/libgone.so")
    elf_forge.library(
        prefix / "lib/openmpi/mca_two.so", "int p(void){return 1;}", f"-L{tmp_path}/gone", "-Wl,--no-as-needed",
        "-l:libgone.so", soname="",
    )  # fmt: skip
    profile = openmpi(found({"MPI_HOME": str(prefix)}, tmp_path / "cache"))
    (directory,) = profile.plugin_dirs
    assert [name for name, _ in directory.files] == ["mca_one.so"]
    assert directory.left_out == (("mca_two.so", "needs libgone.so, which this host lacks"),)
    assert any("mca_two.so" in note for note in profile.notes)


def test_directory_that_another_user_could_fill_is_not_trusted(tmp_path):
    inner = tmp_path / "open/plugins"
    os.makedirs(inner)
    assert plugins.trusted(str(inner), os.getuid())
    os.chmod(inner, 0o1777)  # anybody may add a plugin
    assert not plugins.trusted(str(inner), os.getuid())
    os.chmod(inner, 0o755)
    os.chmod(tmp_path / "open", 0o777)
    assert not plugins.trusted(str(inner), os.getuid())
    os.chmod(tmp_path / "open", 0o1777)  # sticky: others can add names, and cannot replace ours
    assert plugins.trusted(str(inner), os.getuid())


@needs_openmpi
def test_second_call_gives_the_same_and_imports_no_analysis(system, cache):
    text = (
        "import sys; from fairlead.host import mpi;"
        f"profiles = mpi.profiles({{'PATH': '/nowhere'}}, {str(cache)!r});"
        "print(sorted(name for name in sys.modules if name.startswith('fairlead.host.')));"
        "print([profile.identity for profile in profiles])"
    )
    output = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    ).stdout
    modules, identities = output.splitlines()
    assert modules == "['fairlead.host.mpi', 'fairlead.host.relocation', 'fairlead.host.witness']"
    assert identities == str([profile.identity for profile in system])
    assert found({}, cache) == system


@pytest.mark.parametrize("change", ["library", "plugin", "data"])
def test_any_change_of_the_installation_is_noticed(tmp_path, change, only_hints):
    prefix = installation(tmp_path / "site")
    environ = {"MPI_HOME": str(prefix)}
    before = openmpi(found(environ, tmp_path / "cache"))
    if change == "library":
        elf_forge.openmpi(prefix / "lib/libmpi.so.40", version="4.1.5")
    elif change == "plugin":
        elf_forge.library(prefix / "lib/openmpi/mca_new.so", soname="")
    else:
        (prefix / "share/openmpi/help.txt").write_text("other help")
    after = openmpi(found(environ, tmp_path / "cache"))
    assert after.identity != before.identity
    if change == "library":
        assert (before.version, after.version) == ("4.1.4", "4.1.5")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"key": 1}', '{"key": [], "looked_at": [], "profiles": []}']
)
def test_damaged_cache_is_made_anew(tmp_path, content, only_hints):
    prefix = installation(tmp_path / "site")
    environ = {"MPI_HOME": str(prefix)}
    first = found(environ, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_text(content)
    assert found(environ, tmp_path / "cache") == first
    assert json.loads(path.read_text())["profiles"]


def test_cache_that_cannot_be_written_is_no_error(tmp_path, only_hints):
    prefix = installation(tmp_path / "site")
    (tmp_path / "file").write_text("")
    assert found({"MPI_HOME": str(prefix)}, tmp_path / "file/cache")


def test_cache_files_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(discover, "profiles", lambda *_: ((), set()))
    for number in range(mpi.MAX_KEPT + 8):
        os.makedirs(tmp_path / f"d{number}/lib")
        found({"MPI_HOME": str(tmp_path / f"d{number}")}, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == mpi.MAX_KEPT


def test_half_installed_library_is_passed_over_with_a_warning(tmp_path, capfd, only_hints):
    prefix = installation(tmp_path / "site")
    with open(prefix / "lib/libopen-pal.so.40", "r+b") as file:
        file.truncate(700)  # headers are whole, what they point to is not
    assert found({"MPI_HOME": str(prefix)}, tmp_path / "cache") == ()
    assert "is passed over" in capfd.readouterr().err
