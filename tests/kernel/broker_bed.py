"""A broker under test: the real program, a store of the service account's, a user who asks.

Root makes the store (uid SERVICE), starts ``fairlead-broker`` with one end of a socket pair, and hands
the other to a child of uid USER, who speaks to it through the C extension as the engine does.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time

import tarmaker

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVICE, USER, OTHER = 61001, 61002, 61003
JOB = 77
IMAGE = "a" * 64
LAYER = "b" * 64


class Bed:
    """A store in a directory, and brokers for it."""

    def __init__(self, directory: str, program: str, grace_s: int = 3600) -> None:
        self.store, self.program, self.grace_s = f"{directory}/site", program, grace_s
        self.upper_max = "50%"
        os.chmod(directory, 0o755)
        os.makedirs(self.store)
        for folder in ("grants", f"grants/{USER}", "layers", "leases"):
            self.folder(folder)
        self.own(self.store)
        os.chmod(self.store, 0o700)

    def own(self, path: str, uid: int = SERVICE) -> None:
        os.chown(path, uid, uid, follow_symlinks=False)

    def folder(self, name: str) -> None:
        os.mkdir(f"{self.store}/{name}", 0o700)
        self.own(f"{self.store}/{name}")

    def layer(self, name: str = LAYER, content: str = "from the layer") -> str:
        """Publish a real EROFS image; returns its path."""
        tree = f"{self.store}/../tree-{name[:8]}"
        os.makedirs(f"{tree}/etc")
        with open(f"{tree}/etc/motd", "w", encoding="ascii") as file:
            file.write(content)
        path = f"{self.store}/layers/{name}.erofs"
        command = ["mkfs.erofs", "--quiet", "-T0", "--all-root", path, tree]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(tree)
        os.chmod(path, 0o400)
        self.own(path)
        return path

    def stack(self, contents: list[str]) -> tuple[list[str], str]:
        """Publish layers as the storekeeper writes them, and their index; returns their names."""
        from fairlead import sinks

        flags, names = (
            os.O_RDWR | os.O_CREAT | os.O_EXCL,
            [f"{n:064x}" for n in range(len(contents))],
        )
        self.folder("indexes")
        scratch, fds = os.open(self.store, os.O_RDWR | os.O_TMPFILE), []
        for name, content in zip(names, contents, strict=True):
            path = f"{self.store}/layers/{name}.erofs"
            fds.append(os.open(path, flags, 0o400))
            with sinks.LayerImage(fds[-1], scratch) as image:
                image.begin_layer()
                entries = tarmaker.directory(b"etc"), tarmaker.file(b"etc/motd", content.encode())
                image.feed(tarmaker.archive(*entries, tarmaker.file(b"etc/" + name[-4:].encode())))
                image.end_layer()
            os.ftruncate(scratch, 0)
            self.own(path)
        index = "e" * 64
        path = f"{self.store}/indexes/{index}.erofs"
        fd = os.open(path, flags, 0o400)
        sinks.write_index(fd, scratch, fds)
        self.own(path)
        total = sum(os.fstat(each).st_size for each in (fd, *fds))
        sizes = sum(os.fstat(each).st_size for each in fds)
        for each in (fd, scratch, *fds):
            os.close(each)
        lines = "".join(f"layer {name}\n" for name in names)
        return names, (
            f"fairlead-grant 1\nuid {USER}\njob {JOB}\nsize {sizes}\nindex {index} {total}\n{lines}"
        )

    def injection(self, name: str) -> int:
        """Publish a real EROFS image as an injection; returns its size."""
        made = self.layer(name, "of the host")
        if not os.path.isdir(f"{self.store}/injections"):
            self.folder("injections")
        path = f"{self.store}/injections/{name}.erofs"
        os.rename(made, path)
        return os.stat(path).st_size

    def size(self, *layers: str) -> int:
        """Return the bytes of layers' images; 0 for those that are not there."""
        paths = (f"{self.store}/layers/{layer}.erofs" for layer in layers)
        return sum(os.stat(path).st_size for path in paths if os.path.exists(path))

    def grant(self, text: str | None = None, *, image: str = IMAGE, uid: int = USER) -> str:
        """Write a grant as the storekeeper does; returns its path."""
        path = f"{self.store}/grants/{uid}/{image}"
        if text is None:
            size = self.size(LAYER)
            text = f"fairlead-grant 1\nuid {uid}\njob {JOB}\nsize {size}\nlayer {LAYER}\n"
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o600)
        self.own(path)
        return path

    def broker(self, *, uid: int = USER, job: int = JOB, prefix: str = "/nonexistent"):
        """Start a broker for a user; returns it and the user's end of its socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def numbered():
            os.dup2(theirs.fileno(), 3)

        process = subprocess.Popen(
            self.words(uid=uid, job=job, prefix=prefix),
            pass_fds=(3, theirs.fileno()),
            preexec_fn=numbered,
            env={},
        )
        theirs.close()
        return process, ours

    def words(self, *, uid: int = USER, job: int = JOB, prefix: str = "/nonexistent") -> list[str]:
        """Return the broker's command line for a user."""
        numbers = [str(uid), str(uid), str(job), str(self.grace_s)]
        return [self.program, self.store, *numbers, prefix, self.upper_max]

    def ask(self, image: str = IMAGE, *, uid: int = USER, job: int = JOB, look: str = "") -> dict:
        """Ask for an image's mounts as the user; says what came, and what the user found in them."""
        process, ours = self.broker(uid=uid, job=job)
        try:
            command = [sys.executable, __file__, str(ours.fileno()), image, str(uid), look]
            environ = {**os.environ, "PYTHONPATH": f"{ROOT}/engine:{ROOT}/tests/kernel"}
            result = subprocess.run(
                command, pass_fds=(ours.fileno(),), env=environ, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr
            return json.loads(result.stdout)
        finally:
            ours.close()
            assert process.wait(5) == 0


def loops():
    """The loop devices that are bound to a file."""
    return {
        name
        for name in os.listdir("/sys/block")
        if name.startswith("loop") and os.path.exists(f"/sys/block/{name}/loop/backing_file")
    }


def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def mounts():
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def old(path: str, seconds: float) -> None:
    """Let a file's time of proof lie in the past."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def _user(fd: int, image: str, uid: int, look: str) -> dict:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    from fairlead import kernel

    try:
        mounts = kernel.broker_mount(fd, image)
    except OSError as error:
        return {"errno": error.errno, "detail": error.filename}
    answer: dict = {"count": len(mounts), "texts": []}
    for mount in mounts:
        info = os.stat("etc/motd", dir_fd=mount)
        answer["owner"] = [info.st_uid, info.st_gid]
        with open(os.open("etc/motd", os.O_RDONLY, dir_fd=mount), encoding="ascii") as file:
            answer["texts"].append(file.read())
        answer["flags"] = os.fstatvfs(mount).f_flag
    if look == "write":
        try:
            os.open("etc/motd", os.O_WRONLY, dir_fd=mounts[0])
        except OSError as error:
            answer["write"] = error.errno
    if look == "container":
        answer["container"] = _container(mounts)
    if look == "read-only":
        answer["root"] = _read_only(mounts)
    return answer


def _read_only(mounts: tuple[int, ...]) -> list[str]:
    """The user makes the mounts a read-only root; tells of what kind it is, and where it stems from."""
    from fairlead import kernel
    from fairlead.run import block

    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    kernel.create_namespace()
    lowers = [f"mount:{n}" for n in reversed(range(len(mounts)))]
    records = [
        block.record(kernel.lib.OP_ROOT, kernel.lib.ROOT_READONLY, *lowers),
        block.record(kernel.lib.OP_BIND, 0, "/proc", "/etc"),
        block.record(kernel.lib.OP_WORKDIR, 0, "/"),
    ]
    kernel.compose_root(block.join(records), mounts)
    with open("/etc/self/mountinfo", encoding="ascii") as file:
        return [line.split(" - ")[1].split()[0] for line in file if line.split()[4] == "/"]


def _container(mounts: tuple[int, ...]) -> str:
    """The user puts an overlay over the mounts, in a namespace of their own, and replaces a file."""
    from fairlead import kernel

    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    kernel.create_namespace()
    from fairlead.run import block

    lowers = [f"mount:{n}" for n in reversed(range(len(mounts)))]
    kernel.compose_root(
        block.join(
            [
                block.record(kernel.lib.OP_ROOT, 0, *lowers),
                block.record(kernel.lib.OP_WORKDIR, 0, "/"),
            ]
        ),
        mounts,
    )
    seen = []
    for text in ("mine", ""):
        with open("/etc/motd", encoding="ascii") as file:
            seen.append(file.read())
        os.unlink("/etc/motd")
        with open("/etc/motd", "w", encoding="ascii") as file:
            file.write(text)
    return f"{', then '.join(seen)}, {stat.filemode(os.stat('/etc').st_mode)}"


if __name__ == "__main__":
    print(json.dumps(_user(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])))
