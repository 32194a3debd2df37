"""Examine the host's MPI libraries: which they are, what they load, what they ask of glibc.

The cold half of ``host.mpi``: reads files, executes nothing. Static analysis finds every ELF file
that a run opens (measured against strace); configuration files and sockets are found by the
directories that the libraries name, and by one trace of a program (``host.trace``) where somebody
made it.

Names: ``openmpi-4.1.4``, from what a library is and its version. Where two installations would have
one name, each has six digits of its path's checksum behind it, so that no name hangs on the order
of the search.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead import log
from fairlead.host import elf, family, ldso, mpi, plugins, pmi, pmix, relocation, trace, witness

MAX_CANDIDATES = 256
MAX_GENERATIONS = 4  # plugins bring libraries, which have plugins: OpenMPI → PMIx → munge
# MPICH has the PMI wire protocol built in: it opens the descriptor that PMI_FD names.
_PMI_MARKS = {"pmix": pmi.MARKS["pmix"], "pmi2": (*pmi.MARKS["pmi2"], b"\0PMI_FD\0")}


class _Parts(NamedTuple):
    """An installation's libraries with what they load, while its profile is being made."""

    libraries: tuple[family.Library, ...]
    closure: ldso.Closure
    plugin_dirs: tuple[mpi.Plugins, ...]
    data_dirs: tuple[tuple[str, str], ...]


def profiles(
    places: Iterable[mpi.Place], environ: Mapping[str, str], cache_dir: str = ""
) -> tuple[tuple[mpi.Profile, ...], set[str]]:
    """Return every installation as it was found, and every path whose change makes that stale.

    Args:
        places: directories to look in, first come first.
        environ: the job's environment.
        cache_dir: where traces are kept; empty: without them.
    """
    library_path = environ.get("LD_LIBRARY_PATH", "").split(":")
    loader = ldso.Loader("/", library_path)
    searched = tuple(places)
    looked_at = {ldso.CACHE, *(place.path for place in searched)}
    found: list[mpi.Profile] = []
    seen: set[tuple[str, str]] = set()
    for place, path in _candidates(loader, searched):
        looked_at |= {path, os.path.dirname(path)}
        library = _examine(loader, path)
        if not library or library.role != "c":
            continue
        if (key := (os.path.dirname(library.path), library.abi_class)) in seen:
            continue
        seen.add(key)
        prefix = _prefix(path, library)
        variables = _own_variables(environ, prefix)
        try:
            parts = _gather(loader, path, library, variables)
            made = _profile(loader, library, parts, variables)
        except (elf.ElfError, OSError) as error:  # half installed, or being replaced just now
            log.warning(f"{path}: {library.describe()} is passed over: {error}")
            continue
        made = made._replace(prefix=prefix, found_by=place.found_by, own=place.own)
        if cache_dir:
            kept = trace.path(cache_dir, made)
            data = trace.data(kept, made)
            looked_at |= {kept, *data}
            made = _with_data(made, data)
        found.append(made)
        looked_at |= _looked_at(parts)
    return _labelled(found), looked_at


def _labelled(found: Iterable[mpi.Profile]) -> tuple[mpi.Profile, ...]:
    """Give every installation its name; what lies in one directory is one installation."""
    places: dict[str, set[str]] = {}
    for item in found:
        places.setdefault(item.label, set()).add(_directory(item))
    return tuple(
        item._replace(
            label=f"{item.label}-{zlib.crc32(os.fsencode(_directory(item))) & 0xFFFFFF:06x}"
        )
        if len(places[item.label]) > 1
        else item
        for item in found
    )


def _directory(profile: mpi.Profile) -> str:
    return os.path.dirname(profile.libraries[0][2])


def _prefix(path: str, library: family.Library) -> str:
    """Return the prefix of the installation whose library is found at a path, or lies at another.

    Without symlinks only where the path itself has none (``/lib`` is ``/usr/lib`` today).
    """
    for found in (path, library.path):
        parts = os.path.dirname(found).split("/")
        ends = [at for at, name in enumerate(parts) if name in ("lib", "lib64") and at > 1]
        if ends:
            return "/".join(parts[: ends[-1]])
    return os.path.dirname(path)


def _own_variables(environ: Mapping[str, str], prefix: str) -> Mapping[str, str]:
    """Return an environment without the variables that relocate another installation."""
    return {
        name: environ[name]
        for name in relocation.RELOCATIONS
        if environ.get(name)
        and (name not in mpi.ROOTS or os.path.realpath(environ[name]) == os.path.realpath(prefix))
    }


