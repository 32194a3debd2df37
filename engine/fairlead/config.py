"""Site and user settings; each value knows where it came from.

Later wins: built-in default < a ``sarus.json`` that the site's files name <
``/etc/fairlead/fairlead.toml`` < ``/etc/fairlead/fairlead.d/*.toml``, by name <
``$XDG_CONFIG_HOME/fairlead/fairlead.toml`` < ``FAIRLEAD_*`` environment variable < command line
(applied by the caller with ``override``).

Rules:
- One table (``keys.SETTINGS``) holds every key with its type, default, environment variable and
  meaning.
- An unknown key or a value of the wrong type is an error that names the file and the nearest known
  key.
- A site file that is absent is no error; one that cannot be read is.
- Policy is the site's: some keys count in its files alone, others wherever its files lock them.
  Whoever else sets one is refused; only saying the same is no contradiction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fairlead import errors, tables
from fairlead.keys import SETTINGS, Value

SITE_FILE = "/etc/fairlead/fairlead.toml"
COMMAND_LINE = "command line"  # as the origin of a value
# Where the site sets one of these, no other file takes its file's place.
_BINDING = {
    "locked",
    "allowed_registries",
    "signature_policy",
    "forbidden_mounts",
    "allowed_mounts",
    "containers_config",
    "forbidden_targets",
    "hooks_dirs",
    "sarus_json",
}


class Config(NamedTuple):
    """All settings, immutable; ``origins`` maps each key to what set it."""

    store: str
    site_store: str
    store_quota: str
    store_min_free: str
    keep_blobs: bool
    shared_blobs: str
    spread: str
    spread_dir: str
    default_registry: str
    insecure_registries: tuple[str, ...]
    allowed_registries: tuple[str, ...]
    containers_config: str
    signature_policy: str
    pull: str
    resolve: str
    mpi: str
    mpi_profile: str
    mpi_prefixes: tuple[str, ...]
    mpi_cross_major: bool
    mpi_glibc: str
    mpi_world_check: bool
    mpi_preflight: bool
    mpi_cma_check: bool
    mount_home: bool
    writable: bool
    upper: str
    upper_size: str
    named_size: str
    slurm_inside: bool
    gpu: str
    cdi_dirs: tuple[str, ...]
    hooks_dirs: tuple[str, ...]
    site_mounts: tuple[str, ...]
    site_env: tuple[str, ...]
    forbidden_mounts: tuple[str, ...]
    allowed_mounts: tuple[str, ...]
    forbidden_targets: tuple[str, ...]
    sarus_json: str
    locked: tuple[str, ...]
    plan_cache: bool
    gate: bool
    gate_timeout: str
    origins: Mapping[str, str]

    def override(self, origin: str, **values: Value | None) -> Config:
        """Return a copy with the values that are not None, e.g. from the command line."""
        given = {
            key: _checked(key, value, origin) for key, value in values.items() if value is not None
        }
        if origin == COMMAND_LINE:
            for key, value in given.items():
                self.check_lock(key, value, origin)
        origins = {**self.origins, **dict.fromkeys(given, origin)}
        return self._replace(**given, origins=origins)  # type: ignore[arg-type]

    def check_lock(self, key: str, value: Value, origin: str) -> None:
        """Raise where somebody sets a locked key otherwise than the site does.

        Raises:
            errors.ConfigError
        """
        if key in self.locked and value != getattr(self, key):
            raise errors.ConfigError(
                f"{origin}: {key} is locked by {self.origins['locked']}", hint="leave it out"
            )


def load(
    environ: Mapping[str, str] = os.environ, *, site_file: str = SITE_FILE, home: str | None = None
) -> Config:
    """Read the settings for this user.

    Raises:
        errors.ConfigError: a file is unreadable, malformed, or holds an unknown key or a wrong
        value.
    """
    values: dict[str, Value] = {key: setting.default for key, setting in SETTINGS.items()}
    origins = dict.fromkeys(values, "default")
    sites = site_files(environ, site_file=site_file)
    _refuse_other_site(environ, site_file)
    for path in sites:
        for key, value in _read(path).items():
            values[key], origins[key] = value, path
    for key, value, origin in _of_sarus(str(values["sarus_json"]), origins["sarus_json"]):
        if origins[key] == "default":
            values[key], origins[key] = value, origin
    site = Config(**values, origins=dict(origins))  # type: ignore[arg-type]
    for key, value, origin in _users(environ, user_file(environ, home=home), sites[0]):
        site.check_lock(key, value, origin)
        values[key], origins[key] = value, origin
    store = str(values["store"]).replace("%u", str(os.getuid()))
    values["store"] = store.replace("%g", str(os.getegid()))
    return Config(**values, origins=origins)  # type: ignore[arg-type]


def _of_sarus(path: str, named_by: str) -> Iterator[tuple[str, Value, str]]:
    """Yield what a sarus.json sets, with its origin."""
    if not path:
        return
    from fairlead import sarusjson

    for found in sarusjson.settings(path, os.stat(named_by).st_uid):
        if found.setting:
            yield found.setting, _checked(found.setting, found.value, path), path


def _users(environ: Mapping[str, str], own: str, site: str) -> Iterator[tuple[str, Value, str]]:
    """Yield what the user sets, with its origin; later wins."""
    for key, value in _read(own).items():
        if SETTINGS[key].site:
            raise errors.ConfigError(
                f"{own}: {key} is the administrator's to set", hint=f"it belongs into {site}"
            )
        yield key, value, own
    for key, setting in SETTINGS.items():
        text = environ.get(setting.variable) if setting.variable else None
        if text:
            yield key, _parsed(key, text), f"${setting.variable}"


def _refuse_other_site(environ: Mapping[str, str], site_file: str) -> None:
    """Refuse a variable that would take the site's place where the site's own files bind."""
    if not environ.get("FAIRLEAD_SITE_CONFIG"):
        return
    for path in site_files({}, site_file=site_file):
        found = [key for key in _read(path) if key in _BINDING]
        if found:
            raise errors.ConfigError(
                f"$FAIRLEAD_SITE_CONFIG: {path} sets {found[0]}, which binds", hint="leave it out"
            )


def files(
    environ: Mapping[str, str] = os.environ, *, site_file: str = SITE_FILE, home: str | None = None
) -> tuple[str, ...]:
    """Return the paths that settings hang on; they need not exist.

    With the directory of the site's drop-ins, and with the files that may forbid to name others.
    """
    found: list[str] = []
    for place in (environ, {}) if environ.get("FAIRLEAD_SITE_CONFIG") else (environ,):
        site, *more = site_files(place, site_file=site_file)
        found += [site, _drop_ins(site), *more]
        found += [str(_read(path).get("sarus_json") or path) for path in (site, *more)]
    return (*dict.fromkeys(found), user_file(environ, home=home))


def site_files(
    environ: Mapping[str, str] = os.environ, *, site_file: str = SITE_FILE
) -> tuple[str, ...]:
    """Return the site's file and its drop-ins, by name."""
    site = environ.get("FAIRLEAD_SITE_CONFIG") or site_file
    folder = _drop_ins(site)
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise errors.ConfigError(f"{folder}: {error.strerror}") from error
    return (site, *(f"{folder}/{name}" for name in sorted(names) if name.endswith(".toml")))


