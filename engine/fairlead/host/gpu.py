"""The GPUs of this host and the files of their driver, found without running anything.

NVIDIA's driver is in two halves of exactly one version: the kernel's, and the libraries, which a
container must get from the host. They are found by their names in the loader's cache and beside
libcuda; a file of another version is not the driver's. AMD's and Intel's libraries belong to the
image: their device nodes are all that a container needs.

Rules:
- Read-only; nothing is executed, no device is opened.
- Every reader takes the root that it reads; tests give a forged one.
- Which GPUs a job may use is decided by the kernel: a node that this user may not open (its mode,
  or the job's device cgroup) is not there.

Source: NVIDIA's documentation of the driver's installed components; libnvidia-container's lists;
ROCm and oneAPI documentation (/dev/kfd, /dev/dri).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fairlead import kernel
from fairlead.host import devices, elf, facts, ldso

LIBRARIES = (
    *("libcuda.so", "libcudadebugger.so", "libnvcuvid.so", "libnvoptix.so", "libnvidia-"),
    *("libGLX_nvidia.so", "libEGL_nvidia.so", "libGLESv1_CM_nvidia.so", "libGLESv2_nvidia.so"),
    *("libvdpau_nvidia.so", "libnvidia_icd.so"),
)
# Names that programs ask for and no soname gives them.
ALIASES = {"libcuda.so.1": "libcuda.so", "libnvidia-opticalflow.so.1": "libnvidia-opticalflow.so"}
BINARIES = (
    *("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control"),
    *("nvidia-cuda-mps-server", "nvidia-imex", "nvidia-imex-ctl"),
)
BINARY_PLACES = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin", "/sbin", "/opt/bin")
FILES = (
    *("/etc/OpenCL/vendors/nvidia.icd", "/usr/share/vulkan/icd.d/nvidia_icd.json"),
    *("/etc/vulkan/icd.d/nvidia_icd.json", "/usr/share/vulkan/icd.d/nvidia_icd.x86_64.json"),
    *("/usr/share/glvnd/egl_vendor.d/10_nvidia.json", "/usr/share/nvidia/nvoptix.bin"),
    *("/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",),
    *("/etc/vulkan/implicit_layer.d/nvidia_layers.json",),
    *("/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",),
    *("/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",),
)
SOCKETS = ("/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket")
CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-nvlink")
CONTROL_BEGINS = ("nvidia-nvswitch",)
CONTROL_FOLDERS = ("nvidia-caps", "nvidia-caps-imex-channels")
MAX_ENTRIES = 1 << 16


class Card(NamedTuple):
    """An NVIDIA GPU: its place in nvidia-smi's order, its UUID where the driver says it."""

    number: int
    uuid: str
    node: devices.Node
    model: str = ""


class Library(NamedTuple):
    """A file of the driver, and the names under which programs look for it."""

    path: str
    names: tuple[str, ...]


class Nvidia(NamedTuple):
    """NVIDIA's driver on this host. Paths are real ones."""

    version: str
    libraries: tuple[Library, ...]
    binaries: tuple[str, ...]
    files: tuple[str, ...]  # at their own places: configuration, firmware, sockets
    cards: tuple[Card, ...]  # those that this user may open
    control: tuple[devices.Node, ...]


class Render(NamedTuple):
    """GPUs of AMD and Intel: their nodes, and the links below /dev/dri/by-path to them."""

    nodes: tuple[devices.Node, ...]
    links: tuple[tuple[str, str], ...]  # path, content


def nvidia_version(root: str = "") -> str:
    """Return the version of the loaded NVIDIA driver; empty: there is none."""
    for path in facts.NVIDIA_VERSIONS:
        for word in _text(root + path).split():
            parts = word.split(".")
            if 2 <= len(parts) <= 4 and all(part.isdecimal() for part in parts):
                return word
    return ""


def nvidia(root: str = "") -> Nvidia | None:
    """Return what this host has of NVIDIA's driver, None where it is not loaded."""
    version = nvidia_version(root)
    if not version:
        return None
    loader = ldso.Loader(root or "/")
    return Nvidia(
        version,
        _libraries(loader, version),
        _binaries(root),
        _files(root, version),
        _cards(root),
        _control(root),
    )


def render(root: str = "") -> Render:
    """Return the GPUs that the kernel's graphics drivers show; for AMD with its compute node."""
    names = _names(root + facts.DRI)
    if not any(name.startswith("renderD") for name in names):
        return Render((), ())  # a card without it only shows a picture, as a server's console does
    paths = [
        facts.KFD,
        *(f"{facts.DRI}/{name}" for name in names if name.startswith(("renderD", "card"))),
    ]
    found = (_node(path, root) for path in paths)
    nodes = tuple(node for node in found if node and devices.openable(node))
    links = []
    known = {node.path for node in nodes}
    for name in _names(f"{root}{facts.DRI}/by-path"):
        path = f"{facts.DRI}/by-path/{name}"
        content = _link(root + path)
        if os.path.normpath(f"{facts.DRI}/by-path/{content}") in known:
            links.append((path, content))
    return Render(nodes, tuple(links))


