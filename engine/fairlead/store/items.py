"""What a store holds and gc may remove, as values; which of it goes, decided without a disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Item(NamedTuple):
    """An object that can be removed by itself.

    Attributes:
        kind: ``tree``, ``blob`` or ``container`` in a user's store, ``layer`` or ``index`` in the
            site's, ``garbage`` in both.
        name: digest or HEX, as in its file name; of a container its key, of garbage its path below
            the store.
        size: bytes on the disk.
        used: when it was last used, seconds since the epoch.
        images: references, or digests of manifests, of the images that need it.
        held: who uses it now, for people; empty if nobody does.
    """

    kind: str
    name: str
    size: int
    used: float
    images: tuple[str, ...] = ()
    held: str = ""


class Outcome(NamedTuple):
    """What gc did, or would do: what is gone, and what was spared because it is in use."""

    removed: tuple[Item, ...]
    spared: tuple[Item, ...]

    @property
    def freed(self) -> int:
        """Bytes on the disk."""
        return sum(item.size for item in self.removed)


def free(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return what nobody uses, in the order in which it should go: garbage, then the oldest use."""
    unused = (item for item in items if not item.held)
    return tuple(sorted(unused, key=lambda item: (bool(item.images), item.used, item.name)))


def choose(items: Iterable[Item], wanted: int) -> tuple[Item, ...]:
    """Return what must go so that wanted bytes become free; what no image needs goes anyway."""
    chosen, freed = [], 0
    for item in free(items):
        if item.images and freed >= wanted:
            break
        chosen.append(item)
        freed += item.size
    return tuple(chosen)


def total(items: Iterable[Item]) -> int:
    """Return the bytes that items take up together."""
    return sum(item.size for item in items)
