"""Show the host's MPI installations, an image's MPI, and whose will run and why.

Works without Slurm and without an allocation; what is shown is this node's. `profile` is the only
action that runs something: a small MPI program, as you, outside of any container.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Iterable
from typing import NamedTuple

from fairlead import config as settings
from fairlead import errors, log
from fairlead.cli import columns, names
from fairlead.cli.images import size_text
from fairlead.host import index, mpi, program, trace
from fairlead.plan import explain, inject
from fairlead.run import injection, view
from fairlead.store import fetch, layers, layout

EPILOG = """\
examples:
  fairlead mpi list
  fairlead mpi show openmpi-4.1.4
  fairlead mpi explain registry.example.org/team/solver:2.1 /opt/solver/bin/solve
"""

_COLUMNS = ("NAME", "FAMILY", "VERSION", "ABI", "PMI", "PREFERRED", "PREFIX", "FOUND BY")


class Installation(NamedTuple):
    """An MPI of the host: what has one name, and for which ABI classes it is preferred."""

    name: str
    profiles: tuple[mpi.Profile, ...]
    preferred: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="everything known, as JSON")
    text = "list the MPI installations of this host, and which are preferred"
    actions.add_parser("list", parents=[common], help=text, description=text)
    text = "show what one installation consists of, and what a trace of it found"
    showing = actions.add_parser("show", parents=[common], help=text, description=text)
    showing.add_argument("name", metavar="NAME", help="as list names it, or its prefix")
    text = "run a small program with an installation and note which files it reads"
    profiling = actions.add_parser("profile", parents=[common], help=text, description=text)
    profiling.add_argument(
        "--program",
        metavar="PATH",
        default="",
        help="an MPI program of this host (default: one is compiled)",
    )
    profiling.add_argument(
        "--time-limit",
        metavar="SECONDS",
        type=int,
        default=trace.LIMIT_S,
        help=f"end it after so long (default: {trace.LIMIT_S})",
    )
    profiling.add_argument(
        "name", metavar="NAME", nargs="?", help="default: those that are preferred"
    )
    text = "say which MPI an image has, whose will run and why, and how to start it"
    explaining = actions.add_parser("explain", parents=[common], help=text, description=text)
    explaining.add_argument("reference", metavar="IMAGE", help="image reference")
    explaining.add_argument("app", metavar="APP", nargs="?", help="a program of the image")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Do one action."""
    if arguments.action == "explain":
        return _explain(arguments, config)
    installations, wrong = _installations(config)
    status = _ACTIONS[arguments.action](arguments, config, installations)
    if wrong:
        raise wrong
    return status


def _installations(
    config: settings.Config,
) -> tuple[tuple[Installation, ...], errors.ConfigError | None]:
    """Return what the host has; with it the error of a setting that names none of it.

    Whoever has set a wrong name needs this list most.
    """
    choice = mpi.choice(config)
    found = mpi.profiles(os.environ, _cache(config), choice._replace(wanted=""))
    wrong = None
    try:
        found = mpi.ordered(found, choice)
    except errors.ConfigError as error:
        wrong = error
    preferred: dict[str, mpi.Profile] = {}
    grouped: dict[str, list[mpi.Profile]] = {}
    for profile in found:
        preferred.setdefault(profile.abi_class, profile)
        grouped.setdefault(profile.label, []).append(profile)
    return tuple(
        Installation(
            label, tuple(profiles), tuple(p.abi_class for p in profiles if p in preferred.values())
        )
        for label, profiles in grouped.items()
    ), wrong


def _cache(config: settings.Config) -> str:
    return layout.open_store(config).path("host")


def _named(installations: Iterable[Installation], name: str) -> Installation:
    """Return the installation of a name or prefix.

    Raises:
        errors.UsageError: there is none.
    """
    known = {item.name: item for item in installations}
    found = known.get(name) or next(
        (item for item in known.values() if mpi.is_named(item.profiles[0], name)), None
    )
    if found:
        return found
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
    raise errors.UsageError(f"{name}: no MPI installation of this host has that name", hint=hint)


