"""The world check's own rules, with libraries that say what a world is; real MPI is in tests/slurm."""

import os
import socket
import subprocess

import pytest

SOURCES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "c_ext/world")
FLAGS = (
    *("-std=gnu17", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden", "-ffreestanding", "-fPIC"),
    *("-fno-stack-protector", "-fno-tree-loop-distribute-patterns", "-fcf-protection=none"),
    *("-shared", "-nostdlib", "-Wl,-z,now"),
)
# Each family: its SONAME, what else it defines, and how it takes the communicator.
MPICH = ("libmpich.so.12", 'const char MPIR_Version_string[] = "4";', "int", "c == 0x44000000")
ABI = ("libmpi_abi.so.1", "", "void *", "c == (void *)0x101")
OPENMPI = (
    "libmpi.so.40",
    "char ompi_mpi_comm_world[512];",
    "void *",
    "c == (void *)ompi_mpi_comm_world",
)
LIBRARY = """
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
{more}
int PMPI_Init(int *a, char ***b) {{ setenv("OMPI_COMM_WORLD_SIZE", "1", 1); return 0; }}
int MPI_Init(int *a, char ***b) {{ return PMPI_Init(a, b); }}
int MPI_Init_thread(int *a, char ***b, int c, int *d) {{ *d = c; return PMPI_Init(a, b); }}
int PMPI_Init_thread(int *a, char ***b, int c, int *d) {{ *d = c; return 0; }}
void mpi_init_(int *e) {{ *e = PMPI_Init(0, 0); }}
void mpi_init_thread_(int *r, int *p, int *e) {{ *p = *r; *e = 0; }}
int PMPI_Comm_size({handle} c, int *s) {{ *s = atoi(getenv("WORLD")); return !({right}); }}
int PMPI_Session_init({handle} i, {handle} e, {handle} *s) {{ *s = ({handle})7; return 0; }}
int MPI_Session_init({handle} i, {handle} e, {handle} *s) {{ return PMPI_Session_init(i, e, s); }}
int PMPI_Group_from_session_pset({handle} s, const char *n, {handle} *g)
{{ *g = ({handle})9; return s != ({handle})7 || strcmp(n, "mpi://WORLD"); }}
int PMPI_Group_size({handle} g, int *s) {{ *s = atoi(getenv("WORLD")); return g != ({handle})9; }}
int PMPI_Group_free({handle} *g) {{ *g = 0; return 0; }}
int PMPI_Finalize(void) {{ puts("finalized"); fflush(stdout); return 0; }}
"""
CALLS = {
    "MPI_Init": "int MPI_Init(int *, char ***); int go(void) { return MPI_Init(0, 0); }",
    "MPI_Init_thread": "int MPI_Init_thread(int *, char ***, int, int *);"
    " int go(void) { int p; return MPI_Init_thread(0, 0, 3, &p) || p != 3; }",
    "PMPI_Init": "int PMPI_Init(int *, char ***); int go(void) { return PMPI_Init(0, 0); }",
    "mpi_init_": "void mpi_init_(int *); int go(void) { int e = 9; mpi_init_(&e); return e; }",
    "mpi_init_thread_": "void mpi_init_thread_(int *, int *, int *);"
    " int go(void) { int r = 2, p, e = 9; mpi_init_thread_(&r, &p, &e); return e || p != 2; }",
}
MAIN = "\nint main(void) { return go(); }\n"
LOADS = """
#include <dlfcn.h>
int main(int argc, char **argv)
{
	void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	return plugin ? ((int (*)(void))dlsym(plugin, "go"))() : 9;
}
"""


def compiled(path, source, *flags):
    path.with_suffix(".c").write_text(source)
    subprocess.run(["gcc", "-o", path, path.with_suffix(".c"), *flags], check=True)
    return path


class Bed:
    """A directory with the check, which takes it for its own place in a container."""

    def __init__(self, place):
        self.place = place
        self.check = place / "check.so"
        sources = [f"{SOURCES}/{name}.c" for name in ("world", "line", "step", "object")]
        words = ["gcc", "-o", self.check, *FLAGS, f'-DPLACE="{place}/"', *sources]
        subprocess.run(words, check=True)

    def library(self, family, *flags):
        soname, more, handle, right = family
        source = LIBRARY.format(more=more, handle=handle, right=right)
        shared = ("-shared", "-fPIC", f"-Wl,-soname,{soname}")
        return compiled(self.place / soname, source, *shared, *flags)

    def program(self, library, call="MPI_Init", more=""):
        rpath = f"-Wl,-rpath,{self.place}"
        return compiled(self.place / "program", f"{more}{CALLS[call]}{MAIN}", library, rpath)

    def run(self, program, *words, world=1, step="tasks 2\nnode 0", preload=(), **variables):
        (self.place / "step").write_text(step)
        environ = {"WORLD": str(world), "LD_PRELOAD": ":".join(map(str, (*preload, self.check)))}
        return subprocess.run(
            [program, *words],
            env={**environ, **variables},
            capture_output=True,
            text=True,
            timeout=20,
        )


@pytest.fixture
def bed(tmp_path):
    return Bed(tmp_path)


def test_library_needs_nothing_and_names_no_version(bed):
    shown = subprocess.run(["readelf", "-dVW", bed.check], capture_output=True, text=True).stdout
    assert "NEEDED" not in shown
    assert "VERNEED" not in shown
    assert "TEXTREL" not in shown
    symbols = subprocess.run(["nm", "-D", bed.check], capture_output=True, text=True).stdout
    undefined = {
        line.split()[-1] for line in symbols.splitlines() if " U " in line or " w " in line
    }
    assert undefined == {"dl_iterate_phdr", "environ"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", [MPICH, OPENMPI, ABI], ids=["mpich", "openmpi", "abi"])
def test_world_of_the_wrong_size_ends_the_process(bed, family, call):
    program = bed.program(bed.library(family), call)
    assert bed.run(program, world=2).returncode == 0
    result = bed.run(program, world=1)
    assert result.returncode == 125
    assert "2 ranks were started, but MPI made worlds of 1: " in result.stderr
    assert result.stdout == "finalized\n"


@pytest.mark.parametrize("family", [MPICH, OPENMPI, ABI], ids=["mpich", "openmpi", "abi"])
def test_set_of_all_processes_is_the_world_of_a_program_of_sessions(bed, family):
    handle = family[2]
    source = (
        f"int MPI_Session_init({handle}, {handle}, {handle} *);"
        f" int main(void) {{ {handle} s; return MPI_Session_init(0, 0, &s) || s != ({handle})7; }}"
    )
    flags = (bed.library(family), f"-Wl,-rpath,{bed.place}")
    program = compiled(bed.place / "program", source, *flags)
    assert bed.run(program, world=2).returncode == 0
    result = bed.run(program, world=1)
    assert result.returncode == 125
    assert "2 ranks were started, but MPI made worlds of 1: " in result.stderr


def test_mpi_without_sessions_is_not_asked_for_their_size(bed):
    """A library of MPI 4 has all of it; whatever else is there, nothing is certain and nothing is said."""
    library = compiled(
        bed.place / "libmpich.so.12",
        'const char MPIR_Version_string[] = "4"; int MPI_Session_init(int i, int e, int *s) { return 0; }',
        *("-shared", "-fPIC", "-Wl,-soname,libmpich.so.12"),
    )
    source = "int MPI_Session_init(int, int, int *); int main(void) { int s; return MPI_Session_init(0, 0, &s); }"
    program = compiled(bed.place / "program", source, library, f"-Wl,-rpath,{bed.place}")
    assert bed.run(program, world=1).returncode == 0


def test_library_that_comes_before_the_check_is_named_when_the_program_starts(bed):
    """Its MPI_Init is called instead of ours."""
    program = bed.program(bed.library(MPICH))
    os.mkdir(bed.place / "other")
    own = compiled(
        bed.place / "other/libmpich.so.12",
        "#include <stdlib.h>\n" + CALLS["MPI_Init"].split(";")[0] + ";"
        "int PMPI_Init(int *a, char ***b) { return 0; } int MPI_Init(int *a, char ***b) { return 0; }"
        "int PMPI_Comm_size(int c, int *s) { return 0; }",
        *("-shared", "-fPIC", "-Wl,-soname,libmpich.so.12"),
    )
    told = "library /.fairlead/mpi/\ntasks 2\nnode 0"
    result = bed.run(program, step=told, preload=(own,))
    assert result.returncode == 125
    assert f"{own} is mapped" in result.stderr
    ours = told.replace("/.fairlead/mpi/", f"{bed.place}/other/")
    assert bed.run(program, step=ours, preload=(own,)).returncode == 0
    assert bed.run(program, step="tasks 2\nnode 0", preload=(own,)).returncode == 0
    # Of another launcher inside the step nothing is expected; the environment is known that early.
    result = bed.run(program, step=told, preload=(own,), SLURM_HET_SIZE="2")
    assert result.returncode == 0


def test_who_started_the_step_hears_whose_the_status_is(bed):
    program = bed.program(bed.library(MPICH))
    name = f"fairlead-test.{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        heard.setblocking(False)
        step = f"tasks 2\nend {name}\nnode 0"
        assert bed.run(program, world=2, step=step).returncode == 0
        with pytest.raises(BlockingIOError):
            heard.recv(8)
        assert bed.run(program, world=1, step=step).returncode == 125
        assert heard.recv(8) == b"\0"
    os.unlink(bed.place / "said")
    assert bed.run(program, world=1, step=step).returncode == 125, "nobody listens"


@pytest.mark.parametrize("call", CALLS)
def test_mpi_that_would_stop_is_refused_before_it_is_called(bed, call):
    library = bed.library(OPENMPI)
    program = bed.program(library, call)
    step = f"refuse /elsewhere/libmpi.so.40 {library}\tOpenMPI 4 speaks no PMI2\ntasks 2\nnode 0"
    result = bed.run(program, world=2, step=step)
    line = f"fairlead: error [mpi]: {program}: OpenMPI 4 speaks no PMI2\n"
    assert (result.returncode, result.stdout, result.stderr) == (125, "", line)


def test_other_nodes_do_not_repeat_what_is_refused(bed):
    library = bed.library(OPENMPI)
    result = bed.run(bed.program(library), step=f"refuse {library}\twhy\ntasks 2\nnode 1")
    assert (result.returncode, result.stdout, result.stderr) == (125, "", "")


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ("refuse {library}.1\twhy", {}),
        ("refuse {library}/\twhy", {}),
        ("refuse /x{library}\twhy", {}),
        ("refuse {library} why", {}),
        ("refuse {library}", {}),
        ("refuse", {}),
        ("refuse {library}\twhy", {"OMPI_COMM_WORLD_SIZE": "2"}),
        ("refuse {library}\twhy", {"HYDI_CONTROL_FD": "3"}),
    ],
)
def test_another_mpi_than_the_refused_one_starts(bed, words, variables):
    library = bed.library(OPENMPI)
    step = f"{words.format(library=library)}\ntasks 2\nnode 0"
    result = bed.run(bed.program(library), world=2, step=step, **variables)
    assert (result.returncode, result.stderr) == (0, "")


