"""Build the container around this process: the point where the plan becomes kernel state.

Rules:
- The process has one thread; after ``enter`` it lives in the container and only executes or ends.
- From ``enter`` on nothing is imported: what this process needs later is loaded before.
- Every kernel failure becomes one line that names the step, the path and the setting or right that
  is missing.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from fairlead import errors, kernel

if TYPE_CHECKING:
    from collections.abc import Callable

# Settings that stop users from creating namespaces: file, value that stops them, what to say.
_SWITCHES = (
    ("/proc/sys/user/max_user_namespaces", "0", "set user.max_user_namespaces above 0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "set kernel.apparmor_restrict_unprivileged_userns=0, or add an AppArmor profile",
    ),
)

_OF_OTHER_KIND = {
    errno.ENOTDIR: "the container has a file where this path takes a directory",
    errno.EISDIR: "the container has a directory in place of this file",
}


def enter(
    block: bytes,
    mounts: tuple[int, ...] = (),
    hooks: tuple[Callable[[str], None], Callable[[str], None]] | None = None,
) -> tuple[int, ...]:
    """Move this process into new namespaces and make them the container of the block.

    Args:
        block: the launch block.
        mounts: those that the block's root calls ``mount:N``; they are closed.
        hooks: called before and after the root is entered, with the path that it has before.

    Returns:
        Descriptors, as ``kernel.create_namespace``.

    Raises:
        errors.NamespaceError, errors.MountError, errors.WorkdirError, errors.CommandNotFoundError,
        errors.CommandNotExecutableError, errors.SpaceError
    """
    diagnosis = _diagnose()  # before: afterwards the files are those of the container
    _stop_imports()
    try:
        fds = kernel.create_namespace(block)
        if hooks is None:
            kernel.compose_root(block, mounts)
        else:
            _compose_with(hooks, block, mounts)
    except kernel.Failure as failure:
        raise _explained(failure, diagnosis) from failure
    finally:
        for mount in mounts:
            os.close(mount)
    return fds


def _compose_with(
    hooks: tuple[Callable[[str], None], Callable[[str], None]],
    block: bytes,
    mounts: tuple[int, ...],
) -> None:
    before, after = hooks
    root, path = kernel.build_root(block, mounts)
    before(path)
    kernel.enter_root(block, root)
    after(path)


def join(fds: tuple[int, ...]) -> None:
    """Move this process into a container that runs already; descriptors stay open until exec.

    Raises:
        errors.NamespaceError: the kernel refuses.
    """
    _stop_imports()
    try:
        kernel.join_namespace(fds)
    except kernel.Failure as failure:
        words = os.strerror(failure.errno)
        raise errors.NamespaceError(
            f"cannot join the container: {failure.detail}: {words}"
        ) from failure


def execute(block: bytes, command: tuple[str, ...]) -> NoReturn:
    """Execute the command in the container that this process entered.

    Raises:
        errors.CommandNotFoundError, errors.CommandNotExecutableError, errors.WorkdirError,
        errors.NamespaceError
    """
    try:
        kernel.exec_run(block, command)
    except kernel.Failure as failure:
        raise _explained(failure, "") from failure
    raise AssertionError("exec_run returned without a failure")


def _stop_imports() -> None:
    """Let this process import nothing more: behind pivot_root sys.path leads into the image.

    An image that ships its own standard library would otherwise run in the engine, with the
    namespace's capabilities and the engine's descriptors (docker CVE-2019-14271 is of this kind).
    """
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    sys.path_importer_cache.clear()


def _diagnose() -> str:
    for path, value, remedy in _SWITCHES:
        try:
            with open(path, "rb") as file:  # a codec would be one more module
                if file.read().strip() == value.encode():
                    return (
                        f"{path.removeprefix('/proc/sys/').replace('/', '.')} is {value}: {remedy}"
                    )
        except OSError:
            continue
    return ""


def _explained(failure: kernel.Failure, diagnosis: str) -> errors.Error:
    """Return the user's error for a failure in the kernel."""
    words = os.strerror(failure.errno)
    what = f"{failure.detail}: {words}"
    if failure.errno in (errno.ENOSPC, errno.EDQUOT) and failure.step != "userns":
        return errors.SpaceError(f"cannot build the container: {what}")
    match failure.step:
        case "block":
            return errors.MountError(
                f"the plan does not fit a launch block ({failure.detail}: {words})",
                hint="the image or the job has too many or too large variables",
            )
        case "userns" | "privilege" | "join":
            return _namespace_error(failure, words, diagnosis)
        case "command" if failure.errno == errno.ENOENT:
            return errors.CommandNotFoundError(f"{failure.detail}: not found in the container")
        case "command":
            reason = "no program for this machine, or its interpreter is not in the image"
            return errors.CommandNotExecutableError(
                f"{failure.detail}: {reason if failure.errno == errno.ENOEXEC else words}"
            )
        case "workdir":
            outside = failure.errno == errno.EXDEV
            return errors.WorkdirError(
                f"{failure.detail}: {'lies outside the container' if outside else words}"
            )
        case "layer" | "overlay":
            hint = (
                diagnosis
                or "it takes Linux 5.11 or later, and a store that is on no network file system"
            )
            return errors.MountError(f"cannot mount the image {what}", hint=hint)
        case "target" if failure.errno == errno.ELOOP:
            return errors.MountError(
                f"{failure.detail}: the image has a symbolic link in place of this directory",
                hint="rebuild the image",
            )
        case "target" if failure.errno in _OF_OTHER_KIND:
            return errors.MountError(
                f"{failure.detail}: {_OF_OTHER_KIND[failure.errno]}",
                hint="rebuild the image, or mount elsewhere",
            )
        case "target" if failure.errno == errno.EXDEV:
            return errors.MountError(
                f"{failure.detail}: does not exist in the host's directory that is bound there",
                hint="create it on the host first, or mount elsewhere",
            )
        case "source":
            unexpanded = "only your shell expands variables, and it sees no #SBATCH line"
            hint = unexpanded if "$" in failure.detail else ""
            return errors.MountError(f"cannot mount {what}", hint=hint)
        case _:
            return errors.MountError(
                f"cannot build the container ({failure.step}): {what}", hint=diagnosis
            )


def _namespace_error(failure: kernel.Failure, words: str, diagnosis: str) -> errors.NamespaceError:
    hint = diagnosis
    if not hint and failure.errno == errno.ENOSPC:
        hint = "user.max_user_namespaces is reached on this node"
    if not hint and failure.errno == errno.EPERM:
        hint = "a chroot or a security module forbids it on this node"
    return errors.NamespaceError(
        f"cannot create a container on {os.uname().nodename}: {failure.detail}: {words}", hint=hint
    )
