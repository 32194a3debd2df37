"""The real registry (Debian's docker-registry), the faulty one, and a store of our own for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_registry import FaultyRegistry
from ordinary import GID, UID, User
from real_registry import docker_registry
from shared_bed import Bed

from fairlead import config as settings
from fairlead.image import reference, transport
from fairlead.store import fetch, layout

ENGINE = str(Path(__file__).parents[2] / "engine")
# bcrypt of "open sesame", for the user alice
HTPASSWD = "alice:$2b$05$8vyEUz6MdyfL3PzXQUXTdOg4ihWtFC7a4MCz49R49/0NANvocO.yy\n"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds; run with -m slow")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real registry."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real registry that wants alice and her password."""
    root = tmp_path_factory.mktemp("private")
    (root / "htpasswd").write_text(HTPASSWD)
    with docker_registry(root, f"auth: {{htpasswd: {{realm: r, path: {root}/htpasswd}}}}") as host:
        yield host


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the client impatient: the rules stay, the seconds shrink."""
    quick = transport.Timing(
        connect_s=2, idle_s=0.5, pause_s=0.01, max_pause_s=0.3, rate_window_s=1
    )
    monkeypatch.setattr(transport, "TIMING", quick)


class Bench:
    """A store and an environment of the test's own."""

    def __init__(self, tmp: Path) -> None:
        self.home = tmp / "home"
        self.home.mkdir()
        self.root = tmp / "store"
        self.environ = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "FAIRLEAD_STORE": str(self.root),
            "FAIRLEAD_SITE_CONFIG": str(tmp / "no-site-file"),
            "FAIRLEAD_SITE_STORE": str(tmp / "no-site-store"),
        }

    @property
    def config(self) -> settings.Config:
        return settings.load(self.environ)

    @property
    def store(self) -> layout.Store:
        return layout.open_store(self.config)

    def pull(self, text: str, policy: str = "always") -> fetch.Image:
        name = reference.parse(text)
        return fetch.pull(name, self.config, self.store, policy=policy, environ=self.environ)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "fairlead.cli.main", *words]

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``fairlead`` with these words, as a user does."""
        return subprocess.run(
            self.command(*words),
            env=self.full(**variables),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def line(self, *words: str, **variables: str) -> str:
        """Run ``fairlead``, which must fail with one line; return it."""
        done = self.run(*words, **variables)
        assert done.returncode == 125
        assert done.stdout == ""
        assert done.stderr.startswith("fairlead: error [")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start ``fairlead`` and do not wait."""
        pipe = subprocess.PIPE
        env = self.full(**variables)
        return subprocess.Popen(self.command(*words), env=env, stdout=pipe, stderr=pipe, text=True)

    def full(self, **variables: str) -> dict[str, str]:
        return {**self.environ, "PYTHONPATH": ENGINE, **variables}

    def leftovers(self) -> list[str]:
        """Everything in the store that only work in progress may have there."""
        return sorted(
            str(path.relative_to(self.root))
            for folder in ("tmp", "locks")
            for path in (self.root / folder).glob("*")
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def user() -> Iterator[User]:
    """An ordinary user with a store and a home of their own."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user, so it starts as root")
    place = f"/var/tmp/fairlead-run-{os.getpid()}"
    os.makedirs(place)
    os.chown(place, UID, GID)
    yield User(place)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def broker_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The broker, built from this checkout."""
    place = tmp_path_factory.mktemp("broker")
    root = Path(ENGINE).parent
    (place / "c_ext").symlink_to(root / "c_ext")
    shutil.copytree(root / "spank_shim", place / "spank_shim")
    subprocess.run(["make", "-s", "-C", place / "spank_shim", "-B", "fairlead-broker"], check=True)
    return str(place / "spank_shim/fairlead-broker")


@pytest.fixture
def shared(broker_program: str) -> Iterator[Bed]:
    """A node's shared store with its broker and storekeeper, still empty."""
    if os.getuid() != 0:
        pytest.skip("the broker is root's program")
    # Not below pytest's own directory, which every other pytest of this machine closes again.
    place = Path(tempfile.mkdtemp(prefix="fairlead-shared-", dir="/var/tmp"))
    place.chmod(0o755)
    try:
        yield Bed(place, broker_program)
    finally:
        shutil.rmtree(place)
