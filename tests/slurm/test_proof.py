"""Ranks become one world, run the right library, or the step ends with one line that says why."""

import os
import re
import shutil
import signal
import subprocess
import time

import jobs
import pytest
from installation import installed_prefix
from jobs import MPI, MPICH, PYTHON, SMALL, error_lines, output, srun
from test_plan_cache import counted, frozen

from fairlead.run import ranks

PLACE = f"/var/tmp/fairlead-proof-{os.getpid()}"


@pytest.fixture(scope="module")
def programs():
    """A directory of the user's, outside home and the image, that the steps run in."""
    os.makedirs(PLACE)
    os.chmod(PLACE, 0o755)
    yield PLACE
    shutil.rmtree(PLACE)


def build(place, name, source, *flags, compiler="mpicc.mpich"):
    path = f"{place}/{name}"
    with open(f"{path}.c", "w", encoding="utf-8") as file:
        file.write(source)
    subprocess.run([compiler, "-o", path, f"{path}.c", *flags], check=True, capture_output=True)
    os.chmod(path, 0o755)
    return path


SIZE = """
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	int size;
	MPI_Init(&argc, &argv);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	printf("size %d\\n", size);
	MPI_Finalize();
	return 0;
}
"""


@pytest.fixture(scope="module")
def size(programs):
    return build(programs, "size", SIZE)


# -- foreseen --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "pmi", "why", "remedy"),
    [
        (MPI, "pmi2", "was not built with SLURM's PMI support", "--mpi=pmix"),
        (MPICH, "pmix", "was not built with PMIx", "--mpi=pmi2"),
        (MPI, "none", "finds no PMI server", "--mpi=pmix"),
        (MPICH, "none", "finds no PMI server", "--mpi=pmi2"),
    ],
)
def test_mpi_program_under_the_wrong_pmi_is_refused_by_name(image, pmi, why, remedy):
    result = srun(f"--mpi={pmi}", "-N2", "-n4", "./hello_mpi", container=image)
    assert result.returncode == 125
    assert result.stdout == ""
    (line,) = error_lines(result)
    assert "error [mpi]" in line
    assert "hello_mpi" in line
    assert why in line
    assert remedy in line


@pytest.mark.parametrize(("image", "pmi"), [(MPI, "pmi2"), (MPICH, "pmix")])
def test_mpi_that_was_asked_for_is_refused_whatever_the_command(image, pmi):
    result = srun(f"--mpi={pmi}", "-n2", "--container-mpi=image", "true", container=image)
    assert result.returncode == 125
    assert len(error_lines(result)) == 1


@pytest.mark.pmix
def test_other_command_under_the_wrong_pmi_runs_with_a_warning():
    result = srun("--mpi=pmix", "-n2", "true", container=MPICH)
    assert output(result) == ""
    assert (
        len([line for line in result.stderr.splitlines() if "was not built with PMIx" in line]) == 1
    )


@pytest.mark.pmix
def test_one_task_is_no_lost_world():
    result = srun("--mpi=pmix", "-n1", "./hello_mpi", container=MPICH)
    assert "rank 0 of 1" in output(result)


@pytest.mark.host_mpi("openmpi", 4)
def test_server_that_the_client_cannot_find_is_named():
    """The variables of the task decide; another server than the step's would give other ones."""
    others = "for name in ${!PMIX_SERVER_URI*}; do unset $name; done; export PMIX_SERVER_URI9=x"
    script = f"{others}; exec fairlead plan --mpi=host {MPI} /opt/demo/hello_mpi"
    result = srun("--mpi=pmix", "-n2", "bash", "-c", script)
    assert result.returncode == 125
    lines = set(error_lines(result))
    assert lines == {
        (
            "fairlead: error [mpi]: OpenMPI 4.1.4: its OpenPMIx 4.2.2rc2 looks for PMIX_SERVER_URI, PMIX_SERVER_URI2, "
            "PMIX_SERVER_URI21, PMIX_SERVER_URI3, PMIX_SERVER_URI4, PMIX_SERVER_URI41, the step's PMIx server 4.2.2rc2 "
            "gives PMIX_SERVER_URI9: its ranks would not find it (use an MPI whose PMIx is of the server's time)"
        )
    }


CHOICES = {
    "psec": (
        "none",
        (
            "PMIX_MCA_psec=none and the step's PMIx server, which offers munge,native, have no security module in common "
            "(unset PMIX_MCA_psec)"
        ),
    ),
    "gds": (
        "ds21",
        (
            "PMIX_MCA_gds=ds21 leaves out hash, without which no PMIx client starts (the step's server offers "
            "ds21,ds12,hash) (unset PMIX_MCA_gds)"
        ),
    ),
}


