"""Decide how a set of host libraries can run on an image's glibc (pure).

Rules:
- Nothing is done unless some version or symbol is really missing, looked up in the whole family.
- *moved*: the image has the function under an older version, perhaps in another of glibc's files or
  under an older name, and its meaning is the same. The newest default definition is taken, which is
  what a program linked in the image would get.
- *new*: no release as old as the image's has it; ``libfairlead-glibc.so`` does, or it is data.
- *impossible*: everything else. One such symbol decides, unless every reference to it is weak: then
  it stays undefined, which is what a weak reference asks about.
- GLIBC_PRIVATE belongs to one release and is never bound to another.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from fairlead.glibc import arch, rules, versions
from fairlead.host import elf

# What the names in libfairlead-glibc.so begin with: what it implements, what it asks of the
# image.
IMPLEMENTED, IMPORTED = "fairlead_new_", "fairlead_old_"
# Its pointers to the polyfill's data, which a few functions set.
SHARED = "fairlead_data_"


# Who is asked for what several of glibc's files define: libpthread has its own where libc has a
# stand-in, and the loader's malloc is for itself.
_RANK = {"libpthread.so.0": 2, "libc.so.6": 1}


class Offers(NamedTuple):
    """What ``libfairlead-glibc.so`` implements, and what it needs for that.

    Attributes:
        symbols: names that it implements; ``NAME__2_31`` stands in from that version on only.
        imports: functions of the image's glibc that it calls; True where it can do without.
    """

    symbols: frozenset[str]
    imports: tuple[tuple[str, bool], ...]


class Binding(NamedTuple):
    """One symbol that the polyfill defines.

    Attributes:
        symbol, version: what the host's libraries ask for.
        kind: ``moved``, ``new`` or ``data``; for libfairlead-glibc.so alone: ``import``, or
            ``alias``, a pointer to data.
        target: the function that it leads to, the data that it points to; empty for data.
        target_version, library: of a moved one; empty for a new one.
        size: bytes of a data object.
    """

    symbol: str
    version: str
    kind: str
    target: str = ""
    target_version: str = ""
    library: str = ""
    size: int = 0


class Obstacle(NamedTuple):
    """One symbol or version that cannot be had, who asks for it, and why not."""

    symbol: str
    version: str
    by: str
    reason: str


class Decision(NamedTuple):
    """How a set of host libraries runs on an image's glibc.

    Attributes:
        action: ``nothing``, ``down-bind`` or ``impossible``.
        family: the image's newest version, e.g. ``GLIBC_2.31``.
        machine: e_machine of all the files.
        bindings: what the polyfill defines, sorted.
        imports: what it defines for ``libfairlead-glibc.so`` alone.
        libraries: the image's files that the polyfill needs, so that they are loaded.
        obstacles: what makes it impossible.
        absent: weak references that stay undefined.
        redirect: (library, version) of Verneed that name the polyfill from now on.
        remap: (library, version, symbol) that leave a version which the image's library has.
        elsewhere: (symbol, version) that another of glibc's files defines than the one asked.
        dropped: (library, version) of Verneed that vanish: marks of the linker.
        unneeded: glibc's files that the image lacks, and that nothing is needed from any more.
        expand: whether DT_RELR must be written out.
        reasons: in words, for ``explain``.
    """

    action: str
    family: str
    machine: int
    bindings: tuple[Binding, ...] = ()
    imports: tuple[Binding, ...] = ()
    libraries: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    absent: tuple[Obstacle, ...] = ()
    redirect: frozenset[tuple[str, str]] = frozenset()
    remap: frozenset[tuple[str, str, str]] = frozenset()
    elsewhere: frozenset[tuple[str, str]] = frozenset()
    dropped: frozenset[tuple[str, str]] = frozenset()
    unneeded: frozenset[str] = frozenset()
    expand: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def moved(self) -> tuple[Binding, ...]:
        """The functions that the image has under an older version."""
        return tuple(item for item in self.bindings if item.kind == "moved")

    @property
    def new(self) -> tuple[Binding, ...]:
        """The functions and data that no release as old as the image's has."""
        return tuple(item for item in self.bindings if item.kind != "moved")


class _Asked(NamedTuple):
    """One symbol and version that is missing: who asked first, and whether all ask weakly."""

    by: str
    libraries: frozenset[str]
    weak: bool
    thread_local: bool


def offers(reader: elf.Reader) -> Offers:
    """Return what an open ``libfairlead-glibc.so`` offers.

    Raises:
        elf.ElfError.
    """
    symbols = tuple(reader.symbols())
    return Offers(
        frozenset(
            symbol.name.removeprefix(IMPLEMENTED)
            for symbol in symbols
            if symbol.defined and symbol.name.startswith(IMPLEMENTED)
        ),
        tuple(
            sorted(
                (symbol.name.removeprefix(IMPORTED), symbol.weak)
                for symbol in symbols
                if not symbol.defined and symbol.name.startswith(IMPORTED)
            )
        ),
    )


