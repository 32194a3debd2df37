"""Images of this node's Docker daemon, by its client: dockerd://NAME, docker-daemon:NAME.

Rules:
- The daemon is asked by its own client, as the user, with the user's settings; nothing here opens
  its socket. Who may not talk to it is told so by the client.
- An image is asked for its ID at every launch, and saved only when that is not what the store has.
- What ``docker save`` writes is an archive without a name, which ``archive`` reads.

Source: docker-image-inspect, docker-save.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO

from fairlead import errors
from fairlead.image import archive, source
from fairlead.image.reference import Reference

INSPECT_TIMEOUT_S = 60
_ABSENT = "no such image"


class Saved(archive.DockerArchive):
    """An archive of one image, whatever it calls it."""

    def make(self, ref: Reference) -> source.Made:
        """Read the one image that there is."""
        return super().make(ref._replace(tag=None))


def stamp(ref: Reference, environ: Mapping[str, str]) -> str:
    """Return the ID that an image has now.

    Raises:
        errors.ImageNotFoundError: the daemon has no such image, or there is no client.
        errors.ArchiveError: the daemon does not answer.
    """
    words = ("image", "inspect", "--format", "{{.Id}}", _name(ref))
    with tempfile.TemporaryFile() as answer:
        _docker(ref, environ, words, answer, INSPECT_TIMEOUT_S)
        answer.seek(0)
        return answer.read(256).decode(errors="replace").strip()


def saved(ref: Reference, environ: Mapping[str, str]) -> source.Source:
    """Return an image as the daemon saves it.

    Raises:
        errors.ImageNotFoundError: the daemon has no such image, or there is no client.
        errors.ArchiveError: it cannot be saved, or there is no room to.
    """
    place = environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - the file is private, and has no name soon
    try:
        with tempfile.NamedTemporaryFile(prefix="fairlead-docker-", dir=place) as file:
            _docker(ref, environ, ("save", _name(ref)), file)
            return Saved(archive.Archive(file.name))
    except OSError as error:
        raise errors.ArchiveError(
            f"{ref}: cannot be saved to {place}: {error.strerror}", hint="see TMPDIR"
        ) from error


def _name(ref: Reference) -> str:
    return f"{ref.repository}:{ref.tag or 'latest'}"


def _docker(
    ref: Reference,
    environ: Mapping[str, str],
    words: tuple[str, ...],
    answer: IO[bytes],
    timeout_s: float | None = None,
) -> None:
    program = shutil.which("docker", path=environ.get("PATH", os.defpath))
    if program is None:
        raise errors.ImageNotFoundError(
            f"{ref}: {os.uname().nodename} has no program docker, which could ask for it",
            hint="write it with docker save elsewhere, and name docker-archive:FILE",
        )
    try:
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.PIPE,
            env=dict(environ),
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.ArchiveError(f"{ref}: docker {words[0]}: {error}") from error
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.decode(errors="replace").split())[:300]
    why = f"{ref}: docker {words[0]}: {said or f'ended with {done.returncode}'}"
    if _ABSENT in said.lower():
        raise errors.ImageNotFoundError(why, hint="see docker images")
    raise errors.ArchiveError(
        why, hint="check that this node has a daemon, and that you may use it"
    )
