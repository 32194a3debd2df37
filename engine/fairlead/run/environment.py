"""A request that names an environment file becomes one that names an image.

Rules:
- Every path that is looked at is noted before it is opened: a kept plan is used again only while
  all of them are as they were.
"""

from __future__ import annotations

from fairlead import config as settings
from fairlead import errors
from fairlead.host import witness
from fairlead.image import edf, reference
from fairlead.plan import definition as definitions
from fairlead.plan import request as launch


def applied(
    request: launch.Request,
    config: settings.Config,
    name: str,
    told: frozenset[str],
    digest: str = "",
) -> tuple[launch.Request, settings.Config]:
    """Return a request, and the settings, with the environment file of that name under them.

    Args:
        request: what the door was told.
        config: the settings.
        name: of the file, or its path.
        told: what beats the file (``plan.definition``).
        digest: of the file when the job was submitted; empty: nobody looked.

    Raises:
        errors.EdfError: the file cannot be had, or something is wrong with it.
    """
    seen: list[witness.Seen] = []
    found = edf.load(
        name, request.environ, request.cwd, lambda path: seen.append(witness.file(path))
    )
    if digest and digest != found.digest:
        rest = "the image is the one of then, the rest" if definitions.IMAGE in told else "it"
        said = f"{found.files[0]}: changed since the job was submitted: {rest} is read now"
        request = request._replace(notes=(*request.notes, said))
    settled = {
        key
        for key in (definitions.MPI, definitions.WRITABLE, definitions.SLURM_INSIDE)
        if _is_said(config, key)
    }
    result = under(request, found, told | settled)
    kind = definitions.annotation(found, definitions.MPI_TYPE)
    if kind is not None and not _is_said(config, "mpi_profile"):
        config.check_lock("mpi_profile", kind.value, f"annotation {kind.name} ({kind.origin})")
        config = config.override(f"annotation {kind.name} ({kind.origin})", mpi_profile=kind.value)
    return result._replace(seen=(*request.seen, *seen)), config


def under(request: launch.Request, found: edf.Definition, told: frozenset[str]) -> launch.Request:
    """Return a request with what was found in an environment file under it.

    Raises:
        errors.EdfError: a value of it is malformed, or no image is named.
    """
    result = definitions.under(request, found, told)
    if reference.environment(result.reference) is not None:
        raise errors.EdfError(
            f"{found.image.origin if found.image else found.name}: image names an environment file",
            hint="inherit it with base_environment",
        )
    return result


def _is_said(config: settings.Config, key: str) -> bool:
    """Tell whether a setting comes from an option or a variable, not from a settings file."""
    origin = config.origins[key]
    return origin == settings.COMMAND_LINE or origin.startswith("$")
