"""plan.explain: each case has its own line, and what runs under which PMI is said beforehand."""

import pytest
from test_mpi_verdict import ABI, CXX, HOST_MPICH, MPICH, host, image, library, program

from fairlead.host.program import Linked, Program
from fairlead.plan import explain, inject


def said(lines):
    return "\n".join(f"{line.subject}: {line.text}" for line in lines)


def of_image(index, labels=(), **environ):
    return said(explain.image(index, labels, environ))


OWN = library()
CASES = [
    (image(OWN), "mpi: /usr/lib/libmpi.so.40.30.0: OpenMPI 4.1.0, C, openmpi-4"),
    (image(OWN, CXX), "binding: /usr/lib/libmpi_cxx.so.40: OpenMPI, C++, openmpi-4"),
    (image(library(libc="musl"), libc="musl"), "libc: musl: the host's MPI needs glibc"),
    (image(), "mpi: the image holds no MPI library"),
    (image(), "programs: none in the image is linked to MPI"),
    (image(lacking=ABI), "lacking: libmpi_abi.so.1 (mpi-abi): programs are linked to it, no file"),
    (image(OWN), "libc: glibc, up to GLIBC_2.36"),
    (image(OWN, glibc=()), "libc: glibc's libc.so.6 is not found: nothing can be injected"),
    (image(libc="", glibc=()), "libc: no C library is found: nothing can be injected"),
    (image(runtimes=(("libstdc++.so.6", ("GLIBCXX_3.4.30",)),)), "runtime: libstdc++.so.6: GLIBCXX_3.4.30"),
    (image(programs=(program("/opt/a", "libmpi.so.40"),)), "programs: 1 linked to MPI: /opt/a"),
    (image(programs=(program("/a", "libmpi.so.40")._replace(rpath="/x"),)), "1 have DT_RPATH"),
    (image(programs=(program("/a", "/x/libmpi.so.40"),)), "1 name an MPI library by its path: /a"),
    (image(programs=(program("/a", "libmpi.so.40")._replace(setid=True),)), "1 are set-id"),
    (image(static=("/opt/s",)), "static: /opt/s has an MPI linked in, which nothing can replace"),
    (image(dlopens=(("/opt/d", "/x/libmpi.so.12"),)), "dlopen: /opt/d is linked to no MPI and names /x/libmpi.so.12"),
    (image(narrow=("/opt/n",)), "32-bit: /opt/n: not replaced"),
    (image(preloaded=("/x.so",)), "preload: /etc/ld.so.preload makes every program load /x.so"),
    (image(loaderless=("/lib/ld.so",)), "loader: /lib/ld.so is missing"),
    (image(unseen=("/opt/u",)), "unseen: /opt/u cannot be looked at"),
    (image(notes=("odd thing",)), "note: odd thing"),
]  # fmt: skip


@pytest.mark.parametrize(("index", "line"), CASES)
def test_each_case_has_its_line(index, line):
    assert line in of_image(index)


def test_glibc_is_the_newest_of_the_whole_family():
    """glibc 2.31's libc.so.6 alone has nothing above 2.30."""
    family = (("libc.so.6", ("GLIBC_2.30",)), ("libpthread.so.0", ("GLIBC_2.31", "GLIBC_PRIVATE")))
    assert "up to GLIBC_2.31" in of_image(image(OWN, glibc=family))


@pytest.mark.parametrize(
    ("label", "line"),
    [
        (("org.supercontainers.mpi", "openmpi"), "label: org.supercontainers.mpi=openmpi"),
        (("org.supercontainers.mpi", "mpich"), "=mpich, but it holds openmpi"),
        (("org.supercontainers.glibc", "2.36"), "label: org.supercontainers.glibc=2.36"),
        (("org.supercontainers.glibc", "2.17"), "=2.17, but it has GLIBC_2.36"),
        (("org.supercontainers.gpu", "cuda"), "label: org.supercontainers.gpu=cuda"),
        (("com.hooks.mpi.enabled", "true"), "label: com.hooks.mpi.enabled=true"),
    ],
)
def test_what_the_image_says_of_itself_is_shown_and_compared(label, line):
    lines = of_image(image(OWN), [label, ("maintainer", "x")]).split("\n")
    (shown,) = [text for text in lines if text.startswith("label")]
    assert line in shown
    assert shown.endswith(line)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"LD_LIBRARY_PATH": "/opt/x:/usr/lib"},
            "sets LD_LIBRARY_PATH, which names an MPI: /usr/lib",
        ),
        (
            {"LD_PRELOAD": "/opt/libmpi.so.12"},
            "sets LD_PRELOAD, which names an MPI: /opt/libmpi.so",
        ),
        ({"LD_PRELOAD": "/opt/malloc.so"}, "the image sets LD_PRELOAD: /opt/malloc.so"),
        ({"LD_LIBRARY_PATH": "/opt/x"}, ""),
    ],
)
def test_variables_of_the_image_that_change_the_loader_are_shown(variables, line):
    lines = [text for text in of_image(image(OWN), **variables).split("\n") if "variable" in text]
    assert bool(lines) is bool(line)
    assert line in "".join(lines)