@pytest.mark.host_mpi("openmpi", 4)
@pytest.mark.parametrize("framework", CHOICES)
def test_choice_of_the_job_that_parts_client_and_server_is_said(framework):
    value, why = CHOICES[framework]
    variables = {f"PMIX_MCA_{framework}": value}
    result = srun("--mpi=pmix", "-n2", "true", container=MPI, **variables)
    assert output(result) == ""
    assert f"fairlead: {why}" in result.stderr.splitlines()


# -- the world -------------------------------------------------------------------------------------


def worlds_of_one(result, tasks, status=(125,)):
    assert result.returncode in status, result.stderr
    assert "size" not in result.stdout
    (line,) = error_lines(result)
    assert f"{tasks} ranks were started, but MPI made worlds of 1" in line
    return line


def partly_lost(result, tasks):
    """srun's status is the highest: that of a rank which had to be ended."""
    worlds_of_one(result, tasks, (128 + signal.SIGTERM, 128 + signal.SIGKILL))


def test_wrapper_that_clears_the_environment_ends_the_step(size):
    began = time.monotonic()
    result = srun("--mpi=pmi2", "-n4", "env", "-i", size, container=MPICH, cwd=PLACE)
    assert "clear the environment" in worlds_of_one(result, 4)
    assert time.monotonic() - began < 20


def test_forged_singletons_end_the_step(size):
    script = f"unset PMI_FD PMI_RANK PMI_SIZE PMI_JOBID; exec {size}"
    worlds_of_one(srun("--mpi=pmi2", "-n2", "sh", "-c", script, container=MPICH, cwd=PLACE), 2)


def test_singletons_on_several_nodes_end_the_step_with_one_line(size):
    result = srun("--mpi=pmi2", "-N4", "-n4", "env", "-i", size, container=MPICH, cwd=PLACE)
    worlds_of_one(result, 4)


@pytest.mark.parametrize("lost", ["0", "3"], ids=["first node", "last node"])
def test_one_rank_that_loses_its_world_ends_the_step(size, lost):
    """The others wait for it in MPI_Init; a task on another node ends as well."""
    script = f'[ "$SLURM_PROCID" = {lost} ] && exec env -i {size}; exec {size}'
    options = ("--mpi=pmi2", "-N2", "-n4", "--ntasks-per-node=2")
    result = srun(*options, "sh", "-c", script, container=MPICH, cwd=PLACE, timeout=60)
    partly_lost(result, 4)


def test_ranks_that_do_not_yield_to_a_signal_end_with_the_step(size):
    waits = "trap '' TERM; while :; do sleep 1; done"
    script = f'[ "$SLURM_PROCID" = 0 ] && exec env -i {size}; {waits}'
    result = srun("--mpi=pmi2", "-n2", "sh", "-c", script, container=MPICH, cwd=PLACE, timeout=90)
    partly_lost(result, 2)


def test_a_programs_own_125_ends_nothing():
    script = '[ "$SLURM_PROCID" = 0 ] && exit 125; sleep 3; echo went on'
    result = srun("--mpi=pmi2", "-N2", "-n4", "sh", "-c", script, container=MPICH)
    assert result.returncode == 125
    assert result.stdout.count("went on") == 3


SESSION = """
#include <mpi.h>
#include <stdio.h>
int main(void)
{
	MPI_Session session;
	MPI_Group group;
	int size;
	MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &session);
	MPI_Group_from_session_pset(session, "mpi://WORLD", &group);
	MPI_Group_size(group, &size);
	printf("size %d\\n", size);
	MPI_Group_free(&group);
	MPI_Session_finalize(&session);
	return 0;
}
"""


def test_program_of_sessions_is_checked(programs):
    """It has no MPI_COMM_WORLD."""
    program = build(programs, "session", SESSION)
    words = ("--mpi=pmi2", "-n2")
    shown = output(srun(*words, program, container=MPICH, cwd=PLACE))
    assert shown == "size 2\nsize 2\n"
    worlds_of_one(srun(*words, "env", "-i", program, container=MPICH, cwd=PLACE), 2)


@pytest.mark.host_libc(2, 36)
def test_fortran_is_checked(programs):
    """With its own runtime linked in, since the image has none."""
    source = f"{programs}/world.f90"
    with open(source, "w", encoding="utf-8") as file:
        file.write("program t\nuse mpi\ninteger e\ncall mpi_init(e)\ncall mpi_finalize(e)\nend\n")
    words = ("mpif90.mpich", "-static-libgfortran", "-o", f"{programs}/world", source)
    subprocess.run(words, check=True, cwd=programs)
    result = srun("--mpi=pmi2", "-n2", "env", "-i", f"{programs}/world", container=MPICH, cwd=PLACE)
    assert result.returncode == 125, result.stderr
    assert "worlds of 1" in error_lines(result)[0]


