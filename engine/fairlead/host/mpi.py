"""The host's MPI libraries: found without a list in any file, described once, remembered.

Rules:
- Where to look, first hit of an ABI class wins: prefixes named in the environment (``MPI_HOME`` and
  its like), the job's LD_LIBRARY_PATH, the prefixes of mpicc/mpirun/mpiexec on PATH, the loader's
  cache.
- What is found is examined by content (``host.discover``), never by name.
- The result is kept per user as JSON with the identity (inode, times, size) of every file and
  directory that was looked at; when one of them has changed it is made anew. A warm call is some
  hundred ``stat`` calls and imports neither the ELF reader nor re, hashlib or subprocess.
- Nothing of an image is looked at here, and nothing is executed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fairlead import log
from fairlead.host import witness

FORMAT = 1  # of the cache file and of what discovery finds: raise it when either changes
MAX_KEPT = 16  # cache files, one per set of search directories

NAMES = {"openmpi": "OpenMPI", "mpich": "MPICH", "abi": "MPI ABI"}

# Variables that name the prefix of an MPI installation (module files, vendors), in order of
# precedence.
PREFIXES = (
    "MPI_HOME",
    "MPI_ROOT",
    "MPI_DIR",
    "OPAL_PREFIX",
    "OMPI_HOME",
    "OPENMPI_HOME",
    "OPENMPI_ROOT",
    "MPICH_HOME",
    "MPICH_DIR",
    "CRAY_MPICH_DIR",
    "I_MPI_ROOT",
    "MVAPICH2_HOME",
    "EBROOTOPENMPI",
    "EBROOTMPICH",
    "EBROOTIMPI",
)
LIBRARY_DIRECTORIES = ("lib", "lib64", "lib/release")
TOOLS = ("mpicc", "mpirun", "mpiexec")
# Variables that relocate an installation at run time: the host's own values go with its libraries.
RELOCATIONS = (
    "OPAL_PREFIX",
    "PMIX_INSTALL_PREFIX",
    "PMIX_PREFIX",
    "I_MPI_ROOT",
    "FI_PROVIDER_PATH",
    "UCX_MODULE_DIR",
)


class Plugins(NamedTuple):
    """A directory from which a library loads plugins at run time.

    ``files`` are (name, resolved path) of the plugins, or (name, name within the directory) of
    symlinks; ``left_out`` are (name, reason).
    """

    path: str
    owner: str
    files: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]


class Need(NamedTuple):
    """A version of a glibc library that the host's files ask for, with one example of who."""

    library: str
    version: str
    by: str
    symbol: str


class Profile(NamedTuple):
    """One MPI installation of the host, with everything that it loads.

    ``libraries`` are (role, soname, resolved path); ``closure`` (soname, resolved path) of
    everything that they and the plugins load, without glibc; ``data_dirs`` (path, owner);
    ``exports`` the public symbols, one per line, data with its size after a space (one string: a
    thousand small ones cost a warm launch a millisecond); ``env`` what must be set for it;
    ``identity`` changes when any file does.
    """

    name: str
    family: str
    abi_class: str
    version: str
    libraries: tuple[tuple[str, str, str], ...]
    closure: tuple[tuple[str, str], ...]
    plugin_dirs: tuple[Plugins, ...]
    data_dirs: tuple[tuple[str, str], ...]
    pmi: tuple[str, ...]
    glibc: tuple[Need, ...]
    exports: str
    env: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    identity: str


def profiles(environ: Mapping[str, str], cache_dir: str) -> tuple[Profile, ...]:
    """Return the host's MPI installations, at most one of each ABI class, the preferred one first.

    Args:
        environ: the job's environment on the host (not the container's).
        cache_dir: directory of this user's; it is created. If it cannot be written the work is done
            each time.
    """
    directories = search_directories(environ)
    path, key = _cache(environ, directories, cache_dir)
    found = _remembered(path, key)
    if found is None:
        from fairlead.host import discover

        found, looked_at = discover.profiles(directories, environ)
        _remember(path, key, found, looked_at)
    return found


