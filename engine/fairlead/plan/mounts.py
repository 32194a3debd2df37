"""Which of the host's directories, files and devices the container sees, and why. Pure.

Order matters: later mounts lie over earlier ones, so the list goes from the kernel's trees to the
user's wishes.
"""

from __future__ import annotations

from typing import NamedTuple

from fairlead import errors
from fairlead.host import facts as host_facts
from fairlead.plan import request as launch

# A bind of the job's directory over one of these would replace the image's own programs by the
# host's.
IMAGE_TREES = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc"),
    *("/root", "/run", "/sbin", "/sys", "/usr", "/var/lib", "/var/cache"),
)


HOMES_ALLOWED = ("/opt", "/root", "/run", "/var/lib", "/var/cache")
# Homes may lie in /opt or /var/lib (service users), never over what holds programs.
PROGRAM_TREES = tuple(tree for tree in IMAGE_TREES if tree not in HOMES_ALLOWED)


class Mount(NamedTuple):
    """One mount of the container.

    ``type`` is ``bind``, ``tmpfs``, ``file`` (source holds the content of a generated file) or
    ``device``. ``options`` are runtime-spec mount options, plus ``optional`` (no error if the
    source is gone), ``strict`` (the image's own path must not be a symbolic link) and ``dev``; of a
    device its number, and ``block`` if it is one. A bind without ``rbind`` shows no mounts below
    its source.
    """

    destination: str
    type: str
    source: str
    options: tuple[str, ...]
    reason: str
    template: str = ""  # how source and destination are made from the step's variables


class Link(NamedTuple):
    """A symbolic link made in the container's /dev."""

    path: str
    content: str
    reason: str


def kernel_trees(
    facts: host_facts.Facts, unshare: tuple[str, ...] = ()
) -> tuple[list[Mount], list[Link]]:
    """Return /proc, /sys and /dev; what a namespace of its own shows, its own tree shows."""
    of_network = Mount("/sys", "sysfs", "sysfs", ("ro", "strict"), "of its own network")
    shared = "topology and device discovery, read-only"
    mounts = [
        # The host's: the pid namespace is shared, which MPI's shared memory and PMIx need (mpi.md
        # section 1).
        Mount(
            "/proc",
            "bind",
            "/proc",
            ("rbind", "strict"),
            "host's pid namespace, shared with the other ranks",
        ),
        of_network
        if "net" in unshare
        else Mount("/sys", "bind", "/sys", ("rbind", "ro", "strict"), shared),
        Mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            ("mode=0755", "size=1m", "strict"),
            "only the devices listed here",
        ),
    ]
    for path, kind in (("/dev/pts", "terminals"), ("/dev/shm", "shared memory between ranks"),  # noqa: S108
                       ("/dev/mqueue", "message queues")):  # fmt: skip
        if path == "/dev/mqueue" and "ipc" in unshare:
            mounts.append(Mount(path, "mqueue", "mqueue", (), "of its own ipc namespace"))
        elif path in facts.directories:
            options = ("rbind", "dev") if path == "/dev/pts" else ("rbind",)
            mounts.append(Mount(path, "bind", path, options, kind))
    for device in facts.devices:
        number = f"{device.major}:{device.minor}"
        mounts.append(Mount(device.path, "device", device.path, (number,), device.reason))
    links = [
        Link("/dev/fd", "/proc/self/fd", "runtime-spec"),
        Link("/dev/stdin", "/proc/self/fd/0", "runtime-spec"),
        Link("/dev/stdout", "/proc/self/fd/1", "runtime-spec"),
        Link("/dev/stderr", "/proc/self/fd/2", "runtime-spec"),
    ]
    if not any(device.path == "/dev/ptmx" for device in facts.devices):
        links.append(Link("/dev/ptmx", "pts/ptmx", "devpts of this host"))
    return mounts, links


def identity_files(
    facts: host_facts.Facts, passwd: str, group: str, accounts: tuple[str, ...] = ()
) -> list[Mount]:
    """Return name resolution and the user's entries, and those of further accounts.

    passwd and group are the image's own texts.
    """
    mounts = [
        Mount(path, "bind", path, ("rbind", "ro", "optional"), "the host's name resolution")
        for path in ("/etc/resolv.conf", "/etc/hosts")
        if path in facts.existing
    ]
    me = facts.user
    entry = f"{me.name}:x:{me.uid}:{me.gid}::{me.home}:/bin/sh"
    for account in accounts:
        name, _, number, *_ = account.split(":")
        if f"{name}:{number}" not in (_named(line) for line in passwd.splitlines()):
            passwd = "\n".join([account, *_without(passwd, name, int(number))])
    lines = [entry, *_without(passwd, me.name, me.uid)]
    mounts.append(
        Mount("/etc/passwd", "file", _text(lines), (), "the image's entries and the user's")
    )
    kept = group
    entries = []
    for gid, name in me.groups:
        kept = "\n".join(_without(kept, name, gid))
        entries.append(f"{name}:x:{gid}:{me.name}")
    mounts.append(
        Mount("/etc/group", "file", _text([*entries, *kept.splitlines()]), (), "likewise")
    )
    return mounts


