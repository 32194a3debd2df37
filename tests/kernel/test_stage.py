"""run.stage: with the layer over an image, programs run on the host's MPI, however they were linked."""

import errno
import io
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time

import mpi_images
import pytest

from fairlead import errors
from fairlead.host import elf, index, mpi
from fairlead.plan import inject
from fairlead.run import layer, pack, stage

LIBRARIES = f"/{mpi_images.LIBRARIES}"
ORDINARY = mpi_images.ORDINARY
PROGRAM = """
#include <mpi.h>
#include <stdio.h>
int main(int count, char **words)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length, size, letter;
    double one = 1, sum = 0;
    MPI_Init(&count, &words);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_library_version(text, &length);
    MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    printf("VERSION %s\\n", text);
    FILE *maps = fopen("/proc/self/maps", "r");
    while ((letter = fgetc(maps)) >= 0)
        putchar(letter);
    MPI_Finalize();
    return sum != size;
}
"""

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("mpicc.openmpi"), reason="no OpenMPI for compiling on this machine"
    ),
    pytest.mark.skipif(
        not shutil.which("mpicc.mpich"), reason="no MPICH for compiling on this machine"
    ),
    pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb on this machine"),
]


def as_user():
    """Become an ordinary user in a child: the layer is built by one, and belongs to one."""
    return {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if ORDINARY else {}


@pytest.fixture(scope="module")
def programs(base):
    """Programs linked in the ways that are met: plainly, with DT_RPATH to a private copy, by an absolute name."""
    path = pathlib.Path(base, "programs")
    path.mkdir()
    source = path / "program.c"
    source.write_text(PROGRAM)
    names = (
        "MPI_Init",
        "MPI_Comm_size",
        "MPI_Get_library_version",
        "MPI_Allreduce",
        "MPI_Finalize",
    )
    (path / "stub.c").write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in names))

    def build(name, family, *flags):
        subprocess.run([f"mpicc.{family}", "-o", path / name, source, *map(str, flags)], check=True)

    build("openmpi", "openmpi")
    build("openmpi-rpath", "openmpi", "-Wl,-rpath,/opt/app/lib,--disable-new-dtags")
    build("openmpi-runpath", "openmpi", "-Wl,-rpath,/opt/app/lib,--enable-new-dtags")
    build("mpich", "mpich")
    stub = (
        path / "libmpi.so.12"
    )  # what upstream MPICH calls the library that Debian calls libmpich.so.12
    subprocess.run(
        ["gcc", "-shared", "-o", stub, "-Wl,-soname,libmpi.so.12", path / "stub.c"], check=True
    )
    subprocess.run(["mpicc.mpich", "-c", "-o", path / "p.o", source], check=True)
    subprocess.run(["gcc", "-o", path / "mpich-upstream", path / "p.o", stub], check=True)
    stub.unlink()
    return path


@pytest.fixture(scope="module")
def image(base):
    """An image with OpenMPI 4.1.0 and MPICH 3.4.1 of bullseye on the glibc of bookworm: what it has can be told apart."""
    newer = [
        path for path in mpi_images.packages("bookworm", "libc6", "libc-bin") if "/libc" in path
    ]
    tree = mpi_images.copy(mpi_images.pristine("bullseye", "mixed", newer), f"{base}/tree")
    private = f"{tree}/opt/app/lib"
    os.makedirs(private)
    for name in ("libmpi.so.40", "libopen-rte.so.40", "libopen-pal.so.40"):
        shutil.copy(f"{tree}{LIBRARIES}/{name}", private)
    shutil.copy("/bin/true", f"{tree}{LIBRARIES}/openmpi/lib/openmpi3/mca_bogus.so")
    os.makedirs(f"{tree}/etc/openmpi", exist_ok=True)
    os.chmod(f"{tree}/opt", 0o711)
    if ORDINARY:  # as in the store: everything belongs to the user
        subprocess.run(["chown", "-hR", f"{ORDINARY}:{ORDINARY}", tree], check=True)
    return tree


@pytest.fixture(scope="module")
def staged(image, space):
    return compose(image, space, "first")