def test_split_world_is_not_waited_for(bed):
    result = bed.run(bed.program(bed.library(MPICH)), world=2, step="tasks 4\nnode 0")
    assert result.returncode == 125
    assert "worlds of 2" in result.stderr
    assert result.stdout == "", "MPI_Finalize would wait for the others"


def test_objects_of_openmpi_that_the_program_copied(bed):
    """The handle is the program's copy, not the library's own."""
    more = (
        "extern char ompi_mpi_comm_world[512]; void *handle(void) { return ompi_mpi_comm_world; }"
    )
    library = bed.library(OPENMPI)
    flags = ("-fno-pic", "-no-pie", library, f"-Wl,-rpath,{bed.place}")
    program = compiled(bed.place / "program", f"{more}{CALLS['MPI_Init']}{MAIN}", *flags)
    relocations = subprocess.run(["readelf", "-rW", program], capture_output=True, text=True).stdout
    assert "_COPY" in relocations
    assert bed.run(program, world=2).returncode == 0
    assert bed.run(program, world=1).returncode == 125


@pytest.mark.parametrize("style", ["sysv", "gnu"])
def test_library_that_only_a_plugin_brings(bed, style):
    library = bed.library(MPICH, f"-Wl,--hash-style={style}")
    flags = ("-shared", "-fPIC", library, f"-Wl,-rpath,{bed.place}")
    plugin = compiled(bed.place / "plugin.so", CALLS["MPI_Init"], *flags)
    program = compiled(bed.place / "loads", LOADS)
    assert bed.run(program, plugin, world=2).returncode == 0
    assert bed.run(program, plugin, world=1).returncode == 125


