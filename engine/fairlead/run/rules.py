"""The site's part in a launch: mounts and variables for every container, and what may not be asked.

Rules:
- What users ask for comes after the site's mounts and wins over its variables: these are defaults.
- A mount that a user asks for is judged by where its source leads, symbolic links followed, and is
  made from there. Paths are compared name by name. What shows a forbidden path, because it lies
  above it, is forbidden, too.
- This binds who asks Fairlead, not who builds a namespace of their own: what a user may read they
  may mount (docs/security.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fairlead import config as settings
from fairlead import errors, forms
from fairlead.plan import edits as plan_edits
from fairlead.plan import env, pyxis
from fairlead.plan import mounts as plan_mounts
from fairlead.plan import request as launch_request

# Of a request, by the setting that it came from unless an option said otherwise.
_ASKED = ("mpi", "mount_home", "writable", "upper", "upper_size", "slurm_inside")


def request(asked: launch_request.Request, config: settings.Config) -> launch_request.Request:
    """Return a request with the site's mounts before the user's, which are allowed.

    Raises:
        errors.PolicyError: a mount, or the directory of the launch, is not.
        errors.ConfigError: a locked setting is asked for otherwise, or a mount of the site's is
            malformed.
    """
    for key in _ASKED:
        config.check_lock(key, getattr(asked, key), "the launch")
    if asked.gpu:
        config.check_lock("gpu", asked.gpu, "the launch")
    bound = asked.cwd and plan_mounts.may_bind(asked.cwd)
    wrong = forbidden(asked.cwd, config) if bound else ""
    if wrong:
        file = config.origins["forbidden_mounts"]
        raise errors.PolicyError(
            f"{asked.cwd}: {file} forbids {wrong}", hint="start from another directory"
        )
    own = tuple(_allowed(volume, config) for volume in asked.volumes)
    return launch_request.check(asked._replace(volumes=(*mounts(config), *own)))


def mounts(config: settings.Config) -> tuple[launch_request.Volume, ...]:
    """Return the site's mounts.

    Raises:
        errors.ConfigError: one is malformed.
    """
    origin = _origin(config)
    try:
        return tuple(
            volume for text in config.site_mounts for volume in pyxis.mounts(text, "", origin)
        )
    except errors.UsageError as error:
        raise errors.ConfigError(error.message, hint=error.hint) from error


def without_own(asked: launch_request.Request, config: settings.Config) -> launch_request.Request:
    """Return a request without the site's mounts: what the user asked for."""
    own = tuple(volume for volume in asked.volumes if volume.origin != _origin(config))
    return asked._replace(volumes=own)


def _origin(config: settings.Config) -> str:
    return f"{config.origins['site_mounts']}: site_mounts"


def variables(
    config: settings.Config,
    environ: Mapping[str, str],
    image: tuple[tuple[str, str], ...],
) -> plan_edits.Edits:
    """Return what the site makes of a container's variables.

    Args:
        config: with the changes.
        environ: the job's environment.
        image: the image configuration's Env.
    """
    origin = f"{config.origins['site_env']}: site_env"
    found: dict[str, env.Variable] = {}
    given = {name: value for name, value in image if not env.is_kept(name)}
    for text in config.site_env:
        name, how, value = forms.split_change(text)
        if name in found:
            before = found[name].value
        elif name in given or name == "PATH":
            before = given.get(name, env.DEFAULT_PATH)
        else:
            before = None if name in env.HOST_ONLY else environ.get(name)
        after = {
            "=": value,
            "+": f"{before}:{value}" if before else value,
            "^": f"{value}:{before}" if before else value,
            "-": None,
        }[how]
        found[name] = env.Variable(name, after, origin)
    return plan_edits.Edits(variables=tuple(found.values()))


def forbidden(path: str, config: settings.Config) -> str:
    """Return the forbidden path that a path leads to, or shows; empty: none."""
    real = os.path.realpath(path)
    for wrong in config.forbidden_mounts:
        place = os.path.realpath(wrong)
        if _is_below(real, place) or _is_below(place, real):
            return wrong
    return ""


def _allowed(volume: launch_request.Volume, config: settings.Config) -> launch_request.Volume:
    """Return a volume that is made from where its source leads."""
    _check_target(volume, config)
    limited = config.forbidden_mounts or config.allowed_mounts
    if not limited or volume.kind in {"tmpfs", "umount"}:
        return volume
    real = os.path.realpath(volume.source)
    wrong = forbidden(real, config)
    if wrong:
        _refuse(volume, real, f"{config.origins['forbidden_mounts']} forbids {wrong}")
    allowed = config.allowed_mounts
    if allowed and not any(_is_below(real, os.path.realpath(path)) for path in allowed):
        file = config.origins["allowed_mounts"]
        _refuse(volume, real, f"{file} allows {', '.join(allowed)} only")
    return volume._replace(source=real)


def _check_target(volume: launch_request.Volume, config: settings.Config) -> None:
    """Refuse a mount to where users may mount nothing; the path is taken as it is written."""
    parts = (part for part in volume.destination.split("/") if part not in ("", "."))
    place = f"/{'/'.join(parts)}"
    for wrong in config.forbidden_targets:
        if place == wrong.rstrip("/") or (wrong.endswith("/") and _is_below(place, wrong)):
            file = config.origins["forbidden_targets"]
            raise errors.PolicyError(
                f"{volume.origin}: {volume.destination}: {file} forbids mounts to {wrong}"
            )


def _refuse(volume: launch_request.Volume, real: str, why: str) -> None:
    leads = "" if real == volume.source else f" leads to {real}, and"
    raise errors.PolicyError(f"{volume.origin}: {volume.source}:{leads} {why}")


def _is_below(path: str, place: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{place.rstrip('/')}/")