APP = Program("/opt/app", "dynamic", "glibc", "/lib64/ld.so", ("libmpi.so.40", "libz.so.1"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "/opt/app: dynamically linked, glibc, by /lib64/ld.so"),
        ({}, "needs libmpi.so.40, libz.so.1"),
        ({}, "uses no MPI, as far as its linkage says"),
        ({"rpath": "/x"}, "DT_RPATH /x"),
        ({"runpath": "/x"}, "DT_RUNPATH /x"),
        ({"mpi": (Linked("libmpi.so.40", OWN.path, "/opt/app"),)},
         "loads libmpi.so.40: /usr/lib/libmpi.so.40.30.0 (OpenMPI 4.1.0, C, openmpi-4)"),
        ({"mpi": (Linked("libmpi.so.40", "", "/opt/s.so"),)}, "found nowhere in the image, by /opt/s.so"),
        ({"missing": ("libz.so.1",)}, "the image lacks libz.so.1, which it needs"),
        ({"dlopens": ("/x/libmpi.so",)}, "is linked to no MPI and names /x/libmpi.so"),
        ({"setid": True}, "is set-id: the loader ignores LD_LIBRARY_PATH"),
        ({"kind": "script", "interpreter": "/bin/sh"}, "/opt/app: a script, glibc, by /bin/sh"),
        ({"kind": "narrow"}, "a 32-bit program"),
        ({"kind": "static", "path": "/opt/s"}, "has an MPI linked in, which nothing can replace"),
    ],
)  # fmt: skip
def test_each_thing_about_a_program_has_its_line(changes, line):
    index = image(OWN, static=("/opt/s",))
    assert line in said(explain.application(APP._replace(**changes), index))


@pytest.mark.parametrize(
    ("family", "version", "pmi"),
    [
        ("openmpi", "1.10.2", ""), ("openmpi", "2.1.1", ""), ("openmpi", "4.0.3", "pmix"),
        ("openmpi", "5.0.7", "pmix"), ("openmpi", "6.0.0rc2", "pmix"), ("openmpi", "", ""),
        ("mpich", "3.2", "pmi2"), ("mpich", "5.0.2", "pmi2"), ("intelmpi", "2021.1", "pmi2"),
        ("abi", "5.0.2", ""),
    ],
)  # fmt: skip
def test_which_pmi_an_mpi_speaks(family, version, pmi):
    """The table of mpi.md, section 2."""
    assert explain.speaks(family, version) == pmi


def verdict_of(index, profiles, **options):
    return said(explain.verdicts(index, profiles, **options)[0])


NAMED = host(label="openmpi-4.1.4")
NAMED_MPICH = HOST_MPICH._replace(label="mpich-4.0.2")


def test_verdict_under_each_pmi_is_said_with_the_right_one():
    shown = verdict_of(image(OWN), [NAMED])
    assert "auto: the host's OpenMPI 4.1.4 replaces the image's OpenMPI 4.1.0" in shown
    assert "--mpi=pmix: the host's OpenMPI 4.1.4 runs" in shown
    assert "--mpi=pmi2: the host's OpenMPI 4.1.4 speaks pmix: every rank would be alone" in shown
    assert "start it: with srun --mpi=pmix" in shown
    assert "host:" not in shown, "it would say the same once more"


def test_images_own_is_judged_by_its_own_family():
    shown = verdict_of(image(MPICH), [])
    assert "--mpi=pmi2: the image's MPICH 3.4.1 runs" in shown
    assert "start it: with srun --mpi=pmi2" in shown
    assert "host: refused: no MPI library is found on this host" in shown
    old = library(abi_class="openmpi-world1024", version="1.10.2")
    shown = verdict_of(image(old), [])
    assert shown.count("finds no PMI that Slurm offers") == 2
    assert "start it" not in shown


def test_image_with_two_families_is_started_by_what_the_program_uses():
    index = image(OWN, MPICH)
    both = [NAMED, NAMED_MPICH]
    assert "start it" not in verdict_of(index, both)
    app = APP._replace(mpi=(Linked("libmpich.so.12", MPICH.path, "/opt/app"),))
    classes = explain.wanted(app, index)
    assert classes == {"mpich-abi"}
    shown = said(explain.verdicts(index, both, classes)[0])
    assert "start it: with srun --mpi=pmi2" in shown
    assert "OpenMPI 4.1.4 runs" not in shown


def test_program_that_wants_what_the_image_lacks_is_judged_by_that():
    app = APP._replace(mpi=(Linked("libmpi_abi.so.1", "", "/opt/app"),))
    assert explain.wanted(app, image(lacking=ABI)) == {"mpi-abi"}
    assert explain.wanted(None, image(lacking=ABI)) == frozenset()


def test_host_mode_says_more_where_it_decides_otherwise():
    shown = verdict_of(image(library(version="5.0.7")), [NAMED])
    assert "auto: the image's own OpenMPI 5.0.7 runs" in shown
    assert "host: the host's OpenMPI 4.1.4 replaces" in shown
    assert "host: host OpenMPI 4.1.4 is another major release" in shown
    opted = verdict_of(image(library(version="5.0.7")), [NAMED], cross_major=True)
    assert "auto: the host's OpenMPI 4.1.4 replaces" in opted


def test_interface_of_the_standard_is_started_as_its_implementation():
    profile = HOST_MPICH._replace(abi_class="mpi-abi", label="mpich-5.0.2", family="abi")
    shown = verdict_of(image(lacking=ABI), [profile])
    assert "start it: with srun --mpi=pmi2" in shown
    assert inject.classes(image(lacking=ABI)) == ["mpi-abi"]