def plan(
    closure: Iterable[versions.Needs],
    family: versions.Family,
    offered: Offers,
) -> Decision:
    """Return how the files of a closure run on an image's glibc.

    One plan, and so one polyfill, for a container: the loader keeps one library of a name.

    Args:
        closure: what every file that goes into the image asks of glibc, plugins included.
        family: the image's glibc.
        offered: from ``offers``.
    """
    closure = tuple(closure)
    refusal = _refusal(closure, family)
    if refusal:
        words = (refusal.reason,)
        return Decision(
            "impossible", family.name, family.machine, (), (), (), (refusal,), reasons=words
        )
    asked, elsewhere = _missing(closure, family)
    redirect, dropped, obstacles = _versions(closure, family)
    lacking = frozenset().union(*(item.libraries for item in closure)) - family.libraries.keys()
    expand = any(item.relative for item in closure) and not _has_relative(family)
    if not (asked or elsewhere or redirect or dropped or lacking or expand or obstacles):
        why = f"nothing above {family.name} is asked for"
        return Decision("nothing", family.name, family.machine, reasons=(why,))
    bindings, absent, refused = _bind_all(asked, family, offered.symbols)
    imports: tuple[Binding, ...] = ()
    if any(item.kind == "new" for item in bindings):
        imports, lost = _imports(family, offered, bindings)
        obstacles += lost
    obstacles += refused
    libraries = {item.library for item in (*bindings, *imports)} | set(elsewhere.values())
    decision = Decision(
        action="impossible" if obstacles else "down-bind",
        family=family.name,
        machine=family.machine,
        bindings=bindings,
        imports=imports,
        libraries=tuple(sorted(libraries - {""} | {"libc.so.6"})),
        obstacles=tuple(obstacles),
        absent=absent,
        redirect=frozenset(redirect),
        remap=_remap(bindings, asked, redirect),
        elsewhere=frozenset(elsewhere),
        dropped=frozenset(dropped),
        unneeded=lacking,
        expand=expand,
    )
    return decision._replace(reasons=_reasons(decision))


def _has_relative(family: versions.Family) -> bool:
    """Tell whether the image's loader knows DT_RELR; its libc says so by a mark."""
    return "GLIBC_ABI_DT_RELR" in family.libraries["libc.so.6"]


def _remap(
    bindings: Iterable[Binding],
    asked: Mapping[tuple[str, str], _Asked],
    redirect: Container[tuple[str, str]],
) -> frozenset[tuple[str, str, str]]:
    """Return the symbols that the image lacks although it has their version."""
    return frozenset(
        (library, item.version, item.symbol)
        for item in bindings
        for library in asked[item.symbol, item.version].libraries
        if (library, item.version) not in redirect
    )


def _bind_all(
    asked: Mapping[tuple[str, str], _Asked],
    family: versions.Family,
    implementations: frozenset[str],
) -> tuple[tuple[Binding, ...], tuple[Obstacle, ...], list[Obstacle]]:
    """Return what is bound, what stays undefined (only weakly asked), what is impossible."""
    bindings: list[Binding] = []
    absent: list[Obstacle] = []
    refused: list[Obstacle] = []
    for (symbol, version), how in sorted(asked.items()):
        found = _bind(symbol, version, how, family, implementations)
        if isinstance(found, Binding):
            bindings.append(found)
        else:
            (absent if how.weak else refused).append(found)
    return tuple(bindings), tuple(absent), refused


def _refusal(closure: tuple[versions.Needs, ...], family: versions.Family) -> Obstacle | None:
    """Return why an image cannot be served at all."""
    if family.release < rules.OLDEST or "libc.so.6" not in family.libraries:
        have = family.name if family.release else "no glibc"
        oldest = ".".join(map(str, rules.OLDEST))
        return Obstacle("", "", "", f"the image has {have}, down-binding starts at {oldest}")
    if not arch.of(family.machine):
        return Obstacle(
            "", "", "", f"down-binding does not know the image's machine {family.machine}"
        )
    other = next((item for item in closure if item.machine != family.machine), None)
    if other:
        return Obstacle("", "", other.file, f"{other.file} is for another machine than the image")
    return None