@pytest.mark.pmix
def test_python_without_pmi_ends_the_step():
    """mpi4py brings MPI by dlopen, where RTLD_NEXT would not find it."""
    script = "unset ${!PMI*} ${!SLURM*}; exec python3 hello_mpi.py"
    result = srun("--mpi=pmix", "-n2", "bash", "-c", script, container=PYTHON)
    assert result.returncode == 125, result.stderr
    assert "worlds of 1" in error_lines(result)[0]


def test_python_under_the_wrong_pmi_is_refused_by_name():
    """The command is no MPI program; what it loads is certain in MPI_Init."""
    result = srun("--mpi=pmi2", "-N2", "-n4", "python3", "hello_mpi.py", container=PYTHON)
    assert (result.returncode, result.stdout) == (125, ""), result.stderr
    (line,) = error_lines(result)
    assert re.fullmatch(
        r"fairlead: error \[mpi\]: /usr/bin/python3\.\d+: OpenMPI [\d.]+ was not built with SLURM's PMI "
        r"support \(--mpi=pmi2\): its ranks would stop in MPI_Init \(start it with --mpi=pmix\)",
        line,
    )


def test_check_can_be_switched_off(size):
    result = srun(
        *("--mpi=pmi2", "-n2", "env", "-i", size),
        container=MPICH,
        cwd=PLACE,
        FAIRLEAD_MPI_WORLD_CHECK="0",
    )
    assert output(result).split("\n")[:2] == ["size 1", "size 1"]


def test_users_preload_is_kept_and_comes_first(programs, size):
    tool = build(
        programs,
        "tool.so",
        "#include <mpi.h>\n#include <stdio.h>\n"
        'int MPI_Init(int *c, char ***v) { puts("tool"); fflush(stdout); return PMPI_Init(c, v); }\n',
        "-shared",
        "-fPIC",
    )
    words = ("--mpi=pmi2", "-n2", "env", f"LD_PRELOAD={tool}", size)
    shown = output(srun(*words, container=MPICH, cwd=PLACE))
    assert sorted(shown.split("\n")[:-1]) == ["size 2", "size 2", "tool", "tool"]
    result = srun(*words[:2], "env", "-i", *words[3:], container=MPICH, cwd=PLACE)
    assert result.stdout.count("tool") == 2
    assert "worlds of 1" in error_lines(result)[0]


def test_static_program_is_untouched(programs):
    program = build(programs, "static", "int main(void) { return 7; }\n", "-static", compiler="gcc")
    result = srun("--mpi=pmi2", "-n2", program, container=MPICH, cwd=PLACE)
    assert result.returncode == 7
    assert error_lines(result) == []


def test_step_without_pmi_has_no_check():
    shown = output(
        srun(
            "-n2", "sh", "-c", "ls -d /.fairlead/world /etc/ld.so.preload 2>&1; :", container=SMALL
        )
    )
    assert shown.count("No such file") == 4


@pytest.mark.host_libc(2, 36)
def test_wrong_library_is_named(programs):
    """A private copy that the injection cannot reach: it lies on the host."""
    library = f"{programs}/libmpich.so.12"
    shutil.copy(os.path.realpath("/usr/lib/x86_64-linux-gnu/libmpich.so.12"), library)
    program = build(programs, "private", SIZE, "-Wl,--disable-new-dtags", f"-Wl,-rpath,{programs}")
    result = srun("--mpi=pmi2", "-n2", program, container=MPICH, cwd=PLACE)
    assert result.returncode == 125
    (line,) = error_lines(result)
    assert library in line
    hidden = ("sh", "-c", f"exec {program}")  # not seen before the launch
    result = srun("--mpi=pmi2", "-n2", *hidden, container=MPICH, cwd=PLACE)
    assert result.returncode == 125
    (line,) = error_lines(result)
    assert library in line
    assert "is mapped" in line


# -- the loader ------------------------------------------------------------------------------------


def test_missing_library_is_named_before_the_launch(programs):
    lost = build(programs, "liblost.so.1", "int lost(void) { return 0; }\n", "-shared", "-fPIC",
                 "-Wl,-soname,liblost.so.1", compiler="gcc")  # fmt: skip
    program = build(programs, "needs", "int lost(void);\nint main(void) { return lost(); }\n", lost,
                    compiler="gcc")  # fmt: skip
    os.unlink(lost)
    result = srun("--mpi=pmi2", "-N2", "-n8", program, container=MPICH, cwd=PLACE)
    assert result.returncode == 127
    (line,) = error_lines(result)
    assert "error [library]" in line
    assert "liblost.so.1" in line
    assert "error while loading" not in result.stderr


