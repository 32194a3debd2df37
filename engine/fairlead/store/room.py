"""Whether an image will fit, known before its first byte is fetched; room is made where it can be.

How the need is estimated, from the sizes in the manifest, since nothing else is known beforehand:

    least     what will surely be written: the compressed layers, and as much again unpacked
    likely    the compressed layers, and ``GROWTH`` times as much unpacked (a layer without
              compression: as much again)

Both hold at the peak, just before the compressed layers are dropped; where layers are unpacked as
they arrive, the compressed ones do not count. Images of programs unpack to 2
to 3 times their size; data that is packed already (models, videos) to hardly more than once.

Rules:
- Room is made for what is likely, by removing what is unused, the least recently used first.
- Only if not even the least fits is the launch refused, within a second and with the figures. In
  between it goes on: a refusal on a guess would be worse than a late error.
- ``store_quota`` and ``store_min_free`` narrow what is free; they never widen it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fairlead import errors, log
from fairlead.config import Config
from fairlead.image.manifest import Descriptor
from fairlead.keys import size_bytes
from fairlead.store.layout import Store

GROWTH = 2.5


class Forecast(NamedTuple):
    """How many bytes an image will need in the store at the peak."""

    least: int
    likely: int


class Limits(NamedTuple):
    """What the settings leave to a store; bytes."""

    total: int
    free: int
    quota: int | None
    min_free: int

    def available(self, used: int) -> int:
        """Return how many more bytes may be written by a store that holds used bytes."""
        left = self.free - self.min_free
        return max(0, left if self.quota is None else min(left, self.quota - used))


class Reclaim(NamedTuple):
    """A store's side of making room: ``gc.reclaim`` gives it.

    Attributes:
        used: tells how many bytes the store holds.
        can_free: tells how many of them nobody uses.
        free: removes unused objects until it has freed that many bytes or has no more; returns how
            many it freed.
    """

    used: Callable[[], int]
    can_free: Callable[[], int]
    free: Callable[[int], int]


def forecast(*, unpacked: Iterable[Descriptor], stored: Iterable[Descriptor]) -> Forecast:
    """Estimate the need of layers that will be unpacked, and of those stored compressed besides."""
    blobs = sum(layer.size for layer in set(stored))
    least = likely = blobs
    for layer in unpacked:
        growth = GROWTH if layer.media_type.endswith(("gzip", "zstd")) else 1.0
        least += layer.size
        likely += int(growth * layer.size)
    return Forecast(least, likely)


def limits(store: Store, config: Config) -> Limits:
    """Read what the file system has free and what the settings allow."""
    info = os.statvfs(store.root)
    total, free = info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize
    quota = size_bytes(config.store_quota, total) if config.store_quota else None
    return Limits(total, free, quota, size_bytes(config.store_min_free or "0", total) or 0)


def make(store: Store, config: Config, need: Forecast, what: str, reclaim: Reclaim) -> None:
    """Make room for an image, or refuse it; what names it.

    Raises:
        errors.SpaceError: the image cannot fit, whatever is removed. Nothing was removed.
    """
    found = limits(store, config)
    available = found.available(reclaim.used() if found.quota is not None else 0)
    if need.likely <= available:
        return
    can_free = reclaim.can_free()
    if need.least > available + can_free:
        raise errors.SpaceError(
            f"{store.root}: {what} needs {_text(need.least)} or more, {_text(available)} free"
            f"{_because(found, available)}, gc can free {_text(can_free)}",
            hint="raise store_quota or lower store_min_free" if available < found.free else "",
        )
    available += reclaim.free(need.likely - available)
    if need.likely > available:
        log.note(
            f"{what} may not fit: about {_text(need.likely)} needed in {store.root}, "
            f"{_text(available)} free"
        )


def _because(found: Limits, available: int) -> str:
    if available >= found.free:
        return ""
    return " under store_quota" if found.quota is not None else " above store_min_free"


def _text(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
