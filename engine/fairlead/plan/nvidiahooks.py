"""NVIDIA's own CDI hooks, done by the plan instead of being run. Pure.

``nvidia-ctk cdi generate`` writes hooks that edit a container as root does: links, the loader's
cache, modes of directories. What they mean is known, and a plan can say it: links are links, and a
library that the loader's cache should name goes where the image's loader looks anyway
(``plan.driver``). So no program of the host runs ldconfig on an image.

Rules:
- Known by the program's name (nvidia-cdi-hook, nvidia-ctk hook) and its first word. Another word
  is another hook, which runs.

Source: NVIDIA Container Toolkit, ``cmd/nvidia-cdi-hook/README.md``.
"""

from __future__ import annotations

from typing import NamedTuple

from fairlead import errors
from fairlead.host import hooks
from fairlead.plan import mounts
from fairlead.plan import request as launch

PROGRAMS = {"nvidia-cdi-hook": 1, "nvidia-ctk": 2}  # and the place of the word behind it
LINKS = "create-symlinks"
FOLDERS = ("update-ldcache", "create-soname-symlinks")
COMPAT = "enable-cuda-compat"
# Modes of directories of device nodes, and a file that tells the driver not to make nodes.
NEEDLESS = ("chmod", "disable-device-node-modification")


class Meaning(NamedTuple):
    """What hooks want: links, folders for the loader, the image's newer CUDA; and the others."""

    links: tuple[mounts.Link, ...] = ()
    folders: tuple[str, ...] = ()
    compat: bool = False
    rest: tuple[hooks.Hook, ...] = ()


def word(hook: hooks.Hook) -> str:
    """Return the word of a hook that is known; empty: none of them."""
    place = PROGRAMS.get(hook.path.rpartition("/")[2], 0)
    found = hook.args[place] if 0 < place < len(hook.args) else ""
    if place == 2 and hook.args[1:2] != ("hook",):
        return ""
    return found if found in (LINKS, *FOLDERS, COMPAT, *NEEDLESS) else ""


def meaning(given: tuple[hooks.Hook, ...]) -> Meaning:
    """Return what hooks want.

    Raises:
        errors.DeviceError: a link is malformed.
    """
    links: tuple[mounts.Link, ...] = ()
    folders: tuple[str, ...] = ()
    for hook in given:
        found = word(hook)
        if found == LINKS:
            links += tuple(_link(text, hook) for text in _values(hook, "--link"))
        elif found in FOLDERS:
            folders += tuple(_values(hook, "--folder"))
    return Meaning(
        tuple(dict.fromkeys(links)),
        tuple(dict.fromkeys(folders)),
        any(word(hook) == COMPAT for hook in given),
        tuple(hook for hook in given if not word(hook)),
    )


def _link(text: str, hook: hooks.Hook) -> mounts.Link:
    content, _, path = text.partition("::")
    launch.check_path(path, f"{hook.origin}: --link {text}: link", errors.DeviceError)
    if not content or ".." in path.split("/") or not content.isprintable() or path.endswith("/"):
        raise errors.DeviceError(f"{hook.origin}: --link {text!r}: is not TARGET::LINK")
    return mounts.Link(path, content, hook.origin)


def _values(hook: hooks.Hook, option: str) -> list[str]:
    """Return the values of an option that may come several times."""
    found = []
    for at, text in enumerate(hook.args):
        if text == option and at + 1 < len(hook.args):
            found.append(hook.args[at + 1])
        elif text.startswith(f"{option}="):
            found.append(text.partition("=")[2])
    return found
