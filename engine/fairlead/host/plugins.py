"""Find the directories that libraries use at run time, without a list: plugins, data, settings.

How: a library's compiled-in paths are strings in its constants, either whole
(``/usr/lib/.../libibverbs/lib%s-rdmav34.so``) or as templates (``${libdir}/openmpi3``), whose
variables are tried with the other paths that the same library names and with the place where it
lies itself. A directory counts only if it exists.

Rules:
- Plugin directory: holds ELF shared objects and is no directory in which the loader looks for
  libraries.
- Data directory: a component of its path names the MPI family or a library that has plugins; it is
  small.
- Only directories that no other user could have put there: owned by root, by this user or by the
  library's owner, all the way up (another user must not get their code into a job by squatting a
  path under /tmp).
- A plugin whose libraries are missing on the host, or that drags in a display or a language
  runtime, is left out.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping

from fairlead.host import elf, ldso, mpi, relocation

MAX_PLUGINS = 1024
MAX_DATA_FILES = 2000
MAX_DATA_BYTES = 8 << 20

_SHARED_OBJECT = re.compile(r".+\.so(?:\.[\d.]+)?$")
# What no message ever needs. hwloc's gl, opencl and xml plugins bring these: 13 MB become 50 MB.
_JUNK = (
    "libX11.",
    "libxcb.",
    "libGL",
    "libOpenCL.",
    "libxml2.",
    "libicu",
    "libXNVCtrl.",
    "libpython",
    "libgtk-",
    "libQt",
)
# The user's half of a kernel's module: it must be this kernel's and the only one in a process, so
# what brings GPUs into a container brings it; what asks for it finds that or is not loaded.
DRIVERS = ("libcuda.so.", "libnvidia-ml.so.")
# Names under which libraries keep their files when it is not the library's own name.
_FAMILY_WORDS = {
    "openmpi": ("openmpi", "ompi", "pmix", "prte"),
    "mpich": ("mpich", "romio"),
    "abi": (),
}
_LIBRARY_WORDS = {"libucs.so.0": "ucx"}
_LIBRARY_NAMES = ("lib", "lib64")
_NEVER = ("/proc/", "/sys/", "/dev/", "/run/")
_PLAIN = {
    "bin",
    "sbin",
    "include",
    "lib",
    "lib64",
    "share",
    "etc",
    "doc",
    "man",
    "info",
}  # names no library calls its own


def named(loader: ldso.Loader, closure: ldso.Closure, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the existing directories that a closure names: path → soname of the first to do so."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    standard = {os.path.realpath(path) for path in loader.default}
    relocated = [environ[name] for name in relocation.RELOCATIONS if environ.get(name)]
    for soname, library in closure.libraries.items():
        if soname in ldso.GLIBC:
            continue
        try:
            with elf.Reader(loader.host(library.real)) as reader:
                strings = reader.paths()
                owner = os.stat(loader.host(library.real)).st_uid
        except (elf.ElfError, OSError):
            continue
        for path in _directories(strings, library, relocated, standard):
            real = os.path.realpath(path)
            if real not in seen and not path.startswith(_NEVER) and trusted(real, owner):
                seen.add(real)
                found[path] = soname
    return found


def _directories(
    strings: Iterable[str], library: ldso.Found, relocated: list[str], standard: Iterable[str]
) -> list[str]:
    """Return the existing directories that one library's strings may mean, most literal first."""
    whole = sorted(
        {
            _directory(text)
            for text in strings
            if text.startswith("/") and not text.startswith(_NEVER)
        }
    )
    places = [os.path.dirname(library.real), os.path.dirname(library.path)]
    # An installation that was moved: what its library directory held then lies beside the library
    # now, and where there are both, the one beside it is meant (UCX and libfabric look there
    # first). A library in one of the loader's own directories was not moved.
    moved = [path for path in whole if places[0] not in standard and in_library_directory(path)]
    beside: list[str] = []
    for path in moved:
        there = [f"{place}/{os.path.basename(path)}" for place in places]
        there = [place for place in there if os.path.isdir(place)]
        beside += there
        if there:
            whole.remove(path)
    known = dict.fromkeys(path for path in whole + beside if path and os.path.isdir(path))
    bases = [*known, *places, *(os.path.dirname(place) for place in places), *relocated]
    templates = sorted(
        {text.partition("}/")[2] for text in strings if text.startswith("${") and "}/" in text}
    )
    for _ in range(2):  # ${prefix}/lib is itself the base of ${libdir}/openmpi
        expanded = [f"{base}/{rest}" for base in bases for rest in templates if "$" not in rest]
        new = [
            path
            for path in dict.fromkeys(map(os.path.normpath, expanded))
            if path not in known and os.path.isdir(path)
        ]
        known.update(dict.fromkeys(new))
        bases = new
    return list(known)


def in_library_directory(path: str) -> bool:
    """Tell whether a path names something in a library directory: /usr/lib, /usr/lib/TRIPLET."""
    above, directory = os.path.split(os.path.dirname(path))
    return directory in _LIBRARY_NAMES or os.path.basename(above) in _LIBRARY_NAMES


