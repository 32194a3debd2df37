"""Images that are not what they seem: each runs as what it is, or is refused by name; never a crash, never the wrong library.

Cases in which an MPI program must run with a certain library are cells of the matrix (mpi_cells).
"""

import os
import re
import shutil
import subprocess

import applicable
import jobs
import mpi_cells
import mpi_judge
import pytest
from jobs import REGISTRY, error_lines, output, srun
from test_mpi import build_id

FORGED = re.compile(r"forged size=(\d) version=(.*?) *$", re.MULTILINE)


def fitting(family, *words, **more):
    """A case with the host's MPI of a family, which stands in for the images' OpenMPI 4 and MPICH 4."""
    return pytest.param(family, *words, marks=pytest.mark.host_mpi(family, 4), **more)


def image(kind):
    return f"{REGISTRY}/demo/mpi-bookworm-{kind}:1"


def calls(kind, pmi, *options):
    """Run a forged program as one rank; return the step."""
    return srun(
        f"--mpi={pmi}", "-n1", *options, f"/opt/mpi/{kind}/calls", container=image(kind), timeout=60
    )


def refusal(result):
    """Return the one line with which a step was refused, with the tag that was named, frozen or not."""
    assert result.returncode == 125, result.stdout + result.stderr
    assert result.stdout == ""
    (line,) = error_lines(result)
    assert "error [mpi]" in line
    return re.sub(r"@sha256:[0-9a-f]{64}", ":1", line)


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


WHY = {
    "trap": "the host has {host}, which cannot stand in for OpenMPI (openmpi-world1024)",
    "old": "the host has {host}, which cannot stand in for MPICH (mpich-so0)",
    "musl": "the image's programs run on musl, the host's MPI needs glibc",
    "static": "/opt/mpi/static/calls has its MPI linked in statically, which cannot be replaced",
    "bits32": "/opt/mpi/bits32/calls is for 32-bit machines, the host's MPI is 64-bit",
}


def cannot(container, why):
    return (
        f"fairlead: error [mpi]: the host's MPI cannot run in {container}: {why} "
        "(use --container-mpi=image to run the image's own MPI)"
    )


@pytest.mark.parametrize("kind", WHY)
def test_what_the_host_does_not_fit_is_refused_by_name_when_the_host_is_asked_for(kind):
    line = refusal(calls(kind, "pmi2", "--container-mpi=host"))
    found = re.search(r"the host has (.+), which", line)
    has = found[1] if found else ""
    assert line == cannot(image(kind), WHY[kind].format(host=has))
    if "{host}" in WHY[kind]:
        versions = applicable.ask().versions
        assert re.fullmatch(
            rf"(OpenMPI {versions['openmpi']}.*, )MPICH {versions['mpich']} \(mpich-abi\)", has
        )


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


@pytest.mark.pmix
def test_damaged_libraries_are_no_place_for_the_hosts():
    options = ("--mpi=pmix", "-n2", "--container-mpi=host")
    command = ("/bin/busybox", "echo", "fine")
    line = refusal(srun(*options, *command, container=image("hostile"), timeout=60))
    assert line == cannot(image("hostile"), "the image holds no MPI library to replace")


