"""The container's environment: the job's, with changes, each with its reason. Pure.

Rules, in order; later wins:
1. The job's environment is kept as it is.
2. Variables that make the host's loader or shell read host files are dropped, and those that the
request names; none of them where the request keeps it.
3. The image's variables are set, except those by which Slurm and PMI reach their ranks, and the
user's identity. 4. PATH is the image's, or the usual one when the image has none: the host's names
directories that are not there. 5. What the MPI injection needs, then what the user asked for.
6. What PyTorch reads of its ranks, where the image has it (``for_pytorch``).
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
    """A change to the job's environment; value None means unset.

    ``task``: the value is a template (``${NAME}``) that each task fills in from its own variables.
    """

    name: str
    value: str | None
    reason: str
    task: bool = False


def changes(
    environ: Mapping[str, str],
    image: tuple[tuple[str, str], ...],
    injected: tuple[tuple[str, str | None], ...],
    asked: tuple[tuple[str, str], ...],
    container: str,
    devices: tuple[Variable, ...] = (),
    *,
    dropped: tuple[str, ...] = (),
    kept: tuple[str, ...] = (),
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
        dropped: names that the job's environment does not bring in.
        kept: names whose value of the job, where it has one, is left alone.
    """
    ours = {name for name in kept if name in environ}
    result: dict[str, Variable] = {}
    for name, why in (*HOST_ONLY.items(), *((name, "pyxis drops it") for name in dropped)):
        if name not in ours and name in environ:
            result[name] = Variable(name, None, why)
    for name, given in image:
        if not is_kept(name) and name not in ours:
            result[name] = Variable(name, given, "image")
    result.update({variable.name: variable for variable in devices})
    if "PATH" in ours:  # in words, because the command is looked for before it has an environment
        result["PATH"] = Variable("PATH", environ["PATH"], "the job's, kept")
    elif "PATH" not in result:
        result["PATH"] = Variable("PATH", DEFAULT_PATH, "the image sets none")
    for name, text in injected:
        before = environ[name] if name in ours else value(tuple(result.values()), name)
        joined = name == "LD_PRELOAD" and text and before
        result[name] = Variable(name, f"{joined}:{text}" if joined else text, "MPI")
    result["FAIRLEAD_CONTAINER"] = Variable(
        "FAIRLEAD_CONTAINER", container, "tells programs where they run"
    )
    preload = dict(injected).get("LD_PRELOAD")
    for name, text in asked:
        joined = preload if name == "LD_PRELOAD" else None
        result[name] = Variable(name, f"{text}:{joined}" if joined else text, "asked for")
    return tuple(result.values())


def for_pytorch(
    environ: Mapping[str, str], image: tuple[tuple[str, str], ...]
) -> tuple[Variable, ...]:
    """Return what PyTorch's ranks read of their place in the step; nothing for another image.

    The rank's own numbers are always Slurm's, as under pyxis; the rest yields to what the job or
    the image says.

    Source: pyxis ``pytorch_setup``, enroot ``50-slurm-pytorch.sh``.
    """
    if "PYTORCH_VERSION" not in dict(image):
        return ()
    why = "the image has PyTorch"
    made = [
        Variable("RANK", "${SLURM_PROCID}", why, task=True),
        Variable("LOCAL_RANK", "${SLURM_LOCALID}", why, task=True),
    ]
    given = dict(image)
    if "WORLD_SIZE" not in given and "WORLD_SIZE" not in environ:
        made.append(Variable("WORLD_SIZE", "${SLURM_NTASKS}", why, task=True))
    if "MASTER_ADDR" not in given and "MASTER_ADDR" not in environ:
        first = first_host(environ.get("SLURM_STEP_NODELIST", ""))
        made += [Variable("MASTER_ADDR", first, why)] if first else []
    if "MASTER_PORT" not in given and "MASTER_PORT" not in environ:
        job = environ.get("SLURM_JOB_ID", "")
        if job.isascii() and job.isdecimal():
            made.append(Variable("MASTER_PORT", str(61000 + int(job) % 4536), why))
    return tuple(made)


def first_host(text: str) -> str:
    """Return the first of Slurm's list of hosts, such as ``rack[1-2]n[01-04,7],x``."""
    host, inside = "", False
    for at, char in enumerate(text):
        if char == "," and not inside:
            break
        if char == "[":
            inside = True
            host += text[at + 1 :].partition("]")[0].partition(",")[0].partition("-")[0]
        elif char == "]":
            inside = False
        elif not inside:
            host += char
    return host


def is_kept(name: str) -> bool:
    """Tell whether the job's value of a variable beats the image's."""
    return name.startswith(KEPT_PREFIXES) or name in KEPT_NAMES


def value(variables: tuple[Variable, ...], name: str) -> str | None:
    """Return the value that a change gives to a name."""
    return next((variable.value for variable in variables if variable.name == name), None)