@pytest.mark.host_libc(2, 36)
def test_missing_symbol_is_named_before_the_launch(programs):
    """A library that has lost a function since the program was linked."""
    name, flags = "libmpiextra.so.1", ("-shared", "-fPIC", "-Wl,-soname,libmpiextra.so.1")
    extra = build(programs, name, "int MPIX_Lost(void) { return 0; }\n", *flags, compiler="gcc")
    source = SIZE.replace("MPI_Finalize();", "MPIX_Lost();").replace(
        "int main", "int MPIX_Lost(void);\nint main"
    )
    program = build(programs, "symbol", source, extra, f"-Wl,-rpath,{programs}")
    build(programs, name, "int MPIX_Other(void) { return 0; }\n", *flags, compiler="gcc")
    result = srun("--mpi=pmi2", "-n2", program, container=MPICH, cwd=PLACE)
    assert result.returncode == 127
    (line,) = error_lines(result)
    assert "undefined symbol MPIX_Lost" in line


@pytest.fixture
def engine(other_prefix):
    with counted(other_prefix, site=False) as watched:
        # The launch that fetches an image, or first looks at the host's MPI, is not kept.
        output(srun("--nodelist=n1", "true", container=frozen(MPICH)))
        watched.starts()
        yield watched


def test_kept_plan_is_not_proven_again_until_the_command_changes(engine, programs):
    program = build(programs, "changing", SIZE)
    image = frozen(MPICH)
    words = ("--nodelist=n1", "--mpi=pmi2", "-n2", program)
    for starts in (1, 0, 0):
        assert output(srun(*words, container=image, cwd=PLACE)).count("size 2") == 2
        assert engine.starts() == starts
    build(programs, "changing", SIZE.replace("size %d", "length %d"))
    assert output(srun(*words, container=image, cwd=PLACE)).count("length 2") == 2
    assert engine.starts() == 1


def test_kept_plan_checks_worlds_of_other_sizes(engine, size):
    image = frozen(MPICH)
    words = ("--nodelist=n1", "--mpi=pmi2", "env", "-i", size)
    for tasks, starts in ((2, 1), (3, 0)):
        result = srun(f"-n{tasks}", *words, container=image, cwd=PLACE)
        worlds_of_one(result, tasks)
        assert engine.starts() == starts


def test_one_task_does_not_take_the_plan_of_several(engine, size):
    image = frozen(MPICH)
    words = ("--nodelist=n1", "--mpi=pmi2", "env", "-i", size)
    worlds_of_one(srun("-n2", *words, container=image, cwd=PLACE), 2)
    assert output(srun("-n1", *words, container=image, cwd=PLACE)) == "size 1\n"
    assert engine.starts() == 2


# -- copying ---------------------------------------------------------------------------------------


@pytest.fixture
def kept_result(engine):
    """Where a store of the user's own keeps what was found out on n1."""
    # The bed's nodes have a boot of their own each.
    boot = output(srun("--nodelist=n1", "cat", "/proc/sys/kernel/random/boot_id")).strip()
    path = f"/var/tmp/fairlead-{jobs.USER.pw_uid}.{jobs.USER.pw_gid}/host/cma-{boot}"
    if os.path.exists(path):
        os.unlink(path)
    yield path
    os.unlink(path)


COPY = ("--nodelist=n1", "--mpi=pmix", "-n2")


@pytest.mark.pmix
def test_copying_is_tried_once_per_boot(kept_result):
    assert output(srun(*COPY, "./cma", container=MPI)).count("single copy by cma") == 2
    with open(kept_result, encoding="ascii") as file:
        assert file.read() == "0\n"
    before = os.stat(kept_result).st_mtime_ns
    output(srun(*COPY, "./cma", container=MPI))
    assert os.stat(kept_result).st_mtime_ns == before


@pytest.mark.pmix
def test_failure_to_copy_is_said_once(kept_result):
    with open(kept_result, "w", encoding="ascii") as file:
        file.write("-1\n")
    os.chown(kept_result, jobs.USER.pw_uid, jobs.USER.pw_gid)
    result = srun(*COPY, "true", container=MPI)
    lines = [line for line in result.stderr.splitlines() if "read each other's memory" in line]
    assert len(lines) == 1
    assert "single_copy_mechanism" in lines[0]


def test_library_of_the_check_is_where_the_engine_looks():
    assert re.search(r"/lib/fairlead/fairlead-world\.so$", ranks.library())
    assert os.path.isfile(f"{installed_prefix()}/lib/fairlead/fairlead-world.so")