def _directory(text: str) -> str:
    """Return the directory of a compiled-in path, cut where something is filled in at run time."""
    path, placeholder, _ = text.partition("%")
    if placeholder or _SHARED_OBJECT.match(path):
        path = os.path.dirname(path)
    return os.path.normpath(path) if path else ""


def trusted(path: str, owner: int) -> bool:
    """Tell whether no other user can have put this directory, or anything into it, there."""
    mine = {0, os.getuid(), owner}
    forbidden = stat.S_IWOTH
    while path != "/":
        status = os.stat(path)
        if status.st_uid not in mine or status.st_mode & forbidden == stat.S_IWOTH:
            return False
        # Above it, a sticky directory is safe although all may write: ours cannot be replaced.
        forbidden = stat.S_IWOTH | stat.S_ISVTX
        path = os.path.dirname(path)
    return True


def compiled_in(directory: str, library: str) -> tuple[str, ...]:
    """Return the places at which a library looks for its plugins, beside its own.

    Args:
        directory: where its plugins lie on the host; those places have the same last name.
        library: the library's file.

    Raises:
        elf.ElfError, OSError: it cannot be read.
    """
    with elf.Reader(library) as reader:
        strings = reader.paths()
    name = os.path.basename(directory)
    return tuple(
        sorted(
            text
            for text in strings
            if text.startswith("/")
            and os.path.basename(text) == name
            and in_library_directory(text)
        )
    )


def holds_some(directory: str) -> bool:
    """Tell whether a directory holds shared objects: /usr/lib64/openmpi, a prefix, does not."""
    try:
        return any(_SHARED_OBJECT.match(name) for name in os.listdir(directory))
    except OSError:  # there is none
        return False


def library_directories(loader: ldso.Loader, closure: ldso.Closure) -> set[str]:
    """Return the directories in which the loader looks: what lies there is no plugin."""
    found = set(loader.default) | {os.path.dirname(path) for path in loader.cache.values()}
    for library in closure.libraries.values():
        found |= {os.path.dirname(library.path), os.path.dirname(library.real)}
        headers = loader.headers(library.real)
        if headers:
            found |= {
                part
                for part in f"{headers.rpath}:{headers.runpath}".split(":")
                if part.startswith("/")
            }
    return found | {os.path.realpath(path) for path in found}


def plugin_directory(
    loader: ldso.Loader, path: str, owner: str, closure: ldso.Closure
) -> mpi.Plugins | None:
    """Return a directory's plugins, those to take and those to leave out; None if it has none.

    A plugin of another installation (an MPI with an ibverbs of its own finds the system's drivers)
    brings other copies of the libraries in ``closure``: it is left out.
    """
    if os.path.basename(path) in _PLAIN:
        return None
    files: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    real_directory = os.path.realpath(path)
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if _SHARED_OBJECT.match(entry.name))
    except OSError:  # what this user cannot read (/usr/lib/ssl/private), no library of theirs loads
        return None
    for name in names[:MAX_PLUGINS]:
        real = loader.usable(f"{path}/{name}")
        if not real:
            continue
        if os.path.islink(f"{path}/{name}") and os.path.dirname(real) == real_directory:
            files.append((name, os.path.basename(real)))
            continue
        reason = _unwanted(loader, f"{path}/{name}", closure)
        if reason:
            left_out.append((name, reason))
        else:
            files.append((name, real))
    taken = {name for name, _ in files}
    files = [(name, target) for name, target in files if target.startswith("/") or target in taken]
    return mpi.Plugins(path, owner, tuple(files), tuple(left_out)) if files or left_out else None


def _unwanted(loader: ldso.Loader, path: str, known: ldso.Closure) -> str:
    closure = loader.closure([path])
    if closure.missing:
        return f"needs {', '.join(closure.missing)}, which this host lacks"
    junk = [name for name in closure.libraries if name.startswith(_JUNK)]
    if junk:
        return f"drags in {junk[0]}, which no message needs"
    for name, found in closure.libraries.items():
        own = known.libraries.get(name)
        if own and own.real != found.real:
            return f"is made for {found.real}, this MPI uses {own.real}"
    return ""


def is_data(path: str, owner: str, family: str, owners: Iterable[str]) -> bool:
    """Tell whether a directory holds data of the MPI itself or of a library with plugins."""
    if "include" in path.split("/"):
        return False
    words = set(_FAMILY_WORDS.get(family, ()))
    if owner in owners:
        words |= {
            owner.partition(".so")[0],
            owner.partition(".so")[0][3:],
            _LIBRARY_WORDS.get(owner, ""),
        }
    components = {
        part
        for name in path.split("/")
        for part in (name, name.partition(".")[0], name.rstrip("0123456789"))
    }
    return bool(components & (words - {""}))


def data_files(path: str) -> list[str]:
    """Return the files below a data directory, relative to it; none if it is too large for data."""
    found: list[str] = []
    total = 0
    for directory, _, names in os.walk(path):
        for name in sorted(names):
            full = os.path.join(directory, name)
            try:
                status = os.stat(full)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and os.access(full, os.R_OK):
                found.append(os.path.relpath(full, path))
                total += status.st_size
        if total > MAX_DATA_BYTES or len(found) > MAX_DATA_FILES:
            return []
    return found
