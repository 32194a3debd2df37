"""What the engine does with the shared store, as a process of a user's own (``shared_bed``).

    shared_user.py '{"uid": N, "fd": N, "image": REF, "environ": {...}, ...}'

Prints one JSON object.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys

PR_SET_DUMPABLE = 4
MOUNT_SETATTR, AT_EMPTY_PATH = 442, 0x1000
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4  # linux/mount.h


def main() -> None:
    request = json.loads(sys.argv[1])
    uid = request["uid"]
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    os.environ.update(request["environ"])
    print(json.dumps(_launch(request)))


def _launch(request: dict) -> dict:
    from fairlead import config as settings
    from fairlead import errors
    from fairlead.image import reference
    from fairlead.shared import ask
    from fairlead.store import fetch, layout

    config = settings.load()
    store = layout.open_store(config)
    name = reference.parse(request["image"])
    try:
        digest = request.get("digest")  # of an attacker, who says so without having read anything
        if digest is None:
            pulled = fetch.pull(name, config, store, policy=config.pull, tree=False)
            digest = pulled.digest
        mounts = ask.mounts(request["fd"], name, digest, config)
    except ask.Unusable as why:
        return {"unusable": str(why)}
    except errors.Error as error:
        return {"error": [error.code, error.message]}
    return _look(mounts, request)


def _look(mounts: tuple[int, ...], request: dict) -> dict:
    from fairlead import kernel

    found: dict = {"layers": len(mounts)}
    if mounts:
        info = os.stat(".", dir_fd=mounts[0])
        found["owner"] = [info.st_uid, info.st_gid]
    if request.get("look") == "container":
        found["seen"] = _container(mounts, request["script"])
    elif request.get("look") == "loosened":
        kernel.create_namespace()
        found["seen"] = "\n".join(_loosened(mounts[0]))
    elif request.get("look") != "nothing":
        place = f"{os.environ['HOME']}/view-{os.getpid()}"
        os.mkdir(place)
        kernel.create_namespace()
        found["files"] = _files(kernel.show_image(place, mounts))
    return found


def _files(root: str) -> dict[str, str]:
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = file.read(64).decode("latin-1")
    return found


def _loosened(mount: int) -> list[str]:
    """Take every restriction off a mount that can be taken off; tell what is in it then."""
    loose = struct.pack("4Q", 0, READ_ONLY | NO_SUID | NO_DEVICES, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(MOUNT_SETATTR, mount, b"", AT_EMPTY_PATH, loose, len(loose))
    lines = [f"flags {os.fstatvfs(mount).f_flag & 7}"]
    for folder, names, files, fd in os.fwalk(".", dir_fd=mount):
        for name in (*names, *files):
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            attributes = os.listxattr(f"/proc/self/fd/{fd}/{name}", follow_symlinks=False)
            kept = [text for text in attributes if not text.startswith("user.")]
            lines.append(f"{folder}/{name} {info.st_mode:o} {info.st_rdev} {kept}")
    return lines


def _container(mounts: tuple[int, ...], script: str) -> str:
    """Build a writable root on the layers and run Python statements in it; they set ``seen``."""
    from fairlead import kernel
    from fairlead.run import block

    kernel.create_namespace()
    lowers = [f"mount:{number}" for number in reversed(range(len(mounts)))]
    records = [
        block.record(kernel.lib.OP_ROOT, 0, *lowers),
        block.record(kernel.lib.OP_WORKDIR, 0, "/"),
    ]
    kernel.compose_root(block.join(records), mounts)
    names: dict = {"os": os, "seen": ""}
    exec(script, names)
    return str(names["seen"])


if __name__ == "__main__":
    main()
