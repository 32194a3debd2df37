"""What an image's MPI can speak to Slurm is seen in its files, once."""

import os
import re
import shutil
import subprocess

import pytest

from fairlead.host import index, pmi, pmix

LIBRARY = index.Library(
    "/usr/lib/libmpi.so.40", "libmpi.so.40", "c", "openmpi", "openmpi-4", "4.1.4", "glibc"
)
EMPTY = index.Index((), (), (), "", (), (), (), (), (), (), (), ())


@pytest.fixture
def rootfs(tmp_path):
    (tmp_path / "root/usr/lib/openmpi/lib/openmpi3").mkdir(parents=True)
    return tmp_path / "root"


def library(rootfs, path, *texts, needed=()):
    """Compile a library that has words among its constants, as a PMI client has."""
    words = ", ".join(f'"{text}"' for text in ("none", *texts))
    (rootfs / "x.c").write_text(f"const char *const words[] = {{ {words} }};\n")
    (rootfs / "empty.c").write_text("")
    command = ["gcc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-o"]
    for name in needed:
        made = rootfs / name
        subprocess.run([*command, made, f"-Wl,-soname,{name}", rootfs / "empty.c"], check=True)
    others = [rootfs / name for name in needed]
    subprocess.run([*command, f"{rootfs}{path}", rootfs / "x.c", *others], check=True)


@pytest.mark.parametrize(
    ("texts", "needed", "clients"),
    [
        ((), (), ()),
        (("PMIX_SERVER_URI",), (), ("pmix",)),
        ((), ("libpmix.so.2",), ("pmix",)),
        (("PMI2_Init", "PMIX_SERVER_URI"), (), ("pmi2", "pmix")),
        (("PMI2_Init", "PMIx_Init", "PMIX_NAMESPACE"), (), ("pmi2",)),  # MPICH 4.2 and 5
    ],
)
def test_clients_are_seen_in_the_library(rootfs, tmp_path, texts, needed, clients):
    library(rootfs, LIBRARY.path, *texts, needed=needed)
    found = pmi.load(str(rootfs), EMPTY._replace(libraries=(LIBRARY,)), str(tmp_path / "pmi.json"))
    assert found == ((LIBRARY.path, clients),)
    assert pmi.cached(str(tmp_path / "pmi.json")) == found


def test_clients_of_openmpi_lie_beside_it(rootfs, tmp_path):
    library(rootfs, LIBRARY.path)
    library(rootfs, "/usr/lib/libopen-pal.so.40", "PMIX_SERVER_URI")
    (rootfs / "usr/lib/openmpi/lib/openmpi3/mca_pmix_s2.so").touch()
    seen = EMPTY._replace(libraries=(LIBRARY,), private=(("/usr/lib/libopen-pal.so.40", "x"),))
    found = pmi.load(str(rootfs), seen, str(tmp_path / "pmi.json"))
    assert found == ((LIBRARY.path, ("pmi2", "pmix")),)


def test_damaged_library_speaks_nothing(rootfs, tmp_path):
    (rootfs / "usr/lib/libmpi.so.40").write_bytes(b"\x7fELF" + b"\xff" * 100)
    found = pmi.load(str(rootfs), EMPTY._replace(libraries=(LIBRARY,)), str(tmp_path / "pmi.json"))
    assert found == ((LIBRARY.path, ()),)


def test_what_another_process_wrote_stays(rootfs, tmp_path, monkeypatch):
    library(rootfs, LIBRARY.path)
    kept = tmp_path / "pmi.json"
    clients = pmi._clients
    monkeypatch.setattr(pmi, "_clients", lambda *given: (kept.write_text("{}"), clients(*given))[1])
    pmi.load(str(rootfs), EMPTY._replace(libraries=(LIBRARY,)), str(kept))
    assert kept.read_text() == "{}"
    assert {path.name for path in tmp_path.iterdir()} == {"root", "pmi.json"}


@pytest.mark.parametrize("text", ["", "[]", '{"pmi": 3}', '{"pmi": [["x"]]}', '{"pmi": [1]}'])
def test_damaged_notes_are_none(tmp_path, text):
    (tmp_path / "pmi.json").write_text(text)
    assert pmi.cached(str(tmp_path / "pmi.json")) is None


def test_pmix_client_says_its_release_and_what_it_looks_for(rootfs, tmp_path):
    """Debian's own, which lies in a directory of its own."""
    library(rootfs, LIBRARY.path, "PMIX_SERVER_URI")
    shutil.copy(os.path.realpath("/usr/lib/x86_64-linux-gnu/libpmix.so.2"), rootfs / "usr/lib/x.so")
    there = EMPTY._replace(
        libraries=(LIBRARY,), libraries_found=(("libpmix.so.2", "/usr/lib/x.so"),)
    )
    ((_, clients),) = pmi.load(str(rootfs), there, str(tmp_path / "pmi.json"))
    found = [name for name in clients if name != "pmix"]
    assert re.match(r"OpenPMIx \d+\.\d+\.\d+", found[0])
    assert {"PMIX_SERVER_URI2", "PMIX_SERVER_URI4"} <= set(found[1:])
    assert all(re.fullmatch(r"PMIX_SERVER_URI\d*", name) for name in found[1:])


@pytest.mark.parametrize("content", [b"", b"\x7fELF nonsense", b"PMIX_SERVER_URI4\0" * 9])
def test_damaged_client_says_nothing(tmp_path, content):
    (tmp_path / "libpmix.so.2").write_bytes(content)
    assert pmix.abilities(str(tmp_path / "libpmix.so.2")) == ()


def test_plugin_of_openmpi_may_be_a_client():
    assert pmix.is_client("mca_pmix_pmix3x.so")
    assert pmix.is_client("libpmix.so.2.6.2")
    assert not pmix.is_client("libmpi.so.40")
