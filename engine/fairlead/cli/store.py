"""Look after the store of this node: list it, check it, make room.

For a user it is the user's own store. For root it is the site store, where there is one; the work
is done under the account that owns it.

What is in use is never removed: what a launch is about to mount or a process has mounted, and in
the site store what a living job has used.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fairlead import config as settings
from fairlead import errors, keys, log
from fairlead.cli import columns
from fairlead.cli.images import size_text
from fairlead.run import named
from fairlead.shared import check as shared_check
from fairlead.shared import gc as shared_gc
from fairlead.shared import place
from fairlead.store import check, gc, items, room
from fairlead.store.items import Item, Outcome
from fairlead.store.layout import Store

EPILOG = """\
examples:
  fairlead store df
  fairlead store gc --dry-run --max-size 20G
  fairlead store check --repair
"""

_COLUMNS = ("KIND", "NAME", "SIZE", "LAST USE", "IN USE BY", "IMAGES")
EVERYTHING = 1 << 62
FOUND = 1  # the exit status of a check that found something


class _View(NamedTuple):
    """A store, of either kind, as the verbs see it."""

    store: Store
    kind: str
    inventory: Callable[[], tuple[Item, ...]]
    collect: Callable[[int, bool, log.Progress | None], Outcome]
    check: Callable[[bool, log.Progress | None], Iterator[check.Finding]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="everything known, as JSON")
    common.add_argument(
        "--own", action="store_true", help="for root: root's own store, not the site's"
    )
    for name, text in (
        ("ls", "list what is in the store: size, last use, who uses it, which images need it"),
        ("df", "show where it is, what it holds, what is free and what gc could free"),
    ):
        actions.add_parser(name, parents=[common], help=text, description=text)
    text = "verify every object; exit status 1 if something was found, one line each"
    checking = actions.add_parser("check", parents=[common], help=text, description=text)
    checking.add_argument(
        "--repair",
        action="store_true",
        help="take what is damaged out of use, so that the next launch fetches it again",
    )
    text = "remove garbage, and the least recently used images until the quota is kept"
    collecting = actions.add_parser("gc", parents=[common], help=text, description=text)
    collecting.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be removed"
    )
    goal = collecting.add_mutually_exclusive_group()
    goal.add_argument("--all", action="store_true", help="remove everything that is not in use")
    goal.add_argument("--max-size", metavar="SIZE", help="keep at most SIZE, like 20G")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Do one action on the store that is meant."""
    if arguments.action == "gc" and arguments.max_size is not None:
        if keys.size_bytes(arguments.max_size) is None:
            raise errors.UsageError(f"--max-size {arguments.max_size!r} is no size like 20G or 50%")
        config = config.override("--max-size", store_quota=arguments.max_size)
    view = _open(config, own=arguments.own)
    return _ACTIONS[arguments.action](view, arguments, config)


def _open(config: settings.Config, *, own: bool) -> _View:
    if place.is_site(config, own=own):
        living = _living()  # before this process becomes somebody from whom jobs may be hidden
        store = place.open_place(config, own=own).store
        return _View(
            store,
            "site",
            lambda: shared_gc.inventory(store, living),
            lambda wanted, dry, bar: shared_gc.collect(
                store, wanted, living, dry=dry, progress=bar
            ),
            lambda repair, bar: shared_check.run(store, repair=repair, progress=bar),
        )
    store = place.open_place(config, own=own).store
    return _View(
        store,
        "user",
        lambda: gc.inventory(store),
        lambda wanted, dry, bar: gc.collect(store, wanted, dry=dry, progress=bar),
        lambda repair, bar: check.run(store, repair=repair, progress=bar),
    )


def _living() -> shared_gc.Living:
    from fairlead.host import jobs

    asked = time.time()
    living = jobs.living()
    if living is None:
        log.note("Slurm does not say which jobs live; every lease since the last boot counts")
    return shared_gc.Living(living, asked)


# -- actions ---------------------------------------------------------------------------------------


def _ls(view: _View, arguments: argparse.Namespace, config: settings.Config) -> int:
    found = sorted(view.inventory(), key=lambda item: (item.kind, -item.used, item.name))
    if arguments.json:
        print(json.dumps([_entry(item) for item in found], indent=2))
        return 0
    for line in columns.lines(_COLUMNS, (_row(item) for item in _folded(found))):
        print(line)
    return 0


