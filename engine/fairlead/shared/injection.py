"""Injections: the host's MPI, laid out for an image, once per node as one small EROFS image.

What ``run.stage`` writes as a tree into a user's store is here one more layer, which the broker
mounts above the image's (docs/adr/0018).

Rules:
- An injection is named by what it is made of: its form, the engine's release, the ChainID of the
  image's layers, and the identities of the host's installations. Images with the same layers share
  it; engine and storekeeper work the name out, each for itself.
- It holds nothing that a user chose: the storekeeper finds the host's installations by the site's
  settings, and looks into the image through mounts that the broker gave it.
- Who may mount it is said by grants. Each names the injections of its image, and gc goes by that.
- Nobody needs one: without it a user's own store holds the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import fairlead
from fairlead import errors
from fairlead.shared import site
from fairlead.shared.site import InjectionInfo
from fairlead.store import blobs, layout
from fairlead.store.layout import Lock, Stage, Store

FORM = "fairlead-injection 1"
# Of the host's files with all that is rewritten of them: some ten times what an OpenMPI has.
MAX_BYTES = 1 << 30
NEED_BYTES = 64 << 20

# Given a directory for work in progress, an empty file and a scratch file: writes the image.
Writer = Callable[[str, int, int], None]


def name_of(chain: str, profiles: Sequence[str]) -> str:
    """Return the HEX of an injection of installations, by their identities, into layers."""
    lines = [FORM, fairlead.__version__, chain, *profiles, ""]
    return site.name_of(blobs.digest_of("sha256:", "\n".join(lines).encode()))


def lock_name(name: str) -> str:
    """Return the name of the lock under which an injection is made or removed."""
    return f"injection.{name}"


def make(
    store: Store, chain: str, profiles: Sequence[str], write: Writer, *, floor_bytes: int = 0
) -> InjectionInfo:
    """Return the injection of installations into layers, made if there is none.

    Args:
        store: the shared store.
        chain: ChainID of the image's layers.
        profiles: identities of the installations.
        write: makes the image file.
        floor_bytes: what stays free on the store's disk.

    Raises:
        errors.Error, OSError: there is none, and none can be made.
    """
    from fairlead.shared import files  # which a launch, that only asks for the name, need not load

    name = name_of(chain, profiles)
    with Lock(store, lock_name(name), tells=False):
        there = find(store, name)
        if there is not None and files.is_whole(
            site.injection_path(store, name), there.size, there.digest
        ):
            return there
        remove(store, name)
        disk = os.statvfs(store.root)
        if disk.f_bavail * disk.f_frsize < floor_bytes + NEED_BYTES:
            raise errors.SpaceError(f"{store.root}: has no room for an injection of the host's MPI")
        os.makedirs(store.path("injections"), mode=0o700, exist_ok=True)
        with Stage(store) as stage:
            return _publish(store, stage, (name, chain, tuple(profiles)), write)


def find(store: Store, name: str) -> InjectionInfo | None:
    """Return what is recorded of an injection; None if nothing is, or nothing that makes sense."""
    try:
        with open(site.injection_info_path(store, name), "rb") as file:
            found = site.parse_injection(file.read(site.MAX_INFO_BYTES + 1), file.name)
    except (FileNotFoundError, errors.StoreError):
        return None
    there = os.path.exists(site.injection_path(store, name))
    return found if there and found.name == name else None


def names(store: Store) -> list[str]:
    """Return the HEX of every injection; a store of before may have no place for them."""
    try:
        found = os.listdir(store.path("injections"))
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".erofs") for name in found if name.endswith(".erofs"))


def of_chain(store: Store, chain: str) -> tuple[tuple[str, int], ...]:
    """Return name and bytes of this release's injections into layers, the newest first."""
    found = []
    for name in names(store):
        info = find(store, name)
        if info and (info.chain, info.engine) == (chain, fairlead.__version__):
            made = os.stat(site.injection_path(store, name)).st_mtime
            found.append((made, (name, info.size)))
    return tuple(item for _, item in sorted(found, reverse=True))[: site.MAX_INJECTIONS]


def remove(store: Store, name: str) -> None:
    """Remove an injection; who has it mounted keeps it."""
    layout.discard(site.injection_path(store, name))
    layout.discard(site.injection_info_path(store, name))


def _publish(
    store: Store, stage: Stage, made_of: tuple[str, str, tuple[str, ...]], write: Writer
) -> InjectionInfo:
    from fairlead.shared import files

    name, chain, profiles = made_of
    staged, scratch, work = stage.name(), stage.name(), stage.name()
    new = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd, scratch_fd = os.open(staged, new, 0o400), os.open(scratch, new, 0o600)
    try:
        os.mkdir(work, 0o700)
        write(work, fd, scratch_fd)
        os.fsync(fd)
        size, digest = os.fstat(fd).st_size, files.checksum(fd)
    finally:
        os.close(fd)
        os.close(scratch_fd)
    record = InjectionInfo(name, size, digest, chain, profiles, fairlead.__version__)
    layout.replace_file(stage, site.injection_info_path(store, name), site.format_info(record))
    layout.publish(staged, site.injection_path(store, name))
    return record
