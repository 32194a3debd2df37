"""The configuration of a root file system that comes without one: what its own files say. Pure.

enroot keeps a Docker image's configuration inside the image: Env in /etc/environment, entrypoint,
command and working directory in a script, /etc/rc. They are taken from there. Everything else that
a bare root says (its fstab, SIF's environment scripts) selects mounts or runs code and is left.

Rules:
- /etc/rc becomes the entrypoint only if it is enroot's: on other systems that name is an init
  script.
- Lines that are no NAME=VALUE are skipped, as login does.

Source: enroot ``docker.sh`` (``docker::configure``); environment(5) of pam_env.
"""

from __future__ import annotations

import json
import re

from fairlead.image.manifest import Platform

MAX_VARIABLES = 4096
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RC_MARK = "if [ $# -gt 0 ]; then\n    exec "
_RC_DIRECTORY = re.compile(r'^cd "([^"$`\\]+)" && unset OLDPWD', re.MULTILINE)


def document(environment: str, rc: str, platform: Platform, diff_ids: tuple[str, ...]) -> bytes:
    """Return an image configuration in the specification's form.

    Args:
        environment: text of /etc/environment, empty if there is none.
        rc: text of /etc/rc, empty if there is none.
        platform: that the root was built for.
        diff_ids: what it was made of.
    """
    config: dict[str, object] = {"Env": [f"{n}={v}" for n, v in variables(environment)]}
    if _RC_MARK in rc:
        config["Entrypoint"] = ["/bin/sh", "/etc/rc"]
        found = _RC_DIRECTORY.search(rc)
        if found and found[1].startswith("/"):
            config["WorkingDir"] = found[1]
    table = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return json.dumps(table).encode()


def variables(text: str) -> tuple[tuple[str, str], ...]:
    """Return the assignments in an /etc/environment, the last of a name, quotes taken off."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or not _NAME.fullmatch(name) or len(found) >= MAX_VARIABLES:
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        if value.isprintable() or value.isascii():
            found[name] = value
    return tuple(found.items())
