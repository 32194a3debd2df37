"""What a loader says is read right, and what it means is decided right."""

import os

import pytest

from fairlead import errors, kernel
from fairlead.host import cma
from fairlead.plan import bootstrap, env, proof, world

# As printed by glibc 2.36.
FINE = """\
\tlinux-vdso.so.1 (0x00007ffc)
\tlibmpi.so.40 => /.fairlead/mpi/openmpi-4/lib/libmpi.so.40 (0x00007f01)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f03)
"""


def test_libraries_and_where_they_come_from():
    trace = proof.parse(FINE)
    assert trace.libraries[1] == ("libmpi.so.40", "/.fairlead/mpi/openmpi-4/lib/libmpi.so.40")
    assert trace.libraries[3] == ("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2")
    assert trace[1:] == ((), (), ())
    assert proof.check("/app", trace) == ()
    assert proof.mpi_of(trace) == (trace.libraries[1],)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("\tliblost.so.1 => not found", "liblost.so.1"),
        (
            "/app: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /app)",
            "GLIBC_2.38",
        ),
        (
            "/app: error while loading shared libraries: libx.so: cannot open shared object file",
            "libx.so",
        ),
        # musl
        ("Error loading shared library liblost.so.1: No such file or directory (needed by /app)",
         "liblost.so.1"),
    ],
)  # fmt: skip
def test_missing_library_is_an_error_with_the_loaders_words(line, word):
    with pytest.raises(errors.LibraryError, match=word) as caught:
        proof.check("/app", proof.parse(FINE + line + "\n"))
    assert caught.value.status == 127


@pytest.mark.parametrize(
    "line",
    [
        "undefined symbol: MPI_Lost\t(/usr/lib/libfoo.so)",
        "undefined symbol: lost\t(/app)",
        "undefined symbol: MPI_Lost, version X\t(/usr/lib/libfoo.so)",
        "Error relocating /app: MPI_Lost: symbol not found",
    ],
)
def test_missing_symbol_of_mpi_or_of_the_command_is_an_error(line):
    with pytest.raises(errors.LibraryError, match="ost"):
        proof.check("/app", proof.parse(FINE + line))


def test_missing_symbol_of_some_library_is_a_warning():
    trace = proof.parse(FINE + "undefined symbol: lost\t(/usr/lib/libfoo.so)\n")
    (note,) = proof.check("/app", trace)
    assert "/usr/lib/libfoo.so lacks lost" in note


def test_library_that_can_do_without_mpi_does():
    line = "undefined symbol: MPI_Init\t(/usr/lib/libfoo.so)\n"
    (note,) = proof.check("/app", proof.parse(FINE.replace("libmpi.so.40", "libm.so.6") + line))
    assert "lacks MPI_Init" in note


def test_missing_part_of_mpi_names_the_other_mpi():
    line = "/.fairlead/mpi/x/libmpi.so.40: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /.fairlead/mpi/x/libmpi.so.40)"
    with pytest.raises(errors.LibraryError) as caught:
        proof.check("/app", proof.parse(line))
    assert "--container-mpi=image" in caught.value.hint


def test_injected_library_must_be_the_one():
    mine = "/.fairlead/mpi/openmpi-4/lib/libmpi.so.40.30.4"
    proof.check_injected("/app", (mine, mine))
    second = (
        "/.fairlead/mpi/openmpi-4/lib/libopen_mpi.so.40"  # OpenMPI 6, through the standard's ABI
    )
    proof.check_injected("/app", ("/.fairlead/mpi/mpi-abi/lib/libmpi_abi.so.1", second))
    with pytest.raises(errors.MpiError, match="two MPI libraries"):
        proof.check_injected("/app", ("/.fairlead/mpi/mpi-abi/lib/libmpi_abi.so.1", mine, second))
    with pytest.raises(errors.MpiError, match=r"/home/u/libmpi\.so\.40"):
        proof.check_injected("/app", (mine, "/home/u/libmpi.so.40"))
    with pytest.raises(errors.MpiError, match="two MPI libraries"):
        proof.check_injected("/app", (mine, "/.fairlead/mpi/mpich-abi/lib/libmpich.so.12"))


def test_refusal_concerns_the_library_that_is_loaded():
    verdict = bootstrap.Verdict("singletons", "why", "how")
    asked = proof.Proof(refusals=((("libmpich.so.12",), verdict),))
    assert proof.refusal(asked, ("libc.so.6", "libmpich.so.12")) == verdict
    assert proof.refusal(asked, ("libmpi.so.40",)) is None


