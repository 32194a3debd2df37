"""What of a GPU driver goes where in an image. Pure.

Rules:
- Libraries go into a directory in which the image's loader looks anyway, under the names that
  programs ask for: its cache and configuration stay as they are, nothing of the image is run.
- What an image brings of the same name is covered, since it is of another version than the
  kernel's half.
"""

from __future__ import annotations

from fairlead import errors
from fairlead.host import devices, gpu
from fairlead.plan import cuda, edits, env, mounts
from fairlead.plan import gpu as plan_gpu


def rendered(found: gpu.Render) -> edits.Edits:
    """Return the nodes of AMD's and Intel's GPUs."""
    links = tuple(mounts.Link(path, content, "as on the host") for path, content in found.links)
    return edits.Edits(tuple(_device(node, "GPU") for node in found.nodes), links=links)


MIG = "MIG-"


def nvidia(
    found: gpu.Nvidia,
    wanted: plan_gpu.Wish,
    directory: str,
    mps: str,
    capabilities: frozenset[str] = cuda.EVERYTHING,
) -> edits.Edits:
    """Return what a container needs of NVIDIA's driver.

    Args:
        found: the host's.
        wanted: which GPUs.
        directory: for libraries, in the image; empty: it has no glibc.
        mps: directory of the job's MPS daemon, empty without one.
        capabilities: of the driver, which are wanted.

    Raises:
        errors.DeviceError: a GPU that was named is not there, or the driver has no libraries.
    """
    cards = _chosen(found, wanted)
    if "compute" in capabilities and not any(
        name.startswith("libcuda.so") for each in found.libraries for name in each.names
    ):
        raise errors.DeviceError(
            f"NVIDIA driver {found.version}: the loader's cache has no libcuda.so.{found.version}",
            hint="ask the administrator for the driver's libraries of the kernel module's version",
        )
    why = f"NVIDIA driver {found.version}"
    nodes = (*(_device(card.node, f"GPU {card.number} {card.uuid}".strip()) for card in cards),
             *(_device(node, why) for node in found.control))  # fmt: skip
    libraries = tuple(
        _bind(each.path, f"{directory}/{name}", why, "ro")
        for each in found.libraries
        for name in each.names
        if directory and cuda.has_library(_name(each.path), capabilities)
    )
    programs = tuple(
        _bind(path, f"/usr/bin/{_name(path)}", why, "ro")
        for path in found.binaries
        if cuda.has_program(path, capabilities)
    )
    files = tuple(
        _bind(path, path, why, "ro", "rbind")
        for path in found.files
        if cuda.has_file(path, capabilities)
    )
    pipes = (_bind(mps, mps, "CUDA_MPS_PIPE_DIRECTORY", "rbind"),) if mps else ()
    notes = () if directory else (
        f"the image has no glibc: it gets the GPUs, but not the libraries of {why}",
    )  # fmt: skip
    visible = _mig_variables(wanted)
    return edits.Edits((*nodes, *libraries, *programs, *files, *pipes), visible, notes=notes)


def _mig_variables(wanted: plan_gpu.Wish) -> tuple[env.Variable, ...]:
    """Return how MIG devices are chosen that were asked for by UUID.

    Which card such a UUID is of says the driver's library alone; CUDA understands it.
    """
    named = tuple(word for word in wanted.which if word.startswith(MIG))
    if not named:
        return ()
    return (env.Variable("CUDA_VISIBLE_DEVICES", ",".join(named), plan_gpu.VISIBLE),)


def _chosen(found: gpu.Nvidia, wanted: plan_gpu.Wish) -> tuple[gpu.Card, ...]:
    if not wanted.which:
        return found.cards
    if any(word.startswith(MIG) for word in wanted.which):
        _check_mig(found, wanted)
        return found.cards
    chosen = []
    for word in wanted.which:
        matching = [card for card in found.cards if word in (str(card.number), card.uuid)]
        if not matching:
            if ":" in word:
                raise errors.DeviceError(
                    f"{plan_gpu.VISIBLE}: {word!r}: a MIG device is known by its UUID here",
                    hint="write it as MIG-... (nvidia-smi -L)",
                )
            there = ", ".join(f"{card.number} ({card.uuid or 'no UUID'})" for card in found.cards)
            raise errors.DeviceError(
                f"{plan_gpu.VISIBLE}: GPU {word!r} is not one that you may open",
                hint=f"there are {there}" if there else "the job has no GPU",
            )
        chosen += matching
    return tuple(dict.fromkeys(chosen))


def _check_mig(found: gpu.Nvidia, wanted: plan_gpu.Wish) -> None:
    """Raise unless MIG devices alone are named, and the job may open some."""
    other = [word for word in wanted.which if not word.startswith(MIG)]
    if other:
        raise errors.DeviceError(
            f"{plan_gpu.VISIBLE}: {other[0]!r} beside a MIG device",
            hint="CUDA takes either; name MIG devices alone, by their UUIDs (nvidia-smi -L)",
        )
    if not any(node.path.startswith("/dev/nvidia-caps/") for node in found.control):
        raise errors.DeviceError(
            f"{plan_gpu.VISIBLE}: {wanted.which[0]}: there is no MIG device that you may open"
        )


def _device(node: devices.Node, why: str) -> mounts.Mount:
    return mounts.Mount(node.path, "device", node.path, (f"{node.major}:{node.minor}",), why)


def _bind(source: str, destination: str, why: str, *options: str) -> mounts.Mount:
    return mounts.Mount(destination, "bind", source, options, why)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
