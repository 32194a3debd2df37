"""How one program of an image is linked: what the loader will find for it, and where.

Rules:
- As ``host.survey``: hostile input, the bounded reader, no symlink followed out of the tree, and
  nothing runs.
- A name without a slash is looked for on the image's PATH.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.host import elf, family, ldso

KINDS = {
    "dynamic": "dynamically linked",
    "static": "statically linked",
    "script": "a script",
    "narrow": "a 32-bit program",
    "foreign": "a program of another machine",
    "damaged": "a damaged ELF file",
    "other": "no ELF file",
}


class Linked(NamedTuple):
    """An MPI library that a program loads: name asked for, path found ("" if none), who asked."""

    name: str
    path: str
    by: str


class Program(NamedTuple):
    """One program.

    Attributes:
        path: resolved, in the image.
        kind: a key of ``KINDS``.
        libc: ``glibc``, ``musl`` or "".
        interpreter: its loader, or for a script its interpreter line.
        needed: all of its DT_NEEDED.
        rpath, runpath: as they are written.
        mpi: the MPI libraries that it loads, directly or by its libraries.
        missing: what the loader will not find, MPI or not.
        dlopens: paths of MPI libraries in its constants, where it is linked to none.
        setid: it has a set-id bit.
    """

    path: str
    kind: str
    libc: str = ""
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    rpath: str = ""
    runpath: str = ""
    mpi: tuple[Linked, ...] = ()
    missing: tuple[str, ...] = ()
    dlopens: tuple[str, ...] = ()
    setid: bool = False


def examine(rootfs: str, name: str, environ: Mapping[str, str]) -> Program:
    """Return how a program of an image is linked.

    Args:
        rootfs: the image's tree.
        name: a path in the image, or a name on its PATH.
        environ: the image's variables.

    Raises:
        errors.CommandNotFoundError: there is no such file.
    """
    library_path = environ.get("LD_LIBRARY_PATH", "").split(":")
    loader = ldso.Loader(rootfs, library_path)
    path = _find(loader, name, environ)
    real = loader.host(path)
    mode = os.lstat(real).st_mode
    setid = bool(mode & (stat.S_ISUID | stat.S_ISGID))
    try:
        with elf.Reader(real) as reader:
            return _linked(loader, path, reader)._replace(setid=setid)
    except elf.Elf32:
        return Program(path, "narrow", setid=setid)
    except elf.Damaged:
        return Program(path, "damaged", setid=setid)
    except (elf.NotElf, OSError):
        line = _interpreter_line(real)
        return Program(path, "script" if line else "other", interpreter=line, setid=setid)


def _find(loader: ldso.Loader, name: str, environ: Mapping[str, str]) -> str:
    directories = environ.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":")
    places = [name] if name.startswith("/") else [f"{place}/{name}" for place in directories]
    for place in places:
        try:
            path = loader.place(place)
            if stat.S_ISREG(os.lstat(loader.host(path)).st_mode):
                return path
        except (elf.ElfError, OSError, ValueError):
            continue
    where = "" if name.startswith("/") else f" on the image's PATH ({':'.join(directories)})"
    raise errors.CommandNotFoundError(
        f"{name}: no such file in the image{where}", hint="name it by its path in the image"
    )


def _linked(loader: ldso.Loader, path: str, reader: elf.Reader) -> Program:
    headers = reader.elf
    if headers.machine != elf.MACHINES.get(loader.arch):
        return Program(path, "foreign")
    if headers.static:
        return Program(path, "static")
    closure = loader.closure([path])
    asked = {**{name: item.by for name, item in closure.libraries.items()}, **closure.missing}
    found = {name: item.path for name, item in closure.libraries.items()}
    mpi = tuple(
        Linked(name, found.get(name, ""), by)
        for name, by in sorted(asked.items())
        if by and family.role(name.rpartition("/")[2])
    )
    paths = () if mpi else tuple(sorted(family.named_by_path(reader)))
    return Program(
        path,
        "dynamic",
        family.libc(headers),
        headers.interp,
        headers.needed,
        headers.rpath,
        headers.runpath,
        mpi,
        tuple(sorted(name for name, by in closure.missing.items() if by)),
        paths,
    )


def _interpreter_line(real: str) -> str:
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            first = file.read(256).partition(b"\n")[0]
    except OSError:
        return ""
    return os.fsdecode(first[2:].strip()) if first.startswith(b"#!") else ""
