"""Down-binding for real: a newer release's programs, and this host's MPI, on an older image's glibc."""

import os
import re
import shutil
import subprocess

import downbind_bed as bed
import mpi_images
import pytest

from fairlead.glibc import binding, polyfill, versions
from fairlead.host import elf, ldso, mpi

ORDINARY = mpi_images.ORDINARY
LIBRARIES = f"/{mpi_images.LIBRARIES}"

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb on this machine")


class Pair:
    """A host and an image: programs compiled for the one, bound to the other."""

    def __init__(self, base, space, host, image):
        self.release = bed.host(host, base)
        self.image = bed.image(image, base)
        self.glibc = bed.family(self.image)
        self.place = f"{base}/{host}-{image}"
        self.space = f"{space}/{host}-{image}"
        os.makedirs(f"{self.place}/programs", exist_ok=True)

    def compile(self, name, sources, *flags):
        target = f"{self.place}/programs/{name}"
        return bed.compile_for(self.release, target, sources, *flags)

    def runtime(self, *names):
        """Return the release's own libraries that a program needs besides glibc."""
        loader = ldso.Loader(self.release.root or "/")
        return {loader.host(loader.usable(loader.find(name, []))): name for name in names}

    def both(self, command, files):
        """Run a command natively and bound; return both."""
        decision = bed.decide(self.glibc, files)
        layer = f"{self.place}/layer"
        shutil.rmtree(layer, ignore_errors=True)
        bed.put(decision, f"{layer}{bed.DOWN}", files)
        programs = f"{self.place}/programs"
        native = bed.native(self.release, programs, command, self.space, ORDINARY)
        bound = mpi_images.run(
            layer,
            self.image,
            programs,
            [word.replace("/mnt/", f"{bed.DOWN}/") for word in command],
            user=ORDINARY,
            space=self.space,
            timeout=120,
        )
        assert native.returncode == 0, native.stdout[-2000:] + native.stderr
        assert bound.returncode == 0, bound.stdout[-2000:] + bound.stderr
        return native.stdout, bound.stdout


@pytest.fixture(scope="module", params=bed.PAIRS, ids="-on-".join)
def pair(request, base, space):
    return Pair(base, space, *request.param)


def test_implemented_functions_do_what_the_newer_glibc_does(pair):
    program = pair.compile("calls", bed.CALLS, "-lm")
    native, bound = pair.both(["/bin/sh", "-c", "cd /tmp && exec /mnt/calls"], {program: "calls"})
    assert "end 0\n" in native
    assert bound.splitlines() == native.splitlines()


