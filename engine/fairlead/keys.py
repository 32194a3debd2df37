"""Every setting: one table, from which the site file's template and the documentation follow.

A test holds them together. Where values come from, and who may set what, is in ``config``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fairlead import forms

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


def _is_size_or_empty(text: str) -> bool:
    return not text or size_bytes(text) is not None


def _is_path_or_empty(text: str) -> bool:
    return not text or text.startswith("/")


_SIZE = ('a size like "50G", "800M" or "80%"', _is_size_or_empty)
_PATH = ("an absolute path", _is_path_or_empty)
_KEY = ("a key of this file", lambda text: text in SETTINGS)


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
    "spread": Setting(
        "auto",
        "FAIRLEAD_SPREAD",
        "how the nodes of a step send each other what one of them has fetched: auto (by "
        "spread_dir, or else by sbcast), sbcast, directory (spread_dir), off (each node asks the "
        "registry)",
        ("auto", "sbcast", "directory", "off"),
    ),
    "spread_dir": Setting(
        "",
        "FAIRLEAD_SPREAD_DIR",
        "directory on a shared file system through which nodes of a step send each other layers, "
        "at the same path on all; empty: none",
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
        form=forms.SCOPE,
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
    "named_size": Setting(
        "",
        "FAIRLEAD_NAMED_SIZE",
        "how much a named container may have written and still be taken up again, as 20G or 10% of "
        "the store's file system; looked at when it starts; empty: no limit",
        form=_SIZE,
    ),
    "slurm_inside": Setting(
        False,
        "FAIRLEAD_SLURM_INSIDE",
        "bring Slurm's client programs of the node (srun, sbatch, squeue...) into every container",
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
    "site_mounts": Setting(
        (),
        "",
        "what every container gets, as SRC[:DST[:FLAG+FLAG]]; nofail: no error where there is no "
        "SRC; what users ask for comes after it",
        form=forms.MOUNT,
        site=True,
    ),
    "site_env": Setting(
        (),
        "",
        "variables of every container: NAME=VALUE sets, NAME+=VALUE and NAME^=VALUE put VALUE and "
        "a ':' behind and before what is there, -NAME takes it away; what users ask for wins",
        form=forms.CHANGE,
        site=True,
    ),
    "forbidden_mounts": Setting(
        (),
        "",
        "paths of the host that users may not mount, nor anything above or below them",
        form=forms.ABSOLUTE,
        site=True,
    ),
    "allowed_mounts": Setting(
        (),
        "",
        "paths of the host that users may mount, with what is below; nothing else, then; empty: "
        "all that the user may read",
        form=forms.ABSOLUTE,
        site=True,
    ),
    "forbidden_targets": Setting(
        (),
        "",
        "paths in the container that users may not mount to; with a / in the end, nor below",
        form=forms.ABSOLUTE,
        site=True,
    ),
    "sarus_json": Setting(
        "",
        "",
        "a sarus.json, read at every launch: its siteMounts, environment, userMounts, hooksDir, "
        "containersPolicy, insecureRegistries and defaultMPIType count where no file of ours sets "
        "what they mean; empty: none",
        form=_PATH,
        site=True,
    ),
    "locked": Setting(
        (),
        "",
        "keys that users' files, variables and options may not set otherwise than the site's files",
        form=_KEY,
        site=True,
    ),
    "plan_cache": Setting(
        True,
        "FAIRLEAD_PLAN_CACHE",
        "keep what was decided for a launch, so that the same launch starts no Python",
    ),
    "gate": Setting(
        True,
        "FAIRLEAD_GATE",
        "under Slurm, start no rank before the containers of all nodes stand and are of one kind",
    ),
    "gate_timeout": Setting(
        "60",
        "FAIRLEAD_GATE_TIMEOUT",
        "seconds for which a step's first node waits for the others to appear; what they then do, "
        "pulling an image for example, has no limit",
        form=("a number of seconds", lambda text: text.isdecimal() and 0 < len(text) <= 6),
    ),
}
