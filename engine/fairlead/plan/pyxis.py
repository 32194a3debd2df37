"""What srun's options asked for, as a Request: pyxis's and those that take their way. Pure.

The plugin hands each option over as a fact ``key=value`` (``spank_shim/options.c``); here it gets
its meaning, that of pyxis 0.24. The same words are read before there is an allocation
(``run.step.check``) and again on every node.

    mounts      SRC[:DST[:FLAG+FLAG]],...    tmpfs:DST, umount:DST; or in the long syntax
    env         NAME,NAME                    unshare   net,ipc,uts
    name        NAME[:auto|create|exec|no_exec]         save  PATH

Rules:
- Everything here is a user's and hostile. A value means exactly one thing or is an error that names
  its option; nothing is left out silently.
- In a path of ``mounts`` a backslash takes its meaning from the ``:``, ``,`` or backslash behind
  it; before anything else it is itself, as are spaces, ``#``, ``$`` and the rest.
- A flag that asks for less than every mount has here (``nosuid``, ``nodev``) is granted; one that
  asks for more (``suid``, ``dev``, ``shared``) is refused.

Source: pyxis ``args.c``, enroot ``enroot-mount.c``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NoReturn

from fairlead import errors
from fairlead.plan import bootstrap
from fairlead.plan import request as launch

MOUNTS = "--container-mounts"
SQUASHFS = "sqsh"  # the flag of a source that is a squashfs file, of which the content is mounted
NAME_MODES = ("auto", "create", "exec", "no_exec")
MAX_NAME = 128
NAME_ALONE = "container-name:"  # in place of an image's name (``spank_shim/client.c``)
SAVED = "save-"  # begins the names of containers that are kept only to be saved (``run.named``)
# The job's words about language name locales that the image need not have.
LOCALE = ("LANG", "LANGUAGE", "LC_ALL")

# Of a mount's flags: what the runtime specification calls them; None: every mount here is so.
FLAGS: dict[str, str | None] = {
    "ro": "ro",
    "rw": "rw",
    "bind": "bind",
    "rbind": "rbind",
    "noexec": "noexec",
    "nofail": "optional",
    **{word: word for word in ("private", "rprivate", "slave", "rslave")},
    **{word: word for word in ("unbindable", "runbindable")},
    **dict.fromkeys(("nosuid", "nodev", "exec", "async", "silent", "loud", "defaults", "auto")),
    **dict.fromkeys(("group", "noauto", "nogroup", "noowner", "nouser", "nousers")),
    **dict.fromkeys(("owner", "user", "users", "nomand", "noiversion", "nolazytime")),
    # Hints about times of access, which the source's own file system goes on deciding.
    **dict.fromkeys(("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime")),
    **dict.fromkeys(("strictatime", "nostrictatime")),
    **dict.fromkeys(("x-create=dir", "x-create=file", "x-create=auto")),
}
REFUSED = {
    "suid": "a container gives nobody further rights",
    "dev": "a container's devices are those in its /dev",
    **dict.fromkeys(("shared", "rshared"), "no mount leads from a container to the host"),
    **dict.fromkeys(("remount", "x-move", "x-detach"), "only new mounts are made"),
    **dict.fromkeys(("sync", "dirsync", "mand", "iversion", "lazytime"), "the host decides this"),
}
TMPFS_OPTIONS = ("size", "mode", "nr_inodes", "huge")
_TMPFS_FLAGS = ("ro", "rw", "noexec")
LONG = "type="  # begins a mount in the long syntax
_BEGINNINGS = (LONG, "/", ".", "tmpfs:", "umount:")
_GRAMMAR = "write SRC[:DST[:FLAG+FLAG]],..."
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def apply(request: launch.Request, facts: Mapping[str, str]) -> launch.Request:
    """Return the request with what the options asked for.

    Args:
        request: with the settings' values; its ``cwd`` is where relative paths start.
        facts: from the plugin.

    Raises:
        errors.UsageError: a value breaks its option's grammar.
    """
    pyxis = facts.get("style", "") == "pyxis"
    entrypoint = _boolean(facts, "entrypoint", "--container-entrypoint")
    if entrypoint is None:
        entrypoint = pyxis and facts.get("execute_entrypoint") == "1"
    home = _boolean(facts, "mount_home", "--container-mount-home")
    writable = _boolean(facts, "writable", "--container-writable")
    slurm = _boolean(facts, "slurm_inside", "--container-slurm")
    return request._replace(
        mpi=facts.get("mpi") or request.mpi,
        workdir=facts.get("workdir") or request.workdir,
        use_entrypoint=entrypoint,
        volumes=(*request.volumes, *mounts(facts.get("mounts", ""), request.cwd)),
        mount_home=request.mount_home if home is None else home,
        writable=request.writable if writable is None else writable,
        devices=(*request.devices, *listed(facts.get("device", ""))),
        annotations=(*request.annotations, *_annotations(facts.get("annotation", ""))),
        gpu=facts.get("gpu", ""),
        dropped=LOCALE if pyxis else request.dropped,
        kept_variables=_names(facts.get("env", "")),
        unshare=_namespaces(facts.get("unshare", "")),
        remap_root=bool(_boolean(facts, "remap_root", "--container-remap-root")),
        entrypoint_log=bool(_boolean(facts, "entrypoint_log", "--container-entrypoint-log")),
        name=container_name(facts.get("name", "")),
        scope=facts.get("scope") or "job",
        save=_save(facts.get("save", ""), request.cwd),
        starts_in_image=pyxis or request.starts_in_image,
        remap_pytorch=pyxis or request.remap_pytorch,
        slurm_inside=request.slurm_inside if slurm is None else slurm,
    )


def check_pmi(request: launch.Request) -> launch.Request:
    """Return the request unchanged, or say what of it would keep ranks from their PMIx server.

    Source: slurm.md section 4: the server listens on the host's loopback and knows the job's uid.

    Raises:
        errors.UsageError
    """
    hint = "start the step with --mpi=none or --mpi=pmi2, or leave the option out"
    if (request.remap_root or "net" in request.unshare) and (
        bootstrap.started_with(request.environ) == "pmix"
    ):
        if request.remap_root:
            why = "--container-remap-root: the step's PMIx server does not answer uid 0"
        else:
            why = "--container-unshare=net: the step's PMIx server listens on the host's network"
        raise errors.UsageError(why, hint=hint)
    return request


def mounts(text: str, cwd: str, origin: str = MOUNTS) -> tuple[launch.Volume, ...]:
    """Return the mounts that a list asks for, each once, in order.

    Args:
        text: entries with commas between them.
        cwd: where a relative source starts.
        origin: who asks, for errors and reasons.

    Raises:
        errors.UsageError
    """
    if not text:
        return ()
    made = []
    for entry in _entries(text):
        if entry.startswith(LONG):
            from fairlead.plan import longmount

            made.append(longmount.parse(entry, cwd, origin))
        else:
            made.append(mount(entry, cwd, origin))
    return tuple(dict.fromkeys(made))


def _entries(text: str) -> list[str]:
    """Split a list of mounts; one in the long syntax has commas and ends where the next begins."""
    entries: list[str] = []
    for piece in _split(text, ","):
        if entries and entries[-1].startswith(LONG) and not piece.startswith(_BEGINNINGS):
            entries[-1] += f",{piece}"
        else:
            entries.append(piece)
    return entries


def listed(text: str) -> tuple[str, ...]:
    """Return the elements of a list with commas between them, each once."""
    pieces = (_plain(piece) for piece in _split(text, ",")) if text else ()
    return tuple(dict.fromkeys(pieces))


def _annotations(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for piece in listed(text):
        name, equals, value = piece.partition("=")
        if not name or not equals:
            _refuse("--container-annotation", piece, "is not NAME=VALUE", "write NAME=VALUE")
        found.append((name, value))
    return tuple(found)


def mount(entry: str, cwd: str, origin: str) -> launch.Volume:
    """Return what one entry asks for.

    Raises:
        errors.UsageError
    """
    source, *rest = (_plain(field) for field in _split(entry, ":"))
    if len(rest) > 2:
        _refuse(origin, entry, "has more than two ':'", "write \\: for one in a path")
    if not source:
        _refuse(origin, entry, "has no source", _GRAMMAR)
    if rest and not rest[0]:
        _refuse(origin, entry, "has no destination", _GRAMMAR)
    destination = rest[0] if rest else source
    words = [word for word in (rest[1].split("+") if len(rest) > 1 else ()) if word]
    kind = source if source in ("tmpfs", "umount") else "bind"
    if kind != "bind" and not rest:
        _refuse(origin, entry, "has no destination", f"write {kind}:DST")
    if kind == "bind" and source[0] not in "/.":
        why = "has a source that is no path, tmpfs or umount"
        _refuse(origin, entry, why, "begin it with / or ./")
    if destination[:1] not in ("/", "."):
        _refuse(origin, entry, "has a destination that is no path", "begin it with /")
    if kind == "bind" and source[0] == ".":
        if not cwd:
            _refuse(origin, entry, "has a relative source, and the job's directory is gone", "")
        source = os.path.normpath(f"{cwd}/{source}")
        destination = destination if rest else source
    if ".." not in destination.split("/"):  # else ``request.check`` refuses it
        destination = f"/{os.path.normpath(destination).lstrip('/')}"
    elif destination[0] == ".":
        destination = f"/{destination}"
    if kind == "bind" and SQUASHFS in words:
        kind = "image"
        words = [word for word in words if word != SQUASHFS]
    flags = _flags(words, kind, origin, entry)
    named = source if kind in ("bind", "image") else kind
    return launch.Volume(named, destination, flags, kind, origin)


def _flags(words: list[str], kind: str, origin: str, entry: str) -> tuple[str, ...]:
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if kind == "umount":
            _refuse(origin, entry, f"flag {word!r}: nothing is mounted", "write umount:DST")
        if kind == "tmpfs" and equals and name in TMPFS_OPTIONS:
            if not value or not _WORD.issuperset(value.removesuffix("%")):
                _refuse(origin, entry, f"flag {word!r}: no value of {name}", "e.g. size=1g")
            found.append(word)
        elif word in REFUSED:
            _refuse(origin, entry, f"flag {word!r}: {REFUSED[word]}", "leave it out")
        elif word not in FLAGS:
            known = ", ".join(flag for flag, meaning in FLAGS.items() if meaning == flag)
            _refuse(origin, entry, f"flag {word!r} is not known", f"known are {known}")
        elif (flag := FLAGS[word]) and (kind != "tmpfs" or flag in _TMPFS_FLAGS):
            found.append(flag)
    for one, other in (("ro", "rw"), ("bind", "rbind")):
        if one in found and other in found:
            _refuse(origin, entry, f"flags {one!r} and {other!r} exclude each other", "give one")
    return tuple(dict.fromkeys(found))


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator that has no backslash before it; the backslashes stay."""
    pieces, piece, at = [], "", 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in (",", ":", "\\"):
            piece += text[at : at + 2]
            at += 2
            continue
        if text[at] == separator:
            pieces.append(piece)
            piece = ""
        else:
            piece += text[at]
        at += 1
    return [*pieces, piece]


