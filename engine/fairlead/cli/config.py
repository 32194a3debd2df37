"""Show every setting with its value and where it comes from, or check the files that say so.

The files: /etc/fairlead/fairlead.toml and fairlead.d/*.toml beside it, the user's, and those that
podman and skopeo have too: registries.conf, policy.json, registries.d.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator

from fairlead import config as settings
from fairlead import errors
from fairlead.keys import SETTINGS, Value

EPILOG = """\
examples:
  fairlead config
  fairlead config pull
  fairlead config --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--json", action="store_true", help="a JSON object of value and origin by key")
    add("--check", action="store_true", help="read all files, and say what is wrong with them")
    add("key", nargs="?", metavar="KEY", help="show the value of this key alone")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print settings, or what was found in the files."""
    keys = [arguments.key] if arguments.key else list(SETTINGS)
    if arguments.key and arguments.key not in SETTINGS:
        raise settings.unknown("command line", arguments.key)
    if arguments.check:
        return _check(config)
    if arguments.json:
        table = {
            key: {"value": _value(config, key), "origin": _origin(config, key)} for key in keys
        }
        print(json.dumps(table, indent=2))
    elif arguments.key:
        value = _value(config, arguments.key)
        print("\n".join(value) if isinstance(value, tuple) else _text(value).strip('"'))
    else:
        lines = [f"{key} = {_text(_value(config, key))}" for key in keys]
        width = min(48, max(len(line) for line in lines))
        for key, line in zip(keys, lines, strict=True):
            print(f"{line:<{width}}  # {_origin(config, key)}")
    return 0


def _value(config: settings.Config, key: str) -> Value:
    value: Value = getattr(config, key)
    return value


def _text(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)


def _origin(config: settings.Config, key: str) -> str:
    return f"{config.origins[key]}{', locked' if key in config.locked else ''}"


def _check(config: settings.Config) -> int:
    """Read every file that there is; return the exit status."""
    from fairlead.image import lookaside, policy, registries, signature
    from fairlead.run import rules

    environ = os.environ
    tasks: dict[str, tuple[tuple[str, ...], Callable[[], object]]] = {
        "settings": (settings.files(), lambda: rules.mounts(config)),
        "registries.conf": (
            registries.files(config, environ),
            lambda: (registries.load(config, environ), registries.load(config, environ, site=True)),
        ),
        "policy.json": (
            policy.files(config, environ),
            lambda: [signature.keys(demand) for demand in policy.every(config, environ)],
        ),
        "registries.d": (
            lookaside.files(config, environ),
            lambda: lookaside.directory(config, environ, site=False),
        ),
    }
    wrong = 0
    for name, (paths, read) in tasks.items():
        found = [path for path in paths if os.path.isfile(path)]
        try:
            read()
        except errors.Error as error:
            wrong += 1
            print(f"wrong  {name}: {error.message} ({error.hint})")
        else:
            print(f"ok     {name}: {', '.join(found) or 'no file'}")
    for remark in _remarks(config):
        print(f"note   {remark}")
    return errors.ConfigError.status if wrong else 0


def _remarks(config: settings.Config) -> Iterator[str]:
    """Yield what a sarus.json of the site's says that has no place here."""
    if not config.sarus_json:
        return
    from fairlead import sarusjson
    from fairlead.cli import migrate_sarus

    owner = os.stat(config.origins["sarus_json"]).st_uid
    table = sarusjson.read(config.sarus_json, owner)
    found = (*sarusjson.settings(config.sarus_json, owner), *migrate_sarus.without_place(table))
    for each in found:
        if each.remark:
            yield f"{config.sarus_json}: {each.field}: {each.remark}"
        elif config.origins[each.setting] != config.sarus_json:
            other = config.origins[each.setting]
            yield f"{config.sarus_json}: {each.field}: {other} sets {each.setting}"
