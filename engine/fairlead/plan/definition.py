"""What an environment file (``image.edf``) asks for, in the words of a Request. Pure.

Rules:
- What the door was told by itself, on its command line or by variable, beats the file.
- The entrypoint runs only where the file says so; what else it does not say stays as it was.
- Annotations go on to the site's hooks as they are. Those that something here acts on, or that
  ask for what nothing here does, are in ``ANNOTATIONS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.image import edf
from fairlead.plan import devices, env, pyxis
from fairlead.plan import request as launch

# Names of what a door may have been told by itself.
IMAGE, WORKDIR, ENTRYPOINT, WRITABLE, MPI = "image", "workdir", "entrypoint", "writable", "mpi"
SLURM_INSIDE = "slurm_inside"
MPI_TYPE = "com.hooks.mpi.type"
MPI_ENABLED = "com.hooks.mpi.enabled"
SLURM = "com.hooks.slurm.enabled"
PYTORCH, ENTRYPOINT_LOG = "com.pyxis.pytorch_remap_vars", "com.pyxis.entrypoint_log"
FLAGS = (MPI_ENABLED, PYTORCH, ENTRYPOINT_LOG, SLURM)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Annotation(NamedTuple):
    """One that is known: what becomes of it, and whether something here does."""

    meaning: str
    done: bool = False


ANNOTATIONS = {
    MPI_ENABLED: Annotation("true: --mpi=host, false: --mpi=image", True),
    MPI_TYPE: Annotation("--mpi-profile: one of the host's MPI (fairlead mpi list)", True),
    "com.hooks.glibc.enabled": Annotation(
        "nothing to do: the image keeps its glibc, the host's libraries are bound to it", True
    ),
    "com.hooks.cxi.enabled": Annotation(
        "nothing to do: the host's MPI comes with the fabric libraries that it was built for", True
    ),
    "com.hooks.netstack": Annotation("nothing to do: the network is the host's", True),
    "com.hooks.logging.level": Annotation("FAIRLEAD_VERBOSE", True),
    "com.hooks.aws_ofi_nccl": Annotation("bring the plug-in in the image, or mount it"),
    "com.hooks.ssh": Annotation("nothing listens in a container; srun --overlap reaches it"),
    "com.hooks.nvidia_cuda_mps": Annotation("start the daemon in the job, outside"),
    "com.hooks.dcgm": Annotation("a hook of the site"),
    SLURM: Annotation("--slurm: Slurm's client programs of the host come along", True),
    "com.hooks.slurm-global-sync": Annotation("a hook of the site"),
    PYTORCH: Annotation("whether PyTorch gets its variables", True),
    ENTRYPOINT_LOG: Annotation("--container-entrypoint-log", True),
}


def under(
    request: launch.Request, definition: edf.Definition, told: frozenset[str]
) -> launch.Request:
    """Return a request with an environment file under it.

    Args:
        request: what the door was told.
        definition: the file, with those that it inherits from.
        told: the names of what beats the file.

    Raises:
        errors.EdfError: a mount, a device or an annotation is malformed, or no image is named.
    """
    if IMAGE not in told and definition.image is None:
        raise no_image(definition)
    result = request._replace(
        volumes=(*(volume(text, request.cwd) for text in definition.mounts), *request.volumes),
        devices=(*(device(text) for text in definition.devices), *request.devices),
        templates=tuple((entry.name, entry.value, entry.origin) for entry in definition.env),
        annotations=(
            *((entry.name, entry.value) for entry in definition.annotations),
            *request.annotations,
        ),
        notes=(*request.notes, *notes(definition)),
    )
    if IMAGE not in told and definition.image is not None:
        result = result._replace(reference=definition.image.value)
    if WORKDIR not in told and definition.workdir is not None:
        result = result._replace(workdir=_absolute(definition.workdir.value, request.cwd))
    if ENTRYPOINT not in told:
        result = result._replace(use_entrypoint=_is(definition.entrypoint))
    if WRITABLE not in told and definition.writable is not None:
        result = result._replace(writable=definition.writable.value)
    remap, shown = flag(definition, PYTORCH), flag(definition, ENTRYPOINT_LOG)
    if remap is not None:
        result = result._replace(remap_pytorch=remap)
    if shown is not None:
        result = result._replace(entrypoint_log=shown)
    clients = flag(definition, SLURM)
    if clients is not None and SLURM_INSIDE not in told:
        result = result._replace(slurm_inside=clients)
    if MPI not in told:
        wanted = flag(definition, MPI_ENABLED)
        result = result if wanted is None else result._replace(mpi="host" if wanted else "image")
    return result


def _is(value: edf.Flag | None) -> bool:
    return value is not None and value.value


def no_image(definition: edf.Definition) -> errors.EdfError:
    """Return the error for a file that says nothing of an image."""
    where = definition.files[0] if definition.files else definition.name
    return errors.EdfError(f"{where}: names no image", hint='add image = "..."')


def flag(definition: edf.Definition, name: str) -> bool | None:
    """Return what an annotation says, None if it is absent.

    Raises:
        errors.EdfError: it is neither true nor false.
    """
    entry = annotation(definition, name)
    if entry is None:
        return None
    if entry.value.lower() not in _WORDS:
        raise errors.EdfError(
            f"{entry.origin}: annotation {name}: {entry.value!r} is neither true nor false",
            hint='write "true" or "false"',
        )
    return _WORDS[entry.value.lower()]


def annotation(definition: edf.Definition, name: str) -> edf.Entry | None:
    """Return an annotation by its name."""
    return next((entry for entry in definition.annotations if entry.name == name), None)


def volume(text: edf.Text, cwd: str) -> launch.Volume:
    """Return what one entry of ``mounts`` means: the words of ``--container-mounts``.

    Raises:
        errors.EdfError: it is malformed.
    """
    try:
        return pyxis.mount(text.value, cwd, text.origin)
    except errors.UsageError as error:
        raise errors.EdfError(error.message, hint=error.hint) from error


def device(text: edf.Text) -> str:
    """Return one entry of ``devices``, which means one.

    Raises:
        errors.EdfError: it does not.
    """
    try:
        devices.check(text.value)
    except errors.UsageError as error:
        raise errors.EdfError(f"{text.origin}: {error.message}", hint=error.hint) from error
    return text.value


def _absolute(path: str, cwd: str) -> str:
    return path if path.startswith("/") else os.path.normpath(f"{cwd or '/'}/{path}")


def notes(definition: edf.Definition) -> tuple[str, ...]:
    """Return a line on the annotations that ask for what nothing here does."""
    idle = []
    for entry in definition.annotations:
        known = _known(entry.name)
        off = entry.name.endswith(".enabled") and _WORDS.get(entry.value.lower()) is False
        if entry.name.startswith("com.hooks.") and not (known and known.done) and not off:
            idle.append(f"{entry.name} ({entry.origin})")
    if not idle:
        return ()
    return (f"nothing acts on these annotations but a hook of the site: {', '.join(idle)}",)


def _known(name: str) -> Annotation | None:
    """Return what is known of an annotation, by its own name or by the one it lies under."""
    while name:
        if name in ANNOTATIONS:
            return ANNOTATIONS[name]
        name = name.rpartition(".")[0]
    return None


# -- variables -------------------------------------------------------------------------------------


def variables(
    before: tuple[env.Variable, ...],
    environ: Mapping[str, str],
    templates: tuple[tuple[str, str, str], ...],
    asked: frozenset[str],
    injected: str | None,
) -> tuple[env.Variable, ...]:
    """Return a container's variables with those of an environment file.

    Args:
        before: what is changed without the file.
        environ: the job's environment.
        templates: name, template and origin; an empty template unsets.
        asked: names that the command line set, which stay.
        injected: what the MPI needs in LD_PRELOAD, which stays in it.

    Raises:
        errors.EdfError: a template names a variable that neither the image nor the job has.
    """
    known = {variable.name: variable for variable in before}
    result = dict(known)
    lookup = _lookup(known, environ)
    for name, template, origin in templates:
        if name in asked:
            continue
        value = edf.expand(template, lookup, origin) if template else None
        if name == "LD_PRELOAD" and injected:
            value = f"{value}:{injected}" if value else injected
        result[name] = env.Variable(name, value, f"asked for by {origin}")
    return tuple(result.values())


def _lookup(
    known: Mapping[str, env.Variable], environ: Mapping[str, str]
) -> Callable[[str], str | None]:
    def lookup(name: str) -> str | None:
        change = known.get(name)
        if change is None or change.task:  # each task's own is not known here
            return environ.get(name)
        return change.value or ""  # the host's, which does not go into the container, is empty

    return lookup