def test_every_binding_of_all_symbols_is_found_by_the_images_loader(pair, space):
    """One polyfill for all that the newer glibc defines and that can be had: bound at once when it is loaded."""
    newer = bed.family(pair.release.root or "/")
    wants = tuple(
        elf.Want(item.library, item.version, name, True, False)
        for name, found in newer.symbols.items()
        for item in found
        if versions.number(item.version) > (2, 17)
    )
    asked = frozenset((want.library, want.version) for want in wants)
    needs = versions.Needs("all", newer.machine, asked, wants, frozenset(), False)
    decision = binding.plan([needs], pair.glibc, bed.offers())
    assert decision.action == "down-bind"
    assert len(decision.bindings) > 40  # two releases' worth
    layer = f"{pair.place}/all"
    load = pair.compile("load", ["load.c"], "-ldl")
    decision_of_load = bed.decide(pair.glibc, [load])
    bed.put(decision_of_load, f"{layer}/own", {load: "load"}, "/own")
    bed.put(decision, f"{layer}{bed.DOWN}", {})
    os.rename(f"{layer}{bed.DOWN}/{polyfill.SONAME}", f"{layer}{bed.DOWN}/all.so")
    done = mpi_images.run(
        layer, pair.image, pair.place, ["/own/load", f"{bed.DOWN}/all.so"],
        user=ORDINARY, space=pair.space,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1 of 1\n"), done.stdout + done.stderr


def test_callers_threads_signals_and_fork_are_as_they_were(pair):
    os.makedirs(f"{pair.place}/programs/own", exist_ok=True)
    library = pair.compile("libcaller.so", ["caller_library.c"], "-shared", "-fPIC",
                           "-Wl,-soname,libcaller.so,-rpath,$ORIGIN/own", "-ldl")  # fmt: skip
    inner = pair.compile("own/libinner.so", ["throws_library.c"], "-shared", "-fPIC")
    program = pair.compile("callers", ["callers.c"], library, "-Wl,-rpath,$ORIGIN", "-ldl")
    decision = bed.decide(pair.glibc, [library, inner, program])
    layer = f"{pair.place}/layer"
    shutil.rmtree(layer, ignore_errors=True)
    # A search path of its own for the library only: the program must not find what is there.
    bed.put(decision, f"{layer}{bed.DOWN}", {program: "callers"})
    bed.put(decision, f"{layer}{bed.DOWN}", {library: "libcaller.so"}, f"{bed.DOWN}/own:{bed.DOWN}")
    bed.put(decision, f"{layer}{bed.DOWN}", {inner: "own/libinner.so"})
    programs = f"{pair.place}/programs"
    native = bed.native(pair.release, programs, ["/mnt/callers", "word"], pair.space, ORDINARY)
    bound = mpi_images.run(layer, pair.image, programs, [f"{bed.DOWN}/callers", "word"],
                           user=ORDINARY, space=pair.space)  # fmt: skip
    assert native.returncode == bound.returncode == 0, native.stderr + bound.stderr
    assert bound.stdout == native.stdout
    assert "constructed 1, library 1\n" in bound.stdout
    assert "RTLD_NEXT from the library: 1\n" in bound.stdout
    assert "program's search path: 0\nlibrary's own search path: 1\n" in bound.stdout


def test_exceptions_and_clocks_of_the_newer_libstdcxx(pair):
    library = pair.compile("libthrows.so", ["throws_library.c"], "-shared", "-fPIC",
                           "-fexceptions", "-Wl,-soname,libthrows.so")  # fmt: skip
    program = pair.compile("throws", ["throws.cc"], library, "-Wl,-rpath,$ORIGIN")
    files = {library: "libthrows.so", program: "throws"}
    files |= pair.runtime("libstdc++.so.6", "libgcc_s.so.1")
    native, bound = pair.both(["/mnt/throws"], files)
    assert bound == native
    assert "thrown 7, 51 frames unwound\n" in bound
    assert "through qsort 5\n" in bound


def test_many_threads_run_for_long(pair):
    program = pair.compile("long_run", ["long_run.c"])
    seconds = os.environ.get("FAIRLEAD_DOWNBIND_SECONDS", "2")
    _, bound = pair.both(["/mnt/long_run", seconds], {program: "long_run"})
    assert bound == "long run 1\n"


# -- on the newer glibc itself, which is taken for 2.17 -----------------------------------------


def test_every_implementation_does_what_this_glibc_does(base, space):
    """Nothing is left out: what came after 2.17 and is implemented is called, and compared with the real one."""
    own = bed.family("/")
    release = bed.Host("own", "")
    programs = f"{base}/itself"
    os.makedirs(programs)
    program = bed.compile_for(release, f"{programs}/calls", bed.CALLS, "-lm")
    decision = bed.decide(bed.as_old_as(own, (2, 17)), [program])
    offered = {name.partition("__2_")[0] for name in bed.offers().symbols}
    there = {
        name
        for name, found in own.symbols.items()
        if any(versions.number(item.version) > (2, 17) for item in found)
    }
    assert offered & there - {item.symbol for item in decision.new} == UNREACHED
    bed.put(decision, f"{programs}/down", {program: "calls"}, f"{programs}/down")
    command = ["/bin/sh", "-c", "cd /tmp && exec /mnt/calls"]
    native = bed.native(release, programs, command, f"{space}/itself", ORDINARY)
    bound = bed.native(release, f"{programs}/down", command, f"{space}/itself", ORDINARY)
    assert native.returncode == bound.returncode == 0, native.stderr + bound.stderr
    assert bound.stdout.splitlines() == native.stdout.splitlines()


UNREACHED = set()


# -- the host's MPI -----------------------------------------------------------------------------


def host_files(profiles):
    """Return where each file of the host's MPI and its launchers goes: libraries, plugins, programs."""
    plugins, libraries = {}, {}
    for profile in profiles:
        libraries |= {path: f"{bed.DOWN}/{soname}" for soname, path in profile.closure}
        for item in profile.plugin_dirs:
            plugins |= {path: f"{item.path}/{name}" for name, path in item.files if path[0] == "/"}
    tools = [f"/usr/bin/{name}" for name in ("orterun", "mpiexec.hydra", "hydra_pmi_proxy")]
    for name, found in ldso.Loader("/").closure(tools).libraries.items():
        if name not in ldso.GLIBC and found.real not in tools:
            libraries.setdefault(found.real, f"{bed.DOWN}/{name}")
    return libraries, plugins, {path: f"{bed.DOWN}/bin/{os.path.basename(path)}" for path in tools}


def put_directories(profiles, layer):
    """Write what goes with the files: links, the mark that the image's plugins vanish, data."""
    for profile in profiles:
        for item in profile.plugin_dirs:
            os.makedirs(f"{layer}{item.path}", exist_ok=True)
            os.setxattr(f"{layer}{item.path}", "user.overlay.opaque", b"y")
            for name, target in item.files:
                link = f"{layer}{item.path}/{name}"
                if target[0] != "/" and not os.path.lexists(link):
                    os.symlink(target, link)
        for path, _ in profile.data_dirs:
            if not os.path.exists(f"{layer}{path}"):
                shutil.copytree(
                    path, f"{layer}{path}", symlinks=True, ignore_dangling_symlinks=True
                )


@pytest.fixture(scope="module")
def injected(base):
    """This host's MPI installations bound to bullseye, as a layer over a tree that has none of its own."""
    tree = bed.image("bullseye", base)
    profiles = mpi.profiles({"PATH": "/usr/bin"}, f"{base}/cache")
    assert {profile.family for profile in profiles} == {"openmpi", "mpich"}
    libraries, plugins, programs = host_files(profiles)
    built = f"{base}/mpi-programs"
    os.makedirs(built)
    for family in ("openmpi", "mpich"):
        command = [f"mpicc.{family}", "-o", f"{built}/{family}", f"{bed.SOURCES}/mpi.c"]
        subprocess.run(command, check=True)
        programs[f"{built}/{family}"] = f"{bed.DOWN}/bin/{family}"
    load = bed.compile_for(bed.Host("own", ""), f"{built}/load", ["load.c"], "-ldl")
    programs[load] = f"{bed.DOWN}/load"
    places = {**plugins, **libraries, **programs}
    decision = bed.decide(bed.family(tree), places)
    layer = f"{base}/mpi-layer"
    bed.put(decision, f"{layer}{bed.DOWN}", {})
    bed.put(decision, layer, places)
    put_directories(profiles, layer)
    opened = [place for path, place in plugins.items() if path not in libraries]
    return tree, layer, built, decision, sorted(libraries.values()), sorted(opened)


def in_image(injected, space, *command):
    tree, layer, programs, *_ = injected
    return mpi_images.run(layer, tree, programs, command, user=ORDINARY, space=f"{space}/mpi")


def test_hosts_mpi_is_bound_with_few_words(injected):
    decision = injected[3]
    assert decision.action == "down-bind"
    assert re.fullmatch(
        r"\d+ symbols above GLIBC_2.31 down-bound, \d+ moved, \d+ new", decision.reasons[0]
    )
    assert not decision.absent


def test_loader_misses_nothing_in_any_library(injected, space):
    """The loader's own trace, symbols bound at once: the host's files ask for nothing that is not there."""
    files = " ".join(injected[4])
    trace = "LD_TRACE_LOADED_OBJECTS=1 LD_WARN=1 LD_BIND_NOW=1"
    script = f"for f in {files}; do {trace} /lib64/ld-linux-x86-64.so.2 $f || echo failed $f; done"
    done = in_image(injected, space, "/bin/sh", "-c", script)
    assert len(injected[4]) > 20
    assert done.stdout.count(f"=> {bed.DOWN}/{polyfill.SONAME}") > 20
    wrong = re.findall(
        r".*(?:not found|undefined symbol|no version information|failed|rror).*",
        done.stdout + done.stderr,
    )
    # As on the host: these are for a program of OpenMPI to define, or for another library of it.
    assert [line for line in wrong if "GLIBC" in line or "undefined symbol" not in line] == []


@pytest.mark.parametrize("family", ["openmpi", "mpich"])
def test_every_library_and_plugin_is_opened_with_all_symbols(injected, space, family):
    _, _, _, _, libraries, plugins = injected
    own = {"openmpi": "libmpi.so.40", "mpich": "libmpich.so.12"}[family]
    other = {"openmpi": ("mpich",), "mpich": ("libmpi.", "libmpi_", "libopen", "libmca_", "mca_")}[
        family
    ]
    words = [f"g:{bed.DOWN}/{own}"]
    words += [
        path for path in (*libraries, *plugins) if not os.path.basename(path).startswith(other)
    ]
    if family == "mpich":
        words = [path for path in words if "/openmpi/" not in path]
    done = in_image(injected, space, f"{bed.DOWN}/load", *words)
    assert done.returncode == 0, done.stdout
    assert done.stdout == f"{len(words)} of {len(words)}\n"
    assert len(words) > (100 if family == "openmpi" else 25)


@pytest.mark.parametrize("family", ["openmpi", "mpich"])
def test_one_rank_runs_on_the_older_glibc(injected, space, family):
    done = in_image(injected, space, f"{bed.DOWN}/bin/{family}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("rank 0 of 1, sum 1, ring 1, ")


LAUNCH = {
    "openmpi": (f"{bed.DOWN}/bin/orterun", "--allow-run-as-root", "--oversubscribe", "--mca", "plm", "isolated"),
    "mpich": (f"{bed.DOWN}/bin/mpiexec.hydra",),
}  # fmt: skip


@pytest.mark.parametrize("family", ["openmpi", "mpich"])
def test_three_ranks_with_their_launcher_on_the_older_glibc(injected, space, family):
    """The launcher is the host's program, bound as well: __libc_start_main and its constructors."""
    launch = f"exec {' '.join(LAUNCH[family])} -n 3 {bed.DOWN}/bin/{family}"
    script = f"unset OMPI_MCA_ess_singleton_isolated; {launch}"
    done = in_image(injected, space, "/bin/sh", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))
    version = {"openmpi": "Open MPI v4.1", "mpich": "MPICH Version"}[family]
    assert lines == [f"rank {rank} of 3, sum 3, ring 1, {version}" for rank in range(3)]
