"""Tells of every file below a directory what can be compared: ``python tree_listing.py ROOT``."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys


def listing(root: bytes) -> dict[str, list[object]]:
    """Return each path's kind, mode, time, content and extended attributes, and its other names."""
    found: dict[str, list[object]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        full = root + b"/" + path
        info = os.lstat(full)
        kind, content = stat.S_IFMT(info.st_mode), ""
        if stat.S_ISDIR(info.st_mode):
            todo += [path + b"/" + name if path else name for name in os.listdir(full)]
        elif stat.S_ISLNK(info.st_mode):
            content = os.fsdecode(os.readlink(full))
        elif stat.S_ISREG(info.st_mode):
            with open(full, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        xattrs = {
            name: os.getxattr(full, name, follow_symlinks=False).hex()
            for name in os.listxattr(full, follow_symlinks=False)
            if not name.startswith(("trusted.overlay", "user.overlay"))
        }
        text = os.fsdecode(path)
        found[text] = [kind, stat.S_IMODE(info.st_mode), int(info.st_mtime), content, xattrs]
        if not stat.S_ISDIR(info.st_mode):
            names.setdefault((info.st_dev, info.st_ino), []).append(text)
    for group in names.values():
        for text in group:
            found[text].append(sorted(group))
    return found


if __name__ == "__main__":
    print(json.dumps(listing(os.fsencode(sys.argv[1]))))
