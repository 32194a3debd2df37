"""What the tags of a job's steps meant when they were first asked for, so that all its steps agree.

::

    jobs/JOB.RESTARTS.CLUSTER/HEX      a digest; HEX: sha256 of the reference, CLUSTER: of its name

Rules:
- JOB is the array's where the job is a task of one. A job that is requeued starts anew: it may run
  on another host, which knows nothing of the first time.
- The first of two steps that ask at once is right; the other takes its answer.
- It lies in the user's store on the host where srun was typed. It goes when another job of that
  user comes to have one, once it is a day old and its job has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.image import reference
from fairlead.store import layout
from fairlead.store.layout import Stage, Store

FOLDER = "jobs"
_DAY_S = 86400.0


class Job(NamedTuple):
    """A job whose steps agree on what a tag means."""

    number: int
    restarts: int
    cluster: str

    @property
    def name(self) -> str:
        """Its directory's name."""
        return f"{self.number}.{self.restarts}.{_hex(self.cluster)[:16]}"


def job_of(environ: Mapping[str, str]) -> Job | None:
    """Return the job in which this command runs, None outside of one."""
    own, array = (_number(environ.get(f"SLURM_{key}", "")) for key in ("JOB_ID", "ARRAY_JOB_ID"))
    if not own:
        return None
    restarts = _number(environ.get("SLURM_RESTART_COUNT", ""))
    # A task that is requeued must not meet what the others have.
    number = own if restarts or not array else array
    return Job(number, restarts, environ.get("SLURM_CLUSTER_NAME", ""))


def digest(store: Store, job: Job, text: str) -> str:
    """Return the digest that a reference had in a job, empty if it was not asked for yet.

    Raises:
        errors.StoreError: the store cannot be read.
    """
    path = store.path(FOLDER, job.name, _hex(text))
    try:
        with open(path, encoding="ascii") as file:
            return reference.parse_digest(file.read(256).strip())
    except FileNotFoundError:
        return ""
    except (errors.ReferenceError, UnicodeDecodeError):
        raise errors.StoreError(f"{path}: holds no digest", hint="remove it") from None
    except OSError as error:
        raise layout.failure(error, path) from error


def settle(store: Store, job: Job, text: str, found: str) -> str:
    """Keep a reference's digest for a job; return it, or the one that another step kept before.

    Raises:
        errors.StoreError, errors.SpaceError: it cannot be kept.
    """
    place = store.path(FOLDER, job.name)
    with layout.failures_named(store), Stage(store) as stage:
        os.makedirs(place, mode=0o700, exist_ok=True)
        staged = stage.name()
        layout.write_file(staged, f"{found}\n".encode())
        if layout.publish(staged, f"{place}/{_hex(text)}", durable=False):
            return found
    return digest(store, job, text)


def forget_ended(
    store: Store, cluster: str, living: Callable[[], frozenset[int] | None], age_s: float = _DAY_S
) -> None:
    """Remove what was kept for jobs of a cluster that have ended.

    Args:
        store: the user's.
        cluster: whose jobs are meant.
        living: says which of its jobs have not ended, None if Slurm does not; asked only if
            anything is older than
        age_s: seconds.

    Raises:
        errors.StoreError: something cannot be removed.
    """
    with layout.failures_named(store):
        old = [name for name in _of_cluster(store, cluster) if _age_s(store, name) >= age_s]
        alive = living() if old else None
        for name in old:
            if alive is not None and int(name.partition(".")[0]) not in alive:
                layout.discard(store.path(FOLDER, name))


def _of_cluster(store: Store, cluster: str) -> list[str]:
    try:
        names = os.listdir(store.path(FOLDER))
    except FileNotFoundError:
        return []
    tail = f".{_hex(cluster)[:16]}"
    return [name for name in names if name.endswith(tail) and _number(name.partition(".")[0])]


def _age_s(store: Store, name: str) -> float:
    try:
        return time.time() - os.stat(store.path(FOLDER, name)).st_mtime
    except FileNotFoundError:
        return 0.0


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0


def _hex(text: str) -> str:
    import hashlib

    return hashlib.sha256(os.fsencode(text)).hexdigest()