# -- list ------------------------------------------------------------------------------------------


def _list(
    arguments: argparse.Namespace,
    config: settings.Config,
    installations: tuple[Installation, ...],
) -> int:
    if arguments.json:
        print(json.dumps([_entry(item) for item in installations], indent=2))
        return 0
    if not installations:
        log.note("no MPI is found on this host: load its module, or name it in mpi_prefixes")
    for line in columns.lines(_COLUMNS, (_row(item) for item in installations)):
        print(errors.one_line(line))
    return 0


def _entry(item: Installation) -> dict[str, object]:
    first = item.profiles[0]
    return {
        "name": item.name,
        "family": first.label.partition("-")[0],
        "version": first.version,
        "abi_classes": [profile.abi_class for profile in item.profiles],
        "preferred_for": list(item.preferred),
        "pmi": sorted({name for profile in item.profiles for name in profile.pmi}),
        "prefix": first.prefix,
        "found_by": first.found_by,
    }


def _row(item: Installation) -> tuple[str, ...]:
    first = item.profiles[0]
    pmi = sorted({name for profile in item.profiles for name in profile.pmi})
    return (
        item.name,
        mpi.NAMES.get(first.label.partition("-")[0], first.family),
        first.version,
        ",".join(profile.abi_class for profile in item.profiles),
        ",".join(pmi) or "none",
        ",".join(item.preferred) or "-",
        first.prefix,
        first.found_by,
    )


# -- show ------------------------------------------------------------------------------------------


def _show(
    arguments: argparse.Namespace,
    config: settings.Config,
    installations: tuple[Installation, ...],
) -> int:
    item = _named(installations, arguments.name)
    cache = _cache(config)
    traces = [trace.load(trace.path(cache, profile)) for profile in item.profiles]
    pairs = list(zip(item.profiles, traces, strict=True))
    if arguments.json:
        shown = [{**_profile_entry(profile), **_trace_entry(profile, t)} for profile, t in pairs]
        print(json.dumps({**_entry(item), "profiles": shown}, indent=2))
        return 0
    for profile, found in pairs:
        _print((*_profile_lines(profile), *_trace_lines(profile, found)))
    return 0


def _profile_entry(profile: mpi.Profile) -> dict[str, object]:
    table = profile._asdict()
    table["exports"] = profile.exports.count("\n") + 1
    table["plugin_dirs"] = [item._asdict() for item in profile.plugin_dirs]
    table["glibc"] = [need._asdict() for need in profile.glibc]
    return table | {"size_bytes": _size(profile)}


def _files(profile: mpi.Profile) -> set[str]:
    plugins = {real for item in profile.plugin_dirs for _, real in item.files if real[0] == "/"}
    return {real for _, real in profile.closure} | plugins


def _size(profile: mpi.Profile) -> int:
    total = 0
    for path in _files(profile):
        try:
            total += os.stat(path).st_size
        except OSError:  # replaced just now: the next look says so
            continue
    return total


def _profile_lines(profile: mpi.Profile) -> list[explain.Line]:
    line = explain.Line
    files = _files(profile)
    lines = [
        line("name", f"{profile.label}: {profile.name}, {profile.abi_class}"),
        line("prefix", f"{profile.prefix}, found by {profile.found_by}"),
        line("pmi", ", ".join(profile.pmi) or "none"),
    ]
    if profile.client:
        lines.append(line("pmix", ", ".join(profile.client)))
    lines += [line("library", f"{role}: {name} {path}") for role, name, path in profile.libraries]
    lines.append(line("closure", f"{len(files)} files, {size_text(_size(profile))}"))
    for item in profile.plugin_dirs:
        lines.append(line("plugins", f"{item.path}: {len(item.files)} of {item.owner}"))
        lines += [line("left out", f"{item.path}/{name}: {why}") for name, why in item.left_out]
    lines += [line("data", f"{path} of {owner}") for path, owner in profile.data_dirs]
    lines += [line("data", f"{path}, seen in a trace") for path in profile.data]
    lines += [line("variable", f"{name}={value}") for name, value in profile.env]
    versions = [need for need in profile.glibc if inject.version(need.version)]
    if versions:
        top = max(versions, key=lambda need: inject.version(need.version))
        asked = f"{top.version} ({top.by}: {top.symbol})"
        lines.append(line("glibc", f"{len(profile.glibc)} versions, up to {asked}"))
    named = {
        f"{i.path}/{name} left out: {why}" for i in profile.plugin_dirs for name, why in i.left_out
    }
    return lines + [line("note", note) for note in profile.notes if note not in named]