def _plain(text: str) -> str:
    """Take out the backslashes that guard a ``,``, ``:`` or backslash."""
    plain, at = "", 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in (",", ":", "\\"):
            at += 1
        plain += text[at : at + 1]
        at += 1
    return plain


def _boolean(facts: Mapping[str, str], key: str, option: str) -> bool | None:
    text = facts.get(key, "")
    if text not in ("", "0", "1"):
        raise errors.UsageError(f"{option}: {text!r} is neither 0 nor 1", hint="see srun --help")
    return None if not text else text == "1"


def _names(text: str) -> tuple[str, ...]:
    names = text.split(",") if text else []
    for name in names:
        if not name or not _WORD.issuperset(name) or name[0].isdecimal():
            raise errors.UsageError(
                f"--container-env: {name!r} is not the name of a variable", hint="write NAME,NAME"
            )
    return tuple(dict.fromkeys(names))


def _namespaces(text: str) -> tuple[str, ...]:
    words = text.split(",") if text else []
    for word in words:
        if word not in launch.NAMESPACES:
            known = ", ".join(launch.NAMESPACES)
            raise errors.UsageError(
                f"--container-unshare: {word!r} is not one of {known}", hint="e.g. net,ipc"
            )
    return tuple(name for name in launch.NAMESPACES if name in words)


