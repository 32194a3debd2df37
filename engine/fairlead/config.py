"""Site and user settings; each value knows where it came from.

Later wins: built-in default < ``/etc/fairlead/fairlead.toml`` <
``$XDG_CONFIG_HOME/fairlead/fairlead.toml`` < ``FAIRLEAD_*`` environment variable < command line
(applied by the caller with ``override``).

Rules:
- One table, ``SETTINGS``, holds every key with its type, default, environment variable and meaning;
  the site file's template and the documentation follow it, and a test holds them together.
- An unknown key or a value of the wrong type is an error that names the file and the nearest known
  key.
- A site file that is absent is no error; one that cannot be read is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from fairlead import errors

SITE_FILE = "/etc/fairlead/fairlead.toml"

Value = str | bool | tuple[str, ...]


class Setting(NamedTuple):
    """One key: default (whose type is the key's), environment variable, meaning, allowed values."""

    default: Value
    variable: str
    meaning: str
    choices: tuple[str, ...] = ()


SETTINGS: dict[str, Setting] = {
    "store": Setting(
        "/var/tmp/fairlead-%u.%g",  # noqa: S108 - the store's owner and mode are checked when it is opened
        "FAIRLEAD_STORE",
        "directory for images, node-local; %u and %g become the numeric uid and gid",
    ),
    "default_registry": Setting(
        "docker.io", "FAIRLEAD_DEFAULT_REGISTRY", "registry of a reference that names none"
    ),
    "insecure_registries": Setting(
        (),
        "FAIRLEAD_INSECURE_REGISTRIES",
        "HOST[:PORT] reached by plain HTTP (loopback addresses always are)",
    ),
    "pull": Setting(
        "newer",
        "FAIRLEAD_PULL",
        "when to ask the registry: always, newer (the local image if the registry does not "
        "answer), missing, never",
        ("always", "newer", "missing", "never"),
    ),
    "mpi": Setting(
        "auto",
        "FAIRLEAD_MPI",
        "whose MPI library runs: auto, host or image",
        ("auto", "host", "image"),
    ),
    "mount_home": Setting(True, "FAIRLEAD_MOUNT_HOME", "bind the user's home directory"),
    "writable": Setting(
        True,
        "FAIRLEAD_WRITABLE",
        "let the container write to its own root (in memory, lost at the end)",
    ),
    "plan_cache": Setting(
        True,
        "FAIRLEAD_PLAN_CACHE",
        "keep what was decided for a launch, so that the same launch starts no Python",
    ),
}


class Config(NamedTuple):
    """All settings, immutable; ``origins`` maps each key to what set it."""

    store: str
    default_registry: str
    insecure_registries: tuple[str, ...]
    pull: str
    mpi: str
    mount_home: bool
    writable: bool
    plan_cache: bool
    origins: Mapping[str, str]

    def override(self, origin: str, **values: Value | None) -> Config:
        """Return a copy with the values that are not None, e.g. from the command line."""
        given = {
            key: _checked(key, value, origin) for key, value in values.items() if value is not None
        }
        origins = {**self.origins, **dict.fromkeys(given, origin)}
        return self._replace(**given, origins=origins)  # type: ignore[arg-type]


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
    for path in files(environ, site_file=site_file, home=home):
        for key, value in _read(path).items():
            values[key], origins[key] = value, path
    for key, setting in SETTINGS.items():
        text = environ.get(setting.variable)
        if text:
            values[key], origins[key] = _parsed(key, text), f"${setting.variable}"
    store = str(values["store"]).replace("%u", str(os.getuid()))
    values["store"] = store.replace("%g", str(os.getegid()))
    return Config(**values, origins=origins)  # type: ignore[arg-type]


def files(
    environ: Mapping[str, str] = os.environ, *, site_file: str = SITE_FILE, home: str | None = None
) -> tuple[str, str]:
    """Return the paths of the site's and the user's file."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(
        home or environ.get("HOME") or "/", ".config"
    )
    site = environ.get("FAIRLEAD_SITE_CONFIG") or site_file
    return site, os.path.join(base, "fairlead/fairlead.toml")


def _read(path: str) -> dict[str, Value]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - the with statement follows, outside this try
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        if path.startswith("/etc/"):
            raise errors.ConfigError(f"{path}: {error.strerror}") from error
        return {}  # a home directory that this process may not enter is as good as none
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}") from error
    import tomllib

    with file:
        try:
            table = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f"{path}: {error}") from error
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


def _checked(key: str, value: object, origin: str) -> Value:
    if key not in SETTINGS:
        import difflib

        near = difflib.get_close_matches(key, SETTINGS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(SETTINGS)}"
        raise errors.ConfigError(f"{origin}: unknown key {key!r}", hint=hint)
    setting = SETTINGS[key]
    if isinstance(setting.default, tuple) and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif type(value) is type(setting.default):
        if setting.choices and value not in setting.choices:
            raise errors.ConfigError(
                f"{origin}: {key} = {value!r} is not one of {', '.join(setting.choices)}"
            )
        return value
    wanted = (
        "a list of strings"
        if isinstance(setting.default, tuple)
        else type(setting.default).__name__
    )
    raise errors.ConfigError(f"{origin}: {key} must be {wanted}, not {type(value).__name__}")