def _trace_entry(profile: mpi.Profile, found: trace.Trace | None) -> dict[str, object]:
    if not found:
        return {"trace": None}
    return {
        "trace": found._asdict(),
        "trace_difference": trace.difference(profile, found)._asdict(),
    }


def _trace_lines(profile: mpi.Profile, found: trace.Trace | None) -> list[explain.Line]:
    line = explain.Line
    if not found:
        return [line("trace", f"none; fairlead mpi profile {profile.label} makes one")]
    unlike = trace.difference(profile, found)
    ranks = f"{found.ranks} rank{'s' if found.ranks > 1 else ''}"
    lines = [line("trace", f"{ranks} of {' '.join(found.command)}")]
    lines += [line("missed", f"{path}: the analysis does not know it") for path in unlike.missed]
    lines += [line("traced", f"{path}: left out on purpose") for path in unlike.left_out]
    lines += [line("traced", f"{path}: in a data directory") for path in unlike.carried]
    lines += [line("traced", f"{path}: travels with it from now on") for path in unlike.data]
    lines += [line("socket", f"{path}: must be reachable") for path in found.sockets]
    return lines + [line("segment", f"{path}: must be reachable") for path in found.segments]


# -- profile ---------------------------------------------------------------------------------------


def _profile(
    arguments: argparse.Namespace,
    config: settings.Config,
    installations: tuple[Installation, ...],
) -> int:
    if os.geteuid() == 0:
        raise errors.RootError("MPI programs are not traced as root")
    if arguments.time_limit < 1:
        raise errors.UsageError(f"--time-limit {arguments.time_limit}: not a number of seconds")
    if arguments.name:
        wanted = list(_named(installations, arguments.name).profiles)
    else:
        wanted = [p for i in installations for p in i.profiles if p.abi_class in i.preferred]
    if arguments.program and not os.access(arguments.program, os.X_OK):
        raise errors.UsageError(f"--program {arguments.program}: no program that you may run")
    program_path = os.path.abspath(arguments.program) if arguments.program else ""
    cache = _cache(config)
    made = []
    for profile in wanted:
        found = trace.run(profile, os.environ, program_path, arguments.time_limit)
        trace.keep(trace.path(cache, profile), found)
        made.append((profile, found))
        if not arguments.json:
            head = explain.Line("name", f"{profile.label}: {profile.name}, {profile.abi_class}")
            _print((head, *_trace_lines(profile, found)))
    if arguments.json:
        table = [{"name": p.label, "abi_class": p.abi_class, **_trace_entry(p, t)} for p, t in made]
        print(json.dumps(table, indent=2))
    return 0


_ACTIONS = {"list": _list, "show": _show, "profile": _profile}


# -- explain ---------------------------------------------------------------------------------------


class _Explained(NamedTuple):
    """All that there is to say about an image."""

    image: fetch.Image
    known: index.Index
    annotations: tuple[tuple[str, str], ...]
    program: program.Program | None
    classes: frozenset[str]
    verdict: inject.Verdict
    lines: tuple[explain.Line, ...]


def _explain(arguments: argparse.Namespace, config: settings.Config) -> int:
    found = _examined(arguments, config)
    if arguments.json:
        print(json.dumps(_explained_entry(found), indent=2))
    else:
        _print(found.lines)
    return 0


