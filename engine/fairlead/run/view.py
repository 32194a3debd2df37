"""An image's files, readable before there is a container.

A tree is read where it lies. Layers that came as mounts can be looked at only from inside a mount
namespace: a child makes one, mounts them merged and read-only, does the reading, and ends. What it
finds out it leaves in files of the image's ``place``, where the next launch finds it without a
child.

Rules:
- The child never enters the image (no pivot): its modules come from the host.
- No thread is alive when it is forked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from fairlead import errors, kernel

T = TypeVar("T")
_PIPE_BYTES = 4096


class View(NamedTuple):
    """How to reach an image's files.

    Attributes:
        place: directory of the user's store for what is derived from the image.
        rootfs: its tree, or empty.
        mounts: gives new mounts of its layers, lowest first, where there is no tree.
    """

    place: str
    rootfs: str
    mounts: Callable[[], tuple[int, ...]] | None = None

    def read(self, work: Callable[[str], object]) -> None:
        """Let work look at the image's root directory; it leaves its result in ``place``.

        Raises:
            errors.Error: what work raised; errors.MountError: the layers cannot be shown.
        """
        os.makedirs(self.place, mode=0o700, exist_ok=True)
        if self.mounts is None:
            work(self.rootfs)
            return
        directory = f"{self.place}/.view-{os.getpid()}"
        os.makedirs(directory, mode=0o700, exist_ok=True)  # a dead process of this number left it
        try:
            _in_child(lambda: work(_show(directory, self.mounts)))
        finally:
            os.rmdir(directory)


def _show(directory: str, mounts: Callable[[], tuple[int, ...]] | None) -> str:
    assert mounts is not None
    try:
        fds = mounts()
        kernel.create_namespace()
        return kernel.show_image(directory, fds)
    except kernel.Failure as failure:
        raise errors.MountError(f"cannot look into the image: {failure}") from failure


def with_rights(work: Callable[[], object]) -> None:
    """Do work in a child that may read whatever the user owns, whatever its mode.

    Raises:
        errors.Error: what work raised; errors.NamespaceError: there is no user namespace to be had.
    """

    def privileged() -> None:
        try:
            kernel.create_namespace()
        except kernel.Failure as failure:
            raise errors.NamespaceError(
                f"cannot read the container's files: {failure}"
            ) from failure
        work()

    _in_child(privileged)


def _in_child(work: Callable[[], object]) -> None:
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        # A step that is killed kills the engine alone; what it forked must not read on for nobody.
        os._exit(_work(work, writing) if kernel.end_with(parent) else 1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read(_PIPE_BYTES)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return
    code, message, hint = [*answer.decode(errors="replace").split("\0"), "", "", ""][:3]
    kind = next((kind for kind in errors.catalogue() if kind.code == code), errors.StoreError)
    raise kind(message or f"the process that reads the image ended with {status}", hint=hint)


def _work(work: Callable[[], object], writing: int) -> int:
    try:
        work()
    except errors.Error as error:
        text = f"{error.code}\0{error.message}\0{error.hint}"
    except OSError as error:
        text = f"{errors.StoreError.code}\0{error.filename}: {error.strerror}\0"
    else:
        return 0
    os.write(writing, text.encode(errors="replace")[:_PIPE_BYTES])
    return 1


def made(found: T | None, path: str) -> T:
    """Return what should have been kept by now.

    Raises:
        errors.StoreError: it was not.
    """
    if found is None:
        raise errors.StoreError(f"{path}: cannot be kept", hint="check the space left there")
    return found
