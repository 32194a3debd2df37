"""The installed plugin, and how a test puts a broken or watched one in its place."""

import contextlib
import os
import re

PLUGSTACK = "/etc/slurm/plugstack.conf.d"
SITE_FILE = "/etc/fairlead/fairlead.toml"


def plugin_line():
    """The plugstack line of the installed plugin: its file, and the line."""
    for name in os.listdir(PLUGSTACK):
        path = os.path.join(PLUGSTACK, name)
        with open(path, encoding="utf-8") as file:
            line = next((line for line in file if "spank_fairlead.so" in line), None)
        if line:
            return path, line.strip()
    raise AssertionError(f"no plugin in {PLUGSTACK}")


def installed_prefix():
    line = plugin_line()[1]
    given = re.search(r"prefix=(\S+)", line)
    return (
        given.group(1) if given else line.split()[1].removesuffix("/lib/fairlead/spank_fairlead.so")
    )


@contextlib.contextmanager
def plugin_words(*words, file=None):
    """Let the plugstack line carry other words, or name another plugin; every step reads it anew.

    Without any, the node has no shared store, and every user one of their own.
    """
    path, line = plugin_line()
    with open(path, encoding="utf-8") as before:
        text = before.read()
    kind, installed = line.split()[:2]
    try:
        with open(path, "w", encoding="utf-8") as after:
            after.write(" ".join([kind, file or installed, *words]) + "\n")
        yield
    finally:
        with open(path, "w", encoding="utf-8") as after:
            after.write(text)


@contextlib.contextmanager
def prefix(path, *, site=False):
    """Let the plugin use another installation.

    Without ``site`` every user has a store of their own, whatever the installed line says.
    """
    words = plugin_line()[1].split()
    kept = [word for word in words if site and word.startswith("site=")]
    with plugin_words(f"prefix={path}", *kept):
        yield


@contextlib.contextmanager
def site_lists(host):
    """Let the site's configuration list one more registry that speaks plain HTTP."""
    with open(SITE_FILE, encoding="utf-8") as before:
        text = before.read()
    assert "insecure_registries = [" in text
    try:
        with open(SITE_FILE, "w", encoding="utf-8") as after:
            after.write(text.replace("registries = [", f'registries = ["{host}", ', 1))
        yield
    finally:
        with open(SITE_FILE, "w", encoding="utf-8") as after:
            after.write(text)


def replace_engine(place, script):
    """Let a script, with its #! line, stand where the plugin looks for its interpreter.

    srun's hub, which that interpreter runs as well, stays as it is where the script is a shell's.
    """
    first, _, rest = script.partition("\n")
    if first == "#!/bin/sh":
        real = f'exec {installed_prefix()}/venv/bin/python "$@"'
        script = f'{first}\nif [ "$4" = hub ]; then {real}; fi\n{rest}'
    wrapper = f"{place}/venv/bin/python"
    with open(wrapper, "w", encoding="utf-8") as file:
        file.write(script)
    os.chmod(wrapper, 0o755)


def replace(path, text, mode=0o755):
    """Let another program stand at a path."""
    os.unlink(path)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
