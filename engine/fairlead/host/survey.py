"""Walk an image's tree once and note everything about MPI: the cold half of ``host.index``.

Rules:
- One ``scandir`` walk, no symlink followed, no file opened that cannot be a program or a library.
- Every number is limited; where a limit is reached the index says so in a note.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from fairlead import errors
from fairlead.host import elf, family, index, ldso

MAX_ENTRIES = 3_000_000
MAX_DEPTH = 128
MAX_LIBRARIES = 512
MAX_USERS = 4096
MAX_STATIC_BYTES = 512 << 20

# Names that are never programs: they need no stat. (A quarter of the walk on a typical image.)
_NO_PROGRAM = re.compile(
    r"\.(?:py|pyc|pyi|h|hpp|hh|c|cc|cpp|txt|rst|md|html|xml|json|gz|xz|bz2|mo|po|a|o|la|js|css|svg|png|conf|list"
    r"|md5sums|pl|pm|f90|mod|cmake|pc|ttf|jpg|csv|yaml|yml|toml|so\.conf)$"
)
_STATIC_MPI = (b"MPICH Version:", b"Open MPI v%d", b"ompi_mpi_init", b"MPIR_Init_thread")
_SHARED = re.compile(r"lib.+\.so(?:\.[\d.]+)?$")


class _File(NamedTuple):
    """A file worth opening: its path in the image and whether its name is a library's."""

    path: str
    is_library: bool


class _Seen:
    """What the walk has gathered so far."""

    def __init__(self) -> None:
        self.machine = elf.MACHINES.get(ldso.machine())
        self.libraries: list[family.Library] = []
        self.exports: dict[str, set[str]] = {}
        self.private: list[tuple[str, str]] = []
        self.users: list[tuple[str, tuple[str, ...], set[str]]] = []
        self.static: list[str] = []
        self.interpreters: set[str] = set()
        self.unseen: list[str] = []
        self.notes: list[str] = []


def survey(rootfs: str) -> index.Index:
    """Return the index of a tree.

    Raises:
        errors.StoreError: the tree cannot be read.
    """
    seen = _Seen()
    for file in _walk(rootfs, seen):
        try:
            with elf.Reader(rootfs + file.path) as reader:
                _look(file, reader, seen)
        except (elf.NotElf, OSError):
            continue
        except elf.Damaged as error:
            name = file.path.rpartition("/")[2]
            if family.role(name) or family.is_private(name):
                seen.unseen.append(file.path)  # the loader may be less strict than we are
            elif file.is_library:
                seen.notes.append(f"{file.path} is damaged: {str(error).rpartition(': ')[2]}")
    loader = ldso.Loader(rootfs)
    libraries = tuple(
        index.Library(
            item.path, item.soname, item.role, item.family, item.abi_class, item.version, item.libc
        )
        for item in sorted(seen.libraries)
    )
    return index.Index(
        libraries=libraries,
        private=tuple(sorted(seen.private)),
        neighbours=_neighbours(rootfs, loader, libraries),
        libc=_libc(seen),
        interpreters=tuple(sorted(seen.interpreters)[:16]),
        glibc=_glibc(loader),
        libraries_found=_found(loader),
        needs=_needs(seen),
        users=tuple(sorted(path for path, _, _ in seen.users)[:64]),
        static=tuple(sorted(seen.static)[:64]),
        unseen=tuple(path[:256] for path in seen.unseen[:16]),
        notes=tuple(seen.notes[:64]),
    )


def _walk(rootfs: str, seen: _Seen) -> list[_File]:
    """Return the files that can be programs or libraries, by their paths inside the tree."""
    found: list[_File] = []
    pending = [("", 0)]
    entries_left = MAX_ENTRIES
    while pending:
        directory, depth = pending.pop()
        try:
            with os.scandir(f"{rootfs}{directory}/") as scan:
                entries = list(scan)
        except OSError as error:
            if not directory:
                raise errors.StoreError(f"{rootfs}: {error.strerror}") from error
            # The engine keeps u+rx on every directory, so this is not a tree that it made.
            seen.unseen.append(directory)
            continue
        entries_left -= len(entries)
        if entries_left < 0:
            seen.unseen.append(f"what comes after {MAX_ENTRIES} files")
            break
        if depth > MAX_DEPTH:
            seen.unseen.append(directory)
            continue
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if directory or name not in ("proc", "sys", "dev"):
                    pending.append((f"{directory}/{name}", depth + 1))
            elif entry.is_file(follow_symlinks=False) and not _NO_PROGRAM.search(name):
                is_library = ".so" in name
                if is_library or entry.stat(follow_symlinks=False).st_mode & stat.S_IXUSR:
                    found.append(_File(f"{directory}/{name}", is_library))
    return found


