"""Every failure that a user can see: one class each, with a stable code and an exit status.

Rules:
- An error says what failed, on which path or reference, the kernel's or server's own words, and the
  remedy.
- Codes never change their meaning; a code that is no longer raised is retired, not reused.
- Raise low, catch once at the edge (``cli.main``, ``run.step``); add context with ``raise ... from
  error``.
- ``docs/errors.md`` is generated from the classes here (``python -m fairlead.errors``); a test
  holds the two together.

Exit statuses follow the container engines: 125 is a failure of Fairlead itself, 126 a command that
cannot be executed, 127 a command that does not exist, anything else the application's own.
"""

from __future__ import annotations

import os


class Error(Exception):
    """A failure with one line for the user.

    Args:
        message: ``what: where: the kernel's or server's own words``; one line, no trailing full
        stop.
        hint: what to do about it; a sentence fragment, may be empty to use the class's own remedy.
    """

    code = "internal"
    status = 125
    remedy = "this is a defect in Fairlead; please report it with the output of --verbose"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.hint = one_line(hint or self.remedy)

    def line(self) -> str:
        """Return the line that the user sees, without the program's name."""
        tail = f" ({self.hint})" if self.hint else ""
        return f"error [{self.code}]: {self.message}{tail}"


def one_line(text: str) -> str:
    """Return text with control characters made visible: hostile input cannot forge log lines.

    No codec is looked up: behind pivot_root that would import a module from the image.
    """
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(number: int) -> str:
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class UsageError(Error):
    """An option or argument is malformed, unknown or contradicts another."""

    code = "usage"
    remedy = "see fairlead --help"


class ConfigError(Error):
    """A configuration file cannot be read or holds a wrong key or value."""

    code = "config"
    remedy = "correct the file named"


class EdfError(Error):
    """An environment file (EDF) cannot be found or read, or holds a wrong key or value."""

    code = "edf"
    remedy = "see fairlead edf check"


class ReferenceError(Error):  # noqa: A001 - the field's own word; the builtin concerns weak references only
    """An image reference does not follow the grammar."""

    code = "reference"
    remedy = "write it as [REGISTRY/]NAME[:TAG][@sha256:...] or as a path"


class RegistryUnreachableError(Error):
    """A registry does not resolve, refuses or breaks connections, or does not answer in time."""

    code = "registry-unreachable"
    remedy = "check the registry's name and this node's network and proxy settings"


class RegistryError(Error):
    """A registry answered with something that the distribution specification does not allow."""

    code = "registry"
    remedy = "try again later, or report it to the registry's administrator"


class ImageNotFoundError(Error):
    """The registry has no such repository or tag."""

    code = "image-not-found"
    remedy = "check the name and the tag"


class AuthError(Error):
    """The registry refused the credentials, or wants some (401 or 403)."""

    code = "auth"
    remedy = "log in with fairlead, podman or docker login, or set REGISTRY_AUTH_FILE"


class PolicyError(Error):
    """A policy of the site, or of the user's own, forbids this image or mount."""

    code = "policy"
    remedy = "use what the file named allows, or ask the administrator"


class SignatureError(Error):
    """A signature that the policy requires of an image is missing, or wrong."""

    code = "signature"
    remedy = "use an image that is signed as the file named requires, or ask who publishes it"


class PlatformError(Error):
    """The image holds no variant for this machine."""

    code = "platform"
    remedy = "build the image for this machine, or use one of the platforms listed"


class ManifestError(Error):
    """A manifest, index or image configuration breaks the OCI image specification."""

    code = "manifest"
    remedy = "rebuild or push the image again"


class DigestError(Error):
    """Content does not have the size or digest that its descriptor promised."""

    code = "digest"
    remedy = "the content was altered or cut short; push the image again"


class ArchiveError(Error):
    """A file or directory that should hold an image is of no known kind, damaged or cut short."""

    code = "archive"
    remedy = "write the file again, or name what it holds (oci-archive:, docker-archive:, oci:)"


class LayerError(Error):
    """A layer's archive is damaged, or holds an entry that the layer rules refuse."""

    code = "layer"
    remedy = "rebuild the image"


