"""Examine the host's MPI libraries: which they are, what they load, what they ask of glibc.

The cold half of ``host.mpi``: reads files, executes nothing. Static analysis finds every ELF file
that a run opens (measured against strace); configuration files and sockets are found by the
directories that the libraries name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead import log
from fairlead.host import elf, family, ldso, mpi, plugins, witness

MAX_CANDIDATES = 256
MAX_GENERATIONS = 4  # plugins bring libraries, which have plugins: OpenMPI → PMIx → munge
# MPICH has the PMI wire protocol built in: it opens the descriptor that PMI_FD names.
_PMI_MARKS = {
    "pmix": (b"\0PMIx_Init\0",),
    "pmi2": (b"\0PMI2_Init\0", b"\0PMI_FD\0"),
}


class _Parts(NamedTuple):
    """An installation's libraries with what they load, while its profile is being made."""

    libraries: tuple[family.Library, ...]
    closure: ldso.Closure
    plugin_dirs: tuple[mpi.Plugins, ...]
    data_dirs: tuple[tuple[str, str], ...]


def profiles(
    directories: Iterable[str], environ: Mapping[str, str]
) -> tuple[tuple[mpi.Profile, ...], set[str]]:
    """Return the profiles, preferred first, and every path whose change makes them stale."""
    library_path = environ.get("LD_LIBRARY_PATH", "").split(":")
    loader = ldso.Loader("/", library_path)
    looked_at = {ldso.CACHE, *directories}
    found: dict[str, mpi.Profile] = {}
    for path in _candidates(loader, directories):
        looked_at |= {path, os.path.dirname(path)}
        library = _examine(loader, path)
        if not library or library.role != "c" or library.abi_class in found:
            continue
        try:
            parts = _gather(loader, path, library, environ)
            found[library.abi_class] = _profile(loader, library, parts, environ)
        except (elf.ElfError, OSError) as error:  # half installed, or being replaced just now
            log.warning(f"{path}: {library.describe()} is passed over: {error}")
            continue
        looked_at |= _looked_at(parts)
    return tuple(found.values()), looked_at


def _candidates(loader: ldso.Loader, directories: Iterable[str]) -> list[str]:
    """Return paths of files named like MPI C libraries, preferred first."""
    paths: list[str] = []
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        paths += [f"{directory}/{name}" for name in sorted(names) if family.role(name) == "c"]
    paths += [path for name, path in sorted(loader.cache.items()) if family.role(name) == "c"]
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
        found = plugins.plugin_directory(loader, place, owner)
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
        env=tuple((name, environ[name]) for name in mpi.RELOCATIONS if environ.get(name)),
        notes=tuple(notes),
        identity=_identity(loader, files, parts),
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
        if name in wanted and name not in ldso.GLIBC
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
