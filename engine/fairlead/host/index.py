"""What an image brings of MPI: its libraries, who uses them, and the glibc underneath.

Rules:
- The tree is hostile input: read by the bounded ELF reader, no symlink is followed out of it,
  nothing in it runs.
- Made once per image by one walk over the tree (``host.survey``) and stored by the caller beside
  the tree; an image never changes, so the stored index is used as it is.
- Everything here is a fact; whether the host's MPI fits is decided in ``plan.inject``.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fairlead import log
from fairlead.host import mpi

FORMAT = 3


class Library(NamedTuple):
    """An MPI library file of the image; ``path`` is resolved within the image.

    ``product`` is whose code it is, where the family is the standard's ABI.
    """

    path: str
    soname: str
    role: str
    family: str
    abi_class: str
    version: str
    libc: str
    product: str = ""


class Program(NamedTuple):
    """A file of the image that is linked to MPI.

    Attributes:
        path: in the image.
        needed: the MPI libraries in its DT_NEEDED.
        interpreter: empty for a library (a Python module, a solver's own).
        rpath, runpath: as they are written.
        setid: it has a set-id bit.
    """

    path: str
    needed: tuple[str, ...]
    interpreter: str
    rpath: str
    runpath: str
    setid: bool


class Index(NamedTuple):
    """What was found in one image.

    Attributes:
        libraries: every MPI library file, wherever it lies, symlinks left out.
        private: (path, soname) of OpenMPI's internal libraries (libopen-rte, libopen-pal,
            libmca_common_*).
        neighbours: (directory, names) of the shared libraries beside an MPI library in a directory
            of its own.
        libc: ``glibc``, ``musl`` or "" (no dynamic program found).
        interpreters: the loaders that programs name.
        glibc: (soname, versions that it defines) of every glibc library that the loader finds.
        libraries_found: (soname, resolved path) of what the loader finds by its cache and default
            directories.
        needs: (ABI class, symbols one per line, data with the size in the image's library) that
            programs use.
        users: some files that use MPI; ``rpath`` in notes. Those outside the image (home
            directories) are unknown.
        static: programs that have an MPI linked in, which nobody can replace.
        unseen: directories that could not be looked at: what lies there is unknown.
        notes: what looks odd.
        programs: what is linked to MPI; the same files as ``users``, and more of them.
        lacking: (ABI class, SONAMEs) that programs need and no file of the image is: it was built
            to run with the host's.
        dlopens: (program, path) of programs that are not linked to MPI and name one.
        narrow: 32-bit files that name an MPI library.
        preloaded: what the image's /etc/ld.so.preload names.
        loaderless: loaders that programs name and the image lacks.
        runtimes: (SONAME, highest version of each kind) of the compilers' libraries.
    """

    libraries: tuple[Library, ...]
    private: tuple[tuple[str, str], ...]
    neighbours: tuple[tuple[str, tuple[str, ...]], ...]
    libc: str
    interpreters: tuple[str, ...]
    glibc: tuple[tuple[str, tuple[str, ...]], ...]
    libraries_found: tuple[tuple[str, str], ...]
    needs: tuple[tuple[str, str], ...]
    users: tuple[str, ...]
    static: tuple[str, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...]
    programs: tuple[Program, ...] = ()
    lacking: tuple[tuple[str, tuple[str, ...]], ...] = ()
    dlopens: tuple[tuple[str, str], ...] = ()
    narrow: tuple[str, ...] = ()
    preloaded: tuple[str, ...] = ()
    loaderless: tuple[str, ...] = ()
    runtimes: tuple[tuple[str, tuple[str, ...]], ...] = ()


def load(rootfs: str, cache_path: str) -> Index:
    """Return the index of an image's tree, from the cache if there is one.

    Args:
        rootfs: the unpacked tree.
        cache_path: a file that the caller keeps as long as the tree; created here.
    """
    index = cached(cache_path)
    if index is not None:
        return index
    from fairlead.host import survey

    index = survey.survey(rootfs)
    try:
        mpi.write(cache_path, {"format": FORMAT, "index": index})
    except OSError as error:
        log.debug(f"{cache_path}: not kept: {error}")
    return index


def cached(cache_path: str) -> Index | None:
    """Return an index that ``load`` kept, None if there is none or it is damaged."""
    try:
        with open(cache_path, "rb") as file:
            record = json.loads(file.read())
        if record["format"] == FORMAT:
            return _index(record["index"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.debug(f"{cache_path}: not used: {error}")
    return None


def _index(fields: list[Any]) -> Index:
    index = Index(*(mpi.tuples(field) for field in fields))
    return index._replace(
        libraries=tuple(Library(*library) for library in index.libraries),
        programs=tuple(Program(*program) for program in index.programs),
    )
