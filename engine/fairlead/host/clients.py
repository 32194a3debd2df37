"""Slurm's client programs on this host, and what of the host they need to run anywhere else.

They are run by the host's own loader, with the host's libraries, whatever C library an image has.
So what is needed is found by the loader's rules: the programs, every directory in which one of
their libraries or plugins finds another, and the files that they read by name.

Rules:
- The programs are those beside the ``srun`` that the job's PATH leads to.
- What is read by name (plugins, configuration, sockets) keeps its path; what the loader is told
  (programs, libraries) may lie elsewhere.
- Whatever is looked at is noted first, for kept plans.
"""

from __future__ import annotations

import glob
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.host import ldso, slurm, witness

PROGRAMS = (
    *("srun", "sbatch", "salloc", "scancel", "squeue", "sinfo", "scontrol", "sacct", "sattach"),
    *("sbcast", "scrontab", "sdiag", "sprio", "sreport", "sshare", "sstat", "strigger", "sacctmgr"),
)
CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
SOCKETS = ("/run/munge", "/run/slurm", "/run/slurmd")  # of munge, sackd and slurmd
LIBRARY = "libslurmfull.so"  # lies where the plugins lie, unless slurm.conf says otherwise
_LIMIT = 1 << 20


class Clients(NamedTuple):
    """What there is.

    Attributes:
        programs: names of those that exist.
        directory: that holds them.
        loader: the host's.
        libraries: directories for the loader to search, in order.
        configuration: path of slurm.conf.
        paths: directories, and single files, to be had at their own path.
        accounts: entries of passwd that the programs look up.
        seen: what was looked at.
    """

    programs: tuple[str, ...]
    directory: str
    loader: str
    libraries: tuple[str, ...]
    configuration: str
    paths: tuple[str, ...]
    accounts: tuple[str, ...]
    seen: tuple[witness.Seen, ...]


def find(environ: Mapping[str, str]) -> Clients:
    """Look at this host.

    Raises:
        errors.SlurmError: there are no clients, or they cannot be used elsewhere.
    """
    seen: list[witness.Seen] = []
    srun = _srun(environ.get("PATH", ""), seen)
    directory = os.path.dirname(srun)
    programs = tuple(name for name in PROGRAMS if os.path.exists(f"{directory}/{name}"))
    configuration = _configuration(environ, seen)
    loader = ldso.Loader()
    headers = loader.headers(srun)
    if headers is None or not headers.interp:
        raise errors.SlurmError(
            f"{srun}: is no program of this machine",
            hint="let PATH name the directory of Slurm's own",
        )
    plugins = _plugins(configuration, srun, loader)
    files = [f"{directory}/{name}" for name in programs]
    files += [path for place in plugins for path in glob.glob(f"{place}/*.so")]
    found = loader.closure(files).libraries.values()
    libraries = _directories(loader, (item.path for item in found), plugins)
    listed = (configuration, *_stacked(configuration, seen))
    noted = (*files, *(item.real for item in found), *libraries, *plugins)
    seen += [witness.file(path) for path in dict.fromkeys(noted)]
    seen += [witness.place(path) for path in SOCKETS]
    return Clients(
        programs,
        directory,
        loader.place(headers.interp),
        libraries,
        configuration,
        tuple(dict.fromkeys((*plugins, *listed, *filter(os.path.isdir, SOCKETS)))),
        _accounts(configuration),
        tuple(dict.fromkeys(seen)),
    )


def _srun(path: str, seen: list[witness.Seen]) -> str:
    for directory in path.split(":"):
        candidate = f"{directory}/srun"
        if not directory.startswith("/"):
            continue
        seen.append(witness.file(candidate))
        if os.access(candidate, os.X_OK):
            return os.path.realpath(candidate)
    raise errors.SlurmError(
        "Slurm's client programs: srun is not in the job's PATH",
        hint="install them on this node, or do not ask for them in the container",
    )


def _configuration(environ: Mapping[str, str], seen: list[witness.Seen]) -> str:
    given = environ.get("SLURM_CONF", "")
    for path in (given,) if given else CONFIGURATIONS:
        seen.append(witness.file(path))
        if path.startswith("/") and os.path.exists(path):
            return path
    raise errors.SlurmError(
        f"Slurm's client programs: {given or CONFIGURATIONS[0]} is not there", hint="set SLURM_CONF"
    )


def _plugins(configuration: str, srun: str, loader: ldso.Loader) -> tuple[str, ...]:
    """Return the directories of plugins, as Slurm looks for them."""
    named = slurm.setting(configuration, "PluginDir")
    if named:
        return tuple(path for path in named.split(":") if path.startswith("/"))
    library = loader.closure([srun]).libraries.get(LIBRARY)
    if library is None:
        raise errors.SlurmError(
            f"{srun}: does not say where its plugins are", hint="name PluginDir in slurm.conf"
        )
    return (os.path.dirname(library.path),)


def _directories(
    loader: ldso.Loader, paths: Iterable[str], plugins: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the directories of libraries, the loader's own first, each once."""
    needed = {loader.place(os.path.dirname(path)) for path in paths}
    first = [loader.place(path) for path in loader.default]
    ordered = (*(path for path in first if path in needed), *sorted(needed))
    return tuple(path for path in dict.fromkeys(ordered) if path not in plugins)


def _stacked(configuration: str, seen: list[witness.Seen]) -> Iterator[str]:
    """Yield plugstack.conf, what it includes and the plugins that it names by their path."""
    beside = os.path.join(os.path.dirname(configuration), "plugstack.conf")
    pending, done = [slurm.setting(configuration, "PlugStackConfig") or beside], set()
    while pending:
        path = pending.pop()
        seen.append(witness.file(path))
        if path in done or not os.path.isfile(path):
            continue
        done.add(path)
        yield path
        for words in map(str.split, _lines(path)):
            if words[:1] == ["include"] and len(words) > 1:
                pattern = os.path.join(os.path.dirname(path), words[1])
                seen.append(witness.file(os.path.dirname(pattern)))
                pending += sorted(glob.glob(pattern))
            elif len(words) > 1 and words[1].startswith("/"):
                yield words[1]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line.partition("#")[0] for line in file.read(_LIMIT).splitlines()]
    except OSError:
        return []


def _accounts(configuration: str) -> tuple[str, ...]:
    """Return the entries of Slurm's own accounts: without them its clients refuse slurm.conf."""
    names = {slurm.setting(configuration, key) or "root" for key in ("SlurmUser", "SlurmdUser")}
    entries = []
    for name in sorted(names):
        try:
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        except KeyError:
            continue
        entries.append(f"{entry.pw_name}:x:{entry.pw_uid}:{entry.pw_gid}::/:/usr/sbin/nologin")
    return tuple(dict.fromkeys(entries))