def test_two_plugins_each_with_an_mpi_of_its_own(bed):
    first, second = bed.library(OPENMPI), bed.library(MPICH)
    rpath = f"-Wl,-rpath,{bed.place}"
    one = compiled(bed.place / "one.so", "int unused;", "-shared", "-fPIC",
                   "-Wl,--no-as-needed", first, rpath)  # fmt: skip
    two = compiled(bed.place / "two.so", CALLS["MPI_Init"], "-shared", "-fPIC", second, rpath)
    source = LOADS.replace(
        "void *plugin", f'dlopen("{one}", RTLD_NOW | RTLD_LOCAL);\n\tvoid *plugin'
    )
    program = compiled(bed.place / "loads", source)
    # OpenMPI's library was mapped first and would take MPICH's handle for a wrong one.
    assert bed.run(program, two, world=1).returncode == 125


def test_tool_between_program_and_mpi_is_called(bed):
    tool = compiled(
        bed.place / "tool.so",
        "#include <stdio.h>\nint PMPI_Init(int *, char ***);\n"
        'int MPI_Init(int *a, char ***b) { puts("tool"); fflush(stdout); return PMPI_Init(a, b); }',
        *("-shared", "-fPIC"),
    )
    program = bed.program(bed.library(MPICH))
    result = bed.run(program, world=1, preload=(tool,))
    assert result.returncode == 125
    assert result.stdout.startswith("tool\n")
    result = bed.run(program, world=2, LD_PRELOAD=f"{bed.check}:{tool}")
    assert (result.returncode, result.stdout) == (0, "tool\n")


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, 125),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 0),  # mpirun inside the step started one
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 125),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, 0),  # hydra
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, 125),
        ({"PMI_SIZE": "2", "PMI_SPAWNED": "1"}, 0),
        ({"SLURM_HET_SIZE": "2"}, 0),
        ({"PMIX_NAMESPACE": "prterun-n1-77@1"}, 0),
        ({"PMIX_NAMESPACE": "slurm.pmix.7.0"}, 125),
    ],
)
def test_number_is_that_of_the_nearest_launcher(bed, variables, status):
    assert bed.run(bed.program(bed.library(MPICH)), **variables).returncode == status


