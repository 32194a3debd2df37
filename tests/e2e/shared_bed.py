"""A node's shared store under test: the real broker, the real storekeeper, several real users.

Root makes an empty store for the account SERVICE and, for each launch, starts ``fairlead-broker`` as
slurmstepd does for a step. A child of the user's uid then does what the engine does: it resolves the
reference, asks for the layers as mounts, and looks at them in a namespace of its own
(``shared_user.py``). The site's configuration is named by the storekeeper's script, which is root's.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[2]
SERVICE = 61001
ALICE, BOB, CAROL, DAVE = USERS = 61002, 61003, 61004, 61005
JOB = 77

KEEPER = """\
import sys
sys.path[:0] = {paths!r}
from fairlead import config
from fairlead.image import transport
from fairlead.shared import keeper
keeper.site_config = lambda: config.load({{}}, site_file={site!r}, home="/nonexistent")


def injector(*given):
    from fairlead.run import injector

    return injector.writer(*given)


{more}
sys.exit(keeper.main(sys.argv[1:], lambda: frozenset(), injector))
"""
# The rules stay, the seconds shrink.
QUICK = (
    "transport.TIMING = transport.Timing("
    "connect_s=2, idle_s=1, pause_s=0.01, max_pause_s=0.3, rate_window_s=1)"
)


class Answer(NamedTuple):
    """How a launch ended: what the user found, or one error.

    Attributes:
        files: path to content of each regular file of the merged root.
        layers: how many mounts there were.
        error: code and message of an ``errors.Error``.
        unusable: why the shared store could not serve.
        said: what was printed.
        owner: uid and gid of the first layer's root directory, as the user sees it.
    """

    files: dict[str, str]
    layers: int
    error: tuple[str, str] | None
    unusable: str
    said: str
    owner: tuple[int, int] | None
    seen: str

    def found(self) -> dict[str, str]:
        """Return the files of a launch that must have succeeded."""
        assert self.error is None, self
        assert self.unusable == "", self
        return self.files


class Launch:
    """A user's step that is under way: its broker, and the child that plays the engine."""

    def __init__(self, bed: Bed, uid: int, job: int, request: dict[str, object]) -> None:
        self.broker, self.ours = bed.broker(uid, job)
        words = [sys.executable, str(Path(__file__).with_name("shared_user.py"))]
        request = {**request, "uid": uid, "fd": self.ours.fileno()}
        pipe = subprocess.PIPE
        self.engine = subprocess.Popen(
            [*words, json.dumps(request)],
            env={"PYTHONPATH": str(ROOT / "engine"), "PATH": os.environ["PATH"]},
            pass_fds=(self.ours.fileno(),),
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd="/",
        )

    def keeper(self) -> psutil.Process:
        """Wait for the storekeeper and return it."""
        return until(lambda: keeper_of(self.broker))

    def answer(self, timeout: float = 60) -> Answer:
        """Wait for the end of everything that belongs to the step."""
        out, err = self.engine.communicate(timeout=timeout)
        self.ours.close()
        assert self.broker.wait(10) == 0
        assert self.engine.returncode == 0, err
        table = json.loads(out)
        error, owner = table.get("error"), table.get("owner")
        return Answer(
            files=table.get("files", {}),
            layers=table.get("layers", 0),
            error=(error[0], error[1]) if error else None,
            unusable=table.get("unusable", ""),
            said=err,
            owner=(owner[0], owner[1]) if owner else None,
            seen=table.get("seen", ""),
        )

    def kill(self) -> None:
        """End the step as scancel does, the broker last."""
        self.engine.kill()
        self.engine.communicate()
        self.ours.close()
        self.broker.wait(10)


