"""A real podman with a store of its own, as root or as an ordinary user with subordinate ids."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

from ordinary import ENGINE, GID, UID

LISTING = str(Path(__file__).with_name("tree_listing.py"))
SUBORDINATE = 300_000
CONTAINERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ADD tree.tar /d/
RUN rm /d/keep/b && rm -r /d/gone && mkdir /d/gone && echo new >/d/gone/new && echo more >>/d/keep/a
RUN rm -r /d/whole && ln -s keep /d/whole && mv /d/moved /d/there && ln /d/large /d/link
RUN chmod 4755 /d/keep/a && mkdir -m 3777 /d/sticky && touch -d @86400 /d/sticky
ENV FROM=podman
CMD ["cat", "/d/keep/a"]
"""
# As tests that become another user do it, with the names that newuidmap looks up.
AS_USER = """\
for name in passwd group subuid subgid; do mount --bind "$0/etc/$name" "/etc/$name"; done
exec setpriv --reuid {uid} --regid {gid} --clear-groups "$@"
"""


class Podman:
    """A podman whose store, home and working directory lie below one place."""

    def __init__(self, place: Path, driver: str, *, rootless: bool) -> None:
        self.place, self.rootless = place, rootless
        self.home = place / "home"
        self.graph = self.home / "graph"
        conf = self.home / ".config/containers/storage.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{self.graph}"\nrunroot = "{place}/run"\n'
        )
        (place / "xdg").mkdir(mode=0o700)
        (place / "etc").mkdir()
        for name, line in {
            "passwd": f"shipper:x:{UID}:{GID}::{self.home}:/bin/sh\n",
            "group": f"shipper:x:{GID}:\n",
            "subuid": f"shipper:{SUBORDINATE}:65536\n",
            "subgid": f"shipper:{SUBORDINATE}:65536\n",
        }.items():
            known = Path("/etc") / name
            known.touch()
            (place / "etc" / name).write_text(known.read_text() + line)
        self.environ = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ENGINE,
            "XDG_RUNTIME_DIR": str(place / "xdg"),
            "FAIRLEAD_STORE": str(place / "store"),
            "FAIRLEAD_SITE_CONFIG": str(place / "none"),
            "FAIRLEAD_SITE_STORE": str(place / "none"),
        }
        if rootless:
            subprocess.run(["chown", "-R", f"{UID}:{GID}", place], check=True)
        else:  # root's own home holds no settings
            self.environ["CONTAINERS_STORAGE_CONF"] = str(conf)

    def start(self, *words: str, **options: object) -> subprocess.Popen[str]:
        """Start a program as the owner of the store, with mounts that go with it."""
        command = ["unshare", "--mount"]
        if self.rootless:
            script = AS_USER.format(uid=UID, gid=GID)
            command += ["sh", "-ec", script, str(self.place)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*command, *words],
            env=self.environ,
            cwd=self.place,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )

    def call(self, *words: str) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.strip()

    def podman(self, *words: str) -> str:
        return self.call("podman", *words)

    def fairlead(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(sys.executable, "-m", "fairlead.cli.main", *words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def build(self, tag: str, containerfile: str = CONTAINERFILE) -> str:
        """Build an image; returns its id."""
        context = self.place / "context"
        context.mkdir(exist_ok=True)
        shutil.copy("/bin/busybox", context / "busybox")
        (context / "tree.tar").write_bytes(tree())
        (context / "Containerfile").write_text(containerfile)
        words = ("--layers", "--isolation=chroot", "--format=oci", "-t", tag, str(context))
        return self.podman("build", "--quiet", *words).splitlines()[-1]

    def steps(self, image: str) -> list[str]:
        """Return the ids of the images of all steps of a build, the first one first."""
        ids = []
        while image:
            ids.append(image)
            image = self.podman("image", "inspect", "--format", "{{.Parent}}", image)
        return ids[::-1]

    def tree(self, image: str) -> dict[str, list[object]]:
        """Return the files of an image as podman mounts it."""
        script = f'root=$(podman image mount {image}) && exec {sys.executable} {LISTING} "$root"'
        inside = ("podman", "unshare") if self.rootless else ()
        found: dict[str, list[object]] = json.loads(self.call(*inside, "sh", "-ec", script))
        return found

    def end(self) -> None:
        """End the process by which a rootless podman keeps its user namespace."""
        for file in self.place.glob("xdg/**/pause.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    def line(self, name: str) -> str:
        """Pull what must fail with one line; return it."""
        done = self.fairlead("pull", "-q", name)
        assert done.returncode == 125, done
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()


def tree() -> bytes:
    """An archive with what layers hold in the world: links, odd names, attributes, owners."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes = b"", **over: object) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_700_000_000, 0o644
            for key, value in over.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        for name in ("keep", "gone", "gone/deep", "whole", "moved"):
            add(name, type=tarfile.DIRTYPE, mode=0o755)
        add("keep/a", b"1\n")
        add("keep/b", b"2\n")
        add("keep/hard", type=tarfile.LNKTYPE, linkname="d/keep/a".removeprefix("d/"))
        add("gone/deep/c", b"3\n")
        add("whole/x", b"4\n")
        add("moved/y", b"5\n")
        add("sym", type=tarfile.SYMTYPE, linkname="keep/a", mode=0o777)
        add("dangling", type=tarfile.SYMTYPE, linkname="/no/where", mode=0o777)
        add("fifo", type=tarfile.FIFOTYPE)
        add("owned", b"6\n", uid=33, gid=42, mode=0o640 | 0o004)
        add("large", bytes(range(256)) * 9000)
        add("empty")
        add("long/" + "n" * 200 + "/" + "m" * 200, b"7\n")
        for name in (
            "odd name",
            "line\nfeed",
            "back\\slash",
            "ünïcode",
            "\udcff\udcfe",
            ".wh",
            "..x",
        ):
            add(name, name.encode(errors="surrogateescape"))
        add("noted", b"8\n", pax_headers={"SCHILY.xattr.user.note": "kept"})
        capability = bytes.fromhex("0100000200040000000000000000000000000000").decode("latin-1")
        add(
            "capable",
            b"9\n",
            mode=0o755,
            pax_headers={"SCHILY.xattr.security.capability": capability},
        )
        add("sub-second", b"0\n", mtime=1_700_000_000.123456789)
    return out.getvalue()
