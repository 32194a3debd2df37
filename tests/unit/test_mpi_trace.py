"""host.trace: what strace's lines say, and how it differs from the static analysis."""

import os

import elf_forge
import pytest
from test_mpi_verdict import host

from fairlead.host import mpi, trace

LINES = r"""
openat(AT_FDCWD</w>, "/etc/openmpi/x.conf", O_RDONLY|O_CLOEXEC) = 3</etc/openmpi/x.conf>
openat(AT_FDCWD</w>, "lib.so", O_RDONLY|O_CLOEXEC) = 4</usr/lib/real.so.1>
openat(AT_FDCWD</w>, "/nowhere", O_RDONLY) = -1 ENOENT (No such file or directory)
openat(AT_FDCWD</w>, "/dev/shm/seg", O_RDWR|O_CREAT, 0600) = 5</dev/shm/seg (deleted)>
openat(AT_FDCWD</w>, "/odd", O_RDONLY) = 6</odd\74name\76>
connect(7<socket:[1]>, {sa_family=AF_UNIX, sun_path="/run/munge/munge.socket.2"}, 110) = 0
connect(7<socket:[1]>, {sa_family=AF_UNIX, sun_path=@"abstract"}, 110) = 0
connect(7<socket:[1]>, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT (No such file or directory)
connect(7<socket:[1]>, {sa_family=AF_INET, sin_port=htons(1)}, 16) = 0
+++ exited with 0 +++
"""  # fmt: skip


def read(text):
    opened, sockets = {}, set()
    trace.calls(text.splitlines(keepends=True), opened, sockets)
    return opened, sockets


def test_lines_of_strace_say_what_was_opened_and_connected_to():
    opened, sockets = read(LINES)
    assert opened == {
        "/etc/openmpi/x.conf": False,
        "/usr/lib/real.so.1": False,
        "/dev/shm/seg": True,
        "/odd<name>": False,
    }
    assert sockets == {"/run/munge/munge.socket.2", "@abstract"}


@pytest.mark.parametrize(
    "line", ["openat(", "= 3</x", "openat() = 3<x>", "\0\xff", "connect(sun_path="]
)
def test_odd_line_says_nothing(line):
    assert read(line) == ({}, set())


def made(tmp_path):
    """A profile with one plugin, one plugin left out, one data directory."""
    plugin = elf_forge.library(tmp_path / "plugins/mca_one.so")
    left = elf_forge.library(tmp_path / "plugins/mca_two.so")
    library = elf_forge.openmpi(tmp_path / "lib/libmpi.so.40")
    os.makedirs(tmp_path / "share")
    (tmp_path / "share/help.txt").write_text("")
    names = ((("mca_one.so", plugin),), (("mca_two.so", "drags in libX11.so.6"),))
    directory = mpi.Plugins(str(tmp_path / "plugins"), "libmpi.so.40", *names)
    return host(
        libraries=(("c", "libmpi.so.40", library),),
        closure=(("libmpi.so.40", library),),
        plugin_dirs=(directory,),
        data_dirs=((str(tmp_path / "share"), "libmpi.so.40"),),
    ), (library, plugin, left)


def test_every_file_of_a_run_is_accounted_for(tmp_path):
    profile, (library, plugin, left) = made(tmp_path)
    unknown = elf_forge.library(tmp_path / "elsewhere/mca_three.so")
    help_text, own = str(tmp_path / "share/help.txt"), str(tmp_path / "etc/own.conf")
    libraries = (library, plugin, left, unknown, "/usr/lib/libc.so.6", "/usr/lib/libnss_sss.so.2")
    files = (help_text, own, "/etc/passwd")
    run = trace.Trace(("p",), 2, libraries, files, (), (), (help_text, own))
    assert trace.difference(profile, run) == trace.Difference(
        missed=(unknown,),
        left_out=(left,),
        carried=(help_text,),
        data=(own,),
        ignored=("/etc/passwd",),
    )


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/ld.so.cache", "/home/x/y", "/tmp/y", "/proc/1/maps", "/dev/null", "x"],
)
def test_what_is_the_users_the_c_librarys_or_the_kernels_does_not_travel(path):
    assert not trace._travels(path)


def test_traces_do_not_pile_up(tmp_path):
    for number in range(mpi.MAX_KEPT + 4):
        kept = trace.path(str(tmp_path), host(analysis=str(number)))
        trace.keep(kept, trace.Trace((), 1, (), (), (), (), ()))
    assert len(list(tmp_path.iterdir())) == mpi.MAX_KEPT
