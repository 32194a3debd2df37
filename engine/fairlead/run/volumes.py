"""Squashfs files whose content is mounted: in the store as trees, as images are.

Rules:
- Never mounted as they are: see ``store.unsquash``.
- Read-only: the tree is shared by all launches that mount the file.
- Held until this process ends or executes; from then on the mount shows that the tree is in use.
"""

from __future__ import annotations

from fairlead import config as settings
from fairlead import errors, log
from fairlead.image import reference, source
from fairlead.plan import request as launch
from fairlead.store import fetch, layers, layout


def ready(
    request: launch.Request,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
) -> launch.Request:
    """Return the request with the trees in the places of the files.

    Raises:
        errors.MountError: a file is no squashfs file. errors.Error: it cannot be unpacked.
    """

    def mounted(volume: launch.Volume) -> launch.Volume:
        if volume.kind != "image":
            return volume
        tree = _tree(volume, config, store, progress)
        flags = (*(flag for flag in volume.flags if flag != "rw"), "ro")
        return volume._replace(source=tree, kind="bind", flags=flags)

    return request._replace(volumes=tuple(map(mounted, request.volumes)))


def _tree(
    volume: launch.Volume,
    config: settings.Config,
    store: layout.Store,
    progress: log.Progress | None,
) -> str:
    name = reference.Reference("", volume.source, None, None, transport=reference.PATH)
    try:
        kind = source.kind(name)
    except errors.ImageNotFoundError as error:
        raise errors.MountError(f"{volume.origin}: {error.message}") from error
    except errors.ArchiveError:
        kind = ""
    if kind != source.SQUASHFS:
        raise errors.MountError(
            f"{volume.origin}: {volume.source}: is no squashfs file", hint="leave the flag sqsh out"
        )
    image = fetch.pull(name, config, store, policy="missing", progress=progress)
    layers.hold(store, image.chain)
    return image.rootfs
