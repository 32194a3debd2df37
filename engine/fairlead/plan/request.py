"""What was asked for: a value that every door (srun, ``fairlead run``, ``fairlead plan``) fills in.

Rules:
- Everything in a Request comes from a user and is hostile until checked here; ``check`` is called
  by every door.
- Nothing here looks at the node or at an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.host import witness

MPI_MODES = ("auto", "host", "image")
GPU_MODES = ("auto", "all", "none")
NAMESPACES = ("net", "ipc", "uts")
VOLUME_KINDS = ("bind", "tmpfs", "umount", "image")


class Step(NamedTuple):
    """The Slurm step that this launch belongs to."""

    job_id: str
    step_id: str
    node_index: int
    nodes: int
    tasks: int
    local_tasks: int
    script: str = ""  # path of the batch script on the host, when the script itself runs inside
    multi_prog: bool = False  # each task has a command of its own, which the plan does not know
    helper: str = ""  # path of fairlead-enter on the host, when the tasks need it inside


class Volume(NamedTuple):
    """A mount that was asked for, at any door.

    Attributes:
        source: path on the host; of another kind than ``bind``, no path.
        destination: path in the container.
        flags: mount options of the runtime specification; ``optional``: no error if the source is
            not there.
        kind: ``bind``; ``tmpfs``; ``umount``: nothing is mounted there; ``image``: source is a
            squashfs file, of which the content is mounted.
        origin: the option, or the file and line, that asked for it.
    """

    source: str
    destination: str
    flags: tuple[str, ...] = ()
    kind: str = "bind"
    origin: str = "--volume"


class Request(NamedTuple):
    """One launch.

    Attributes:
        reference: the image as the user typed it.
        command: words; empty means the image's own command.
        environ: the environment that the command would have on the host.
        cwd: working directory on the host, absolute; empty when it was deleted.
        workdir: working directory asked for inside, or None.
        entrypoint: None: the image's, off or on by ``use_entrypoint``; a tuple overrides it.
        mpi: auto, host or image.
        devices: as typed: HOST[:CONTAINER][:rwm], or CDI's vendor.com/class=name.
        annotations: name and value, by which the site's hooks may be chosen.
        gpu: auto, all or none; empty: as the settings say.
        templates: name, template and origin of the variables of an environment file.
        notes: what the user should know at each launch.
        seen: files that this request was made from.
        dropped: variables of the job that the container does not get, where the image sets none.
        kept_variables: those whose value of the job beats the image's.
        unshare: further namespaces of its own, of ``NAMESPACES``.
        remap_root: the user appears as root inside.
        entrypoint_log: what the entrypoint prints is shown, as it always is.
        name: under which the root file system is kept, as ``NAME[:MODE]``; empty: not at all.
        scope: ``job``: the name belongs to the job; ``global``: to the user.
        save: file that the root file system is written to; empty: none.
        starts_in_image: without a working directory of its own the image is started in ``/``.
        remap_pytorch: an image that sets PYTORCH_VERSION gets its ranks' variables from Slurm.
        slurm_inside: Slurm's client programs of the host come along.
    """

    reference: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str
    workdir: str | None = None
    use_entrypoint: bool = False
    entrypoint: tuple[str, ...] | None = None
    mpi: str = "auto"
    variables: tuple[tuple[str, str], ...] = ()
    volumes: tuple[Volume, ...] = ()
    devices: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    gpu: str = ""
    mount_home: bool = True
    writable: bool = True
    upper: str = "memory"  # or "disk": where the root is written to
    upper_size: str = ""  # of what may be written; empty: half of the memory, a tenth of the disk
    step: Step | None = None
    templates: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    seen: tuple[witness.Seen, ...] = ()
    dropped: tuple[str, ...] = ()
    kept_variables: tuple[str, ...] = ()
    unshare: tuple[str, ...] = ()
    remap_root: bool = False
    entrypoint_log: bool = False
    name: str = ""
    scope: str = "job"
    save: str = ""
    starts_in_image: bool = False
    remap_pytorch: bool = False
    slurm_inside: bool = False


def check(request: Request) -> Request:
    """Return the request unchanged, or say what is wrong with it.

    Raises:
        errors.UsageError: a value holds a NUL or newline where none may be, or is not one of the
        allowed words. errors.WorkdirError: the working directory is not absolute or lies in /proc.
    """
    if request.mpi not in MPI_MODES:
        raise errors.UsageError(
            f"mpi mode {request.mpi!r}: not one of {', '.join(MPI_MODES)}",
            hint="use --container-mpi=auto|host|image",
        )
    for name, _ in request.variables:
        if not name or "=" in name:
            raise errors.UsageError(
                f"environment variable {name!r}: not a name", hint="write NAME=VALUE"
            )
    for volume in request.volumes:
        check_volume(volume)
    if request.gpu not in ("", *GPU_MODES):
        raise errors.UsageError(
            f"GPUs {request.gpu!r}: not one of {', '.join(GPU_MODES)}", hint="use --container-gpu"
        )
    if request.devices:
        from fairlead.plan import devices

        for text in request.devices:
            devices.check(text)
    _check_clients(request)
    for name, value in request.annotations:
        if not name or any(ord(c) < 32 or ord(c) == 127 for c in name + value):
            raise errors.UsageError(
                f"annotation {name!r}: empty, or holds a control character", hint="write NAME=VALUE"
            )
    if request.workdir is not None:
        check_path(request.workdir, "working directory", errors.WorkdirError)
        if (request.workdir + "/").startswith(("/proc/", "/sys/", "/dev/")):
            raise errors.WorkdirError(
                f"{request.workdir}: /proc, /sys and /dev cannot be a working directory"
            )
    return request


def check_path(path: str, what: str, error: type[errors.Error]) -> None:
    """Raise unless path is absolute, of bounded length and without control characters."""
    if not path.startswith("/"):
        raise error(f"{what} {path!r}: not an absolute path", hint="write it from /")
    if len(path) > 4000 or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise error(
            f"{what} {path[:80]!r}: too long, or holds a control character",
            hint="choose another path",
        )


def _check_clients(request: Request) -> None:
    """Raise where Slurm's client programs could not work in the container."""
    for option, chosen, why in (
        ("--container-remap-root", request.remap_root, "they would call themselves root's"),
        ("--container-unshare=net", "net" in request.unshare, "no node could answer them"),
    ):
        if request.slurm_inside and chosen:
            raise errors.UsageError(
                f"Slurm's client programs in a container with {option}: {why}",
                hint="drop it, or leave them out with --no-container-slurm",
            )


def check_volume(volume: Volume) -> None:
    """Raise for a mount that no container has.

    Raises:
        errors.UsageError
    """
    where = volume.origin
    if volume.kind not in VOLUME_KINDS:
        raise errors.UsageError(f"{where}: a mount of kind {volume.kind!r} is not known")
    if volume.kind in ("bind", "image"):
        check_path(volume.source, f"{where}: source", errors.UsageError)
    check_path(volume.destination, f"{where}: destination", errors.UsageError)
    if ".." in volume.destination.split("/"):
        raise errors.UsageError(
            f"{where}: destination {volume.destination!r}: holds '..'", hint="write the plain path"
        )
    parts = [part for part in volume.destination.split("/") if part not in ("", ".")]
    if not parts or parts[0] in ("proc", "sys") or parts == ["dev"]:
        raise errors.UsageError(
            f"{where}: destination {volume.destination!r}: cannot be replaced",
            hint="choose another",
        )