def _with_data(profile: mpi.Profile, data: tuple[str, ...]) -> mpi.Profile:
    """Return a profile that carries files which a trace found; another identity goes with them."""
    if not data:
        return profile
    import hashlib

    fields = [profile.identity, *(f"{path} {witness.identity(path)}" for path in data)]
    digest = hashlib.sha256(repr(fields).encode("utf-8", "surrogateescape"))
    return profile._replace(data=data, identity=digest.hexdigest()[:32])


def _candidates(loader: ldso.Loader, places: Iterable[mpi.Place]) -> list[tuple[mpi.Place, str]]:
    """Return paths of files named like MPI C libraries, first come first, with what led there."""
    paths: list[tuple[mpi.Place, str]] = []
    for place in places:
        try:
            names = os.listdir(place.path)
        except OSError:
            continue
        paths += [
            (place, f"{place.path}/{name}") for name in sorted(names) if family.role(name) == "c"
        ]
    cached = mpi.Place(ldso.CACHE, "ld.so.cache")
    paths += [
        (cached, path) for name, path in sorted(loader.cache.items()) if family.role(name) == "c"
    ]
    return paths[:MAX_CANDIDATES]


def _examine(loader: ldso.Loader, path: str) -> family.Library | None:
    real = loader.usable(path)
    if not real:
        return None
    try:
        with elf.Reader(real) as reader:
            return family.examine(real, reader)
    except (elf.ElfError, OSError):
        return None


def _gather(
    loader: ldso.Loader, path: str, library: family.Library, environ: Mapping[str, str]
) -> _Parts:
    """Collect the bindings beside a C library, what is loaded, and the run-time directories."""
    alone = loader.closure([path])
    if alone.missing:
        name, by = next(iter(alone.missing.items()))
        raise elf.Damaged(f"{by} needs {name}, which is not found")
    libraries = _bindings(loader, path, library)
    closure = loader.closure(libraries)
    named: dict[str, str] = {}
    directories: dict[str, mpi.Plugins] = {}
    for _ in range(MAX_GENERATIONS):
        named = plugins.named(loader, closure, environ)
        _add_plugins(loader, closure, named, directories)
        grown = loader.closure([*libraries, *_plugin_paths(directories.values())])
        if len(grown.libraries) == len(closure.libraries):
            break
        closure = grown
    owners = {item.owner for item in directories.values()}
    searched = plugins.library_directories(loader, closure)
    data = [
        (place, owner)
        for place, owner in named.items()
        if place not in directories
        and place not in searched
        and plugins.is_data(place, owner, library.family, owners)
        and plugins.data_files(place)
    ]
    outermost = [
        item for item in data if not any(item[0].startswith(f"{other}/") for other, _ in data)
    ]
    return _Parts(tuple(libraries.values()), closure, tuple(directories.values()), tuple(outermost))


def _bindings(loader: ldso.Loader, path: str, library: family.Library) -> dict[str, family.Library]:
    """Return the C library and the bindings that lie beside it, by path, one for each role."""
    found = {path: library}
    roles = {library.role}
    for directory in dict.fromkeys((os.path.dirname(path), os.path.dirname(library.path))):
        for name in sorted(os.listdir(directory)):
            role = family.role(name)
            if role and role not in roles:
                other = _examine(loader, f"{directory}/{name}")
                if other and _belongs(loader, f"{directory}/{name}", other, library):
                    found[f"{directory}/{name}"] = other
                    roles.add(role)
    return found


def _add_plugins(
    loader: ldso.Loader,
    closure: ldso.Closure,
    named: Mapping[str, str],
    directories: dict[str, mpi.Plugins],
) -> None:
    searched = plugins.library_directories(loader, closure)
    for place, owner in named.items():
        if place in directories or place in searched or os.path.realpath(place) in searched:
            continue
        found = plugins.plugin_directory(loader, place, owner, closure)
        if found:
            directories[place] = found


def _plugin_paths(directories: Iterable[mpi.Plugins]) -> list[str]:
    return [
        f"{item.path}/{name}"
        for item in directories
        for name, target in item.files
        if target.startswith("/")
    ]


def _belongs(
    loader: ldso.Loader, path: str, binding: family.Library, library: family.Library
) -> bool:
    """Tell whether a binding is of this installation and can be loaded on this host."""
    if binding.abi_class != library.abi_class:
        return False
    wanted = [name for name in binding.needed if family.role(name) == "c"]
    return (not wanted or library.soname in wanted) and not loader.closure([path]).missing