class Bed:
    """An empty shared store, an installation, and its users' homes."""

    def __init__(self, place: Path, program: str) -> None:
        self.place, self.program = place, program
        self.root, self.prefix = place / "site", place / "prefix"
        self.site_file = place / "fairlead.toml"
        self.grace_s = 3600
        self.life = -1  # a pidfd, in place of slurmstepd's
        self.trusted: list[str] = []
        for folder in ("venv/bin", "libexec/fairlead"):
            (self.prefix / folder).mkdir(parents=True)
        (self.prefix / "venv/bin/python").symlink_to(sys.executable)
        self.install()
        self.trust()
        self.root.mkdir(mode=0o700)
        os.chown(self.root, SERVICE, SERVICE)
        for uid in USERS:
            self.home(uid).mkdir(mode=0o700)
            os.chown(self.home(uid), uid, uid)

    def install(self, more: str = QUICK) -> None:
        """Write the storekeeper's script; more is run in it before it begins."""
        paths = [str(ROOT / "engine"), sysconfig.get_path("purelib")]
        text = KEEPER.format(paths=paths, site=str(self.site_file), more=more)
        (self.prefix / "libexec/fairlead/keeper.py").write_text(text)

    def trust(self, *hosts: str, settings: str = "") -> None:
        """Let the site's configuration list registries without TLS."""
        self.trusted += hosts
        self.site_file.write_text(f"insecure_registries = {json.dumps(self.trusted)}\n{settings}")

    def home(self, uid: int) -> Path:
        return self.place / f"home-{uid}"

    def log_in(self, uid: int, host: str, user: str = "alice", password: str = "open sesame"):
        """Leave a login where podman login does."""
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        path = self.home(uid) / ".docker/config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        for item in (path.parent, path):
            os.chown(item, uid, uid)

    def broker(self, uid: int, job: int = JOB) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Start a step's broker; returns it and the user's end of the connection."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        numbers = [str(number) for number in (uid, uid, job, self.grace_s)]
        given = {3: theirs.fileno(), **({4: self.life} if self.life >= 0 else {})}

        def number() -> None:
            high = {target: fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for target, fd in given.items()}
            for target, fd in high.items():
                os.dup2(fd, target)
            os.closerange(max(given) + 1, 4096)

        process = subprocess.Popen(
            [self.program, str(self.root), *numbers, str(self.prefix), "50%"],
            close_fds=False,
            preexec_fn=number,
            env={},
        )
        theirs.close()
        return process, ours

    def start(self, uid: int, image: str, *, job: int = JOB, **more: object) -> Launch:
        """Begin a launch of an image."""
        home = str(self.home(uid))
        environ = {
            "HOME": home,
            "FAIRLEAD_STORE": f"{home}/store",
            "FAIRLEAD_SITE_CONFIG": str(self.site_file),
            **dict(more.pop("environ", {})),  # type: ignore[call-overload]
        }
        return Launch(self, uid, job, {"image": image, "environ": environ, **more})

    def run(self, uid: int, image: str, **more: object) -> Answer:
        """Launch an image and wait for its end."""
        return self.start(uid, image, **more).answer()  # type: ignore[arg-type]

    # -- the store ---------------------------------------------------------------------------------

    def layers(self) -> list[str]:
        """Return the names of the published layers."""
        return sorted(path.stem for path in self.root.glob("layers/*.erofs"))

    def grants(self, uid: int) -> list[str]:
        return sorted(path.name for path in self.root.glob(f"grants/{uid}/*"))

    def leftovers(self) -> list[str]:
        """Return what only work in progress may have there."""
        found = (path for folder in ("tmp", "locks") for path in self.root.glob(f"{folder}/*"))
        return sorted(str(path.relative_to(self.root)) for path in found)


def keeper_of(broker: subprocess.Popen[bytes]) -> psutil.Process | None:
    """Return the broker's storekeeper, once it is one."""
    try:
        children = psutil.Process(broker.pid).children()
        return next((child for child in children if child.uids().real == SERVICE), None)
    except psutil.NoSuchProcess:
        return None


def until(condition, seconds: float = 20):
    """Poll until the condition holds; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.005)
    return value