def container_name(text: str, option: str = "--container-name") -> str:
    """Return ``NAME[:MODE]`` if it is one.

    Raises:
        errors.UsageError: it is not.
    """
    if not text:
        return ""
    name, colon, mode = text.partition(":")
    if not name or len(name) > MAX_NAME or name[0] in ".-" or not _WORD.issuperset(_marks(name)):
        raise errors.UsageError(
            f"{option}: {name[:80]!r} is not a name",
            hint="letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first",
        )
    if name.startswith(SAVED):
        raise errors.UsageError(
            f"{option}: {name!r} begins with {SAVED!r}, as what is saved does",
            hint="choose another",
        )
    if colon and mode not in NAME_MODES:
        raise errors.UsageError(
            f"{option}: {mode!r} is not one of {', '.join(NAME_MODES)}",
            hint="write NAME[:MODE]",
        )
    return text


def _marks(name: str) -> str:
    return name.replace("-", "_").replace(".", "_")


def _save(text: str, cwd: str) -> str:
    if not text:
        return ""
    if text.startswith("docker://"):
        return text
    if text.startswith("oci:"):
        return f"oci:{_save(text.removeprefix('oci:'), cwd)}"
    if text.endswith("/"):
        raise errors.UsageError(
            f"--container-save: {text!r} is a directory", hint="name the file to write"
        )
    if not text.startswith("/") and not cwd:
        raise errors.UsageError(
            f"--container-save: {text!r} is relative, and the job's directory is gone",
            hint="write it from /",
        )
    path = os.path.normpath(os.path.join(cwd or "/", text))
    launch.check_path(path, "--container-save: file", errors.UsageError)
    return path


def _refuse(origin: str, entry: str, why: str, hint: str) -> NoReturn:
    raise errors.UsageError(f"{origin}: {entry[:200]!r} {why}", hint=hint)
