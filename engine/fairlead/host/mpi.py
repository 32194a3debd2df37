"""The host's MPI installations: all that there are, described once, remembered, put in order.

Rules:
- Where to look, in this order: prefixes named in the environment (``MPI_HOME`` and its like), the
  job's LD_LIBRARY_PATH, the prefixes of mpicc/mpirun/mpiexec on PATH, the setting ``mpi_prefixes``,
  the loader's cache.
- Every installation found has a name. For each ABI class the first in this order is used: what the
  user named for this launch (FAIRLEAD_MPI_PROFILE, an option), what the job's own environment leads
  to (a loaded module), what a settings file names, the order of the search.
- A name that fits none is an error: silently another MPI would be the wrong one.
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

from fairlead import config as settings
from fairlead import errors, kernel, log
from fairlead.host import witness
from fairlead.host.relocation import RELOCATIONS

FORMAT = 3  # of the cache file and of what discovery finds: raise it when either changes
MAX_KEPT = 16  # cache files, one per set of search directories

NAMES = {"openmpi": "OpenMPI", "mpich": "MPICH", "intelmpi": "Intel MPI", "abi": "MPI ABI"}

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
# What PATH leads to here is the system's own, chosen by nobody for this job.
SYSTEM = ("/", "/usr", "/usr/local")
# Those of them that mean one installation; another's is led astray by them.
ROOTS = ("OPAL_PREFIX", "I_MPI_ROOT")


class Choice(NamedTuple):
    """What the settings say about the host's MPI.

    Attributes:
        wanted: name or prefix of the preferred installation; empty: none is.
        origin: what set it, for messages.
        explicit: it was given for this launch, by variable or option, not by a file.
        prefixes: further prefixes to look below.
    """

    wanted: str = ""
    origin: str = "default"
    explicit: bool = False
    prefixes: tuple[str, ...] = ()


NO_CHOICE = Choice()


class Place(NamedTuple):
    """A directory that may hold an MPI library, and what led there.

    ``own``: the job's environment chose it, rather than the system or the site.
    """

    path: str
    found_by: str
    own: bool = False


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
    """One MPI installation of the host in one ABI class, with everything that it loads.

    An installation that offers two classes (MPICH's own and the standard's) is two of these with
    one ``label``, the name by which users and settings know it; ``name`` is for messages.
    ``libraries`` are (role, soname, resolved path); ``closure`` (soname, resolved path) of
    everything that they and the plugins load, without glibc; ``data_dirs`` (path, owner);
    ``exports`` the public symbols, one per line, data with its size after a space (one string: a
    thousand small ones cost a warm launch a millisecond); ``env`` what must be set for it;
    ``identity`` changes when any file does. ``prefix`` is where it lies, ``found_by`` what led
    there, ``own`` as in ``Place``. ``data`` are files that a trace saw it read (``host.trace``),
    and ``analysis`` names the state of the installation that a trace is of. ``client``
    is what is known of its PMIx client (``host.pmix``).
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
    label: str = ""
    prefix: str = ""
    found_by: str = ""
    own: bool = False
    data: tuple[str, ...] = ()
    analysis: str = ""
    client: tuple[str, ...] = ()


def choice(config: settings.Config) -> Choice:
    """Return what the settings say about the host's MPI."""
    origin = config.origins["mpi_profile"]
    explicit = origin.startswith(("$", "annotation ")) or origin == settings.COMMAND_LINE
    return Choice(config.mpi_profile, origin, explicit, config.mpi_prefixes)


def profiles(
    environ: Mapping[str, str], cache_dir: str, choice: Choice = NO_CHOICE
) -> tuple[Profile, ...]:
    """Return the host's MPI installations, the preferred one of each ABI class before its others.

    Args:
        environ: the job's environment on the host (not the container's).
        cache_dir: directory of this user's; it is created. If it cannot be written the work is done
            each time.
        choice: what the settings say.

    Raises:
        errors.ConfigError: the settings name an installation that this host does not have.
    """
    places = search_places(environ, choice.prefixes)
    path, key = _cache(environ, places, cache_dir)
    found = _remembered(path, key)
    if found is None:
        from fairlead.host import discover

        found, looked_at = discover.profiles(places, environ, cache_dir)
        _remember(path, key, found, looked_at)
    return ordered(found, choice)


def ordered(found: Iterable[Profile], choice: Choice) -> tuple[Profile, ...]:
    """Return installations by preference, those of equal rank as they were found.

    Raises:
        errors.ConfigError: the settings name none of them.
    """
    kept = tuple(found)
    if not choice.wanted:
        return tuple(sorted(kept, key=lambda item: not item.own))
    picked = [item for item in kept if is_named(item, choice.wanted)]
    if not picked:
        names = ", ".join(dict.fromkeys(item.label for item in kept))
        raise errors.ConfigError(
            f"{choice.origin}: mpi_profile = {choice.wanted!r}: "
            "no MPI installation of this host has that name or prefix",
            hint=f"there are: {names}" if names else "none is found; see fairlead doctor",
        )
    first = 0 if choice.explicit else 2
    return tuple(sorted(kept, key=lambda item: first if item in picked else 1 if item.own else 3))