def _profile(
    loader: ldso.Loader, library: family.Library, parts: _Parts, environ: Mapping[str, str]
) -> mpi.Profile:
    plugin_files = {real for item in parts.plugin_dirs for _, real in item.files if real[0] == "/"}
    closure = _needed(loader, parts)
    own = [item.path for item in parts.libraries]
    files = [*own, *sorted(({path for _, path in closure} | plugin_files) - set(own))]
    notes = [
        f"{name} is not found on this host (needed by {by or 'itself'})"
        for name, by in parts.closure.missing.items()
    ]
    notes += [
        f"{item.path}/{name} left out: {why}"
        for item in parts.plugin_dirs
        for name, why in item.left_out
    ]
    identity = _identity(loader, files, parts)
    return mpi.Profile(
        name=library.describe(),
        family=library.family,
        abi_class=library.abi_class,
        version=library.version,
        libraries=tuple((item.role, item.soname, item.path) for item in parts.libraries),
        closure=closure,
        plugin_dirs=parts.plugin_dirs,
        data_dirs=parts.data_dirs,
        pmi=_pmi(files),
        glibc=_glibc_needs(files),
        exports=_exports(parts.libraries),
        env=tuple((name, environ[name]) for name in relocation.RELOCATIONS if environ.get(name)),
        notes=tuple(notes),
        identity=identity,
        label=f"{library.product}-{library.version}".rstrip("-"),
        analysis=identity,
        client=_client(files),
    )


def _needed(loader: ldso.Loader, parts: _Parts) -> tuple[tuple[str, str], ...]:
    """Return what is found by name: MPI's own libraries, and what the closure needs."""
    wanted = {item.soname for item in parts.libraries}
    for found in parts.closure.libraries.values():
        headers = loader.headers(found.real)
        wanted |= set(headers.needed) if headers else set()
    return tuple(
        (name, found.real)
        for name, found in sorted(parts.closure.libraries.items())
        if name in wanted and name not in ldso.GLIBC and not name.startswith(plugins.DRIVERS)
    )


def _exports(libraries: Iterable[family.Library]) -> str:
    lines: set[str] = set()
    for library in libraries:
        with elf.Reader(library.path) as reader:
            lines |= family.public_exports(reader)
    return "\n".join(sorted(lines))


def _pmi(files: Iterable[str]) -> tuple[str, ...]:
    """Return the wire-up protocols that some file can speak."""
    found: set[str] = set()
    for path in files:
        with elf.Reader(path) as reader:
            found |= {
                name
                for name, mark in _PMI_MARKS.items()
                if name not in found and reader.contains(*mark)
            }
    return tuple(sorted(found))


def _client(files: Iterable[str]) -> tuple[str, ...]:
    """Return what is known of the PMIx client among some files."""
    own = [path for path in files if pmix.is_client(os.path.basename(path))]
    return tuple(sorted({item for path in own for item in pmix.abilities(path)}))


def _glibc_needs(files: Iterable[str]) -> tuple[mpi.Need, ...]:
    """Return each version that the files ask of glibc, with one example; plugins count as well."""
    found: dict[tuple[str, str], mpi.Need] = {}
    for path in files:
        with elf.Reader(path) as reader:
            wanted = {
                (need.library, need.version)
                for need in reader.needs()
                if need.library in ldso.GLIBC
            }
            missing = wanted - found.keys()
            if not missing:
                continue
            by = reader.elf.soname or os.path.basename(path)
            examples: dict[tuple[str, str], str] = {}
            for symbol in reader.symbols():
                examples.setdefault((symbol.library, symbol.version), symbol.name)
            for key in missing:
                found[key] = mpi.Need(*key, by, examples.get(key, ""))
    return tuple(found[key] for key in sorted(found))


def _looked_at(parts: _Parts) -> set[str]:
    paths: set[str] = set()
    for found in parts.closure.libraries.values():
        paths |= {found.real, os.path.dirname(found.path)}
    for item in parts.plugin_dirs:
        paths |= {item.path, *(real for _, real in item.files if real[0] == "/")}
    for directory, _ in parts.data_dirs:
        for name in plugins.data_files(directory):
            paths |= {f"{directory}/{name}", os.path.dirname(f"{directory}/{name}")}
    return paths


def _identity(loader: ldso.Loader, files: Iterable[str], parts: _Parts) -> str:
    """Return a name for exactly this state of the installation."""
    import hashlib

    digest = hashlib.sha256(str(mpi.FORMAT).encode())
    data = [
        f"{directory}/{name}"
        for directory, _ in parts.data_dirs
        for name in plugins.data_files(directory)
    ]
    for path in [*files, *data]:
        headers = loader.headers(path)
        # Not the time of the last change of the inode: a backup or a relabelling is no other MPI.
        fields = [path, *witness.identity(path).split()[:-1], headers.build_id if headers else ""]
        digest.update(repr(fields).encode("utf-8", "surrogateescape"))
    for item in parts.plugin_dirs:
        digest.update(repr(item).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