def _libraries(loader: ldso.Loader, version: str) -> tuple[Library, ...]:
    """Return the driver's libraries: of this version, by the cache and beside libcuda."""
    real: set[str] = set()
    for name, path in loader.cache.items():
        if name.startswith(LIBRARIES):
            real.add(loader.usable(path) or "")
    for folder in {os.path.dirname(path) for path in real if path} or set(loader.default):
        for name in _names(loader.host(folder)):
            if name.startswith(LIBRARIES) and name.endswith(f".so.{version}"):
                real.add(loader.usable(f"{folder}/{name}") or "")
    return tuple(
        Library(path, _library_names(loader, path))
        for path in sorted(real)
        if path.endswith(f".so.{version}")
    )


def _library_names(loader: ldso.Loader, path: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((os.path.basename(path), *sonames(loader, path))))


def sonames(loader: ldso.Loader, path: str) -> tuple[str, ...]:
    """Return the names under which programs ask for a library, its file's apart."""
    try:
        headers = loader.headers(path)
    except (elf.ElfError, OSError, ValueError):
        return ()
    soname = headers.soname if headers and "/" not in headers.soname else ""
    return tuple(name for name in (soname, ALIASES.get(soname, "")) if name)


def _binaries(root: str) -> tuple[str, ...]:
    found = []
    for name in BINARIES:
        for place in BINARY_PLACES:
            if _is_file(f"{root}{place}/{name}"):
                found.append(f"{place}/{name}")
                break
    return tuple(found)


def _files(root: str, version: str) -> tuple[str, ...]:
    firmware = f"/lib/firmware/nvidia/{version}"
    found = [path for path in FILES if _is_file(root + path)]
    found += [firmware] if os.path.isdir(root + firmware) else []
    return (*found, *(path for path in SOCKETS if os.path.exists(root + path)))


def _cards(root: str) -> tuple[Card, ...]:
    """Return the GPUs in the order of their places on the bus, which is nvidia-smi's."""
    told = {}
    for place in _names(f"{root}/proc/driver/nvidia/gpus"):
        lines = _text(f"{root}/proc/driver/nvidia/gpus/{place}/information").split("\n")
        pairs = (line.partition(":") for line in lines)
        said = {key.strip(): value.strip() for key, _, value in pairs}
        names = (said.get("GPU UUID", ""), said.get("Model", ""))
        told[said.get("Device Minor", "")] = (place, *names)
    minors = [name[6:] for name in _names(f"{root}/dev") if _is_card(name)]
    minors.sort(key=lambda minor: (told.get(minor, ("~",))[0], int(minor)))
    cards = []
    for number, minor in enumerate(minors):
        node = _node(f"/dev/nvidia{minor}", root)
        if node and devices.openable(node):
            _, uuid, model = told.get(minor, ("", "", ""))
            cards.append(Card(number, uuid, node, model))
    return tuple(cards)


def _is_card(name: str) -> bool:
    return name.startswith("nvidia") and name[6:].isdecimal() and len(name) < 12


def _control(root: str) -> tuple[devices.Node, ...]:
    paths = [
        f"/dev/{name}"
        for name in _names(f"{root}/dev")
        if name in CONTROL or name.startswith(CONTROL_BEGINS)
    ]
    for folder in CONTROL_FOLDERS:
        paths += [f"/dev/{folder}/{name}" for name in _names(f"{root}/dev/{folder}")]
    nodes = (_node(path, root) for path in paths)
    return tuple(node for node in nodes if node and devices.openable(node))


def _node(path: str, root: str) -> devices.Node | None:
    try:
        node = devices.look(path, root)
    except OSError:
        return None
    return node if node.kind == "c" else None


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))[:MAX_ENTRIES]
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _is_file(path: str) -> bool:
    return os.path.isfile(path)


# -- the image -------------------------------------------------------------------------------------


def library_directory(rootfs: str) -> str:
    """Return the directory in which an image's loader looks anyway and that has its libc.

    Empty: the image has no glibc for this machine. Hostile input: links are followed inside the
    image only, and what is returned is a path for the image's root, never for the host's.
    """
    try:
        loader = ldso.Loader(rootfs)
        for directory in loader.default:
            if loader.usable(f"{directory}/libc.so.6"):
                return loader.place(directory)
    except (elf.ElfError, OSError, ValueError):
        return ""
    return ""


def compat_version(rootfs: str, directory: str) -> str:
    """Return the version of the libcuda that an image has in a directory of its own, or nothing."""
    prefix = "libcuda.so."
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            folder = kernel.open_in_root(root, directory, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(root)
    except OSError:
        return ""
    try:
        names = sorted(os.listdir(folder))[:MAX_ENTRIES]
    except OSError:
        return ""
    finally:
        os.close(folder)
    found = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return next((text for text in found if "." in text and text[:1].isdecimal()), "")
