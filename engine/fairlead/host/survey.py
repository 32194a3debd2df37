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
MAX_PROGRAMS = 256
MAX_SEARCHED_BYTES = 512 << 20  # of programs that are not linked to MPI, for a path of one
MAX_NARROW_BYTES = 64 << 20
MAX_PRELOAD_BYTES = 64 << 10

# Names that are never programs: they need no stat. (A quarter of the walk on a typical image.)
_NO_PROGRAM = re.compile(
    r"\.(?:py|pyc|pyi|h|hpp|hh|c|cc|cpp|txt|rst|md|html|xml|json|gz|xz|bz2|mo|po|a|o|la|js|css|svg|png|conf|list"
    r"|md5sums|pl|pm|f90|mod|cmake|pc|ttf|jpg|csv|yaml|yml|toml|so\.conf)$"
)
_STATIC_MPI = (b"MPICH Version:", b"Open MPI v%d", b"ompi_mpi_init", b"MPIR_Init_thread")
_RUNTIMES = {
    "libstdc++.so.6": ("GLIBCXX_", "CXXABI_"),
    "libgcc_s.so.1": ("GCC_",),
    "libgfortran.so.5": ("GFORTRAN_",),
    "libgfortran.so.4": ("GFORTRAN_",),
    "libgfortran.so.3": ("GFORTRAN_",),
}
PRELOAD = "/etc/ld.so.preload"
_SHARED = re.compile(r"lib.+\.so(?:\.[\d.]+)?$")


class _File(NamedTuple):
    """A file worth opening: its path in the image and whether its name is a library's."""

    path: str
    is_library: bool
    setid: bool = False


class _User(NamedTuple):
    """A file that is linked to MPI: symbol → the same with the size of its own copy of data."""

    program: index.Program
    symbols: dict[str, str]