def basis(environ: Mapping[str, str], cache_dir: str) -> tuple[witness.Seen, ...] | None:
    """Return what ``profiles`` looked at, from its cache; None where that was not written."""
    path, key = _cache(environ, search_directories(environ), cache_dir)
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read())
        if record["key"] != key:
            return None
        return tuple(witness.Seen(str(at), str(text)) for at, text in record["looked_at"].items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def searched(environ: Mapping[str, str]) -> tuple[witness.Seen, ...]:
    """Look at what ``search_directories`` asks about: which tools and directories there are."""
    tools = (witness.file(path) for path in dict.fromkeys(_tools(environ)))
    return (*tools, *(witness.place(path) for path in _candidates(environ)))


def _cache(
    environ: Mapping[str, str], directories: Iterable[str], cache_dir: str
) -> tuple[str, list[str]]:
    """Return the cache file for what the environment leads to, and the key that it must hold."""
    relocations = [f"{name}={environ[name]}" for name in RELOCATIONS if environ.get(name)]
    key = [str(FORMAT), os.uname().nodename, *directories, *relocations]
    checksum = zlib.crc32(chr(0).join(key).encode("utf-8", "surrogateescape"))
    return os.path.join(cache_dir, f"mpi-{checksum:08x}.json"), key


def search_directories(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the existing directories that may hold an MPI library, most preferred first."""
    return tuple(path for path in _candidates(environ) if os.path.isdir(path))


def _candidates(environ: Mapping[str, str]) -> list[str]:
    prefixes = [environ[name] for name in PREFIXES if environ.get(name)]
    on_path = []
    for path in _tools(environ):
        if os.path.exists(path):
            on_path += [
                os.path.dirname(os.path.dirname(path).rstrip("/")),
                os.path.dirname(os.path.dirname(os.path.realpath(path))),
            ]
    found = _library_directories(prefixes)
    found += environ.get("LD_LIBRARY_PATH", "").split(":")
    found += _library_directories(on_path)
    return [path for path in dict.fromkeys(found) if path.startswith("/")]


def _tools(environ: Mapping[str, str]) -> list[str]:
    """Return the paths at which a tool of an MPI installation would be on PATH."""
    directories = (path for path in environ.get("PATH", "").split(":") if path.startswith("/"))
    return [f"{directory}/{tool}" for directory in directories for tool in TOOLS]


def _library_directories(prefixes: Iterable[str]) -> list[str]:
    return [
        f"{prefix.rstrip('/')}/{name}"
        for prefix in dict.fromkeys(prefixes)
        for name in LIBRARY_DIRECTORIES
    ]


# -- cache ----------------------------------------------------------------------------------


def _remembered(cache: str, key: list[str]) -> tuple[Profile, ...] | None:
    try:
        with open(cache, "rb") as file:
            record = json.loads(file.read())
        if record["key"] != key or any(
            witness.identity(path) != seen for path, seen in record["looked_at"].items()
        ):
            return None
        return tuple(_profile(fields) for fields in record["profiles"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.debug(f"{cache}: not used: {error}")
        return None


def _profile(fields: list[Any]) -> Profile:
    profile = Profile(*(tuples(field) for field in fields))
    return profile._replace(
        plugin_dirs=tuple(Plugins(*directory) for directory in profile.plugin_dirs),
        glibc=tuple(Need(*need) for need in profile.glibc),
    )


def tuples(value: Any) -> Any:
    """Return JSON's lists as the tuples that they were."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def _remember(
    path: str, key: list[str], found: tuple[Profile, ...], looked_at: Iterable[str]
) -> None:
    record = {
        "key": key,
        "looked_at": {seen: witness.identity(seen) for seen in sorted(looked_at)},
        "profiles": found,
    }
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write(path, record)
        _forget(os.path.dirname(path))
    except OSError as error:
        log.debug(f"{path}: not kept: {error}")


def write(path: str, record: object) -> None:
    """Write JSON under a temporary name and rename it: a reader never sees half of it.

    Raises:
        OSError.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(record, file, separators=(",", ":"))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _forget(cache_dir: str) -> None:
    """Remove the oldest files, so that ever new search paths do not fill the store."""
    names = [
        name for name in os.listdir(cache_dir) if name.startswith("mpi-") and name.endswith(".json")
    ]
    paths = sorted((os.path.join(cache_dir, name) for name in names), key=os.path.getmtime)
    for path in paths[:-MAX_KEPT]:
        os.unlink(path)