@pytest.mark.parametrize("text", ["", "\0\0", "=> nowhere\n", "\t => (0x\n", "x" * 70000])
def test_hostile_output_is_only_read(text):
    proof.check("/app", proof.parse(text))


WORLD = world.World("/opt/x.so", 4, 1, "7.2", True, "/usr/lib/theirs.so", False)


def test_preload_file_keeps_the_images_own_first():
    made = {mount.destination: mount for mount in world.step_mounts(WORLD)}
    assert made["/etc/ld.so.preload"].source == f"/usr/lib/theirs.so\n{world.LIBRARY}\n"
    step = made[f"{world.PLACE}/step"]
    assert step.source == "library /.fairlead/mpi/\ntasks 4\nend fairlead.7.2.1\nnode 1"
    numbers = {"STEP_NUM_TASKS": 4, "NODEID": 1, "JOB_ID": 7, "STEP_ID": 2}
    expanded = step.template
    for name, number in numbers.items():
        expanded = expanded.replace(f"${{SLURM_{name}}}", str(number))
    assert expanded == step.source
    assert not step.source.endswith("/"), "a template would lose it"
    assert world.variables(WORLD) == ()


def test_refusals_come_first_and_hold_nothing_that_could_be_another_line():
    told = WORLD._replace(
        refused=(
            (("/usr/lib/libmpi.so.40", "/a b/x.so", "/c\ntasks 1", "/$d"), "no\n${HOME} (do this)"),
            (("/only\tbad",), "never"),
            (("/long/libmpi.so.40",), "x" * 4096),
        )
    )
    step = world.step_mounts(told)[1]
    line = "refuse /usr/lib/libmpi.so.40\tno??{HOME} (do this)\n"
    assert step.source == f"{line}library /.fairlead/mpi/\ntasks 4\nend fairlead.7.2.1\nnode 1"
    assert step.template.startswith(line)


def test_musl_gets_a_variable_after_what_is_there():
    musl = WORLD._replace(musl=True)
    assert "/etc/ld.so.preload" not in [mount.destination for mount in world.step_mounts(musl)]
    image, asked = (("LD_PRELOAD", "/i.so"),), (("LD_PRELOAD", "/u.so"),)
    changed = env.changes({}, image, world.variables(musl), (), "x")
    assert env.value(changed, "LD_PRELOAD") == f"/i.so:{world.LIBRARY}"
    changed = env.changes({}, (), world.variables(musl), asked, "x")
    assert env.value(changed, "LD_PRELOAD") == f"/u.so:{world.LIBRARY}"


@pytest.mark.parametrize(
    ("result", "yama", "words"),
    [
        (0, "", ""),
        (-95, "", ""),  # no namespaces: the launch itself says so
        (-1, "", "Operation not permitted"),
        (-1, "3", "ptrace_scope is 3"),
        (kernel.lib.CMA_WITH_CONSENT, "1", "only if they allow it"),
    ],
)
def test_failure_to_copy_names_its_cause(result, yama, words):
    line = cma.explain(result, yama)
    assert words in line
    assert bool(line) == bool(words)


def test_copying_is_tried_for_each_boot_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cma, "_BOOT", str(tmp_path / "boot"))
    (tmp_path / "boot").write_text("first\n")
    (tmp_path / "cma-first").write_text("-1\n")
    assert "cannot read" in cma.warning(str(tmp_path)), "what is kept for this boot is believed"
    (tmp_path / "boot").write_text("second\n")
    result = int(kernel.lib.cma_test())
    assert cma.warning(str(tmp_path)) == cma.explain(result, cma._read(cma._YAMA))
    assert (tmp_path / "cma-second").read_text() == f"{result}\n"
    assert (tmp_path / "cma-first").exists()


def test_results_of_old_boots_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cma, "_BOOT", str(tmp_path / "boot"))
    for number in range(20):
        (tmp_path / f"cma-{number}").write_text("0\n")
        os.utime(tmp_path / f"cma-{number}", (number, number))
    (tmp_path / "boot").write_text("now\n")
    cma.warning(str(tmp_path))
    assert len(list(tmp_path.glob("cma-*"))) == cma.MAX_KEPT
    assert (tmp_path / "cma-now").exists()
