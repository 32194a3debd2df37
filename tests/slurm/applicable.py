"""What a test needs that not every release of Slurm and not every host can have.

    @pytest.mark.slurm_min(23, 2)         a release of Slurm
    @pytest.mark.pmix                     srun --mpi=pmix
    @pytest.mark.host_mpi("openmpi", 4)   a major version of the host's own MPI
    @pytest.mark.host_libc(2, 36)         a C library of the host that is not newer: what the test compiles or copies here
                                          must run in the images

The cluster and the host are asked, once. A test that cannot apply is deselected and told with its reason: it is neither
passed nor skipped (a skip is a failure where FAIRLEAD_MUST_RUN is set).
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from typing import NamedTuple

MARKERS = ("slurm_min", "pmix", "host_mpi", "host_libc")
# How an installation of Debian's says its version.
_VERSIONS = {
    "openmpi": (("mpicc.openmpi", "--showme:version"), r"Open MPI ([\d.]+)"),
    "mpich": (("mpichversion",), r"Version:\s+([\d.]+)"),
}


class Facts(NamedTuple):
    """What the cluster and the host have: release, kinds of --mpi, version of each MPI, of the C library."""

    release: tuple[int, ...]
    pmis: frozenset[str]
    versions: dict[str, str]
    libc: tuple[int, ...]


@functools.cache
def ask() -> Facts | None:
    """Return the facts; None if no Slurm is installed."""
    release = re.search(r"(\d+\.\d+)", _said("srun", "--version"))
    if release is None:
        return None
    versions = {family: re.search(p, _said(*words)) for family, (words, p) in _VERSIONS.items()}
    return Facts(
        _numbers(release[1]),
        frozenset(re.findall(r"\w+", _said("srun", "--mpi=list"))),
        {family: found[1] for family, found in versions.items() if found},
        _numbers(os.confstr("CS_GNU_LIBC_VERSION").split()[1]),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout + done.stderr


def reason(name: str, arguments: tuple, facts: Facts) -> str:
    """Return why a marker's test does not apply; empty: it does."""
    if name == "slurm_min" and facts.release < arguments:
        return "needs Slurm {}.{:02}".format(*arguments)
    if name == "pmix" and "pmix" not in facts.pmis:
        return "this Slurm has no --mpi=pmix"
    if name == "host_mpi":
        family, major = arguments
        version = facts.versions.get(family, "not there")
        if version.partition(".")[0] != str(major):
            return f"the host's {family} is {version}, not {major}"
    if name == "host_libc" and facts.libc > arguments:
        return "the host's C library is {}.{}, the images' is {}.{}".format(*facts.libc, *arguments)
    return ""
