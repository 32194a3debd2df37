"""Images that are not what they seem: each runs as what it is, or is refused by name; never a crash, never the wrong library.

Cases in which an MPI program must run with a certain library are cells of the matrix (mpi_cells).
"""

import re

import jobs
import pytest
from jobs import REGISTRY, error_lines, output, srun

FORGED = re.compile(r"forged size=(\d) version=(.*?) *$", re.MULTILINE)


def image(kind):
    return f"{REGISTRY}/demo/mpi-bookworm-{kind}:1"


def calls(kind, pmi, *options):
    """Run a forged program as one rank; return the step."""
    return srun(
        f"--mpi={pmi}", "-n1", *options, f"/opt/mpi/{kind}/calls", container=image(kind), timeout=60
    )


def refusal(result):
    """Return the one line with which a step was refused."""
    assert result.returncode == 125, result.stdout + result.stderr
    assert result.stdout == ""
    (line,) = error_lines(result)
    assert "error [mpi]" in line
    return line


# What the program prints when its own library answers.
OWN = {
    "trap": "Open MPI v1.10.7, package: forged, ident: 1.10.7",
    "musl": "MPICH Version: 3.2 MPICH Release date: forged",
    "bits32": "MPICH Version: 3.2 MPICH Release date: forged",
    "static": "MPICH Version: 3.2 MPICH Release date: forged",
}


@pytest.mark.parametrize(("kind", "pmi"), [(kind, "pmi2") for kind in OWN] + [("trap", "pmix")])
def test_no_library_of_the_host_gets_into_what_it_does_not_fit(kind, pmi):
    """libmpi.so.12 of OpenMPI 1.10 is not MPICH's; nothing of the host's fits musl, 32 bits or a static program."""
    assert FORGED.findall(output(calls(kind, pmi))) == [("1", OWN[kind])]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("trap", "which cannot stand in for OpenMPI"),
        ("musl", "the image's programs run on musl, the host's MPI needs glibc"),
        ("static", "linked in statically"),
        ("bits32", "the host's MPI cannot run in"),
    ],
)
def test_what_the_host_does_not_fit_is_refused_by_name_when_the_host_is_asked_for(kind, words):
    assert words in refusal(calls(kind, "pmi2", "--container-mpi=host"))


def test_ancient_name_of_mpich_is_known():
    """libmpich.so.0 has the ABI of libmpi.so.12: whichever library was announced answers."""
    plan = output(
        srun(
            "--mpi=pmi2",
            "-n1",
            "fairlead",
            "plan",
            "--pull=newer",
            image("old"),
            "/opt/mpi/old/calls",
        )
    )
    announced = re.search(r"^mpi +(the host's|the image's own|host)", plan, re.MULTILINE)
    assert announced, plan
    ((size, version),) = FORGED.findall(output(calls("old", "pmi2")))
    assert size == "1"
    assert ("forged" in version) == announced[1].startswith("the image's own")


@pytest.mark.parametrize("pmi", ["pmix", "pmi2"])
def test_damaged_libraries_loops_and_a_nonsense_cache_do_not_stop_a_program(pmi):
    """Nor is there a dynamic loader; the program is static."""
    result = srun(
        f"--mpi={pmi}",
        "-n2",
        "/bin/busybox",
        "echo",
        "fine",
        container=image("hostile"),
        timeout=60,
    )
    assert output(result).split() == ["fine", "fine"]


def test_damaged_libraries_are_no_place_for_the_hosts():
    refusal(
        srun(
            "--mpi=pmix",
            "-n2",
            "--container-mpi=host",
            "/bin/busybox",
            "echo",
            "fine",
            container=image("hostile"),
            timeout=60,
        )
    )


@pytest.mark.parametrize(("family", "pmi"), [("openmpi", "pmix"), ("mpich", "pmi2")])
def test_tools_in_the_container_see_its_own_libc(family, pmi):
    """The host's MPI changes nothing for ldd, the locales and the system's programs."""
    look = (
        "ldd /bin/ls /usr/bin/gpgv | sed 's/ (0x.*//'; ldd --version | head -n 1; locale -a; "
        "getconf GNU_LIBC_VERSION; LC_ALL=C.UTF-8 ls --version | head -n 1; iconv --version | head -n 1"
    )
    shown = {
        mode: output(
            srun(
                f"--mpi={pmi}",
                "-n1",
                f"--container-mpi={mode}",
                "sh",
                "-c",
                look,
                container=image(family),
            )
        )
        for mode in ("host", "image")
    }
    assert "glibc 2.36" in shown["image"]
    assert shown["host"] == shown["image"]


def test_two_images_in_one_job_share_no_namespace():
    """Nor do two steps of one image: what one writes to its root, the other does not see."""
    show = "readlink /proc/self/ns/mnt /proc/self/ns/user; ls /written 2>/dev/null"
    script = "".join(
        f"srun -n1 --overlap --mpi=pmix --container={image(kind)} sh -c '{write}; sleep 2; {show}' &\n"
        for kind, write in (("openmpi", "touch /written"), ("mpich", ":"), ("openmpi", ":"))
    )
    shown = jobs.batch(f"{script}wait\n", "-n3", "-N1").split()
    namespaces = [word for word in shown if word.startswith(("mnt:", "user:"))]
    assert len(namespaces) == 6
    assert len(set(namespaces)) == 6
    assert shown.count("/written") == 1


def test_munge_is_reachable_where_the_image_has_none():
    shown = output(
        srun(
            "--mpi=pmix",
            "-n1",
            "sh",
            "-c",
            "test ! -e /usr/bin/munge && test -S /run/munge/munge.socket.2 && echo reachable",
            container=image("openmpi"),
        )
    )
    assert shown == "reachable\n"


@pytest.mark.parametrize("linked", ["libgfortran.so.5", "libstdc++.so.6"])
def test_language_libraries_are_the_newer_of_two(linked):
    """A program of the image and the host's MPI both load it; the one that serves both is taken."""
    program = {"libgfortran.so.5": "fortran", "libstdc++.so.6": "c++"}[linked]
    shown = output(
        srun(
            "--mpi=pmix",
            "-n1",
            "--container-mpi=host",
            "sh",
            "-c",
            f"ldd /opt/mpi/{program}",
            container=image("openmpi"),
        )
    )
    assert linked in shown
    assert "not found" not in shown
