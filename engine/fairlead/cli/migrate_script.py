"""Words of other engines in job scripts and configurations, looked up in ``cli.peers``. Pure.

A script is not run: a line is split into words as a shell would, variables stay as they are, and
what a line does to others is not known. Options after the image or the command belong to the
command.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import NamedTuple

from fairlead.cli import peers
from fairlead.cli.peers import Peer, Row
from fairlead.image import tomllines

_SLURM = {"srun", "sbatch", "salloc"}
_OF_SLURM = (peers.PYXIS, peers.EDF, peers.SHIFTER)
# Of Slurm's own options these alone are Shifter's; the others that it has, Slurm has, too.
_SHIFTER_WORDS = {"--image", "--volume", "--module", "--ccm"}
_ENDS = {";", "&&", "||", "|", "&", "(", ")"}
_DIRECTIVE = "#SBATCH"
# Verbs that stand before the image; a verb like ``cache clean`` has no image.
_LAUNCH = {"exec", "run", "shell", "start", "shared-run", "batch", "pull", "import", "create"}


class Finding(NamedTuple):
    """A word that was found, whose it is, and its row; None: the table does not know it."""

    line: int
    word: str
    peer: Peer
    row: Row | None


def of_script(text: str) -> Iterator[Finding]:
    """Yield what a job script says to container engines."""
    for number, line in _joined(text):
        directive = line.startswith(_DIRECTIVE)
        if line.lstrip().startswith("#") and not directive:
            continue
        words = _split(line.removeprefix(_DIRECTIVE) if directive else line)
        if directive:
            yield from _slurm(number, words)
            continue
        yield from _variables(number, words)
        for at, word in enumerate(words):
            yield from _command(number, word.rpartition("/")[2], words[at + 1 :])


def of_plugstack(text: str) -> Iterator[Finding]:
    """Yield the arguments of pyxis in a plugstack.conf."""
    for number, line in _joined(text):
        words = line.split("#")[0].split()
        if len(words) < 2 or "pyxis" not in words[1]:
            continue
        for word in words[2:]:
            name = f"{word.partition('=')[0]}="
            yield Finding(number, name, peers.PYXIS, peers.row(peers.PYXIS, name))


def of_enroot_conf(text: str) -> Iterator[Finding]:
    """Yield the variables of an enroot.conf."""
    for number, line in _joined(text):
        name = line.split("#")[0].replace("=", " ").partition(" ")[0].strip()
        if name:
            yield Finding(number, name, peers.ENROOT, peers.row(peers.ENROOT, name))


def of_edf(text: str) -> Iterator[Finding]:
    """Yield the keys and annotations of an environment file; nothing if it is none."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return  # fairlead edf check says why
    for place, line in tomllines.lines(text).items():
        if len(place) == 1:
            word = str(place[0])
        elif place[0] == "annotations" and not isinstance(_at(table, place), dict):
            word = ".".join(map(str, place[1:]))
        else:
            continue
        found = peers.row(peers.EDF, word)
        if found is not None or len(place) == 1 or word.startswith(("com.hooks.", "com.pyxis.")):
            yield Finding(line, word, peers.EDF, found)


def _at(table: object, place: tomllines.Place) -> object:
    for key in place:
        table = table[key]  # type: ignore[index] # as tomllib read it
    return table


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield each logical line with the number of its first."""
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        if line.endswith("\\"):
            begun += f"{line[:-1]} "
            continue
        yield first, begun + line
        begun, first = "", 0
    if begun:
        yield first, begun


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        return list(lexer)
    except ValueError:  # a quote that ends on another line
        return line.split()


def _variables(number: int, words: list[str]) -> Iterator[Finding]:
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Za-z0-9_]*", name):
            continue
        for peer in peers.PEERS:
            found = peers.row(peer, name)
            if found is not None:
                yield Finding(number, name, peer, found)
                break


def _command(number: int, name: str, words: list[str]) -> Iterator[Finding]:
    """Yield what one command line says, if it is one of an engine's."""
    end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
    if name in _SLURM:
        yield from _slurm(number, words[:end])
        return
    peer = next((item for item in peers.PEERS if name in item.commands), None)
    if peer is None:
        return
    own = peers.row(peer, name)
    if own is not None:
        yield Finding(number, name, peer, own)
    yield from _options(number, peer, words[:end], verb=own is None and not name.endswith("-run"))


def _slurm(number: int, words: list[str]) -> Iterator[Finding]:
    for word in words:
        name = word.partition("=")[0]
        if not name.startswith("--"):
            if word in _SLURM or word.rpartition("/")[2] in _ALL_COMMANDS:
                return  # another command, which is looked at by itself
            continue
        for peer in _OF_SLURM:
            known = peers.row(peer, name) if name.startswith("--") else None
            if known is not None and (peer is not peers.SHIFTER or name in _SHIFTER_WORDS):
                yield Finding(number, name, peer, known)
                break
        else:
            if name.startswith("--container-") and name not in _OURS:
                yield Finding(number, name, peers.PYXIS, None)


def _options(number: int, peer: Peer, words: list[str], *, verb: bool) -> Iterator[Finding]:
    """Yield the verb and the options that stand before the image."""
    waiting = iter(words)
    for word in waiting:
        name, equals, _ = word.partition("=")
        if not word.startswith("-") or word == "-":
            if not verb:
                return  # the image
            yield Finding(number, word, peer, peers.row(peer, word))
            if word not in _LAUNCH:
                return
            verb = False
            continue
        if word == "--":
            return
        found = peers.row(peer, name)
        if found is None and not name.startswith("--") and len(name) > 2:
            name = name[:2]  # a value without a blank, as -v/a:/b
            found, equals = peers.row(peer, name), "="
        yield Finding(number, name, peer, found)
        if found is not None and found.takes_value and not equals:
            next(waiting, None)


_ALL_COMMANDS = {name for peer in peers.PEERS for name in peer.commands} - _SLURM
_OURS = {"--container-mpi", "--container-batch", "--container-device"}