class _Seen:
    """What the walk has gathered so far."""

    def __init__(self) -> None:
        self.machine = elf.MACHINES.get(ldso.machine())
        self.libraries: list[family.Library] = []
        self.exports: dict[str, set[str]] = {}
        self.private: list[tuple[str, str]] = []
        self.users: list[_User] = []
        self.dlopens: list[tuple[str, str]] = []
        self.narrow: list[str] = []
        self.searchable = MAX_SEARCHED_BYTES
        self.narrow_left = MAX_NARROW_BYTES
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
        except elf.Elf32:
            _look_narrow(rootfs, file, seen)
        except (elf.NotElf, OSError):
            if family.role(file.path.rpartition("/")[2]) and _is_enormous(rootfs + file.path):
                seen.unseen.append(file.path)  # the loader has no such limit
        except elf.Damaged as error:
            name = file.path.rpartition("/")[2]
            if family.role(name) or family.is_private(name):
                seen.unseen.append(file.path)  # the loader may be less strict than we are
            elif file.is_library:
                seen.notes.append(f"{file.path} is damaged: {str(error).rpartition(': ')[2]}")
    loader = ldso.Loader(rootfs)
    libraries = tuple(
        index.Library(
            path=item.path,
            soname=item.soname,
            role=item.role,
            family=item.family,
            abi_class=item.abi_class,
            version=item.version,
            libc=item.libc,
            product=item.product,
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
        users=tuple(sorted(user.program.path for user in seen.users)[:64]),
        static=tuple(sorted(seen.static)[:64]),
        unseen=tuple(path[:256] for path in seen.unseen[:16]),
        notes=tuple([*_odd(loader, seen), *seen.notes][:64]),
        programs=tuple(sorted(user.program for user in seen.users)[:MAX_PROGRAMS]),
        lacking=_lacking(seen),
        dlopens=tuple(sorted(seen.dlopens)[:64]),
        narrow=tuple(sorted(seen.narrow)[:64]),
        preloaded=_preloaded(loader),
        loaderless=_loaderless(loader, seen),
        runtimes=_runtimes(loader),
    )


def _is_enormous(path: str) -> bool:
    try:
        return os.lstat(path).st_size > elf.MAX_FILE
    except OSError:
        return False


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
                mode = 0 if is_library else entry.stat(follow_symlinks=False).st_mode
                if is_library or mode & stat.S_IXUSR:
                    setid = bool(mode & (stat.S_ISUID | stat.S_ISGID))
                    found.append(_File(f"{directory}/{name}", is_library, setid))
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
        _look_at_library(file, reader, seen)
    elif family.is_private(name):
        seen.private.append((file.path, headers.soname or name))
    elif len(seen.users) < MAX_USERS and not family.is_internal(name):
        wanted = tuple(
            needed for needed in headers.needed if family.role(needed.rpartition("/")[2])
        )
        if wanted:
            seen.users.append(_user(file, wanted, reader))
            if headers.rpath:
                seen.notes.append(f"{file.path} has DT_RPATH {headers.rpath}")
        elif headers.interp and not file.is_library:
            _search(file, reader, seen)


def _look_at_library(file: _File, reader: elf.Reader, seen: _Seen) -> None:
    library = family.examine(file.path, reader)
    if library and len(seen.libraries) >= MAX_LIBRARIES:
        seen.unseen.append(file.path)
    elif library:
        seen.libraries.append(library)
        seen.exports.setdefault(library.abi_class, set()).update(family.public_exports(reader))


def _search(file: _File, reader: elf.Reader, seen: _Seen) -> None:
    """Note a program that is not linked to MPI and holds the path of one: it may load it itself."""
    if seen.searchable > 0:
        seen.searchable -= reader.size
        seen.dlopens += [(file.path, path) for path in family.named_by_path(reader)]


def _user(file: _File, wanted: tuple[str, ...], reader: elf.Reader) -> _User:
    headers = reader.elf
    symbols = {
        symbol.name: f"{symbol.name} {symbol.size}" if symbol.is_object else symbol.name
        for symbol in reader.symbols()
        if (not symbol.defined or symbol.is_object) and family.is_public(symbol.name)
    }
    interpreter = "" if file.is_library else headers.interp
    program = index.Program(
        file.path, wanted, interpreter, headers.rpath, headers.runpath, file.setid
    )
    return _User(program, symbols)


def _look_narrow(rootfs: str, file: _File, seen: _Seen) -> None:
    """Note a 32-bit file that names an MPI library; no 32-bit structure is worth a reader."""
    if family.role(file.path.rpartition("/")[2]):
        seen.narrow.append(file.path)
        return
    try:
        descriptor = os.open(
            rootfs + file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        )
        with open(descriptor, "rb") as opened:
            text = opened.read(max(0, seen.narrow_left))
    except OSError:
        return
    seen.narrow_left -= len(text)
    if b"\0libmpi" in text:
        seen.narrow.append(file.path)


def _classes(seen: _Seen) -> dict[str, set[str]]:
    """Return the ABI classes that each name of an MPI library of the image stands for."""
    classes: dict[str, set[str]] = {}
    for library in seen.libraries:
        for name in (library.soname, library.path.rpartition("/")[2]):
            classes.setdefault(name, set()).add(library.abi_class)
    return classes


def _needs(seen: _Seen) -> tuple[tuple[str, str], ...]:
    """Return what the programs use of each class.

    Of the image's own libraries what they provide; of a class that the image lacks, all that is
    asked.
    """
    classes = _classes(seen)
    needs: dict[str, set[str]] = {}
    lines: dict[str, set[str]] = {}
    for program, symbols in seen.users:
        for name in (needed.rpartition("/")[2] for needed in program.needed):
            for abi_class in classes.get(name, ()):
                needs.setdefault(abi_class, set()).update(symbols)
            if name not in classes:
                abi_class = family.wanted_class(name, symbols)
                lines.setdefault(abi_class, set()).update(symbols.values())
    for abi_class, names in needs.items():
        offered = seen.exports[abi_class]
        used = {line for line in offered if line.partition(" ")[0] in names}
        lines.setdefault(abi_class, set()).update(used)
    return tuple((name, "\n".join(sorted(found))) for name, found in sorted(lines.items()))


def _lacking(seen: _Seen) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return what programs are linked to and no file of the image is, by ABI class."""
    classes = _classes(seen)
    found: dict[str, set[str]] = {}
    for program, symbols in seen.users:
        for name in program.needed:
            if "/" not in name and name not in classes:
                found.setdefault(family.wanted_class(name, symbols), set()).add(name)
    return tuple((name, tuple(sorted(names)[:16])) for name, names in sorted(found.items()))


def _odd(loader: ldso.Loader, seen: _Seen) -> list[str]:
    notes = []
    if not loader.cache and _is_there(loader, ldso.CACHE):
        notes.append(f"{ldso.CACHE} is not understood: the loader's default directories count")
    if seen.searchable <= 0:
        limit = MAX_SEARCHED_BYTES >> 20
        notes.append(f"only {limit} MiB of programs were searched for a path of libmpi")
    return notes


def _preloaded(loader: ldso.Loader) -> tuple[str, ...]:
    """Return what every program of the image is made to load."""
    try:
        path = loader.host(loader.place(PRELOAD))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            text = os.fsdecode(file.read(MAX_PRELOAD_BYTES))
    except (OSError, elf.ElfError):
        return ()
    lines = (line.partition("#")[0] for line in text.splitlines())
    return tuple(name[:256] for line in lines for name in line.replace(":", " ").split())[:16]


def _loaderless(loader: ldso.Loader, seen: _Seen) -> tuple[str, ...]:
    named = sorted(seen.interpreters)[:16]
    return tuple(path[:256] for path in named if not _is_there(loader, path))


def _is_there(loader: ldso.Loader, path: str) -> bool:
    try:
        return os.path.lexists(loader.host(loader.place(path)))
    except (elf.ElfError, ValueError):
        return False


def _runtimes(loader: ldso.Loader) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the newest versions that the compilers' libraries of the image define."""
    found = []
    for name, kinds in _RUNTIMES.items():
        versions = _defined(loader, name)
        if versions is not None:
            of_kind = ([v for v in versions if v.startswith(kind)] for kind in kinds)
            newest = (max(names, key=_digits, default="") for names in of_kind)
            found.append((name, tuple(version for version in newest if version)))
    return tuple(found)


def _digits(version: str) -> tuple[int, ...]:
    """Return the numbers of a version's name; what is none (CXXABI_TM_1) sorts before all."""
    numbers = version.rpartition("_")[2].split(".")
    plain = version.count("_") == 1 and all(n.isdecimal() and len(n) < 9 for n in numbers)
    return tuple(int(number) for number in numbers) if plain else ()


def _libc(seen: _Seen) -> str:
    """Return the libc of the MPI libraries if there are any, else of the programs."""
    kinds = {library.libc for library in seen.libraries if library.libc}
    if not kinds:
        kinds = {"musl" if "/ld-musl-" in path else "glibc" for path in seen.interpreters}
    return "glibc" if "glibc" in kinds else "".join(sorted(kinds)[:1])


def _glibc(loader: ldso.Loader) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = ((name, _defined(loader, name)) for name in sorted(ldso.GLIBC))
    return tuple(
        (name, tuple(sorted(versions))) for name, versions in found if versions is not None
    )


def _defined(loader: ldso.Loader, name: str) -> set[str] | None:
    """Return the versions that the loader's library of a name defines, None if there is none."""
    path = loader.find(name, [])
    real = loader.usable(path) if path else None
    if not real:
        return None
    try:
        with elf.Reader(loader.host(real)) as reader:
            return set(reader.definitions().values())
    except (elf.ElfError, OSError):
        return None


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
