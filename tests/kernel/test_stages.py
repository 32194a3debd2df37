"""What is removed where a process was killed (spank_shim/stages.c): stages of this boot that nobody works in, no more."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

USER = 54321
with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
    BOOT = file.read().strip()


@pytest.fixture
def sweep(program):
    return str(Path(program).parent / "fairlead-sweep")


@pytest.fixture
def store():
    place = Path(tempfile.mkdtemp(prefix="fairlead-stages-", dir="/var/tmp"))
    for name in ("tmp", "trees", "elsewhere"):
        (place / name).mkdir()
    (place / "elsewhere/kept").write_text("kept")
    own(place)
    yield place
    subprocess.run(["chmod", "-R", "u+rwx", place], check=True)
    shutil.rmtree(place)


def own(place):
    subprocess.run(["chown", "-R", "-h", f"{USER}:{USER}", place], check=True)


def run(program, store, user=USER):
    words = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", program, str(store))
    return subprocess.run(words, capture_output=True, text=True)


def test_stage_of_the_dead_goes_with_all_that_is_in_it(sweep, store):
    stage = store / f"tmp/{BOOT}.1.2.0"
    subprocess.run(
        [
            "sh",
            "-c",
            'cd "$0"; for i in $(seq 60); do mkdir d; cd d; done; echo x > f; chmod 000 .',
            _made(stage),
        ],
        check=True,
    )
    (stage / "link").symlink_to(store / "elsewhere")
    own(store)
    assert run(sweep, store).returncode == 0
    assert os.listdir(store / "tmp") == []
    assert (store / "elsewhere/kept").read_text() == "kept"


def _made(stage):
    stage.mkdir()
    return stage


def test_stage_that_somebody_works_in_stays(sweep, store):
    stage = _made(store / f"tmp/{BOOT}.1.2.0")
    (stage / "half").write_text("half")
    own(store)
    fd = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert run(sweep, store).returncode == 0
    assert (stage / "half").exists()
    os.close(fd)
    assert run(sweep, store).returncode == 0
    assert not stage.exists()


@pytest.mark.parametrize(
    "name",
    ["other", "00000000-0000-4000-8000-000000000000.1.2.0", BOOT, f"x{BOOT}.1.2.0", ".hidden"],
)
def test_what_is_no_stage_of_this_boot_stays(sweep, store, name):
    """A user may name any directory as the store: what is in its tmp is somebody's."""
    (_made(store / "tmp" / name) / "file").write_text("kept")
    own(store)
    run(sweep, store)
    assert (store / "tmp" / name / "file").read_text() == "kept"


def test_link_that_is_called_like_a_stage_leads_nowhere(sweep, store):
    (store / f"tmp/{BOOT}.1.2.0").symlink_to(store / "elsewhere")
    own(store)
    run(sweep, store)
    assert (store / "elsewhere/kept").read_text() == "kept"


def test_link_in_place_of_tmp_leads_nowhere(sweep, store):
    (store / "tmp").rmdir()
    _made(store / f"elsewhere/{BOOT}.1.2.0")
    (store / "tmp").symlink_to("elsewhere")
    own(store)
    done = run(sweep, store)
    assert done.returncode == 1
    assert (store / f"elsewhere/{BOOT}.1.2.0").is_dir()


def test_another_users_stage_stays(sweep, store):
    stage = _made(store / f"tmp/{BOOT}.1.2.0")
    own(store)
    run(sweep, store, user=USER + 1)
    assert stage.is_dir()


@pytest.mark.parametrize("words", [(), ("relative",), ("/a", "/b"), ("/tmp",)])
def test_wrong_words_and_root_are_refused(sweep, words):
    done = subprocess.run([sweep, *words], capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr == "usage: fairlead-sweep /STORE, as the store's owner and not as root\n"
