"""host.program: what one program of an image is linked to, whatever it turns out to be."""

import os

import elf_forge
import pytest
from test_mpi_index import narrow, program, user

from fairlead import errors
from fairlead.host import program as linkage


def look(root, name, **environ):
    return linkage.examine(str(root), name, environ)


def test_libraries_are_found_as_the_loader_would(tmp_path):
    library = elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40")
    user(tmp_path, library, "opt/app")
    found = look(tmp_path, "/opt/app")
    assert (found.kind, found.libc) == ("dynamic", "glibc")
    assert found.mpi == (linkage.Linked("libmpi.so.40", "/usr/lib/libmpi.so.40", "/opt/app"),)
    assert found.missing == ("libc.so.6",)


def test_mpi_behind_a_library_of_the_program_is_found_with_who_asks(tmp_path):
    library = elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40")
    elf_forge.library(
        tmp_path / "opt/libsolver.so", "int MPI_Init(); int s(){return MPI_Init();}",
        f"-L{os.path.dirname(library)}", "-l:libmpi.so.40",
    )  # fmt: skip
    program(tmp_path / "opt/app", f"-L{tmp_path}/opt", "-l:libsolver.so", "-Wl,-rpath,/opt", f"-Wl,-rpath-link,{tmp_path}/usr/lib",
            text="int s(); int main(){return s();}")  # fmt: skip
    (found,) = look(tmp_path, "/opt/app").mpi
    assert (found.name, found.by) == ("libmpi.so.40", "/opt/libsolver.so")


def test_private_copy_behind_rpath_and_library_path_are_followed(tmp_path):
    elf_forge.openmpi(tmp_path / "usr/lib/libmpi.so.40")
    private = elf_forge.openmpi(tmp_path / "opt/lib/libmpi.so.40")
    user(tmp_path, private, "opt/fixed", "-Wl,-rpath,$ORIGIN/lib,--disable-new-dtags")
    user(tmp_path, private, "opt/plain")
    assert look(tmp_path, "/opt/fixed").mpi[0].path == "/opt/lib/libmpi.so.40"
    assert look(tmp_path, "/opt/plain").mpi[0].path == "/usr/lib/libmpi.so.40"
    led = look(tmp_path, "/opt/plain", LD_LIBRARY_PATH="/opt/lib")
    assert led.mpi[0].path == "/opt/lib/libmpi.so.40"


def test_missing_library_of_mpi_is_said(tmp_path):
    library = elf_forge.openmpi(tmp_path / "libmpi.so.40")
    user(tmp_path / "root", library, "app")
    assert look(tmp_path / "root", "/app").mpi == (linkage.Linked("libmpi.so.40", "", "/app"),)


def test_name_is_looked_for_on_the_images_path(tmp_path):
    program(tmp_path / "opt/bin/app", text="int main(){return 0;}")
    os.symlink("/opt/bin", tmp_path / "tools")
    assert look(tmp_path, "app", PATH="/nowhere:/tools").path == "/opt/bin/app"
    with pytest.raises(errors.CommandNotFoundError, match=r"app: no such file .*PATH \(/bin\)"):
        look(tmp_path, "app", PATH="/bin")


def make(path, content, mode=0o755):
    path.write_bytes(content)
    path.chmod(mode)


KINDS = {
    "script": lambda path: make(path, b"#!/usr/bin/env python3\nimport mpi4py\n"),
    "narrow": lambda path: narrow(path, b""),
    "damaged": lambda path: make(path, b"\x7fELF\x02\x01" + b"\xff" * 500),
    "other": lambda path: make(path, b"MZ"),
    "static": lambda path: program(path, "-static", text="int main(){return 0;}"),
    "foreign": lambda path: make(
        path, b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xf3\0" + bytes(44)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_a_program_is_told(tmp_path, kind):
    KINDS[kind](tmp_path / "app")
    found = look(tmp_path, "/app")
    assert (found.kind, found.mpi) == (kind, ())
    assert found.interpreter == ("/usr/bin/env python3" if kind == "script" else "")


@pytest.mark.parametrize("kind", ["loop", "directory", "fifo", "outside", "nothing"])
def test_what_is_no_file_of_the_image_is_an_error(tmp_path, kind):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("")
    targets = {"loop": "app", "outside": str(tmp_path / "secret"), "nothing": "/gone"}
    if kind in targets:
        os.symlink(targets[kind], root / "app")
    elif kind == "directory":
        (root / "app").mkdir()
    else:
        os.mkfifo(root / "app")
    with pytest.raises(errors.CommandNotFoundError):
        look(root, "/app")


def test_set_id_bit_is_seen(tmp_path):
    program(tmp_path / "app", text="int main(){return 0;}")
    os.chmod(tmp_path / "app", 0o4755)
    assert look(tmp_path, "/app").setid


def test_path_in_a_program_that_is_linked_to_none_is_seen(tmp_path):
    text = 'const char *p = "/opt/x/lib/libmpi.so.12"; int main(){return p[0];}'
    program(tmp_path / "app", text=text)
    assert look(tmp_path, "/app").dlopens == ("/opt/x/lib/libmpi.so.12",)