def _examined(arguments: argparse.Namespace, config: settings.Config) -> _Explained:
    wanted = names.parse(arguments.reference, config)
    store = layout.open_store(config)
    policy = "missing" if config.origins["pull"] == "default" else config.pull
    bar = log.QuietProgress(f"pulling {arguments.reference}")
    image = fetch.pull(wanted, config, store, policy=policy, progress=bar)
    layers.hold(store, image.chain)
    known = index.load(image.rootfs, f"{image.place}/mpi.json")
    manifest = fetch.manifest_of(store, image)
    notes = (*image.config.labels, *(manifest.annotations if manifest else ()))
    environ = dict(image.config.env)
    have = mpi.profiles(os.environ, store.path("host"), mpi.choice(config))
    lines = [explain.Line("image", image.pinned), *explain.image(known, notes, environ)]
    app = program.examine(image.rootfs, arguments.app, environ) if arguments.app else None
    if app:
        lines += explain.application(app, known)
    classes = explain.wanted(app, known)
    files = view.View(image.place, image.rootfs)
    glibc = {
        profile.identity: injection.on_glibc(files, known, profile)
        for profile in inject.asks_more(known, have)
    }
    said, verdict = explain.verdicts(
        known,
        have,
        classes,
        cross_major=config.mpi_cross_major,
        glibc=glibc,
        swap=config.mpi_glibc == "swap",
    )
    lines += [*said, *_injected(verdict, known, image.rootfs)]
    return _Explained(image, known, notes, app, classes, verdict, tuple(lines))


def _injected(verdict: inject.Verdict, known: index.Index, rootfs: str) -> list[explain.Line]:
    """Return what would be put over the image, what it would replace and what stays."""
    if verdict.choice != "host":
        return []
    from fairlead.host import elf
    from fairlead.run import layer

    try:
        layout = layer.plan(verdict, known, rootfs)
    except elf.ElfError as error:
        return [explain.Line("refused", f"the image's tree is in the way: {error}")]
    line = explain.Line
    copies = [entry for entry in layout.entries if entry.kind in ("copy", "library")]
    size = sum(os.stat(entry.source).st_size for entry in copies)
    lines = [line("injected", f"{len(copies)} files of the host, {size_text(size)}")]
    replaced = {item.path for item in known.libraries} | {path for path, _ in known.private}
    lines += [
        line("replaced", f"{entry.path}: {entry.reason}")
        for entry in layout.entries
        if entry.path in replaced or entry.kind == "opaque"
    ]
    for text in layout.report:
        subject = "kept" if ": the image's is kept" in text or ": stays" in text else "injected"
        lines.append(line(subject, text))
    return lines


def _explained_entry(found: _Explained) -> dict[str, object]:
    known = found.known._asdict()
    known["libraries"] = [item._asdict() for item in found.known.libraries]
    known["programs"] = [item._asdict() for item in found.known.programs]
    known["needs"] = {name: len(used.split("\n")) for name, used in found.known.needs}
    del known["libraries_found"]  # every library of the image, by the hundred
    runs = (found.known, found.verdict)
    pmi = {name: explain.started(*runs, name, found.classes) for name in explain.PMI}
    return {
        "image": found.image.pinned,
        "labels": dict(found.annotations),
        "index": known,
        "program": _program_entry(found.program),
        "verdict": {
            "choice": found.verdict.choice,
            "profiles": [profile.label for profile in found.verdict.profiles],
            "reasons": list(found.verdict.reasons),
            "warnings": list(found.verdict.warnings),
        },
        "pmi": pmi,
        "start_with": explain.start_with(*runs, found.classes) or None,
        "lines": [item._asdict() for item in found.lines],
    }


def _program_entry(found: program.Program | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {**found._asdict(), "mpi": [item._asdict() for item in found.mpi]}


def _print(lines: Iterable[explain.Line]) -> None:
    for item in lines:
        print(errors.one_line(f"{item.subject:<10} {item.text}"))
