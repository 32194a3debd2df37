"""The image's loader is a program of the image: it gets no right, no time and no room to do harm."""

import os
import subprocess
import sys
import time

import pytest

from fairlead import kernel
from fairlead.run import block, proof

ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(proof.__file__)))
LOOK = """
import os, sys
sys.path.insert(0, {engine!r})
from fairlead import kernel
from fairlead.run import block, proof
data = block.join([block.record(kernel.lib.OP_ENV_SET, 0, "FROM_PLAN", "yes")])
os.environ["FROM_ENGINE"] = "secret"
os.open("/etc/hostname", os.O_RDONLY)
kernel.create_namespace()
found = kernel.preflight(data, sys.argv[1], "/usr/bin:/bin", proof.LIMIT_MS, trace=True)
print(found.kind, found.timed_out, len(found.text))
print(found.text[:3000])
"""


def look(path):
    began = time.monotonic()
    script = LOOK.format(engine=os.path.dirname(ENGINE))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    head, _, text = done.stdout.partition("\n")
    return head.split(), text, time.monotonic() - began


def program(tmp_path, source, *, name="program"):
    """A dynamic program whose loader is a static program with this source."""
    loader = tmp_path / "loader"
    (tmp_path / "loader.c").write_text(source)
    subprocess.run(["gcc", "-static", "-o", loader, tmp_path / "loader.c"], check=True)
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    path = tmp_path / name
    words = ["gcc", "-o", path, tmp_path / "main.c", f"-Wl,-dynamic-linker={loader}"]
    subprocess.run(words, check=True)
    return path


def test_real_program_is_traced():
    head, text, _ = look("/bin/ls")
    assert head[:2] == [str(kernel.lib.PROGRAM_DYNAMIC), "False"]
    assert "libc.so.6 => /" in text


STATUS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <dirent.h>
extern char **environ;
int main(int argc, char **argv)
{
	char line[256];
	FILE *file = fopen("/proc/self/status", "r");
	DIR *fds = opendir("/proc/self/fd");
	while (fgets(line, sizeof line, file))
		fputs(line, stdout);
	for (char **at = environ; *at; at++)
		puts(*at);
	for (struct dirent *entry; (entry = readdir(fds));)
		printf("fd %s\n", entry->d_name);
	return 0;
}
"""


def test_loader_has_no_right_no_descriptor_and_no_variable_of_the_engine(tmp_path):
    _, text, _ = look(program(tmp_path, STATUS))
    assert "NoNewPrivs:\t1" in text
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t{0:016x}" in text
    assert "FROM_PLAN=yes" in text
    assert "LD_TRACE_LOADED_OBJECTS=1" in text
    assert "secret" not in text
    numbers = {
        int(line[3:]) for line in text.splitlines() if line[:3] == "fd " and line[3:].isdigit()
    }
    assert numbers <= {0, 1, 2, 3, 4}, "its own status file and directory, and nothing else"


def test_loader_that_does_not_end_is_ended(tmp_path):
    head, _, took = look(
        program(tmp_path, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    )
    assert head[1] == "True"
    assert 1.9 < took < 15


def test_loader_that_prints_without_end_is_cut_off(tmp_path):
    source = '#include <stdio.h>\nint main(void) { for (;;) puts("libx.so => not found"); }\n'
    head, _, took = look(program(tmp_path, source))
    assert int(head[2]) == 65535
    assert took < 15


@pytest.mark.parametrize("kind", ["setuid", "setgid", "script", "static", "foreign", "damaged"])
def test_other_programs_are_not_asked_about(tmp_path, kind):
    path = program(tmp_path, '#include <stdio.h>\nint main(void) { puts("ran"); }\n')
    if kind in ("setuid", "setgid"):
        os.chmod(path, 0o4755 if kind == "setuid" else 0o2755)
    elif kind == "script":
        path.write_text("#!/bin/sh\necho ran\n")
    elif kind == "static":
        path = tmp_path / "loader"
    else:
        data = bytearray(path.read_bytes())
        data[18 if kind == "foreign" else 32 : 20 if kind == "foreign" else 40] = b"\x08\0" + (
            b"" if kind == "foreign" else b"\xff" * 6
        )
        path.write_bytes(data)
    head, text, _ = look(path)
    assert head[0] != str(kernel.lib.PROGRAM_DYNAMIC)
    assert "ran" not in text


def test_program_says_which_mpi_it_needs(tmp_path):
    (tmp_path / "l.c").write_text("int f(void) { return 0; }\n")
    library = tmp_path / "libmpi.so.40"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libmpi.so.40", "-o", library, tmp_path / "l.c"],
        check=True,
    )
    (tmp_path / "m.c").write_text("int f(void);\nint main(void) { return f(); }\n")
    subprocess.run(["gcc", "-o", tmp_path / "m", tmp_path / "m.c", library], check=True)
    data = block.join([])
    found = kernel.preflight(data, str(tmp_path / "m"), "/bin", proof.LIMIT_MS, trace=False)
    assert found is not None
    assert found.mpi == "libmpi.so.40"
    assert found.text == ""
