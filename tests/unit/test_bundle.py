"""The launch path from one file: used where it is what the sources are, and never otherwise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fairlead import bundle

PACKAGE = Path(bundle.__file__).parent
FOUND = """
import json
import sys
sys.path[:0] = json.loads(sys.argv[1])
from fairlead import bundle
bundle.use(sys.argv[2])
from fairlead import standin
with standin.typing_stand_in():
    from fairlead.run import step
from fairlead.store import gc
print(json.dumps({name: type(module.__loader__).__name__ for name, module in sys.modules.items()
                  if name.startswith("fairlead.")}))
"""


@pytest.fixture
def installed(tmp_path):
    """Copy the package, so that a test may change it, and write its bundle."""
    shutil.copytree(
        PACKAGE, tmp_path / "lib/fairlead", ignore=shutil.ignore_patterns("__pycache__")
    )
    python(tmp_path, "-m", "fairlead.bundle", tmp_path / "engine.bundle")
    return tmp_path


def python(place, *words):
    environ = {"PYTHONPATH": str(place / "lib"), "PATH": "/bin"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaders(place):
    paths = json.dumps([str(place / "lib"), sysconfig.get_path("purelib")])
    done = python(place, "-I", "-S", "-c", FOUND, paths, place / "engine.bundle")
    return json.loads(done)


def test_launch_path_comes_from_the_bundle_and_the_rest_as_usual(installed):
    found = loaders(installed)
    assert found["fairlead.run.step"] == found["fairlead.run"] == "Finder"
    assert found["fairlead.shared.ask"] == "Finder"
    assert found["fairlead.store.gc"] == "SourceFileLoader"


def test_module_whose_source_has_changed_is_loaded_as_usual(installed):
    source = installed / "lib/fairlead/config.py"
    source.write_text(source.read_text() + "\nCHANGED = True\n")
    found = loaders(installed)
    assert found["fairlead.config"] == "SourceFileLoader"
    assert found["fairlead.errors"] == "Finder"


def test_sources_of_the_same_size_and_another_time_are_others(installed):
    os.utime(installed / "lib/fairlead/errors.py", ns=(1, 1))
    assert loaders(installed)["fairlead.errors"] == "SourceFileLoader"


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "another Python's"])
def test_what_is_no_bundle_is_left_alone(installed, damage):
    path = installed / "engine.bundle"
    data = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(
            {"empty": b"", "cut": data[:1000], "another Python's": b"\0\0\r\n" + data[4:]}[damage]
        )
    found = loaders(installed)
    assert found["fairlead.run.step"] == "SourceFileLoader"
    assert "Finder" not in found.values()
