"""The short form of ``tests/faults/sweep``: kills and failing calls, spread over whole commands."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = Path(__file__).parents[1] / "faults/sweep.py"
KILLS, ERRORS = 500, 300


def sweep(*words: str) -> subprocess.CompletedProcess[str]:
    if platform.machine() != "x86_64":
        pytest.skip("errors are injected on x86-64 only")
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    return subprocess.run([sys.executable, str(SWEEP), *words], capture_output=True, text=True)


def test_no_kill_and_no_failing_call_needs_help_afterwards():
    done = sweep(f"--kills={KILLS}", f"--errors={ERRORS}")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert re.fullmatch(
        rf"faults: {KILLS} kills and {ERRORS} failing calls in \d+ s, 0 bad", summary
    )


@pytest.mark.parametrize(
    ("command", "verify", "words"),
    [
        # Each leaves something behind when it is killed, or does not succeed again.
        ("mkdir {store}", "true", "did not succeed afterwards"),
        ("sh -c 'echo > {store}.x; rm {store}.x'", "test ! -e {store}.x", None),
        ("sh -c 'rm -f {store}.x; echo > {store}.x'", "test ! -e {store}.x", "was not clean"),
    ],
)
def test_sweep_finds_what_is_bad(command, verify, words):
    done = sweep("--kills=200", "--errors=0", f"--command={command}", f"--verify={verify}")
    assert done.returncode == (0 if words is None else 1), done.stdout + done.stderr
    assert words is None or "BAD command-SIGKILL-" in done.stdout
    assert words is None or words in done.stdout
