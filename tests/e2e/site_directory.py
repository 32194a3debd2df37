"""A site's own directory of CDI specifications and hooks: root's, as on a node, and gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from ordinary import GID, UID, User

APPLETS = ("sh", "cat", "ls", "env", "mount", "true", "test", "readlink", "id", "grep", "head")


class Site:
    """Settings, specifications and hooks of one node."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("", "cdi", "hooks.d", "bin"):
            (place / name).mkdir(mode=0o755)
            (place / name).chmod(0o755)
        self.settings(hooks_dirs=[f"{place}/hooks.d"], cdi_dirs=[f"{place}/cdi"])

    def settings(self, **values: object) -> None:
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        self.file("fairlead.toml", "".join(lines))

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.place / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def cdi(self, name: str, **edits: object) -> Path:
        """Write a specification of one device, ``vendor.com/thing=one``."""
        table = {
            "cdiVersion": "1.0.0",
            "kind": "vendor.com/thing",
            "devices": [{"name": "one", "containerEdits": edits}],
        }
        text = json.dumps(table) if name.endswith(".json") else yaml.safe_dump(table)
        return self.file(f"cdi/{name}", text)

    def hook(
        self,
        program: str,
        *stages: str,
        name: str = "10-test.json",
        when: object = None,
        **fields: object,
    ) -> Path:
        """Write a script and the hook that runs it."""
        path = self.file(f"bin/{name}.hook", program, 0o755)
        table = {
            "version": "1.0.0",
            "hook": {"path": str(path), **fields},
            "when": when or {"always": True},
            "stages": stages,
        }
        return self.file(f"hooks.d/{name}", json.dumps(table))


@contextmanager
def site_directory() -> Iterator[Site]:
    # Where every directory on the way is root's.
    place = Path(f"/opt/fairlead-site-{os.getpid()}")
    try:
        yield Site(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def box(user: User) -> str:
    """Return a root file system of busybox, the user's own."""
    root = Path(user.place) / "box"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for path in (root, *root.rglob("*")):
        os.chown(path, UID, GID, follow_symlinks=False)
    return str(root)