def user_file(environ: Mapping[str, str] = os.environ, *, home: str | None = None) -> str:
    """Return the path of the user's file."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(
        home or environ.get("HOME") or "/", ".config"
    )
    return os.path.join(base, "fairlead/fairlead.toml")


def _drop_ins(site: str) -> str:
    return os.path.join(os.path.dirname(site), "fairlead.d")


def _read(path: str) -> dict[str, Value]:
    table = tables.read(path, SETTINGS)
    return {key: _checked(key, value, path) for key, value in table.items()}


def _parsed(key: str, text: str) -> Value:
    default = SETTINGS[key].default
    value: Value = text
    if isinstance(default, bool):
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "y": True,
            "0": False,
            "false": False,
            "no": False,
            "n": False,
        }
        if text.lower() not in words:
            raise errors.ConfigError(
                f"${SETTINGS[key].variable}: {text!r} is neither true nor false"
            )
        value = words[text.lower()]
    elif isinstance(default, tuple):
        value = tuple(text.replace(",", " ").split())
    return _checked(key, value, f"${SETTINGS[key].variable}")


def unknown(origin: str, key: str) -> errors.ConfigError:
    """Return the error for a key that is none, which names the nearest one."""
    import difflib

    near = difflib.get_close_matches(key, SETTINGS, 1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(SETTINGS)}"
    return errors.ConfigError(f"{origin}: unknown key {key!r}", hint=hint)


def _checked(key: str, value: object, origin: str) -> Value:
    if key not in SETTINGS:
        raise unknown(origin, key)
    setting = SETTINGS[key]
    if isinstance(setting.default, tuple) and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            wrong = [item for item in value if setting.form and not setting.form[1](item)]
            if wrong and setting.form:
                raise errors.ConfigError(f"{origin}: {key}: {wrong[0]!r} is not {setting.form[0]}")
            return tuple(value)
    elif type(value) is type(setting.default):
        if setting.choices and value not in setting.choices:
            raise errors.ConfigError(
                f"{origin}: {key} = {value!r} is not one of {', '.join(setting.choices)}"
            )
        if setting.form and isinstance(value, str) and not setting.form[1](value):
            raise errors.ConfigError(f"{origin}: {key} = {value!r} is not {setting.form[0]}")
        return value
    wanted = (
        "a list of strings"
        if isinstance(setting.default, tuple)
        else type(setting.default).__name__
    )
    raise errors.ConfigError(f"{origin}: {key} must be {wanted}, not {type(value).__name__}")
