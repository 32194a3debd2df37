"""Whether a launch wants GPUs, and which. Pure, and cheap: every launch asks.

Rules:
- A container sees the GPUs that a program of the job sees on the host, under the same numbers:
  CUDA_VISIBLE_DEVICES and its like stay as Slurm set them. Only NVIDIA_VISIBLE_DEVICES, which asks
  for GPUs of the node, narrows.
- What an image says (NVIDIA_VISIBLE_DEVICES in its Env) can ask for GPUs and name some; it can
  name no path, no library and no GPU that the job may not open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.plan import edits

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
# By which Slurm, or who started the job, says that it has GPUs.
JOB_VARIABLES = (
    *("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL"),
)
NOTHING = ("", "none", "void", "NoDevFiles", "-1")
NONE_HERE = "this node has no driver of an NVIDIA, AMD or Intel GPU"


class Wish(NamedTuple):
    """GPUs that a launch wants.

    Attributes:
        by: who says so: ``setting``, ``job`` or ``image``.
        which: indexes and UUIDs of NVIDIA's; empty: all.
    """

    by: str
    which: tuple[str, ...] = ()


def wish(
    mode: str,
    job: Mapping[str, str],
    asked: tuple[tuple[str, str], ...],
    image: tuple[tuple[str, str], ...],
) -> Wish | None:
    """Return what a launch wants, None for no GPU.

    Args:
        mode: auto, all or none.
        job: the job's environment.
        asked: the variables that the user set for the container.
        image: those of the image.
    """
    if mode == "none":
        return None
    own = dict(asked).get(VISIBLE, job.get(VISIBLE))
    visible = own if own is not None else dict(image).get(VISIBLE)
    if visible is not None and visible.strip() in NOTHING:
        return None if mode == "auto" or own is not None else Wish("setting")
    words = (word.strip() for word in (visible or "all").split(","))
    which = tuple(word for word in words if word and word != "all")
    if mode == "all":
        return Wish("setting", which)
    if own is not None or any(job.get(name, "") not in NOTHING for name in JOB_VARIABLES):
        return Wish("job", which)
    return Wish("image", which) if visible is not None else None


def absent(wanted: Wish) -> edits.Edits:
    """Return what a launch gets where the node has no GPU.

    Raises:
        errors.DeviceError: the settings want one.
    """
    if wanted.by == "setting":
        raise errors.DeviceError(
            f"GPUs: {NONE_HERE}", hint='set gpu = "auto" or "none" (FAIRLEAD_GPU)'
        )
    if wanted.by == "job":
        return edits.Edits(notes=(f"the job has GPUs, but {NONE_HERE}",))
    return edits.NONE