def _look(file: _File, reader: elf.Reader, seen: _Seen) -> None:
    headers = reader.elf
    name = file.path.rpartition("/")[2]
    if headers.machine != seen.machine:
        return
    if headers.interp and not file.is_library:
        seen.interpreters.add(headers.interp)
    if headers.static:
        if reader.size <= MAX_STATIC_BYTES and reader.contains(*_STATIC_MPI):
            seen.static.append(file.path)
    elif family.role(name):
        library = family.examine(file.path, reader)
        if library and len(seen.libraries) >= MAX_LIBRARIES:
            seen.unseen.append(file.path)
        elif library:
            seen.libraries.append(library)
            seen.exports.setdefault(library.abi_class, set()).update(family.public_exports(reader))
    elif family.is_private(name):
        seen.private.append((file.path, headers.soname or name))
    elif len(seen.users) < MAX_USERS and not family.is_internal(name):
        wanted = tuple(
            needed for needed in headers.needed if family.role(needed.rpartition("/")[2])
        )
        if wanted:
            symbols = {
                symbol.name for symbol in reader.symbols() if not symbol.defined or symbol.is_object
            }
            seen.users.append(
                (file.path, wanted, {symbol for symbol in symbols if family.is_public(symbol)})
            )
            if headers.rpath:
                seen.notes.append(f"{file.path} has DT_RPATH {headers.rpath}")


def _needs(seen: _Seen) -> tuple[tuple[str, str], ...]:
    """Return what the programs use of each class, of what the image's own libraries provide."""
    classes: dict[str, set[str]] = {}
    for library in seen.libraries:
        classes.setdefault(library.soname, set()).add(library.abi_class)
        classes.setdefault(library.path.rpartition("/")[2], set()).add(library.abi_class)
    needs: dict[str, set[str]] = {}
    for _, wanted, symbols in seen.users:
        for name in wanted:
            for abi_class in classes.get(name.rpartition("/")[2], ()):
                needs.setdefault(abi_class, set()).update(symbols)
    exact = {
        name: {line for line in seen.exports[name] if line.partition(" ")[0] in needs[name]}
        for name in needs
    }
    return tuple((name, "\n".join(sorted(lines))) for name, lines in sorted(exact.items()))


def _libc(seen: _Seen) -> str:
    """Return the libc of the MPI libraries if there are any, else of the programs."""
    kinds = {library.libc for library in seen.libraries if library.libc}
    if not kinds:
        kinds = {"musl" if "/ld-musl-" in path else "glibc" for path in seen.interpreters}
    return "glibc" if "glibc" in kinds else "".join(sorted(kinds)[:1])


def _glibc(loader: ldso.Loader) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for name in sorted(ldso.GLIBC):
        path = loader.find(name, [])
        real = loader.usable(path) if path else None
        if not real:
            continue
        try:
            with elf.Reader(loader.host(real)) as reader:
                found.append((name, tuple(sorted(set(reader.definitions().values())))))
        except (elf.ElfError, OSError):
            continue
    return tuple(found)


def _found(loader: ldso.Loader) -> tuple[tuple[str, str], ...]:
    """Return what the loader finds without a program's help; the cache wins over directories."""
    names: dict[str, str] = {}
    for directory in reversed(loader.default):
        try:
            listed = os.listdir(loader.host(loader.place(directory)))
        except (OSError, elf.ElfError):
            continue
        names.update({name: f"{directory}/{name}" for name in listed if _SHARED.match(name)})
    names.update(loader.cache)
    found: list[tuple[str, str]] = []
    for name, path in sorted(names.items()):
        try:
            found.append((name, loader.place(path)))
        except elf.ElfError:
            continue
    return tuple(found)


def _neighbours(
    rootfs: str, loader: ldso.Loader, libraries: tuple[index.Library, ...]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the libraries that lie with a private copy of MPI: they must not be split from it."""
    standard = {loader.place(directory) for directory in loader.default}
    directories = sorted(
        {library.path.rpartition("/")[0] or "/" for library in libraries} - standard
    )
    found = []
    for directory in directories:
        names = sorted(name for name in os.listdir(rootfs + directory) if _SHARED.match(name))
        found.append((directory, tuple(names[:1024])))
    return tuple(found)