def _missing(
    closure: tuple[versions.Needs, ...], family: versions.Family
) -> tuple[dict[tuple[str, str], _Asked], dict[tuple[str, str], str]]:
    """Return the symbols that the family lacks, and where those are that lie in another file."""
    asked: dict[tuple[str, str], _Asked] = {}
    elsewhere: dict[tuple[str, str], str] = {}
    seen: dict[elf.Want, bool] = {}
    for item in closure:
        for want in item.wants:
            missing = seen.get(want)
            if missing is None:
                places = [
                    found.library
                    for found in family.symbols.get(want.symbol, ())
                    if found.version == want.version
                ]
                missing = seen[want] = not places
                if places and want.library not in places:
                    elsewhere[want.symbol, want.version] = places[0]
            if missing:
                key = want.symbol, want.version
                old = asked.get(key)
                asked[key] = _Asked(
                    old.by if old and (want.weak or not old.weak) else item.file,
                    (old.libraries if old else frozenset()) | {want.library},
                    want.weak and (not old or old.weak),
                    want.thread_local or bool(old and old.thread_local),
                )
    return asked, elsewhere


def _versions(
    closure: tuple[versions.Needs, ...], family: versions.Family
) -> tuple[set[tuple[str, str]], set[tuple[str, str]], list[Obstacle]]:
    """Return which entries of Verneed name the polyfill, which vanish, which are impossible."""
    redirect: set[tuple[str, str]] = set()
    dropped: set[tuple[str, str]] = set()
    obstacles: list[Obstacle] = []
    known: set[tuple[str, str]] = set()
    for item in closure:
        for key in sorted(item.versions - known):
            library, version = key
            known.add(key)
            if version in family.libraries.get(library, ()):
                continue
            if version in rules.MARKERS:
                dropped.add(key)
            elif versions.number(version) or version == versions.PRIVATE:
                redirect.add(key)
            else:
                reason = rules.reason(version)
                obstacles.append(Obstacle("", version, item.file, reason))
    return redirect, dropped, obstacles


def _bind(
    symbol: str,
    version: str,
    how: _Asked,
    family: versions.Family,
    implementations: frozenset[str],
) -> Binding | Obstacle:
    """Return what a missing symbol is bound to, or why that is impossible."""
    if version == versions.PRIVATE:
        return Obstacle(symbol, version, how.by, "internal to one release of glibc")
    if how.thread_local:
        return Obstacle(symbol, version, how.by, "a thread-local variable of glibc")
    if symbol in rules.DATA:
        return Binding(symbol, version, "data", size=rules.DATA[symbol].size)
    wanted = versions.number(version)
    if not wanted:
        return Obstacle(symbol, version, how.by, rules.reason(version))
    meaning = ""
    for name in rules.older_names(symbol):
        best = _default(family, name)
        if best:
            meaning = rules.changed(symbol, wanted, versions.number(best.version))
            if not meaning:
                return Binding(symbol, version, "moved", name, best.version, best.library)
    suffix = rules.meaning_suffix(symbol, wanted)
    for name in rules.older_names(symbol):
        if name + suffix in implementations:
            return Binding(symbol, version, "new", IMPLEMENTED + name + suffix)
    return Obstacle(symbol, version, how.by, meaning or rules.reason(symbol))


def _default(family: versions.Family, name: str) -> versions.Definition | None:
    """Return what a program linked in the image gets for a function's name.

    A default version before a hidden one; libpthread's own before what libc has in its place.
    """
    return max(
        (
            found
            for found in family.symbols.get(name, ())
            if found.function and versions.number(found.version)
        ),
        key=lambda found: (
            found.default,
            versions.number(found.version),
            _RANK.get(found.library, 0),
        ),
        default=None,
    )


def _imports(
    family: versions.Family, offered: Offers, bindings: tuple[Binding, ...]
) -> tuple[tuple[Binding, ...], list[Obstacle]]:
    """Return what ``libfairlead-glibc.so`` is given of the image's glibc, and what is not there."""
    found = [
        Binding(SHARED + item.symbol, "", "alias", item.symbol, size=8)
        for item in bindings
        if item.kind == "data"
    ]
    lost: list[Obstacle] = []
    for name, optional in offered.imports:
        best = _default(family, name)
        if best:
            item = Binding(IMPORTED + name, "", "import", name, best.version, best.library)
            found.append(item)
        elif not optional:
            lost.append(Obstacle(name, "", "libfairlead-glibc.so", "the image's glibc has none"))
    return tuple(found), lost


def _reasons(decision: Decision) -> tuple[str, ...]:
    """Return a decision in words, the deciding line first."""
    words = []
    for item in decision.obstacles:
        what = f"{item.symbol}@{item.version}" if item.symbol else item.version
        words.append(f"{what} ({item.by}) cannot be had on {decision.family}: {item.reason}")
    moved, new = len(decision.moved), len(decision.new)
    if decision.bindings:
        words.append(
            f"{moved + new} symbols above {decision.family} down-bound, {moved} moved, {new} new"
        )
    words.extend(
        f"{item.symbol}@{item.version} ({item.by}) stays undefined, as its weak references allow"
        for item in decision.absent
    )
    if decision.expand:
        words.append("compressed relocations (DT_RELR) written out")
    if not words:
        words.append(f"versions above {decision.family} are named, no symbol of them is used")
    return tuple(words)
