"""Judge a node from what ``probe`` found: one line per subject, with the remedy. Pure.

Which way a launch takes, and why:

    site: EROFS by file    the plugin names a shared store, the kernel (6.12) mounts from the file
    site: EROFS by loop    the same through a loop device
    user: tree             anything else: every user unpacks into a store of their own
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fairlead.config import Config
from fairlead.host import cdi as specifications
from fairlead.host import gpu
from fairlead.host.hooks import Rule
from fairlead.host.probe import Place, Probe
from fairlead.keys import size_bytes

OK, WARN, FAIL = "ok", "warn", "fail"

# Source: the kernel's history of EROFS: idmapped mounts, mounts from a file.
IDMAPPED_SINCE, BY_FILE_SINCE = (5, 19), (6, 12)
NEEDED = (5, 12)
SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "afs", "panfs", "cifs"}
LITTLE = 2 << 30
# As in spank_shim/arguments.c and broker_room.c.
UPPER_MAX, LEAST_UPPER = "50%", 8 << 20


class Item(NamedTuple):
    """One line: what it is about, ``ok``, ``warn`` or ``fail``, what was found, what to do."""

    subject: str
    verdict: str
    found: str
    remedy: str = ""


def kernel(probe: Probe) -> Item:
    """Judge the kernel's release."""
    if version(probe.release) < NEEDED:
        return Item("kernel", FAIL, probe.release, "Linux 5.12 or later is needed")
    return Item("kernel", OK, probe.release)


def userns(probe: Probe) -> Item:
    """Judge whether users can make the namespaces of a container."""
    if not probe.userns:
        return Item("user namespaces", OK, "an ordinary user can make one")
    remedy = "allow unprivileged user namespaces"
    for path, value in probe.sysctls:
        name = path.removeprefix("/proc/sys/").replace("/", ".")
        restricts = value != "0" if "apparmor" in path else value == "0"
        if restricts:
            wanted = "15000" if "max_" in name else "0" if "apparmor" in name else "1"
            remedy = f"set {name}={wanted} (it is {value})"
    return Item("user namespaces", FAIL, probe.userns, remedy)


def overlay(probe: Probe) -> Item:
    """Judge overlay as a launch mounts it: by a user, with userxattr."""
    if probe.overlay == "untried":
        return Item("overlay", WARN, "not tried without a user namespace", "see user namespaces")
    if probe.overlay:
        remedy = "load the overlay module; userxattr needs Linux 5.11"
        return Item("overlay", FAIL, probe.overlay, remedy)
    return Item("overlay", OK, "a user can mount one with userxattr")


def erofs(probe: Probe) -> Item:
    """Judge how the kernel would mount the shared store's layers."""
    way = erofs_way(probe)
    subject = "EROFS"
    if not way:
        lacks = "the kernel has none" if "erofs" not in probe.filesystems else "too old, or no loop"
        needs = WARN if probe.site else OK
        remedy = (
            "needed by the shared store only: Linux 5.19, CONFIG_EROFS_FS" if probe.site else ""
        )
        return Item(subject, needs, lacks, remedy)
    found = f"there; idmapped, an image's layers as one mount by {way} (only root could try it)"
    return Item(subject, OK, found)


def erofs_way(probe: Probe) -> str:
    """Return ``file`` or ``loop``, empty if the kernel cannot serve the shared store."""
    release = version(probe.release)
    if "erofs" not in probe.filesystems or release < IDMAPPED_SINCE:
        return ""
    if release >= BY_FILE_SINCE:
        return "file"
    return "loop" if probe.loop else ""


def squashfs(probe: Probe) -> Item:
    """Judge whether images in squashfs and SIF files can be unpacked."""
    if probe.unsquashfs:
        return Item("squashfs, SIF", OK, probe.unsquashfs)
    remedy = "install squashfs-tools if users name such files"
    return Item("squashfs, SIF", WARN, "unsquashfs is not installed", remedy)


def plugin(probe: Probe) -> Item:
    """Judge the plugin's line in plugstack.conf."""
    if probe.line is None:
        if not probe.slurm_conf:
            return Item("Slurm plugin", OK, "no Slurm on this node; fairlead run works without")
        remedy = "run ./install on this node and restart slurmd"
        return Item("Slurm plugin", WARN, f"no line for it beside {probe.slurm_conf}", remedy)
    text = " ".join((probe.line.plugin, *probe.line.arguments))
    if not probe.line.there:
        remedy = f"correct the path in {probe.line.file}, or run ./install"
        return Item("Slurm plugin", FAIL, f"{probe.line.plugin} does not exist", remedy)
    return Item("Slurm plugin", OK, f"{text} ({probe.line.file})")


def own_store(probe: Probe) -> Item:
    """Judge the user's own store."""
    found = probe.store
    wrong = found.problem
    if not wrong and found.exists and found.uid != probe.uid:
        wrong = f"belongs to uid {found.uid}, not to you ({probe.uid})"
    if not wrong and found.mode & 0o022:
        wrong = f"others may write there (mode {found.mode:04o})"
    return _place_item("store", found, wrong, "set FAIRLEAD_STORE to a node-local directory")


def site_store(probe: Probe) -> Item:
    """Judge the shared store that the plugin's line names."""
    found = probe.site
    if found is None:
        return Item("shared store", OK, "none (the plugin's line has no site=DIRECTORY)")
    wrong = found.problem
    if not wrong and not found.exists:
        wrong = "does not exist"
    elif not wrong and (found.uid == 0 or found.mode & 0o077):
        wrong = f"belongs to uid {found.uid}, mode {found.mode:04o}"
    remedy = "give it to the account fairlead, mode 0700, on a node-local disk (./install does)"
    return _place_item("shared store", found, wrong, remedy)


