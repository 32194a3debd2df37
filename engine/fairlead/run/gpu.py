"""The GPUs of a launch: by CDI where the node has NVIDIA's specification, else by discovery."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fairlead import config as settings
from fairlead import errors
from fairlead.host import cdi, gpu, ldso
from fairlead.plan import cuda, driver, env, nvidiahooks
from fairlead.plan import edits as plan_edits
from fairlead.plan import gpu as plan_gpu
from fairlead.run import devices, rules, view

NVIDIA_KIND = "nvidia.com/gpu"
_KEPT = "libc-directory"


def edits(
    wanted: plan_gpu.Wish,
    job: Mapping[str, str],
    config: settings.Config,
    files: view.View,
    told: cuda.Told = cuda.NOTHING,
) -> plan_edits.Edits:
    """Return what a launch gets for the GPUs that it wants.

    Raises:
        errors.DeviceError: they cannot be had as they were asked for.
    """
    made = driver.rendered(gpu.render())
    try:
        made = plan_edits.joined(made, _nvidia(wanted, job, config, files, told))
    except errors.DeviceError as error:
        if wanted.by != "image":
            raise
        made = plan_edits.joined(made, plan_edits.Edits(notes=(f"no GPU of NVIDIA: {error}",)))
    return made if made != plan_edits.NONE else plan_gpu.absent(wanted)


def _nvidia(
    wanted: plan_gpu.Wish,
    job: Mapping[str, str],
    config: settings.Config,
    files: view.View,
    told: cuda.Told,
) -> plan_edits.Edits:
    registry = cdi.read(config.cdi_dirs)
    if NVIDIA_KIND in cdi.kinds(registry):
        version = gpu.nvidia_version()
        if version:
            cuda.check_required(told, version, _compat(files, version, ()))
        names = tuple(f"{NVIDIA_KIND}={word}" for word in wanted.which or (cdi.ALL,))
        return devices.by_name(registry, names)
    found = gpu.nvidia()
    if found is None:
        return plan_edits.NONE
    compat = _compat(files, found.version, tuple(card.model for card in found.cards))
    cuda.check_required(told, found.version, compat)
    capabilities, notes = cuda.capabilities(told)
    made = driver.nvidia(found, wanted, _seen(files)[0], _mps(job, config), capabilities)
    if job.get("CUDA_VISIBLE_DEVICES"):  # Slurm's, or whoever's: it says the same or less
        made = made._replace(variables=())
    newer = _newer(compat, told) if "compute" in capabilities else ()
    return plan_edits.joined(made, plan_edits.Edits(variables=newer, notes=notes))


def _compat(files: view.View, version: str, models: tuple[str, ...]) -> str:
    """Return the version of the image's own CUDA libraries where they are to be used."""
    compat = _seen(files)[1]
    return compat if cuda.is_compatible(compat, version, models) else ""


def _newer(compat: str, told: cuda.Told) -> tuple[env.Variable, ...]:
    """Return what lets the image's loader find the image's newer CUDA libraries first."""
    if not compat:
        return ()
    rest = told.image.get("LD_LIBRARY_PATH", "")
    path = f"{cuda.COMPAT}:{rest}" if rest else cuda.COMPAT
    reason = f"the image's CUDA libraries ({compat}) are newer than the driver"
    return (env.Variable("LD_LIBRARY_PATH", path, reason),)


def with_hooks_done(made: plan_edits.Edits, files: view.View, told: cuda.Told) -> plan_edits.Edits:
    """Return edits in which the plan does what NVIDIA's own CDI hooks would.

    Raises:
        errors.DeviceError: one is malformed.
    """
    wanted = nvidiahooks.meaning(made.hooks)
    directory = _seen(files)[0]
    there = {mount.destination for mount in made.mounts}
    more = []
    for mount in made.mounts:
        folder, _, name = mount.destination.rpartition("/")
        if mount.type != "bind" or not directory or folder not in wanted.folders:
            continue
        for each in (name, *gpu.sonames(ldso.Loader("/"), mount.source)):
            place = f"{directory}/{each}"
            if place not in there:
                there.add(place)
                more.append(mount._replace(destination=place))
    version = gpu.nvidia_version()
    compat = _compat(files, version, ()) if wanted.compat and version else ""
    return made._replace(
        mounts=(*made.mounts, *more),
        links=(*made.links, *wanted.links),
        hooks=wanted.rest,
        variables=(*made.variables, *_newer(compat, told)),
    )


def _mps(job: Mapping[str, str], config: settings.Config) -> str:
    """Return the directory of the job's MPS daemon, where the container does not have it anyway."""
    path = job.get("CUDA_MPS_PIPE_DIRECTORY", "")
    there = path.startswith("/") and ".." not in path.split("/") and os.path.isdir(path)
    if not there or path.startswith(("/tmp/", "/var/tmp/")):  # noqa: S108
        return ""
    return "" if rules.forbidden(path, config) else path


def _seen(files: view.View) -> tuple[str, str]:
    """Return where libraries go in the image, and its own CUDA libraries' version.

    Where its layers are mounts, that is kept.
    """
    if files.rootfs:
        return _look(files.rootfs)
    kept = f"{files.place}/{_KEPT}"
    found = _kept(kept)
    if found is None:
        files.read(lambda rootfs: _keep(_look(rootfs), kept))
        found = view.made(_kept(kept), kept)
    return found


def _look(rootfs: str) -> tuple[str, str]:
    return gpu.library_directory(rootfs), gpu.compat_version(rootfs, cuda.COMPAT)


def _kept(path: str) -> tuple[str, str] | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            directory, mark, compat = file.read().partition("\0")
    except OSError:
        return None
    return (directory, compat) if mark else None


def _keep(found: tuple[str, str], path: str) -> None:
    new = f"{path}.{os.getpid()}"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\0".join(found))
    os.rename(new, path)