@pytest.mark.parametrize("step", ["", "tasks 1\nnode 0", "nonsense", "tasks x\nnode y", "tasks"])
def test_nothing_is_expected_where_nothing_was_told(bed, step):
    assert bed.run(bed.program(bed.library(MPICH)), step=step).returncode == 0


def test_one_process_of_a_node_speaks(bed):
    program = bed.program(bed.library(MPICH))
    results = [bed.run(program) for _ in range(3)]
    assert [result.returncode for result in results] == [125, 125, 125]
    assert [bool(result.stderr) for result in results] == [True, False, False]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "clear the environment"),
        ({"PMIX_NAMESPACE": "slurm.pmix.1.0", "SLURM_MPI_TYPE": "pmix"}, "--mpi=pmi2"),
        ({"PMI_FD": "9", "SLURM_MPI_TYPE": "pmi2"}, "did not reach"),
    ],
)
def test_line_says_why_and_what_to_do(bed, variables, words):
    assert words in bed.run(bed.program(bed.library(MPICH)), **variables).stderr


def test_library_from_elsewhere_is_named(bed):
    program = bed.program(bed.library(MPICH))
    told = f"library {bed.place}/\ntasks 2\nnode 0"
    assert bed.run(program, world=2, step=told).returncode == 0
    result = bed.run(program, world=2, step=told.replace(f"{bed.place}/", "/.fairlead/mpi/"))
    assert result.returncode == 125
    assert f"{bed.place}/libmpich.so.12 is mapped" in result.stderr


def test_program_that_calls_mpi_without_one(bed):
    source = "int MPI_Init(int *, char ***) __attribute__((weak));"
    call = " int main(void) { return MPI_Init ? MPI_Init(0, 0) : 3; }"
    result = bed.run(compiled(bed.place / "weak", f"{source}{call}"))
    assert result.returncode == 127
    assert "no MPI library is loaded" in result.stderr
