"""What an image's own MPI libraries can speak to Slurm: their PMI clients.

Rules:
- Looked for once per image, beside its index: the libraries and OpenMPI's plugins are searched for
  what only a client has in it; of a PMIx client also what ``host.pmix`` finds.
- Hostile input: the bounded ELF reader, paths of the index only, no symbolic link followed.
"""

from __future__ import annotations

import contextlib
import json
import os

from fairlead import kernel, log
from fairlead.host import mpi
from fairlead.host.index import Index

# By protocol. Not ``PMIx_Init``: MPICH from 4.2 on has functions of that name, for its own wire;
# and MPICH 5 names PMIX_NAMESPACE, to say that it cannot. Only a client reads where its server is.
MARKS = {"pmix": (b"\0PMIX_SERVER_URI\0",), "pmi2": (b"\0PMI2_Init\0",)}
_CLIENT = "libpmix.so."
# OpenMPI 4's client of Slurm's PMI-2, a plugin of its own (--with-pmi). Source: opal/mca/pmix/s2.
_PLUGINS = ("openmpi", "openmpi3", "openmpi/lib/openmpi3")

Abilities = tuple[tuple[str, tuple[str, ...]], ...]


def load(rootfs: str, index: Index, cache_path: str) -> Abilities:
    """Return (path, clients) of every MPI library, and keep it."""
    found = cached(cache_path)
    if found is not None:
        return found
    found = tuple((item.path, _clients(rootfs, item.path, index)) for item in index.libraries)
    mine = f"{cache_path}.{os.getpid()}.new"
    try:
        mpi.write(mine, {"pmi": found})
        # What another process wrote meanwhile stays: plans hang on the file as it is.
        with contextlib.suppress(FileExistsError):
            kernel.rename_noreplace(mine, cache_path)
            return found
        os.unlink(mine)
    except OSError as error:
        log.debug(f"{cache_path}: not kept: {error}")
    return found


def cached(cache_path: str) -> Abilities | None:
    """Return what ``load`` kept, None if there is nothing or it is damaged."""
    try:
        with open(cache_path, "rb") as file:
            return tuple(
                (str(path), tuple(names)) for path, names in json.loads(file.read())["pmi"]
            )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _clients(rootfs: str, path: str, index: Index) -> tuple[str, ...]:
    directory = os.path.dirname(path)
    private = [item for item, _ in index.private if os.path.dirname(item) == directory]
    found = {name for file in (path, *private) for name in _of_file(rootfs + file)}
    if any(os.path.lexists(f"{rootfs}{directory}/{at}/mca_pmix_s2.so") for at in _PLUGINS):
        found.add("pmi2")
    return (*sorted(found), *_pmix(rootfs, directory, index))


def _pmix(rootfs: str, directory: str, index: Index) -> tuple[str, ...]:
    """Return what is known of the PMIx client that the loader finds, or that lies beside MPI."""
    from fairlead.host import pmix

    names = dict(index.libraries_found)
    beside = [path for path, soname in index.private if pmix.is_client(soname)]
    beside += [f"{at}/libpmix.so.2" for at, found in index.neighbours if "libpmix.so.2" in found]
    own = [path for path in beside if os.path.dirname(path) == directory]
    path = own[0] if own else names.get("libpmix.so.2", "")
    return pmix.abilities(rootfs + path) if path else ()


def _of_file(path: str) -> set[str]:
    from fairlead.host import elf

    try:
        with elf.Reader(path) as reader:
            found = {name for name, marks in MARKS.items() if reader.contains(*marks)}
            linked = any(name.startswith(_CLIENT) for name in reader.elf.needed)
            return found | ({"pmix"} if linked else set())
    except (elf.ElfError, OSError):
        return set()
