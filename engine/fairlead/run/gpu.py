"""The GPUs of a launch: by CDI where the node has NVIDIA's specification, else by discovery."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fairlead import config as settings
from fairlead import errors
from fairlead.host import cdi, gpu
from fairlead.plan import driver
from fairlead.plan import edits as plan_edits
from fairlead.plan import gpu as plan_gpu
from fairlead.run import devices, rules, view

NVIDIA_KIND = "nvidia.com/gpu"
_KEPT = "libc-directory"


def edits(
    wanted: plan_gpu.Wish, job: Mapping[str, str], config: settings.Config, files: view.View
) -> plan_edits.Edits:
    """Return what a launch gets for the GPUs that it wants.

    Raises:
        errors.DeviceError: they cannot be had as they were asked for.
    """
    made = driver.rendered(gpu.render())
    try:
        made = plan_edits.joined(made, _nvidia(wanted, job, config, files))
    except errors.DeviceError as error:
        if wanted.by != "image":
            raise
        made = plan_edits.joined(made, plan_edits.Edits(notes=(f"no GPU of NVIDIA: {error}",)))
    return made if made != plan_edits.NONE else plan_gpu.absent(wanted)


def _nvidia(
    wanted: plan_gpu.Wish, job: Mapping[str, str], config: settings.Config, files: view.View
) -> plan_edits.Edits:
    registry = cdi.read(config.cdi_dirs)
    if NVIDIA_KIND in cdi.kinds(registry):
        names = tuple(f"{NVIDIA_KIND}={word}" for word in wanted.which or (cdi.ALL,))
        return devices.by_name(registry, names)
    found = gpu.nvidia()
    if found is None:
        return plan_edits.NONE
    return driver.nvidia(found, wanted, _directory(files), _mps(job, config))


def _mps(job: Mapping[str, str], config: settings.Config) -> str:
    """Return the directory of the job's MPS daemon, where the container does not have it anyway."""
    path = job.get("CUDA_MPS_PIPE_DIRECTORY", "")
    there = path.startswith("/") and ".." not in path.split("/") and os.path.isdir(path)
    if not there or path.startswith(("/tmp/", "/var/tmp/")):  # noqa: S108
        return ""
    return "" if rules.forbidden(path, config) else path


def _directory(files: view.View) -> str:
    """Return where libraries go in the image; where its layers are mounts, it is kept."""
    if files.rootfs:
        return gpu.library_directory(files.rootfs)
    kept = f"{files.place}/{_KEPT}"
    found = _kept(kept)
    if found is None:
        files.read(lambda rootfs: _keep(gpu.library_directory(rootfs), kept))
        found = view.made(_kept(kept), kept)
    return found


def _kept(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def _keep(directory: str, path: str) -> None:
    new = f"{path}.{os.getpid()}"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(directory)
    os.rename(new, path)