def as_root(facts: host_facts.Facts) -> host_facts.Facts:
    """Return the facts as one sees them to whom the user is root."""
    me = facts.user._replace(uid=0, gid=0, name="root", home="/root", groups=((0, "root"),))
    return facts._replace(user=me)


def user_directories(
    request: launch.Request, facts: host_facts.Facts, inside: str = ""
) -> list[Mount]:
    """Return home, temporary directories and the job's directory.

    The home is at the path ``inside``, if one is given, in place of its own.
    """
    mounts = [
        Mount(path, "bind", path, ("rbind",), "default")
        for path in ("/tmp", "/var/tmp")  # noqa: S108
        if path in facts.directories
    ]
    home = facts.user.home
    if request.mount_home and home in facts.directories and may_bind(home, PROGRAM_TREES):
        why = "home directory (setting mount_home)"
        mounts.append(Mount(inside or home, "bind", home, ("rbind", "optional"), why))
    cwd = request.cwd
    left_out = not request.mount_home and _lies_in(cwd, home)
    visible = cwd in facts.directories and may_bind(cwd) and not left_out
    if cwd and visible and not _covered(cwd, mounts):
        mounts.append(Mount(cwd, "bind", cwd, ("rbind", "optional"), "the job's working directory"))
    return mounts


def with_volumes(mounts: list[Mount], volumes: tuple[launch.Volume, ...]) -> list[Mount]:
    """Return the mounts with what the user asked for, in the order of asking.

    Raises:
        errors.MountError: nothing is mounted where a mount was to be taken away.
    """
    made = list(mounts)
    for volume in volumes:
        if volume.kind != "umount":
            made.append(_volume(volume))
            continue
        place = volume.destination.rstrip("/")
        left = [mount for mount in made if not _lies_in(mount.destination, place)]
        if len(left) == len(made):
            raise errors.MountError(
                f"{volume.origin}: umount:{volume.destination}: nothing is mounted there",
                hint="leave it out",
            )
        made = left
    return made


def _volume(volume: launch.Volume) -> Mount:
    why = f"asked for by {volume.origin}"
    if volume.kind == "tmpfs":
        return Mount(volume.destination, "tmpfs", "tmpfs", volume.flags, why)
    tree = () if "bind" in volume.flags else ("rbind",)
    flags = (flag for flag in volume.flags if flag not in ("rw", "rbind"))
    return Mount(volume.destination, "bind", volume.source, (*tree, *flags), why)


def slurm_directories(request: launch.Request, facts: host_facts.Facts) -> list[Mount]:
    """Return what a Slurm step needs inside: PMIx's directories, munge, the batch script."""
    mounts = []
    if "/run/munge" in facts.directories:
        mounts.append(
            Mount(
                "/run/munge",
                "bind",
                "/run/munge",
                ("rbind", "optional"),
                "PMIx security (psec/munge)",
            )
        )
    why = "PMIx server of this step"
    mounts += [
        Mount(path, "bind", path, ("rbind",), why, template) for path, template in facts.pmix
    ]
    if request.step and request.step.script:
        script = request.step.script
        mounts.append(Mount(script, "bind", script, ("ro",), "the batch script"))
    if request.step and request.step.helper:
        why = "turns the sealed commands of --multi-prog back (spank_shim/seal.h)"
        mounts.append(Mount("/.fairlead/exec", "bind", request.step.helper, ("ro",), why))
    return mounts


def may_bind(path: str, trees: tuple[str, ...] = IMAGE_TREES) -> bool:
    """Tell whether a host directory may appear at its path without hiding the image's own trees.

    Neither one of them, nor anything below or above.
    """
    return not any(
        f"{path}/".startswith(f"{tree}/") or f"{tree}/".startswith(f"{path.rstrip('/')}/")
        for tree in trees
    )


def _covered(path: str, mounts: list[Mount]) -> bool:
    return any(_lies_in(path, mount.destination.rstrip("/")) for mount in mounts)


def _lies_in(path: str, place: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{place}/")


def _without(text: str, name: str, number: int) -> list[str]:
    """Return the lines of a passwd or group text that concern neither this name nor this number."""
    kept = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and (fields[0] == name or fields[2] == str(number)):
            continue
        kept.append(line)
    return kept


def _named(line: str) -> str:
    """Return name and number of a line of passwd."""
    name, _, number = (*line.split(":", 3), "", "", "")[:3]
    return f"{name}:{number}"


def _text(lines: list[str]) -> str:
    return "\n".join(line for line in lines if line) + "\n"