def upper(probe: Probe) -> Item:
    """Judge whether a container can have a disk to write to (``upper = "disk"``)."""
    subject, verdict = "upper on disk", OK if probe.site is None else WARN
    lacks = (
        (probe.site is None, "no: only the shared store's broker can limit it", ""),
        (site_store(probe).verdict == FAIL, "no: the shared store is not usable", "see there"),
        (not probe.loop, "no: there are no loop devices", "load the loop module"),
        ("ext4" not in probe.filesystems, "no: the kernel has no ext4", "load the ext4 module"),
        (not probe.mke2fs, "no: mke2fs is not installed in /usr/sbin", "install e2fsprogs"),
    )
    for missing, found, remedy in lacks:
        if missing:
            return Item(subject, verdict, found, remedy)
    most = (probe.line.argument("upper_max") if probe.line else "") or UPPER_MAX
    if most == "0":
        return Item(subject, OK, "no: the administrator allows none (upper_max=0)")
    size = size_bytes(most, probe.site.free if probe.site else 0)
    if size is None:
        remedy = "write it as 20G or 50%"
        return Item(subject, FAIL, f"no: upper_max={most} in plugstack.conf is no size", remedy)
    if size < LEAST_UPPER:
        return Item(subject, WARN, f"no: {size >> 20} MiB is too little", "free space there")
    return Item(subject, OK, f"possible, at most {most}{' of what is free' * most.endswith('%')}")


def mode(probe: Probe) -> Item:
    """Say which way a launch takes under Slurm, and why."""
    way = erofs_way(probe)
    if probe.line is None or probe.site is None:
        why = "no plugin" if probe.line is None else "the plugin's line has no site=DIRECTORY"
        return Item("mode", OK, f"user: tree ({why})")
    if site_store(probe).verdict == FAIL:
        return Item("mode", WARN, "user: tree (the shared store is not usable)", "see shared store")
    if not way:
        return Item("mode", WARN, "user: tree (the kernel cannot mount EROFS here)", "see EROFS")
    return Item(
        "mode", OK, f"site: EROFS by {way}; user: tree for fairlead run and images in files"
    )


def registry(config: Config) -> Item:
    """Show what names without a registry mean, and which registries are not verified."""
    text = f"{config.default_registry} by default ({config.origins['default_registry']})"
    beyond = [name for name in config.insecure_registries if not _is_loopback(name)]
    if not beyond:
        return Item("registries", OK, text)
    listed = ", ".join(beyond)
    origin = config.origins["insecure_registries"]
    return Item(
        "registries",
        WARN,
        f"{text}; without TLS: {listed} ({origin})",
        "whoever is on the way can change an image; give them TLS",
    )


def mpi(names: tuple[str, ...]) -> Item:
    """Show the host's MPI installations."""
    if names:
        return Item("MPI of the host", OK, ", ".join(names))
    return Item("MPI of the host", OK, "none found: the image's own is used")


def gpus(nvidia: gpu.Nvidia | None, render: gpu.Render) -> Item:
    """Show the GPUs that this user may open; judge the halves of NVIDIA's driver."""
    found = []
    if nvidia is not None:
        found.append(f"NVIDIA driver {nvidia.version}, {len(nvidia.cards)} of its GPUs yours")
    if render.nodes:
        found.append(f"{', '.join(node.path for node in render.nodes)}")
    if nvidia is not None and not nvidia.libraries:
        remedy = "install the driver's libraries of the module's version, or a CDI specification"
        return Item("GPUs", WARN, f"{found[0]}; no library of this version", remedy)
    return Item("GPUs", OK, "; ".join(found) or "none that you may open")


def cdi(registry: specifications.Registry) -> Item:
    """Show the CDI devices; a specification that cannot be used is a warning."""
    names = tuple(f"{spec.kind}={name}" for spec in registry.specs for name, _ in spec.devices)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    shown = f"{', '.join(names[:8])}{more}" if names else "no devices"
    if registry.faults:
        return Item("CDI", WARN, f"{shown}; not used: {registry.faults[0]}", "correct the file")
    return Item("CDI", OK, shown)


def hooks(rules: tuple[Rule, ...], fault: str) -> Item:
    """Show the site's OCI hooks; one that cannot be used stops every launch."""
    if fault:
        return Item("OCI hooks", FAIL, fault, "correct it, or change the setting hooks_dirs")
    paths = dict.fromkeys(hook.path for rule in rules for hook in rule.hooks)
    return Item("OCI hooks", OK, ", ".join(paths) or "none")


def of_node(probe: Probe) -> tuple[Item, ...]:
    """Judge all that the probe has."""
    judges = (kernel, userns, overlay, erofs, squashfs, plugin, own_store, site_store, upper, mode)
    return tuple(judge(probe) for judge in judges)


def _is_loopback(name: str) -> bool:
    return name.startswith(("127.", "localhost", "[::1]"))


def version(release: str) -> tuple[int, int]:
    """Return a kernel release's first two numbers."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _place_item(subject: str, found: Place, wrong: str, remedy: str) -> Item:
    kind = f" on {found.filesystem}" if found.filesystem else ""
    text = f"{found.path}{kind}, {found.free / 1e9:,.1f} of {found.total / 1e9:,.1f} GB free"
    if wrong:
        return Item(subject, FAIL, f"{found.path}: {wrong}", remedy)
    if found.filesystem in SHARED:
        why = "it should be node-local: every node would unpack there, and locks may not hold"
        return Item(subject, WARN, f"{text}; {why}", remedy)
    if found.free < LITTLE:
        return Item(subject, WARN, text, "fairlead store gc, or free space there")
    note = "" if found.exists else ", made by the first launch"
    return Item(subject, OK, text + note)
