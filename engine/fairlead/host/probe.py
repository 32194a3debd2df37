"""What this node can do, found out without changing anything: the facts of ``fairlead doctor``.

Rules:
- What an ordinary user can try is tried, in a child that ends at once: a user namespace, and in it
  overlay as a launch mounts it. What only root could try is told from the kernel's release and
  lists, and said to be so.
- No judgement here: see ``diagnosis``.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

from fairlead import kernel
from fairlead.config import Config
from fairlead.host import slurm

PLUGIN = "spank_fairlead.so"
_NOBODY = 65534
_MKE2FS = ("/usr/sbin/mke2fs", "/sbin/mke2fs")  # where the broker looks
_SET_DUMPABLE, _NOSUID, _NODEV = 4, 2, 4
_SYSCTLS = (
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
)


class Line(NamedTuple):
    """The plugin's line in plugstack.conf; ``there`` tells whether the plugin's file exists."""

    file: str
    plugin: str
    arguments: tuple[str, ...]
    there: bool

    def argument(self, key: str) -> str:
        """Return the value of ``key=VALUE``, empty if there is none."""
        found = (a.partition("=")[2] for a in self.arguments if a.startswith(f"{key}="))
        return next(found, "")


class Place(NamedTuple):
    """A store's directory, which need not exist; ``problem`` in the kernel's words."""

    path: str
    exists: bool
    uid: int
    mode: int
    filesystem: str
    free: int
    total: int
    problem: str = ""


class Probe(NamedTuple):
    """What was found on this node, by this user.

    Attributes:
        uid: who asks.
        release: of the kernel, e.g. ``6.12.3-amd64``.
        userns: what making a user namespace said; empty if it worked.
        overlay: the same for an overlay with userxattr in it; ``untried`` without a namespace.
        sysctls: of those that restrict user namespaces, the ones that exist: path, value.
        filesystems: that the kernel has or can load, of those that matter here.
        loop: whether there are loop devices.
        mke2fs: its path where the broker looks for it, empty if it is not installed.
        unsquashfs: its path, empty if it is not installed.
        store: the user's own.
        site: the site store's, None without one.
        slurm_conf: its path, empty if it does not exist.
        line: the plugin's line, None without one.
    """

    uid: int
    release: str
    userns: str
    overlay: str
    sysctls: tuple[tuple[str, str], ...]
    filesystems: frozenset[str]
    loop: bool
    mke2fs: str
    unsquashfs: str
    store: Place
    site: Place | None
    slurm_conf: str
    line: Line | None


def node(config: Config, environ: Mapping[str, str] = os.environ) -> Probe:
    """Look at this node."""
    conf = environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf"
    line = plugin_line(conf)
    site = line.argument("site") if line else ""
    release = os.uname().release
    userns, overlay = try_namespace()
    return Probe(
        os.geteuid(),
        release,
        userns,
        overlay,
        tuple((path, text) for path in _SYSCTLS if (text := _text(path).strip())),
        frozenset(
            n for n in ("erofs", "ext4", "overlay", "squashfs") if has_filesystem(n, release)
        ),
        os.path.exists("/dev/loop-control") or os.path.exists("/sys/module/loop"),
        next((path for path in _MKE2FS if os.access(path, os.X_OK)), ""),
        shutil.which("unsquashfs", path=environ.get("PATH")) or "",
        place(config.store),
        place(site) if site else None,
        conf if os.path.exists(conf) else "",
        line,
    )


# -- Slurm -----------------------------------------------------------------------------------------


def plugin_line(conf: str) -> Line | None:
    """Return the plugin's line of plugstack.conf, which may include other files by pattern.

    Source: spank(8) "Configuration".
    """
    path = slurm.setting(conf, "PlugStackConfig")
    path = path or os.path.join(os.path.dirname(conf), "plugstack.conf")
    return _line_in(path, depth=4)


def _line_in(path: str, depth: int) -> Line | None:
    for text in _text(path).splitlines():
        words = text.partition("#")[0].split()
        if len(words) > 1 and words[0] == "include" and depth:
            pattern = os.path.join(os.path.dirname(path), words[1])
            for included in sorted(glob.glob(pattern)):
                found = _line_in(included, depth - 1)
                if found is not None:
                    return found
        elif len(words) > 1 and os.path.basename(words[1]) == PLUGIN:
            return Line(path, words[1], tuple(words[2:]), os.path.exists(words[1]))
    return None


# -- the kernel ------------------------------------------------------------------------------------


def has_filesystem(name: str, release: str) -> bool:
    """Tell whether the kernel has a file system, built in, loaded, or as a module on disk."""
    known = {line.rpartition("\t")[2] for line in _text("/proc/filesystems").splitlines()}
    modules = f"/lib/modules/{release}"
    if name in known or f"/{name}.ko" in _text(f"{modules}/modules.builtin"):
        return True
    return f"/{name}.ko" in _text(f"{modules}/modules.dep")


def try_namespace() -> tuple[str, str]:
    """Make a user namespace, and an overlay in it, in a child; return what each said."""
    folder = tempfile.mkdtemp(prefix="fairlead-doctor-")
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(send, "\n".join(_tried(folder)).encode())
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8", errors="replace") as file:
        said = file.read(4096).split("\n")
    os.waitpid(pid, 0)
    os.rmdir(folder)
    return (said[0], said[1]) if len(said) > 1 else ("the child ended without a word", "untried")


def _tried(folder: str) -> tuple[str, str]:
    if os.geteuid() == 0:  # as an ordinary user: root's answer would be another one
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self/uid_map is root's
    try:
        kernel.create_namespace()
    except kernel.Failure as error:
        return str(error), "untried"
    try:
        _mount("none", folder, "tmpfs", "")
        for name in "lower", "upper", "work", "root":
            os.mkdir(f"{folder}/{name}")
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work,userxattr"
        _mount("none", f"{folder}/root", "overlay", options)
    except OSError as error:
        return "", f"{error.filename}: {error.strerror}"
    return "", ""


def _mount(source: str, target: str, kind: str, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = (source.encode(), target.encode(), kind.encode())
    if libc.mount(*words, _NOSUID | _NODEV, options.encode()) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), kind)


# -- places ----------------------------------------------------------------------------------------


def place(path: str) -> Place:
    """Look at a store's directory, or at where it would be made."""
    uid, mode, exists, problem = -1, 0, False, ""
    try:
        info = os.lstat(path)
        exists, uid, mode = True, info.st_uid, stat.S_IMODE(info.st_mode)
        if not stat.S_ISDIR(info.st_mode):
            problem = "is not a real directory"
    except OSError as error:
        if error.errno != errno.ENOENT:
            problem = error.strerror or str(error)
    there = path
    while not os.path.isdir(there) and there not in {"/", ""}:
        there = os.path.dirname(there)
    try:
        space = os.statvfs(there)
        free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    except OSError as error:
        free = total = 0
        problem = problem or (error.strerror or str(error))
    return Place(path, exists, uid, mode, filesystem_of(there), free, total, problem)


def filesystem_of(path: str) -> str:
    """Return the type of the file system that a path lies on, empty if it cannot be told."""
    real, best, kind = os.path.realpath(path), "", ""
    for line in _text("/proc/self/mountinfo").splitlines():
        words = line.split()
        if "-" not in words:
            continue
        point = words[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, words[words.index("-") + 1]
    return kind


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(4 << 20)
    except OSError:
        return ""
