"""Recorded GPU nodes as small trees: /dev, /proc, /sys, the loader's cache and a driver's libraries.

A device node is a file that says what ``host.devices`` would: making real ones takes root.
"""

from __future__ import annotations

import functools
import os
import struct
import tempfile

import elf_forge

from fairlead.host import devices, ldso

VERSION = "550.54.14"
FOLDER = f"/usr/lib/{elf_forge.TRIPLET}"
# Of nvidia-utils, libcuda1 and others, as Debian's packages of that driver place them.
SONAMES = {
    "libcuda": "libcuda.so.1",
    "libnvidia-ml": "libnvidia-ml.so.1",
    "libnvidia-ptxjitcompiler": "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-glcore": f"libnvidia-glcore.so.{VERSION}",
    "libnvidia-opticalflow": "libnvidia-opticalflow.so.1",
}
BUS = ("0000:81:00.0", "0000:01:00.0")  # of /dev/nvidia0 and /dev/nvidia1: the other way round


def put(root, path, text=""):
    place = f"{root}{path}"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "w", encoding="utf-8") as file:
        file.write(text)


def node(root, path, major, minor, rights="rw"):
    put(root, path, f"c {major} {minor} {rights}")


def look(path, root=""):
    """Stand in for ``host.devices.look``."""
    place = os.path.realpath(root + path, strict=True)
    with open(place, encoding="utf-8") as file:
        kind, major, minor, *rights = file.read().split()
    held = "".join(rights)
    found = place.removeprefix(os.path.realpath(root)) if root else place
    return devices.Node(found, kind, int(major), int(minor), "r" in held, "w" in held)


def cache(root, entries):
    """Write an ld.so.cache of the new form for this machine."""
    flags = ldso._CACHE_FLAGS[ldso.machine()]
    strings, table = b"", b""
    start = 48 + 24 * len(entries)
    for name, path in entries:
        at = []
        for text in (name, path):
            at.append(start + len(strings))
            strings += text.encode() + b"\0"
        table += struct.pack("<iIIIQ", flags, *at, 0, 0)
    head = b"glibc-ld.so.cache1.1" + struct.pack("<II", len(entries), len(strings)) + b"\0" * 20
    os.makedirs(f"{root}/etc", exist_ok=True)
    with open(f"{root}/etc/ld.so.cache", "wb") as file:
        file.write(head + table + strings)


@functools.cache
def _library(soname):
    with tempfile.TemporaryDirectory() as place:
        path = elf_forge.library(f"{place}/library", soname=soname)
        with open(path, "rb") as file:
            return file.read()


def driver(root, version=VERSION, folder=FOLDER):
    """Install the libraries of a driver and the cache that names them."""
    entries = []
    for name, soname in SONAMES.items():
        real = f"{folder}/{name}.so.{version}"
        put(root, real)
        with open(root + real, "wb") as file:
            file.write(_library(soname))
        if soname != f"{name}.so.{version}":
            os.symlink(f"{name}.so.{version}", f"{root}{folder}/{soname}")
        entries.append((soname, f"{folder}/{soname}"))
    cache(root, entries)


def nvidia(root):
    """Forge a node with two NVIDIA GPUs."""
    put(root, "/sys/module/nvidia/version", f"{VERSION}\n")
    put(
        root,
        "/proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {VERSION}  Thu Feb 22\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
    )
    for minor, bus in enumerate(BUS):
        node(root, f"/dev/nvidia{minor}", 195, minor)
        put(
            root,
            f"/proc/driver/nvidia/gpus/{bus}/information",
            f"Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-{minor:08x}\nDevice Minor: \t {minor}\n",
        )
    for minor, name in ((255, "nvidiactl"), (254, "nvidia-modeset")):
        node(root, f"/dev/{name}", 195, minor)
    for minor, name in enumerate(("nvidia-uvm", "nvidia-uvm-tools")):
        node(root, f"/dev/{name}", 511, minor)
    node(root, "/dev/nvidia-caps/nvidia-cap1", 236, 1, rights="")
    node(root, "/dev/nvidia-caps/nvidia-cap2", 236, 2, rights="r")
    put(root, "/usr/bin/nvidia-smi", "#!/bin/sh\n")
    put(root, "/usr/bin/nvidia-cuda-mps-control", "#!/bin/sh\n")
    put(root, f"/lib/firmware/nvidia/{VERSION}/gsp_ga10x.bin")
    put(root, "/etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n")
    put(root, "/run/nvidia-persistenced/socket")
    driver(root)


def amd(root):
    """Forge a node with two GPUs of AMD and a console's card."""
    node(root, "/dev/kfd", 511, 0)
    for number in (0, 1):
        node(root, f"/dev/dri/card{number}", 226, number)
        node(root, f"/dev/dri/renderD{128 + number}", 226, 128 + number)
    os.makedirs(f"{root}/dev/dri/by-path")
    os.symlink("../renderD128", f"{root}/dev/dri/by-path/pci-0000:03:00.0-render")
    os.symlink("../../../etc/passwd", f"{root}/dev/dri/by-path/out")