def is_named(profile: Profile, text: str) -> bool:
    """Tell whether a text means this installation: its name, without the suffix too, or prefix."""
    if text.startswith("/"):
        # As it was found, which may be a symlink's name, or as it is.
        prefix = text.rstrip("/")
        real = profile.libraries[0][2]
        return prefix == profile.prefix or real.startswith((f"{prefix}/lib/", f"{prefix}/lib64/"))
    bare = profile.label.rpartition("-")[0] if profile.label.count("-") > 1 else ""
    return text in (profile.label, bare)


def basis(
    environ: Mapping[str, str], cache_dir: str, choice: Choice = NO_CHOICE
) -> tuple[witness.Seen, ...] | None:
    """Return what ``profiles`` looked at, from its cache; None where that was not written."""
    # Before the cache is found by what there is: what appears in between gives another cache.
    sites = tuple(witness.place(item.path) for item in _below(choice.prefixes, "", own=False))
    path, key = _cache(environ, search_places(environ, choice.prefixes), cache_dir)
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read())
        if record["key"] != key:
            return None
        seen = (witness.Seen(str(at), str(text)) for at, text in record["looked_at"].items())
        return (*sites, *seen)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def searched(environ: Mapping[str, str]) -> tuple[witness.Seen, ...]:
    """Look at what the environment leads to: which tools and directories there are."""
    tools = (witness.file(path) for path in dict.fromkeys(_tools(environ)))
    return (*tools, *(witness.place(item.path) for item in _candidates(environ)))


def _cache(
    environ: Mapping[str, str], places: Iterable[Place], cache_dir: str
) -> tuple[str, list[str]]:
    """Return the cache file for what the environment leads to, and the key that it must hold."""
    relocations = [f"{name}={environ[name]}" for name in RELOCATIONS if environ.get(name)]
    looked = [f"{item.path} {item.found_by} {item.own}" for item in places]
    key = [str(FORMAT), os.uname().nodename, *looked, *relocations]
    checksum = zlib.crc32(chr(0).join(key).encode("utf-8", "surrogateescape"))
    return os.path.join(cache_dir, f"mpi-{checksum:08x}.json"), key


def search_places(environ: Mapping[str, str], prefixes: Iterable[str] = ()) -> tuple[Place, ...]:
    """Return the existing directories that may hold an MPI library, first come first."""
    found: dict[str, Place] = {}
    for item in (*_candidates(environ), *_below(prefixes, "mpi_prefixes", own=False)):
        if item.path not in found and os.path.isdir(item.path):
            found[item.path] = item
    return tuple(found.values())


def _candidates(environ: Mapping[str, str]) -> list[Place]:
    found: list[Place] = []
    for name in PREFIXES:
        if environ.get(name):
            found += _below([environ[name]], name, own=True)
    library_path = environ.get("LD_LIBRARY_PATH", "").split(":")
    found += [Place(path, "LD_LIBRARY_PATH", own=True) for path in library_path]
    for path in _tools(environ):
        if os.path.exists(path):
            for tool in (path, os.path.realpath(path)):
                prefix = os.path.dirname(os.path.dirname(tool).rstrip("/"))
                how = f"{os.path.basename(path)} on PATH"
                found += _below([prefix], how, own=prefix not in SYSTEM)
    return [item for item in found if item.path.startswith("/")]


def _tools(environ: Mapping[str, str]) -> list[str]:
    """Return the paths at which a tool of an MPI installation would be on PATH."""
    directories = (path for path in environ.get("PATH", "").split(":") if path.startswith("/"))
    return [f"{directory}/{tool}" for directory in directories for tool in TOOLS]


def _below(prefixes: Iterable[str], found_by: str, *, own: bool) -> list[Place]:
    return [
        Place(f"{prefix.rstrip('/')}/{name}", found_by, own)
        for prefix in prefixes
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
        forget(os.path.dirname(path), "mpi-")
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


def write_first(path: str, record: object) -> None:
    """Write as ``write``, unless another process was first: plans hang on the file as it is.

    Raises:
        OSError.
    """
    mine = f"{path}.{os.getpid()}.new"
    write(mine, record)
    try:
        kernel.rename_noreplace(mine, path)
    except FileExistsError:
        os.unlink(mine)


def forget(cache_dir: str, kind: str) -> None:
    """Remove the oldest files of a kind, so that ever new search paths do not fill the store.

    Raises:
        OSError.
    """
    names = [
        name for name in os.listdir(cache_dir) if name.startswith(kind) and name.endswith(".json")
    ]
    paths = sorted((os.path.join(cache_dir, name) for name in names), key=os.path.getmtime)
    for path in paths[:-MAX_KEPT]:
        os.unlink(path)
