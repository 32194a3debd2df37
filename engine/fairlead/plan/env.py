"""The container's environment: the job's, with changes, each with its reason. Pure.

Rules, in order; later wins:
1. The job's environment is kept as it is.
2. Variables that make the host's loader or shell read host files are dropped.
3. The image's variables are set, except those by which Slurm and PMI reach their ranks, and the
user's identity. 4. PATH is the image's, or the usual one when the image has none: the host's names
directories that are not there. 5. What the MPI injection needs, then what the user asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairlead.host.relocation import RELOCATIONS

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

KEPT_PREFIXES = ("SLURM", "PMI_", "PMI2_", "PMIX_", "SPANK_", "MPI_LOCAL", "PALS_")
KEPT_NAMES = ("HOME", "USER", "LOGNAME", "HOSTNAME", "TERM")
HOST_ONLY = {
    "LD_PRELOAD": "names host libraries",
    "LD_LIBRARY_PATH": "names host directories",
    "LD_AUDIT": "names host libraries",
    "GCONV_PATH": "names host libraries",
    "LOCPATH": "names host directories",
    **dict.fromkeys(RELOCATIONS, "relocates an MPI of the host"),
    "BASH_ENV": "names a host script that bash would run first",
    "ENV": "names a host script that sh would run first",
}


class Variable(NamedTuple):
    """A change to the job's environment; value None means unset."""

    name: str
    value: str | None
    reason: str


def changes(
    environ: Mapping[str, str],
    image: tuple[tuple[str, str], ...],
    injected: tuple[tuple[str, str | None], ...],
    asked: tuple[tuple[str, str], ...],
    container: str,
    devices: tuple[Variable, ...] = (),
) -> tuple[Variable, ...]:
    """Return what to change, one entry per name.

    Args:
        environ: the job's environment.
        image: the image configuration's Env.
        injected: what the MPI injection sets or, with None, unsets; an LD_PRELOAD goes after
            what is there.
        asked: what the user asked for on the command line.
        container: the image's reference with digest, for FAIRLEAD_CONTAINER.
        devices: what devices want set.
    """
    result: dict[str, Variable] = {}
    for name, why in HOST_ONLY.items():
        if name in environ:
            result[name] = Variable(name, None, why)
    for name, value in image:
        if is_kept(name):
            continue
        result[name] = Variable(name, value, "image")
    result.update({variable.name: variable for variable in devices})
    if "PATH" not in result:
        result["PATH"] = Variable("PATH", DEFAULT_PATH, "the image sets none")
    for name, text in injected:
        before = result.get(name)
        joined = name == "LD_PRELOAD" and text and before and before.value
        result[name] = Variable(name, f"{joined}:{text}" if joined else text, "MPI")
    result["FAIRLEAD_CONTAINER"] = Variable(
        "FAIRLEAD_CONTAINER", container, "tells programs where they run"
    )
    ours = dict(injected).get("LD_PRELOAD")
    for name, text in asked:
        joined = ours if name == "LD_PRELOAD" else None
        result[name] = Variable(name, f"{text}:{joined}" if joined else text, "asked for")
    return tuple(result.values())


def is_kept(name: str) -> bool:
    """Tell whether the job's value of a variable beats the image's."""
    return name.startswith(KEPT_PREFIXES) or name in KEPT_NAMES


def value(variables: tuple[Variable, ...], name: str) -> str | None:
    """Return the value that a change gives to a name."""
    return next((variable.value for variable in variables if variable.name == name), None)