def compose(tree, space, name, mode="host", hook=""):
    """Do what a launch does, in a process of the ordinary user's."""
    text = (
        "import json, sys; from fairlead.host import index, mpi; from fairlead.plan import inject;"
        "from fairlead.run import stage;"
        f"found = index.load({tree!r}, {str(space)!r} + '/{name}.json');"
        f"profiles = mpi.profiles({{'PATH': '/usr/bin'}}, {str(space)!r} + '/host');"
        f"verdict = inject.decide({mode!r}, found, profiles); {hook or 'pass'};"
        f"print(json.dumps(stage.compose(verdict, found, {tree!r}, {str(space)!r} + '/staged/{name}')))"
    )
    environ = {**os.environ, "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
    output = subprocess.run(
        [sys.executable, "-c", text],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        **as_user(),
    )
    assert output.returncode == 0, output.stderr
    return stage.Staged(*json.loads(output.stdout))


def run(staged, tree, programs, space, *command, env=None):
    return mpi_images.run(
        staged.directory,
        tree,
        programs,
        command,
        staged.env if env is None else env,
        user=ORDINARY,
        space=f"{space}/mnt",
    )


def mapped(text):
    """Return the shared objects in a maps file."""
    return sorted(
        {
            line.split(None, 5)[5]
            for line in text.splitlines()
            if ".so" in line and "/" in line and "r-xp" in line
        }
    )


def build_id(path):
    return elf.read(os.path.realpath(path)).build_id


FAMILIES = {"openmpi": f"{LIBRARIES}/libmpi.so.40", "mpich": f"{LIBRARIES}/libmpich.so.12"}
LINKAGES = ["openmpi", "openmpi-rpath", "openmpi-runpath", "mpich", "mpich-upstream"]


# The image has no libmpi.so.12 at all: only LD_LIBRARY_PATH can lead the upstream name to it.
CASES = [
    (name, kind)
    for name in LINKAGES
    for kind in ("set", "reset")
    if (name, kind) != ("mpich-upstream", "reset")
]


@pytest.mark.parametrize(("program", "environment"), CASES)
def test_program_runs_on_the_hosts_library(staged, image, programs, space, program, environment):
    """Every linkage, also behind a wrapper that resets LD_LIBRARY_PATH."""
    env = staged.env if environment == "set" else ()
    done = run(staged, image, programs, space, f"/mnt/{program}", env=env)
    assert done.returncode == 0, done.stderr
    host = FAMILIES[program.partition("-")[0]]
    (libmpi,) = [path for path in mapped(done.stdout) if re.search(r"/libmpi(ch)?\.so", path)]
    assert libmpi.startswith("/.fairlead/mpi/")
    inside = staged.directory + libmpi
    assert elf.read(inside).build_id == build_id(host)
    with elf.Reader(os.path.realpath(host)) as reader:
        names = ("ompi_version_string", "MPII_Version_string")
        version = next(reader.text(item) for item in reader.symbols() if item.name in names)
    assert version in done.stdout.splitlines()[0]


@pytest.mark.parametrize("program", LINKAGES)
def test_preflight_finds_every_symbol(staged, image, programs, space, program):
    """mpi.md, headline 6: the loader's own trace names what would kill the run; it must name nothing."""
    trace = "LD_TRACE_LOADED_OBJECTS=1 LD_WARN=1 LD_BIND_NOW=1"
    done = run(staged, image, programs, space, "/bin/sh", "-c", f"{trace} exec /mnt/{program}")
    assert done.returncode == 0, done.stderr
    assert "=>" in done.stdout
    assert not re.search(
        r"not found|undefined symbol|no version information", done.stdout + done.stderr
    )


@pytest.mark.parametrize("program", ["openmpi", "mpich"])
def test_no_file_of_the_images_mpi_or_wire_is_mapped(staged, image, programs, space, program):
    done = run(staged, image, programs, space, f"/mnt/{program}")
    paths = mapped(done.stdout)
    assert len(paths) > 8
    for path in paths:
        if re.search(r"libmpi|libopen-|mca_|libmca|libpmix|libuc[pstm]|libfabric|ibverbs", path):
            assert os.path.exists(staged.directory + path), f"{path} is the image's"


def test_plugins_of_the_image_vanish_and_its_other_files_stay(staged, image, programs, space):
    done = run(staged, image, programs, space, "ls", f"{LIBRARIES}/openmpi/lib/openmpi3")
    assert "mca_bogus.so" not in done.stdout
    assert done.stdout.split() == sorted(os.listdir(f"{LIBRARIES}/openmpi/lib/openmpi3"))
    done = run(staged, image, programs, space, "ls", "/etc", LIBRARIES)
    assert {"ld.so.conf", "openmpi"} <= set(done.stdout.split())
    assert "libgfortran.so.5" in done.stdout


def test_hosts_configuration_is_used(staged, image, programs, space):
    done = run(staged, image, programs, space, "cat", "/etc/openmpi/openmpi-mca-params.conf")
    with open("/etc/openmpi/openmpi-mca-params.conf") as file:
        assert done.stdout == file.read()


def test_directories_keep_the_modes_of_the_image(staged, image, programs, space):
    done = run(
        staged, image, programs, space, "stat", "-c", "%a", "/", "/opt", "/opt/app", "/usr", "/etc"
    )
    expected = [
        f"{os.stat(image + path).st_mode & 0o777:o}"
        for path in ("/", "/opt", "/opt/app", "/usr", "/etc")
    ]
    assert done.stdout.split() == expected
    assert expected[1] == "711"


def test_layer_is_a_copy_and_belongs_to_the_user(staged):
    owner = ORDINARY or os.getuid()
    for directory, _, names in os.walk(staged.directory):
        for name in names:
            status = os.lstat(os.path.join(directory, name))
            assert status.st_uid == owner
            assert status.st_nlink == 1


def test_manifest_names_a_source_and_a_reason_for_everything(staged):
    with open(os.path.dirname(staged.directory) + "/manifest.json") as file:
        entries = json.load(file)
    assert all(entry["reason"] for entry in entries)
    on_disk = {
        os.path.join(directory, name)[len(staged.directory) :]
        for directory, _, names in os.walk(staged.directory)
        for name in names
    }
    assert on_disk <= {entry["path"] for entry in entries}
    assert any("replaces the image's OpenMPI 4.1.0" in line for line in staged.report)


def test_newer_host_glibc_is_refused_with_library_version_and_symbol(tmp_path):
    found = index.load(mpi_images.pristine("bullseye", "bullseye"), str(tmp_path / "index.json"))
    profiles = mpi.profiles({"PATH": "/usr/bin"}, str(tmp_path / "host"))
    verdict = inject.decide("host", found, profiles)
    assert re.search(
        r"host OpenMPI 4\S+ needs GLIBC_2.34 \(libmpi.so.40: \w+\).*up to GLIBC_2.31",
        verdict.refused,
    )
    automatic = inject.decide("auto", found, profiles)
    assert automatic.choice == "image"
    assert stage.compose(automatic, found, "/nonexistent", str(tmp_path / "x")).directory == ""


def test_many_processes_stage_one_layer(image, space):
    text = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from fairlead.host import index, mpi
from fairlead.plan import inject
from fairlead.run import layer, stage
found = index.load({image!r}, {str(space)!r} + '/many.json')
verdict = inject.decide('host', found, mpi.profiles({{'PATH': '/usr/bin'}}, {str(space)!r} + '/host'))
plan = layer.plan
layer.plan = lambda *words: (print('planned', flush=True), plan(*words))[1]
print(stage.compose(verdict, found, {image!r}, {str(space)!r} + '/staged/many').directory)
"""
    compose(image, space, "first")  # the host's profile is cached from here on
    started = [
        subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, **as_user()
        )
        for _ in range(6)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 6
    assert sum("planned" in output for output in outputs) == 1
    assert {output.split()[-1] for output in outputs} == {f"{space}/staged/many/layer"}


def test_death_while_staging_leaves_nothing_that_is_taken_for_a_layer(image, space):
    killed = "from fairlead.run import stage as s; import os; s._flush = lambda path: os.kill(os.getpid(), 9)"
    with pytest.raises(AssertionError):
        compose(image, space, "killed", hook=killed)
    assert not os.path.exists(f"{space}/staged/killed")
    assert os.path.exists(f"{space}/staged/.killed.tmp")
    assert os.path.exists(compose(image, space, "killed").directory)
    assert not os.path.exists(f"{space}/staged/.killed.tmp")
    assert signal.SIGKILL == 9


def test_without_user_xattrs_whiteouts_hide_the_images_plugins(image, programs, space):
    refuse = (
        "import os, errno\n"
        "def refuse(*words): raise OSError(errno.ENOTSUP, 'not supported')\n"
        "os.setxattr = refuse"
    )
    layer = compose(image, space, "whiteouts", hook=f"exec({refuse!r})")
    done = run(layer, image, programs, space, "ls", f"{LIBRARIES}/openmpi/lib/openmpi3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(os.listdir(f"{LIBRARIES}/openmpi/lib/openmpi3"))
    assert run(layer, image, programs, space, "/mnt/openmpi").returncode == 0


def test_full_file_system_is_one_clear_error(image, tmp_path, monkeypatch):
    found = index.load(image, str(tmp_path / "index.json"))
    verdict = inject.decide(
        "host", found, mpi.profiles({"PATH": "/usr/bin"}, str(tmp_path / "host"))
    )

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(errors.SpaceError, match="No space left"):
        stage.compose(verdict, found, image, str(tmp_path / "staged/x"))


def test_image_that_leads_a_plugin_directory_to_its_root_is_refused(image, tmp_path):
    tree = mpi_images.copy(image, tmp_path / "tree")
    directory = f"{tree}{LIBRARIES}/openmpi/lib/openmpi3"
    shutil.rmtree(directory)
    os.symlink("/usr", directory)
    found = index.load(tree, str(tmp_path / "index.json"))
    verdict = inject.decide(
        "host", found, mpi.profiles({"PATH": "/usr/bin"}, str(tmp_path / "host"))
    )
    with pytest.raises(errors.MpiError, match="/usr"):
        stage.compose(verdict, found, tree, str(tmp_path / "staged/x"))


def test_nothing_is_written_outside_the_target_however_the_image_links(image, tmp_path):
    """The image leads every directory that we fill to a canary on the host; writing stays inside the layer."""
    canary = tmp_path / "canary"
    canary.mkdir()
    tree = mpi_images.copy(image, tmp_path / "tree")
    for path in ("etc/openmpi", "etc/libibverbs.d", f"{mpi_images.LIBRARIES}/ucx", ".fairlead"):
        shutil.rmtree(f"{tree}/{path}", ignore_errors=True)
        os.symlink(canary, f"{tree}/{path}")
    found = index.load(tree, str(tmp_path / "index.json"))
    verdict = inject.decide(
        "host", found, mpi.profiles({"PATH": "/usr/bin"}, str(tmp_path / "host"))
    )
    done = stage.compose(verdict, found, tree, str(tmp_path / "staged/x"))
    assert os.listdir(canary) == []
    assert os.path.isdir(f"{done.directory}/.fairlead/mpi/openmpi-4/lib")


def test_warm_launch_takes_a_few_milliseconds(staged, image, space):
    text = f"""
import time
from fairlead.host import index, mpi
from fairlead.plan import inject
from fairlead.run import stage
best = 1.0
for _ in range(5):
    begin = time.perf_counter()
    profiles = mpi.profiles({{'PATH': '/usr/bin'}}, {str(space)!r} + '/host')
    found = index.load({image!r}, {str(space)!r} + '/first.json')
    verdict = inject.decide('host', found, profiles)
    stage.compose(verdict, found, {image!r}, {str(space)!r} + '/staged/first')
    best = min(best, time.perf_counter() - begin)
import sys
print(best, sorted(set(sys.modules) & {{'mmap', 'hashlib', 'subprocess', 'dataclasses', 'shutil', 'fairlead.host.elf'}}))
"""
    begin = time.monotonic()
    output = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, **as_user()
    ).stdout
    best, modules = output.split(None, 1)
    assert modules.strip() == "[]"
    assert float(best) < 0.02, f"{best} s; measured alone: 0.003"
    assert time.monotonic() > begin


def test_archive_for_the_node_s_store_holds_what_a_user_s_tree_holds(image, space):
    """One layout, twice: as ``stage.write`` leaves it, and as the storekeeper packs it."""
    found = index.load(image, f"{space}/packed.json")
    profiles = mpi.profiles({"PATH": "/usr/bin"}, f"{space}/packed-host")
    laid_out = layer.plan(inject.decide("host", found, profiles), found, image)
    tree = f"{space}/packed"
    os.mkdir(tree)
    stage.write(laid_out, image, tree)
    there, opaque = {}, set()
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            there[path[len(tree) + 1 :]] = described(path)
            if not os.path.islink(path) and "user.overlay.opaque" in os.listxattr(path):
                opaque.add(path[len(tree) + 1 :])
    data = b"".join(pack.archive(laid_out, image))
    assert data == b"".join(pack.archive(laid_out, image)), "equal layouts are equal bytes"
    packed, hidden = {}, set()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            if name.endswith("/.wh..wh..opq"):
                hidden.add(os.path.dirname(name))
            elif name not in ("", "."):
                file = archive.extractfile(member) if member.isreg() else None
                content = file.read() if file else member.linkname
                packed[name] = (member.mode | KINDS[member.type], content)
    assert packed == there
    assert hidden == opaque
    assert len(there) > 100
    assert "etc" in there


KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
}


def described(path):
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return mode, os.readlink(path)
    return mode, pathlib.Path(path).read_bytes() if stat.S_ISREG(mode) else ""
