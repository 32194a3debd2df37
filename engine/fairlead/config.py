"""Site and user settings; each value knows where it came from.

Later wins: built-in default < ``/etc/fairlead/fairlead.toml`` <
``/etc/fairlead/fairlead.d/*.toml``, by name < ``$XDG_CONFIG_HOME/fairlead/fairlead.toml`` <
``FAIRLEAD_*`` environment variable < command line (applied by the caller with ``override``).

Rules:
- One table, ``SETTINGS``, holds every key with its type, default, environment variable and meaning;
  the site file's template and the documentation follow it, and a test holds them together.
- An unknown key or a value of the wrong type is an error that names the file and the nearest known
  key.
- A site file that is absent is no error; one that cannot be read is.
- Policy is the site's: some keys count in its files alone, others wherever its files lock them.
  Whoever else sets one is refused; only saying the same is no contradiction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fairlead import errors, jsontext

SITE_FILE = "/etc/fairlead/fairlead.toml"
COMMAND_LINE = "command line"  # as the origin of a value

Value = str | bool | tuple[str, ...]


class Setting(NamedTuple):
    """One key: default (whose type is the key's), environment variable, meaning, allowed values.

    ``form``, where it is given, says what a value, or each of a list, must look like and tells
    whether one does.
    """

    default: Value
    variable: str
    meaning: str
    choices: tuple[str, ...] = ()
    form: tuple[str, Callable[[str], bool]] | None = None
    site: bool = False  # only the site's files may set it


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def size_bytes(text: str, whole: int = 0) -> int | None:
    """Return the bytes that a size means, None if it is malformed.

    A whole number with K, M, G or T behind it (powers of 1024), or with % (of whole).
    """
    number, unit = text.rstrip("KMGT%"), text[len(text.rstrip("KMGT%")) :]
    if not (number.isascii() and number.isdecimal()) or len(number) > 15:
        return None
    if unit == "%":
        return whole * int(number) // 100 if int(number) <= 100 else None
    return int(number) << _UNITS[unit] if unit in _UNITS else None


def _is_scope(text: str) -> bool:
    host, _, rest = text.partition("/")
    plain = host.removeprefix("*.")
    fine = text.isascii() and text.isprintable() and not set(" *@") & set(plain + rest)
    return fine and bool(plain) and "//" not in text and not text.endswith("/")


def _is_size_or_empty(text: str) -> bool:
    return not text or size_bytes(text) is not None


def _is_path_or_empty(text: str) -> bool:
    return not text or text.startswith("/")


_SIZE = ('a size like "50G", "800M" or "80%"', _is_size_or_empty)
_PATH = ("an absolute path", _is_path_or_empty)
_SCOPE = ("HOST[:PORT][/NAME...] or *.DOMAIN", _is_scope)


SETTINGS: dict[str, Setting] = {
    "store": Setting(
        "/var/tmp/fairlead-%u.%g",  # noqa: S108 - the store's owner and mode are checked when it is opened
        "FAIRLEAD_STORE",
        "directory for images, node-local; %u and %g become the numeric uid and gid",
    ),
    "site_store": Setting(
        "/var/lib/fairlead",
        "FAIRLEAD_SITE_STORE",
        "directory of the images that all users of a node share, node-local; root's fairlead store "
        "acts on it where it exists",
        form=_PATH,
    ),
    "store_quota": Setting(
        "",
        "FAIRLEAD_STORE_QUOTA",
        "how much a store may hold, as 50G or 80% of its file system; the least recently used "
        "images make room; empty: no limit",
        form=_SIZE,
    ),
    "store_min_free": Setting(
        "",
        "FAIRLEAD_STORE_MIN_FREE",
        "how much of its file system a store leaves free, as 10G or 5%; empty: nothing",
        form=_SIZE,
    ),
    "keep_blobs": Setting(
        False,
        "FAIRLEAD_KEEP_BLOBS",
        "keep compressed layers once they are unpacked: twice the room, and a layer that another "
        "image shares is not fetched again",
    ),
    "shared_blobs": Setting(
        "",
        "FAIRLEAD_SHARED_BLOBS",
        "read-only directory on a shared file system, consulted for layers before the registry; "
        "it holds blobs/sha256/HEX, as an OCI layout does; empty: none",
        form=_PATH,
    ),
    "default_registry": Setting(
        "docker.io", "FAIRLEAD_DEFAULT_REGISTRY", "registry of a reference that names none"
    ),
    "insecure_registries": Setting(
        (),
        "FAIRLEAD_INSECURE_REGISTRIES",
        "HOST[:PORT] reached by plain HTTP (loopback addresses always are)",
    ),
    "allowed_registries": Setting(
        (),
        "",
        "where images may come from, as HOST[:PORT][/NAME...] or *.DOMAIN; another registry is "
        "refused before any request; empty: anywhere",
        form=_SCOPE,
        site=True,
    ),
    "containers_config": Setting(
        "/etc/containers",
        "",
        "directory of registries.conf, policy.json and registries.d, as for podman and skopeo",
        form=_PATH,
        site=True,
    ),
    "signature_policy": Setting(
        "",
        "",
        "the policy.json that images must satisfy; it must exist; empty: that of "
        "containers_config, where there is one",
        form=_PATH,
        site=True,
    ),
    "pull": Setting(
        "newer",
        "FAIRLEAD_PULL",
        "when to ask the registry: always, newer (the local image if the registry does not "
        "answer), missing, never",
        ("always", "newer", "missing", "never"),
    ),
    "resolve": Setting(
        "submit",
        "FAIRLEAD_RESOLVE",
        "when a tag becomes a digest under Slurm: submit (once, by srun, sbatch or salloc), or "
        "start (by each node)",
        ("submit", "start"),
    ),
    "mpi": Setting(
        "auto",
        "FAIRLEAD_MPI",
        "whose MPI library runs: auto, host or image",
        ("auto", "host", "image"),
    ),
    "mpi_profile": Setting(
        "",
        "FAIRLEAD_MPI_PROFILE",
        "which of the host's MPI installations is preferred, by a name of fairlead mpi list or by "
        "its prefix; in a file it yields to the job's modules, given by option or variable it "
        "does not; empty: the first that is found",
    ),
    "mpi_prefixes": Setting(
        (),
        "FAIRLEAD_MPI_PREFIXES",
        "prefixes of MPI installations that neither the loader's cache nor PATH leads to",
        form=_PATH,
    ),
    "mpi_cross_major": Setting(
        False,
        "FAIRLEAD_MPI_CROSS_MAJOR",
        "let auto put an OpenMPI of another major release into the container, where every symbol "
        "that the image's programs use is there",
    ),
    "mpi_glibc": Setting(
        "bind",
        "FAIRLEAD_MPI_GLIBC",
        "how the host's MPI runs on an image's older glibc: bind, and where that cannot be, the "
        "image's own MPI; or swap: where that cannot be, the host's glibc over the image's, which "
        "breaks some of its programs",
        ("bind", "swap"),
    ),
    "mpi_world_check": Setting(
        True,
        "FAIRLEAD_MPI_WORLD_CHECK",
        "end a step whose MPI ranks do not become one world, before it starts where that is known",
    ),
    "mpi_preflight": Setting(
        True,
        "FAIRLEAD_MPI_PREFLIGHT",
        "let the image's loader say what it misses, before the first rank of a step under PMI runs",
    ),
    "mpi_cma_check": Setting(
        True,
        "FAIRLEAD_MPI_CMA_CHECK",
        "try once per boot whether ranks of a node can copy from each other's memory",
    ),
    "mount_home": Setting(True, "FAIRLEAD_MOUNT_HOME", "bind the user's home directory"),
    "writable": Setting(
        True,
        "FAIRLEAD_WRITABLE",
        "let the container write to its own root (lost at the end)",
    ),
    "upper": Setting(
        "memory",
        "FAIRLEAD_UPPER",
        "where the container's root is written to: memory, or disk (of the node; in Slurm steps, "
        "where the node has a shared store)",
        ("memory", "disk"),
    ),
    "upper_size": Setting(
        "",
        "FAIRLEAD_UPPER_SIZE",
        "how much the container may write to its own root, as 8G or 50% of the memory, or of what "
        "is free on the disk; empty: half of the memory, a tenth of the disk",
        form=_SIZE,
    ),
    "gpu": Setting(
        "auto",
        "FAIRLEAD_GPU",
        "which GPUs a container gets: auto (those of the job, by Slurm's variables or by "
        "NVIDIA_VISIBLE_DEVICES of job or image), all that you may open, none",
        ("auto", "all", "none"),
    ),
    "cdi_dirs": Setting(
        ("/etc/cdi", "/var/run/cdi"),
        "",
        "directories of the CDI specifications, for --device vendor.com/class=name; later ones win",
        form=_PATH,
        site=True,
    ),
    "hooks_dirs": Setting(
        (),
        "",
        "directories of OCI hooks (hooks.d files, 1.0.0), which run as the user; later ones win",
        form=_PATH,
        site=True,
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
    site_store: str
    store_quota: str
    store_min_free: str
    keep_blobs: bool
    shared_blobs: str
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
    gpu: str
    cdi_dirs: tuple[str, ...]
    hooks_dirs: tuple[str, ...]
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
    sites = site_files(environ, site_file=site_file)
    for path in (*sites, user_file(environ, home=home)):
        for key, value in _read(path).items():
            if SETTINGS[key].site and path not in sites:
                raise errors.ConfigError(
                    f"{path}: {key} is the site's to set", hint="take it out of this file"
                )
            values[key], origins[key] = value, path
    for key, setting in SETTINGS.items():
        text = environ.get(setting.variable) if setting.variable else None
        if text:
            values[key], origins[key] = _parsed(key, text), f"${setting.variable}"
    store = str(values["store"]).replace("%u", str(os.getuid()))
    values["store"] = store.replace("%g", str(os.getegid()))
    return Config(**values, origins=origins)  # type: ignore[arg-type]


def files(
    environ: Mapping[str, str] = os.environ, *, site_file: str = SITE_FILE, home: str | None = None
) -> tuple[str, ...]:
    """Return the paths that settings come from, in order; the first two need not exist.

    The second is the directory of the site's drop-ins.
    """
    sites = site_files(environ, site_file=site_file)
    return (sites[0], _drop_ins(sites[0]), *sites[1:], user_file(environ, home=home))


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
    with file:
        text = file.read()
    table = _plain(text)
    if table is None:
        import tomllib

        try:
            table = tomllib.loads(text.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f"{path}: {error}") from error
    return {key: _checked(key, value, path) for key, value in table.items()}


def _plain(text: bytes) -> dict[str, object] | None:
    """Read a file of plain ``key = value`` lines; None for whatever needs a TOML parser.

    Values are one-line strings without escapes, lists of such, ``true`` and ``false``, which TOML
    and JSON write alike. Importing the parser would cost every launch 3 ms.
    """
    table: dict[str, object] = {}
    for line in text.decode(errors="replace").split("\n"):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in words.partition("="))
        plain = words.isprintable() and "\\" not in words and "\ufffd" not in words
        if not equals or not plain or key not in SETTINGS or key in table:
            return None
        if value[:1] not in {'"', "["} and value not in {"true", "false"}:
            return None
        try:
            table[key] = jsontext.loads(value)
        except ValueError:
            return None
    return table


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
