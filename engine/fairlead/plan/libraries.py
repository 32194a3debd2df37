"""Whose copy of a library is taken, of those that both the host's MPI and an image bring. Pure.

The host's MPI runs (``plan.inject``); here is decided, library by library, what of it comes.

Rules:
- A library that both have and that is not MPI: the image's, if it offers all that the host's does,
  else the host's.
- Libraries that work with each other's internals are never split, and one with plugins goes with
  its plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead.host.mpi import Profile

# Libraries that reach into each other: one decision for all of a group. Prefixes of SONAMEs.
GROUPS = (
    ("libopen-", "libmca_common_", "liboshmem.", "libompitrace.", "libprrte."),
    ("libucp.", "libucs.", "libuct", "libucm", "libucs_signal."),
    ("libfabric.", "libpsm", "libinfinipath.", "libcxi.", "libopx"),
    (
        "libibverbs.",
        "librdmacm.",
        "libibumad.",
        "libmlx4.",
        "libmlx5.",
        "libefa.",
        "libhns.",
        "libmana.",
    ),
    ("libpmix.", "libpmi.", "libpmi2."),
    ("libxpmem.", "libknem."),
    ("libevent",),
    ("libnl-",),
)
# The messages' way to the wire is the site's: an image's libfabric may define every symbol and lack
# the provider.
WIRE = frozenset(GROUPS[:6])
# The host's can come beside the image's: they look for their plugins beside their own file.
BESIDE = GROUPS[1]
# Run-time libraries of compilers: one per process, and each release offers all that older ones did.
TOOLCHAIN = ("libstdc++.", "libgcc_s.", "libgfortran.", "libquadmath.", "libgomp.")


class Kept(NamedTuple):
    """Whose copy of one library is taken, and why.

    ``source`` is ``host``, ``image`` or ``private``: both, the host's under a name of its own.
    """

    soname: str
    source: str
    reason: str

    @property
    def name(self) -> str:
        """The SONAME under which the host's copy comes."""
        return f"fairlead-{self.soname}" if self.source == "private" else self.soname


def group(soname: str) -> tuple[str, ...]:
    """Return the prefixes of the group that a library belongs to; of itself alone if to none."""
    return next((names for names in GROUPS if soname.startswith(names)), (soname,))


def pinned(profile: Profile) -> frozenset[str]:
    """Return the libraries that must be the host's: MPI's own, the wire's, those with plugins."""
    own = {soname for _, soname, _ in profile.libraries} | {
        item.owner for item in profile.plugin_dirs if item.files
    }
    groups = {group(soname) for soname in own} | WIRE
    return frozenset(
        soname for soname, _ in profile.closure if soname in own or group(soname) in groups
    )


def choose(
    profile: Profile, host: Mapping[str, frozenset[str]], image: Mapping[str, frozenset[str]]
) -> tuple[Kept, ...]:
    """Return for every library of a host's closure whose copy is taken.

    Args:
        profile: the installation to inject.
        host: soname → what the host's copy defines (``symbol@version``).
        image: soname → what the image's copy defines, for those that the image has.
    """
    fixed = pinned(profile)
    groups: dict[tuple[str, ...], list[str]] = {}
    for soname, _ in profile.closure:
        groups.setdefault(group(soname), []).append(soname)
    kept: list[Kept] = []
    for members in groups.values():
        source, reason = _whose(members, fixed, host, image)
        for name in members:
            extra = image.get(name, frozenset()) - host.get(name, frozenset())
            odd = (
                f"; the image's offers {len(extra)} that the host's lacks, e.g. {min(extra)}"
                if extra and source == "host"
                else ""
            )
            kept.append(Kept(name, source, reason + odd))
    return tuple(sorted(kept))


def _whose(
    members: Iterable[str],
    fixed: frozenset[str],
    host: Mapping[str, frozenset[str]],
    image: Mapping[str, frozenset[str]],
) -> tuple[str, str]:
    """Return whose copy of a group's libraries is taken, and why."""
    both = [name for name in members if name in image]
    extra = next((name for name in both if image[name] - host.get(name, frozenset())), "")
    more = min(image[extra] - host.get(extra, frozenset())) if extra else ""
    if any(name in fixed for name in members):
        if extra and extra.startswith(BESIDE):
            return "private", f"the host's {extra} lacks {more}: each MPI keeps its own"
        return "host", "part of the host's MPI or of its way to the wire, or goes with its plugins"
    if not both:
        return "host", "the image has none"
    lacking = {name: host.get(name, frozenset()) - image[name] for name in both}
    lacks = next((name for name, symbols in lacking.items() if symbols), "")
    absent = next((name for name in members if name not in image), "")
    if not lacks and not absent:
        return "image", "offers all that the host's does"
    why = f"the image's {lacks} lacks {min(lacking[lacks])}" if lacks else f"goes with {absent}"
    if extra and not extra.startswith(TOOLCHAIN):
        return "private", f"{why}, the host's {extra} lacks {more}: each keeps its own"
    return "host", why
