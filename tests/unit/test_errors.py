"""The catalogue: stable codes, one line each, and a generated page."""

import os
import subprocess
import sys

from fairlead import errors

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_codes_are_unique_and_have_a_remedy():
    codes = [error.code for error in errors.catalogue()]
    assert len(codes) == len(set(codes))
    assert all(error.remedy and error.__doc__ for error in errors.catalogue())


def test_statuses_follow_the_container_engines():
    other = {error.code: error.status for error in errors.catalogue() if error.status != 125}
    assert other == {"command-not-found": 127, "library": 127, "command-not-executable": 126}


def test_hostile_text_stays_one_line():
    line = errors.LayerError("entry 'a\nfairlead: error [x]: forged\x1b[2J'").line()
    assert "\n" not in line
    assert "\x1b" not in line


def test_page_is_generated_from_the_classes():
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    page = subprocess.run(
        [sys.executable, "-m", "fairlead.errors"], capture_output=True, text=True, env=environ
    )
    with open(os.path.join(ROOT, "docs/errors.md"), encoding="utf-8") as file:
        assert file.read() == page.stdout
