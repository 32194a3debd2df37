"""Where the store of podman, buildah and skopeo lies, as they would find it.

Rules:
- For an ordinary user the file of their own settings counts, alone; the system's gives only the
  driver and ``rootless_storage_path``. For root it is the other way round.
- A store has several roots: that of new images first, then those that are only read
  (``imagestore``, ``additionalimagestores``). Images and layers are looked for in all of them.

Source: containers/storage ``types/options.go`` (loadDefaultStoreOptions, getRootlessStorageOpts,
ReloadConfigurationFile), ``docs/containers-storage.conf.5.md``.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from fairlead import errors
from fairlead.image import files

DIFF = {"overlay": "overlay/{}/diff", "vfs": "vfs/dir/{}"}
_SYSTEM = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")
_ROOTS = "/var/lib/containers/storage"


class Place(NamedTuple):
    """A store: its driver, and its roots in the order in which they are looked through."""

    driver: str
    roots: tuple[str, ...]

    def images(self) -> tuple[str, ...]:
        """Return the paths of the tables of images, those that are there first."""
        paths = [f"{root}/{self.driver}-images/images.json" for root in self.roots]
        return tuple(sorted(paths, key=lambda path: not os.path.exists(path)))


def find(environ: Mapping[str, str]) -> Place:
    """Return the store that podman would use for this user.

    Raises:
        errors.ConfigError: its settings cannot be read.
        errors.ArchiveError: its driver is not known here.
    """
    rootless = os.geteuid() != 0
    table, root = _chosen(environ, rootless=rootless)
    driver = environ.get("STORAGE_DRIVER") or str(table.get("driver") or "")
    driver = {"overlay2": "overlay"}.get(driver, driver)
    if not driver:
        driver = next((name for name in DIFF if os.path.isdir(f"{root}/{name}-images")), "overlay")
    if driver not in DIFF:
        raise errors.ArchiveError(
            f"{root}: its driver is {driver}, only overlay and vfs are known",
            hint="copy the image to oci:PATH with skopeo",
        )
    options = table.get("options")
    more = options.get("additionalimagestores") if isinstance(options, dict) else None
    told = [table.get("imagestore"), root, *(more if isinstance(more, list) else ())]
    roots = (_expanded(path, environ) for path in told if isinstance(path, str) and path)
    return Place(driver, tuple(dict.fromkeys(roots)))


def _chosen(environ: Mapping[str, str], *, rootless: bool) -> tuple[dict[str, Any], str]:
    """Return the settings that count, and the graph root."""
    named = environ.get("CONTAINERS_STORAGE_CONF")
    if named and (table := _settings(named)) is None:
        raise errors.ConfigError(f"{named}: is not there, but CONTAINERS_STORAGE_CONF names it")
    home = environ.get("HOME") or "/"
    folder = environ.get("XDG_CONFIG_HOME")
    system = (*((f"{folder}/containers/storage.conf",) if folder else ()), *_SYSTEM)
    if not rootless:
        table = _first((named,) if named else system) or {}
        return table, str(table.get("graphroot") or _ROOTS)
    of_system = _first((named,) if named else system) or {}
    data = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    default = str(of_system.get("rootless_storage_path") or f"{data}/containers/storage")
    own = _settings(named or f"{folder or f'{home}/.config'}/containers/storage.conf")
    if own is None:
        return {"driver": of_system.get("driver")}, default
    return own, str(own.get("graphroot") or own.get("rootless_storage_path") or default)


def _first(paths: tuple[str, ...]) -> dict[str, Any] | None:
    return next((table for path in paths if (table := _settings(path)) is not None), None)


def _settings(path: str) -> dict[str, Any] | None:
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file).get("storage", {})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.failure(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: {error}") from error
    return table if isinstance(table, dict) else {}


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    # $UID is no variable of the environment but of a shell; all others are.
    known = {**environ, "UID": str(os.geteuid())}
    return string.Template(path).safe_substitute(known)