def _df(view: _View, arguments: argparse.Namespace, config: settings.Config) -> int:
    limits, found = room.limits(view.store, config), view.inventory()
    used, can_free = items.total(found), items.total(items.free(found))
    if arguments.json:
        table = {
            "path": view.store.root,
            "kind": view.kind,
            "used_bytes": used,
            "free_bytes": limits.free,
            "total_bytes": limits.total,
            "quota_bytes": limits.quota,
            "min_free_bytes": limits.min_free,
            "gc_can_free_bytes": can_free,
        }
        print(json.dumps(table, indent=2))
        return 0
    quota = "none" if limits.quota is None else size_text(limits.quota)
    for key, value in (
        ("store", f"{view.store.root} ({view.kind})"),
        ("used", size_text(used)),
        ("free", f"{size_text(limits.free)} of {size_text(limits.total)}"),
        ("quota", quota),
        ("gc can free", size_text(can_free)),
    ):
        print(f"{key:<12} {value}")
    return 0


def _check(view: _View, arguments: argparse.Namespace, config: settings.Config) -> int:
    found = []
    for finding in view.check(arguments.repair, _progress("check")):
        found.append(finding)
        if not arguments.json:
            tail = f" ({finding.repaired})" if finding.repaired else ""
            text = f"{finding.kind}: {finding.path}: {finding.why}{tail}"
            print(errors.one_line(text), flush=True)
    if arguments.json:
        keys = ("kind", "path", "why", "repaired")
        print(json.dumps([{k: getattr(item, k) for k in keys} for item in found], indent=2))
    return FOUND if found else 0


def _gc(view: _View, arguments: argparse.Namespace, config: settings.Config) -> int:
    dry = arguments.dry_run
    if view.kind == "user" and not dry:
        named.forget_ended(view.store)
    done = view.collect(_wanted(view, arguments, config), dry, _progress("gc"))
    if arguments.json:
        table = {
            "removed": [_entry(item) for item in done.removed],
            "spared": [_entry(item) for item in done.spared],
            "freed_bytes": done.freed,
            "dry_run": dry,
        }
        print(json.dumps(table, indent=2))
        return 0
    for item in _folded(done.removed):
        print("  ".join((item.kind, _short(item), size_text(item.size), *item.images)))
    print(f"{'would free' if dry else 'freed'} {size_text(done.freed)}")
    if done.spared:
        print(f"in use: {size_text(items.total(done.spared))}")
    return 0


def _wanted(view: _View, arguments: argparse.Namespace, config: settings.Config) -> int:
    """Return how many bytes must become free to keep to what was asked for and to the settings."""
    if arguments.all:
        return EVERYTHING
    limits = room.limits(view.store, config)
    wanted = limits.min_free - limits.free
    if limits.quota is not None:
        wanted = max(wanted, items.total(view.inventory()) - limits.quota)
    return max(0, wanted)


_ACTIONS = {"ls": _ls, "df": _df, "check": _check, "gc": _gc}


# -- words -----------------------------------------------------------------------------------------


def _entry(item: Item) -> dict[str, object]:
    return {
        "kind": item.kind,
        "name": item.name,
        "size_bytes": item.size,
        "last_use": _time(item.used),
        "in_use_by": item.held,
        "images": list(item.images),
    }


def _row(item: Item) -> tuple[str, ...]:
    images = ", ".join(_image(text) for text in item.images)
    return item.kind, _short(item), size_text(item.size), _time(item.used), item.held, images


def _folded(found: Iterable[Item]) -> list[Item]:
    """Let one line stand for all leases of ended jobs; each job leaves one, without a size."""
    rest, leases = [], 0
    for item in found:
        if item.kind == "garbage" and item.name.startswith("leases/"):
            leases += 1
        else:
            rest.append(item)
    return [Item("garbage", f"{leases} leases of ended jobs", 0, 0.0), *rest] if leases else rest


def _short(item: Item) -> str:
    return item.name if item.kind == "garbage" else item.name.rpartition(":")[2][:12]


def _image(text: str) -> str:
    return text[:12] if len(text) == 64 and "/" not in text else text


def _time(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) if when else ""


def _progress(label: str) -> log.Progress:
    if log.main_stream_is_terminal():
        from fairlead.cli import lazy_progress

        return lazy_progress.LazyProgress(label)
    return log.QuietProgress(label)