class SpaceError(Error):
    """A file system is full, out of inodes or over quota."""

    code = "no-space"
    remedy = "free space there (e.g. fairlead store gc --all), or set FAIRLEAD_STORE"


class StoreError(Error):
    """The store cannot be created, locked, read or written, or its owner is wrong."""

    code = "store"
    remedy = "check its owner and permissions, or set FAIRLEAD_STORE to a node-local directory"


class BusyError(Error):
    """An object of the store is in use, or another process makes or removes it."""

    code = "busy"
    remedy = "try again when that process has ended"


class NamespaceError(Error):
    """This node does not let users create the namespaces that a container needs."""

    code = "namespace"
    remedy = "ask the administrator to allow unprivileged user namespaces"


class MountError(Error):
    """A mount inside the container's own namespace failed."""

    code = "mount"
    remedy = "check that the path exists and that you may read it"


class DeviceError(Error):
    """A device that was asked for does not exist, may not be used, or is badly specified."""

    code = "device"
    remedy = "check the name, and that the job was given the device"


class HookError(Error):
    """An OCI hook of the site failed, hung, or cannot be run."""

    code = "hook"
    remedy = "ask the administrator (setting hooks_dirs)"


class UpperError(Error):
    """The container's own root was to be written to a disk, and no disk can be had for it."""

    code = "upper"
    remedy = 'set upper = "memory" (FAIRLEAD_UPPER), or ask the administrator (fairlead doctor)'


class WorkdirError(Error):
    """The working directory does not exist in the container, or lies outside it."""

    code = "workdir"
    remedy = "choose another with --container-workdir (or fairlead run --workdir)"


class CommandNotFoundError(Error):
    """The command does not exist in the image (exit status 127, as in a shell)."""

    code = "command-not-found"
    status = 127
    remedy = "check the spelling and the image's PATH"


class CommandNotExecutableError(Error):
    """The command exists in the image and cannot be executed (exit status 126, as in a shell)."""

    code = "command-not-executable"
    status = 126
    remedy = "check its permissions, its interpreter line and the machine it was built for"


class LibraryError(Error):
    """A library, a version of one or a symbol that the command needs is missing in the image."""

    code = "library"
    status = 127
    remedy = "install it in the image, or build the command for this image"


class MpiError(Error):
    """The MPI asked for cannot be used in this image, or its ranks make no one world."""

    code = "mpi"
    remedy = "use --container-mpi=image to run the image's own MPI"


class ContainerError(Error):
    """A container that was named is not there, runs already, or is another user's."""

    code = "container"
    remedy = "see fairlead ps and fairlead store ls"


class RootError(Error):
    """Root asked for a container: an image's programs never run with the node's root identity."""

    code = "root"
    remedy = "run it as an ordinary user, e.g. runuser -u USER -- fairlead run ..."


class SlurmError(Error):
    """What the Slurm plugin handed over is incomplete or contradictory."""

    code = "slurm"
    remedy = "check that the same release of Fairlead is installed on every node"


class GateError(Error):
    """The nodes of a step could not start together: one is missing, was killed, or differs."""

    code = "gate"
    remedy = "see the node that the line names"


def space(error: OSError, path: str) -> SpaceError:
    """Return the error for ENOSPC, EDQUOT or a read-only store, naming the path."""
    return SpaceError(f"cannot write {path}: {os.strerror(error.errno or 0)}")


def catalogue() -> list[type[Error]]:
    """Return every error class that a user can see, sorted by code."""
    return sorted([Error, *Error.__subclasses__()], key=lambda error: error.code)


def _meaning(error: type[Error]) -> str:
    if error is Error:
        return "A failure that Fairlead did not foresee."
    return (error.__doc__ or "").splitlines()[0]


def _markdown() -> str:
    rows = [
        f"| `{error.code}` | {error.status} | {_meaning(error)} | {error.remedy} |"
        for error in catalogue()
    ]
    return "\n".join(
        [
            "# Errors",
            "",
            "Generated from `engine/fairlead/errors.py` by `python -m fairlead.errors`.",
            "Every error is one line: `fairlead: error [CODE]: what: where: why (remedy)`.",
            "",
            "| code | exit status | meaning | remedy |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    print(_markdown(), end="")
