"""An ordinary user, for tests that start as root: root runs no containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENGINE = str(Path(__file__).parents[2] / "engine")
UID, GID = 23456, 23457


def drop() -> None:
    os.setgroups([])
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)


class User:
    """An ordinary user with a store and a home of their own."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.environ = {
            "HOME": place,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ENGINE,
            "FAIRLEAD_STORE": f"{place}/store",
            "FAIRLEAD_SITE_CONFIG": f"{place}/none",
        }

    def start(self, *words: str, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fairlead.cli.main", *words]
        return subprocess.Popen(
            command, preexec_fn=drop, cwd=self.place, env=self.environ, text=True, **options
        )  # type: ignore[call-overload,no-any-return]

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        pipe = subprocess.PIPE
        process = self.start(*words, stdin=pipe, stdout=pipe, stderr=pipe)
        out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)