@pytest.fixture(scope="module")
def damaged():
    """Images that are directories, by what is wrong with their libmpi."""
    place = f"/var/tmp/fairlead-damaged-{os.getpid()}"
    ours = "/usr/lib/x86_64-linux-gnu/libmpich.so.12"
    with open(ours, "rb") as file:
        whole = file.read()
    nonsense = bytearray(whole)
    nonsense[32:40] = b"\xff" * 7 + b"\x7f"  # program headers at the end of the address space
    kinds = {"cut": whole[: len(whole) // 2], "headers": bytes(nonsense), "enormous": whole}
    for kind, content in kinds.items():
        for name in ("lib", "bin", "proc", "sys", "etc"):
            os.makedirs(f"{place}/{kind}/{name}")
        shutil.copy("/bin/busybox", f"{place}/{kind}/bin/sh")
        with open(f"{place}/{kind}/lib/libmpi.so.12", "wb") as file:
            file.write(content)
            file.truncate(5 << 30 if kind == "enormous" else len(content))
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("kind", ["cut", "headers", "enormous"])
def test_library_that_cannot_be_read_is_named_and_stops_nothing(damaged, kind):
    container = f"{damaged}/{kind}"
    command = ("/bin/sh", "-c", "echo fine")
    assert output(srun("--mpi=pmi2", "-n2", *command, container=container)) == "fine\nfine\n"
    line = refusal(srun("--mpi=pmi2", "-n2", "--container-mpi=host", *command, container=container))
    why = "the image holds no MPI library that can be read (/lib/libmpi.so.12 cannot)"
    assert line == cannot(container, why)


def test_program_without_its_loader_is_one_line(damaged):
    """The kernel says ENOENT of the program itself."""
    place = f"{damaged}/cut/bin/hello"
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", place], input=b"int main(void){return 0;}", check=True
    )
    result = srun("--mpi=pmi2", "-n2", "/bin/hello", container=f"{damaged}/cut")
    assert result.returncode == 126
    (line,) = error_lines(result)
    assert line == (
        "fairlead: error [command-not-executable]: /bin/hello: no program for this machine, or its interpreter is not "
        "in the image (check its permissions, its interpreter line and the machine it was built for)"
    )


@pytest.mark.parametrize(("family", "pmi"), [fitting("openmpi", "pmix"), fitting("mpich", "pmi2")])
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
    # All three stand at a time: else the kernel may give one the number that another had.
    here = "/tmp/fairlead-two-$SLURM_JOB_ID"
    meet = f"touch {here}.$SLURM_STEP_ID; until [ $(ls {here}.* | wc -l) = 3 ]; do sleep 0.2; done"
    script = "".join(
        f"srun -n1 --overlap --mpi=pmi2 --container={image(kind)} sh -c '{write}; {meet}; {show}' &\n"
        for kind, write in (("openmpi", "touch /written"), ("mpich", ":"), ("openmpi", ":"))
    )
    shown = jobs.batch(f"{script}wait\nrm {here}.*\n", "-n3", "-N1").split()
    namespaces = [word for word in shown if word.startswith(("mnt:", "user:"))]
    assert len(namespaces) == 6
    assert len(set(namespaces)) == 6
    assert shown.count("/written") == 1


@pytest.mark.pmix
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


# What is linked, started or wrapped in other ways than the plain one: in each case the host's library alone must run.
WAYS = {
    "openmpi": (
        *("/opt/mpi/rpath", "/opt/mpi/runpath", "/opt/mpi/private-rpath", "/opt/mpi/absolute"),
        *(
            "/opt/mpi/opened",
            "/opt/mpi/topology",
            "/opt/mpi/setuid",
            "/opt/mpi/c++",
            "/opt/mpi/f08",
        ),
        *(mpi_cells.WRAPPERS[name] for name in ("reset", "astray", "cleared")),
    ),
    "mpich": (
        *("/opt/mpi/private-rpath", "/opt/mpi/absolute", "/opt/mpi/opened", "/opt/mpi/setuid"),
        *("/opt/mpi/fortran", "/opt/mpi/topology", mpi_cells.WRAPPERS["astray"]),
    ),
}


@pytest.mark.parametrize(
    ("family", "command"),
    [fitting(family, way) for family, ways in WAYS.items() for way in ways],
)
def test_hosts_library_alone_runs_however_the_program_finds_it(family, command):
    pmi = mpi_cells.FITTING_PMI[family]
    options = (f"--mpi={pmi}", "-n2", "-N1", "--container-mpi=host", "sh", "-c", command)
    shown = output(srun(*options, container=image(family)))
    ranks = [match.groupdict() for match in mpi_judge.RANK.finditer(shown)]
    assert sorted(rank["rank"] for rank in ranks) == ["0", "1"], shown
    for rank in ranks:
        assert (rank["size"], rank["sum"], rank["own"]) == ("2", "ok", "0")
        assert rank["ring"] in ("ok", "none")
        assert rank["id"] == build_id(LIBRARY[family])


LIBRARY = {
    "openmpi": "/usr/lib/x86_64-linux-gnu/libmpi.so.40",
    "mpich": "/usr/lib/x86_64-linux-gnu/libmpich.so.12",
}


# What can be run of the way to the wire without a fabric: UCX's and libfabric's TCP and shared memory, chosen by name, so
# that a provider or module which does not load is an error.
WIRES = {
    "ucx-tcp": ("mpich", {"UCX_TLS": "tcp,self"}),
    "ucx-shm": ("mpich", {"UCX_TLS": "sysv,cma,self"}),
    "openmpi-ucx": (
        "openmpi",
        {
            "OMPI_MCA_pml": "ucx",
            "OMPI_MCA_pml_ucx_tls": "any",
            "OMPI_MCA_pml_ucx_devices": "any",
            "UCX_TLS": "tcp,self",
        },
    ),
    "openmpi-libfabric": (
        "openmpi",
        {
            "OMPI_MCA_pml": "cm",
            "OMPI_MCA_mtl": "ofi",
            "OMPI_MCA_mtl_ofi_provider_include": "tcp;ofi_rxm",
            "FI_PROVIDER": "tcp",
        },
    ),
}


@pytest.mark.parametrize("suite", ["bullseye", "bookworm"])
@pytest.mark.parametrize(("family", "variables"), [fitting(*WIRES[w], id=w) for w in WIRES])
def test_transports_of_the_host_load_in_the_image(suite, family, variables):
    options = (f"--mpi={mpi_cells.FITTING_PMI[family]}", "-n2", "-N1", "--container-mpi=host")
    container = f"{REGISTRY}/demo/mpi-{suite}-{family}:1"
    shown = output(srun(*options, "/opt/mpi/c", container=container, **variables))
    ranks = [match.groupdict() for match in mpi_judge.RANK.finditer(shown)]
    assert [(rank["size"], rank["sum"], rank["ring"], rank["own"]) for rank in ranks] == [
        ("2", "ok", "ok", "0")
    ] * 2, shown


@pytest.mark.parametrize(
    ("family", "variables"),
    [
        fitting("mpich", {"UCX_TLS": "rc"}),
        fitting("openmpi", {"OMPI_MCA_pml": "cm", "OMPI_MCA_mtl": "ofi", "FI_PROVIDER": "verbs"}),
    ],
)
def test_choice_of_a_transport_reaches_the_hosts_library(family, variables):
    """There is no fabric here, so that the choice of one fails: else the test above would show nothing."""
    options = (f"--mpi={mpi_cells.FITTING_PMI[family]}", "-n2", "-N1", "--container-mpi=host")
    result = srun(*options, "/opt/mpi/c", container=image(family), **variables)
    assert result.returncode not in (0, 125)


@pytest.fixture(scope="module")
def host():
    """Installations of the host that lack something: MPICH without Fortran; one with five functions."""
    place = f"/var/tmp/fairlead-host-{os.getpid()}"
    for name in ("no-fortran", "old"):
        os.makedirs(f"{place}/{name}/lib")
    for name in ("libmpich.so.12", "libmpichcxx.so.12"):
        shutil.copy(f"{os.path.dirname(LIBRARY['mpich'])}/{name}", f"{place}/no-fortran/lib")
    library = f"{place}/old/lib/libmpi.so.12"
    forged = f"{os.path.dirname(os.path.abspath(__file__))}/../bed/mpi_programs/forged.c"
    flags = ("-shared", "-fPIC", "-Wl,-soname,libmpi.so.12")
    subprocess.run(["gcc", *flags, "-o", library, forged], check=True)
    for name in ("libmpifort.so.12", "libmpicxx.so.12"):
        words = ("-shared", "-nostdlib", "-Wl,--no-as-needed,-rpath,$ORIGIN", f"-Wl,-soname,{name}")
        subprocess.run(["gcc", *words, "-o", f"{place}/old/lib/{name}", library], check=True)
    yield place
    shutil.rmtree(place)


LACKING = {
    "no-fortran": (
        "host MPICH {host} has no Fortran library for /usr/lib/x86_64-linux-gnu/libmpichfort.so.12.2.2, which "
        "/opt/mpi/f08 uses"
    ),
    "old": "host MPICH lacks MPI_Allreduce, which programs in the image use and 25 more",
}


@pytest.mark.parametrize("lacking", LACKING)
def test_host_that_lacks_a_binding_or_a_function_is_refused_before_the_launch(host, lacking):
    """And by default the image's own runs, with the same words; Fortran too, whose library is then the image's."""
    options = ("--mpi=pmi2", "-n2", "-N1")
    home = f"{host}/{lacking}"
    container = image("mpich")
    asked = srun(
        *options, "--container-mpi=host", "/opt/mpi/fortran", container=container, MPI_HOME=home
    )
    why = LACKING[lacking].format(host=applicable.ask().versions["mpich"])
    assert refusal(asked) == cannot(container, why)
    result = srun(*options, "/opt/mpi/fortran", container=container, MPI_HOME=home)
    ranks = [match.groupdict() for match in mpi_judge.RANK.finditer(output(result))]
    assert [(rank["size"], rank["own"], rank["other"]) for rank in ranks] == [("2", "2", "0")] * 2
    assert f"fairlead: the image's own MPICH 4.0.2 runs: {why}" in result.stderr.splitlines()


@pytest.mark.pmix
def test_bindings_that_the_hosts_release_has_removed_are_refused_before_the_launch():
    home = "/opt/fairlead-bed/mpi/openmpi-5.0.11"
    options = ("--mpi=pmix", "-n2", "--container-mpi=host", "/opt/mpi/bindings")
    line = refusal(srun(*options, container=image("openmpi"), MPI_HOME=home))
    why = (
        "host OpenMPI 5.0.11 has no C++ library for /usr/lib/x86_64-linux-gnu/libmpi_cxx.so.40.30.1"
    )
    assert line == cannot(
        image("openmpi"), f"{why}, which /opt/mpi/bindings uses (OpenMPI 5 removed them)"
    )


@pytest.mark.host_mpi("openmpi", 4)
@pytest.mark.parametrize("suite", ["bullseye", "bookworm"])
def test_run_time_library_of_cxx_is_the_newer_of_two(suite):
    """The host's MPI brings none, or one that is not older: there is one in the process, with all that both ask for."""
    container = f"{REGISTRY}/demo/mpi-{suite}-openmpi:1"
    look = "cat /proc/self/maps >/dev/null; LD_BIND_NOW=1 ldd -r /opt/mpi/c++ 2>&1"
    shown = output(
        srun("--mpi=pmix", "-n1", "--container-mpi=host", "sh", "-c", look, container=container)
    )
    assert shown.count("libstdc++.so.6 => ") == 1
    assert "undefined symbol" not in shown
    assert "not found" not in shown
