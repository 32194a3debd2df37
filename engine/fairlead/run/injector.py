"""The storekeeper's half of injection: find the site's MPI, lay it out for an image, pack it.

What ``run.injection`` does for one user is done here for all users of a node. Everything that
decides is worked out again: nothing comes from the user whose launch asks.

Rules:
- An installation counts if it is found by the site's settings, the default PATH and the loader's
  cache. One that only a user's environment leads to is nobody else's.
- The image is read in a child in namespaces of its own (``run.view``), through mounts that the
  broker gave: within limits of time and memory, and nothing of it is executed.
- The layout becomes an image file as a layer of an image does (``pack``), by the same C writer.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from fairlead import config as settings
from fairlead import errors, sinks
from fairlead.host import elf, index, mpi
from fairlead.plan import inject
from fairlead.run import fit, layer, pack, view
from fairlead.shared import injection
from fairlead.store.layout import Store

if TYPE_CHECKING:
    from fairlead.run.layer import Layout

# What a login shell of this node would have, and no module.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
CPU_S = 60
MEMORY_BYTES = 1 << 30


def writer(
    mounts: tuple[int, ...], identities: tuple[str, ...], config: settings.Config, store: Store
) -> injection.Writer:
    """Return what writes the injection of some of the site's installations into an image.

    Args:
        mounts: the image's layers, lowest first, or one mount of all.
        identities: of the installations, at most one of an ABI class.
        config: the site's settings.
        store: the site's store.

    Raises:
        errors.MpiError: one of them is not the site's.
        errors.ConfigError: the site's settings name an MPI that this host does not have.
    """
    found = {
        profile.identity: profile
        for profile in mpi.profiles(ENVIRONMENT, store.path("host"), mpi.choice(config))
    }
    once = len(set(identities)) == len(identities)
    if not identities or not once or not found.keys() >= set(identities):
        raise errors.MpiError("the site's settings lead to no such MPI on this host")
    profiles = tuple(found[identity] for identity in identities)

    def write(place: str, image_fd: int, scratch_fd: int) -> None:
        files = view.View(place, "", lambda: mounts)
        files.read(lambda rootfs: _write(profiles, rootfs, place, image_fd, scratch_fd))

    return write


def _write(
    profiles: tuple[mpi.Profile, ...], rootfs: str, place: str, image_fd: int, scratch_fd: int
) -> None:
    """Look at an image's tree and write the injection; in the child.

    Raises:
        errors.MpiError: these installations do not go into this image.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        layout = _lay_out(profiles, rootfs, place)
        with sinks.LayerImage(image_fd, scratch_fd, sinks.Limits(bytes=injection.MAX_BYTES)) as out:
            out.begin_layer()
            for piece in pack.archive(layout, rootfs):
                out.feed(piece)
            out.end_layer()
    except (elf.ElfError, MemoryError) as error:
        raise errors.MpiError(f"cannot put the host's MPI into the image: {error}") from error


def _lay_out(profiles: tuple[mpi.Profile, ...], rootfs: str, place: str) -> Layout:
    """Decide and lay out as a launch with ``--container-mpi=host`` would."""
    found = index.load(rootfs, f"{place}/mpi.json")
    glibc = {}
    for profile in inject.asks_more(found, profiles):
        kept = fit.path(place, profile)
        fit.keep(rootfs, profile, found, kept)
        glibc[profile.identity] = view.made(fit.cached(kept), kept)
    verdict = inject.decide("host", found, profiles, cross_major=True, glibc=glibc)
    if verdict.profiles != profiles:  # in this order, by which the layer is named
        raise errors.MpiError(f"the host's MPI does not go into the image: {verdict.reasons[0]}")
    return layer.plan(verdict, found, rootfs)
