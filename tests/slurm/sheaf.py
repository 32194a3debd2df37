"""Many commands of the user's in one allocation, a few at a time: what a suite of small cases needs to be quick.

``run`` is called by a fixture; as a program it is the driver inside of the allocation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

AT_ONCE = 4
TIMEOUT_S = 300
STEP = ("srun", "-N1", "-n1", "--overlap", "--mpi=none")


class Command(NamedTuple):
    """One command; ``variables`` come on top of the allocation's environment."""

    words: tuple[str, ...]
    variables: dict[str, str]
    cwd: str = ""


class Done(NamedTuple):
    """How it ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What was printed by a command that must have succeeded."""
        assert self.status == 0, f"status {self.status}: {self.stderr}"
        return self.stdout.splitlines()

    @property
    def notes(self) -> list[str]:
        """What Fairlead said, without srun's own words around it."""
        said = (line.partition("fairlead: ") for line in self.stderr.splitlines())
        return [text for _, found, text in said if found]

    @property
    def refusal(self) -> str:
        """The one line of a launch that was refused."""
        assert self.status in (125, 126, 127), f"status {self.status}: {self.stdout}{self.stderr}"
        assert self.stdout == ""
        (line,) = [note for note in self.notes if note.startswith("error ")]
        return line.removeprefix("error ")


def step(*words: str, cwd: str = "", **variables: str) -> Command:
    """A step of one task."""
    return host(*STEP, *words, cwd=cwd, **variables)


def host(*words: str, cwd: str = "", **variables: str) -> Command:
    """A command on the node, beside any step."""
    return Command(words, variables, cwd)


def run(commands: dict[str, Command]) -> dict[str, Done]:
    """Run all in one allocation of one node; return how each ended."""
    import jobs

    with tempfile.TemporaryDirectory(prefix="fairlead-sheaf-", dir="/var/tmp") as place:
        shutil.copy(__file__, place)  # the user need not see the checkout
        os.chown(place, jobs.USER.pw_uid, jobs.USER.pw_gid)
        with open(f"{place}/commands", "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(commands, file)
        words = ("salloc", "-Q", "-N1", f"-n{AT_ONCE}", "--overcommit", "/usr/bin/python3", "-I")
        done = jobs.run(
            *words, f"{place}/{os.path.basename(__file__)}", place, timeout=TIMEOUT_S * 2
        )
        assert done.returncode == 0, done.stderr
        with open(f"{place}/done", encoding="utf-8", errors="surrogateescape") as file:
            return {name: Done(*each) for name, each in json.load(file).items()}


def _one(command: Command) -> Done:
    done = subprocess.run(
        command.words,
        env={**os.environ, **command.variables},
        cwd=command.cwd or None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    texts = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
    return Done(done.returncode, *texts)


def _drive(place: str) -> None:
    with open(f"{place}/commands", encoding="utf-8") as file:
        commands = {name: Command(*each) for name, each in json.load(file).items()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = dict(zip(commands, pool.map(_one, commands.values()), strict=True))
    with open(f"{place}/done", "w", encoding="utf-8") as file:
        json.dump(done, file)


if __name__ == "__main__":
    _drive(sys.argv[1])
