"""A node on which something is wrong: one line, status 125, nothing on the host, and the node stays in service.

What is broken, and who shows it:

    no plugin                                 test_fails_closed.py
    an older plugin, or one of another tongue here
    engine: missing, no program, dies, lies   test_fails_closed.py, here
    fairlead-enter, broker, storekeeper       test_fails_closed.py, here, test_shared_store.py
    store: full, read-only, another's         test_bad_input.py, test_shared_store.py, here
    settings: unreadable, wrong, on one node  here
    /proc without other users' processes      here
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

import jobs
import pytest
import remains
from installation import SITE_FILE, installed_prefix, plugin_words, prefix, replace, replace_engine
from jobs import SMALL, srun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BED = "/var/lib/fairlead-bed"


def let_in(place):
    """Let everybody into a directory of pytest's."""
    for each in (place, place.parent, place.parent.parent):
        os.chmod(each, 0o755)


@pytest.fixture
def marker(tmp_path_factory):
    """A path that the command would make if it ran on the host; nobody's who is contained."""
    place = tmp_path_factory.mktemp("marker")
    let_in(place)
    os.chmod(place, 0o777)
    path = place / "ran"
    yield str(path)
    assert not path.exists(), "the command ran on the host"


@pytest.fixture(autouse=True)
def _nodes_stay_in_service():
    yield
    assert jobs.nodes_out_of_service() == []
    jobs.wait_for(
        lambda: set(jobs.run("sinfo", "-h", "-N", "-o", "%T").stdout.split()) == {"idle"}, 60
    )


def refused(marker, *words, options=("-n4",), **variables):
    """The step ends with 125 and one line that holds the words."""
    result = srun(*options, "touch", marker, container=SMALL, **variables)
    assert result.returncode == 125, result.stderr
    lines = jobs.error_lines(result)
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    return lines[0]


@contextlib.contextmanager
def on_node(node, *command, undo):
    """Do something in the mount namespace of one node's slurmd."""
    inside = ("nsenter", f"--target={remains.slurmd(node)}", "--mount", "--wd=/")
    subprocess.run([*inside, *command], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, *undo], check=True)


# -- the plugin ------------------------------------------------------------------------------------


def build_plugin(place, changes):
    """Build the plugin from this checkout with other words in its source; return the file."""
    for name in ("spank_shim", "c_ext"):
        shutil.copytree(
            f"{ROOT}/{name}",
            f"{place}/{name}",
            ignore=shutil.ignore_patterns("*.so", "__pycache__", "build"),
        )
    for file, old, new in changes:
        path = f"{place}/spank_shim/{file}"
        with open(path, encoding="utf-8") as source:
            text = source.read()
        assert old in text
        with open(path, "w", encoding="utf-8") as source:
            source.write(text.replace(old, new))
    words = (
        "make",
        "-s",
        "-C",
        f"{place}/spank_shim",
        "CFLAGS=-O0",
        f"PREFIX={installed_prefix()}",
        "spank_fairlead.so",
    )
    subprocess.run(words, check=True, capture_output=True)
    return f"{place}/spank_shim/spank_fairlead.so"


def test_plugin_of_another_protocol_is_one_line(tmp_path, marker):
    let_in(tmp_path)
    other = build_plugin(
        str(tmp_path), (("engine.h", '#define ENGINE_PROTOCOL "2"', '#define ENGINE_PROTOCOL "0"'),)
    )
    with plugin_words(file=other):
        refused(marker, "error [slurm]", "the plugin speaks protocol 0, the engine 2")


@pytest.mark.parametrize(
    "words",
    [
        ("prefix=nowhere",),
        ("site=nowhere",),
        ("grace=x", "upper_max=much"),
        ("nonsense", "scope=,", "="),
    ],
)
def test_plugstack_words_that_mean_nothing_lose_no_container(words):
    with plugin_words(*words):
        shown = jobs.output(
            srun("-n2", "sh", "-c", "echo in ${FAIRLEAD_CONTAINER:-host}", container=SMALL)
        )
    assert shown.count("in 127.0.0.1") == 2


def test_prefix_without_an_installation(marker):
    with plugin_words("prefix=/nonexistent"):
        refused(marker, "error [slurm]", "engine did not start", "/nonexistent/venv/bin/python")


# -- the engine ------------------------------------------------------------------------------------

REAL = "@PREFIX@/venv/bin/python"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\nkill -SEGV $$\n", ("killed by signal 11", "Segmentation fault")),
        ("#!/bin/sh\nhead -c 5000 /dev/zero | tr '\\0' x; echo\n", ("did not start", "status 0")),
        ("no program at all", ("did not start", "status 126")),
        ("#!/nonexistent/interpreter\n", ("did not start", "status 126")),
        ("#!/usr/bin/python3\nimport os, socket\ns = socket.socket(fileno=3)\nfor _ in range(9): s.send(os.urandom(3000))\n", ("answer",)),
        ("#!/usr/bin/python3\nimport socket\nsocket.socket(fileno=3).send(b'')\n", ("engine",)),
        (f"#!/bin/sh\nulimit -v 4000\nexec {REAL} \"$@\"\n", ("the engine",)),
        (f"#!/bin/sh\nexec {REAL} \"$1\" \"$2\" /dev/null\n", ("did not start", "status 0")),
        (f"#!/bin/sh\nexec {REAL} -c 'raise SystemError(3)'\n", ("did not start", "status 1")),
    ],
    ids=["segfault", "garbage", "no program", "no #! program", "noise", "empty", "no memory", "empty script", "exception"],
)  # fmt: skip
def test_engine_that_is_broken(other_prefix, marker, script, words):
    replace_engine(other_prefix, script.replace("@PREFIX@", installed_prefix()))
    with prefix(other_prefix):
        refused(marker, "error [slurm]", *words)


def test_interpreter_that_nobody_may_execute(other_prefix, marker):
    replace_engine(other_prefix, "#!/bin/sh\nexit 0\n")
    os.chmod(f"{other_prefix}/venv/bin/python", 0o644)
    with prefix(other_prefix):
        refused(marker, "engine did not start", "status 126")


def test_interpreter_that_is_a_directory(other_prefix, marker):
    os.makedirs(f"{other_prefix}/venv/bin/python")
    with prefix(other_prefix):
        refused(marker, "engine did not start", "status 126")


@pytest.mark.parametrize(
    "script",
    ["", "this is no Python\n", "import nothing_of_that_name\n", "raise SystemExit(0)\n"],
    ids=["empty", "syntax", "import", "ends"],
)
def test_engine_script_that_is_broken(own_programs, marker, script):
    replace(f"{own_programs}/libexec/fairlead/engine.py", script)
    with prefix(own_programs):
        refused(marker, "error [slurm]", "engine did not start")


def test_environment_of_another_python(own_programs, marker, tmp_path):
    """As after an upgrade of the distribution: the packages are there, the extension is another interpreter's."""
    (library,) = (
        path
        for path in os.scandir(f"{installed_prefix()}/venv/lib")
        if path.name.startswith("python")
    )
    shutil.copytree(
        f"{library.path}/site-packages/fairlead",
        tmp_path / "fairlead",
        ignore=shutil.ignore_patterns("*.so"),
    )
    (tmp_path / "fairlead/_c_ext.cpython-39-x86_64-linux-gnu.so").write_bytes(b"")
    let_in(tmp_path)
    with open(f"{installed_prefix()}/libexec/fairlead/engine.py", encoding="utf-8") as file:
        script = file.read().replace(f"{library.path}/site-packages", str(tmp_path))
    replace(f"{own_programs}/libexec/fairlead/engine.py", script)
    os.unlink(f"{own_programs}/libexec/fairlead/engine.bundle")
    with prefix(own_programs):
        refused(marker, "error [slurm]", "engine did not start")


@pytest.mark.parametrize("content", ["", "\0" * 4096, "nonsense"])
def test_bundle_that_is_damaged_is_no_bundle(own_programs, content):
    """It is only a copy of what lies beside it."""
    replace(f"{own_programs}/libexec/fairlead/engine.bundle", content, 0o644)
    with prefix(own_programs):
        assert "127.0.0.1" in jobs.output(
            srun("sh", "-c", "echo $FAIRLEAD_CONTAINER", container=SMALL)
        )


# -- the programs that a task becomes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [("no program", 0o755, ""), ("#!/bin/sh\nexit 0\n", 0o644, "fairlead-enter"), ("", 0o755, "")],
    ids=["no program", "not executable", "empty"],
)
def test_helper_that_is_broken(own_programs, marker, content, mode, word):
    replace(f"{own_programs}/libexec/fairlead/fairlead-enter", content, mode)
    with prefix(own_programs):
        result = srun("-n2", "touch", marker, container=SMALL)
    assert result.returncode != 0
    assert word in result.stderr


def test_broker_that_is_no_program_leaves_the_users_own_store(own_programs):
    replace(f"{own_programs}/libexec/fairlead/fairlead-broker", "no program")
    with prefix(own_programs, site=True):
        assert "127.0.0.1" in jobs.output(
            srun("sh", "-c", "echo $FAIRLEAD_CONTAINER", container=SMALL)
        )


# -- settings --------------------------------------------------------------------------------------


@contextlib.contextmanager
def site_settings(text, mode=0o644):
    """Let the site's file have another content."""
    with open(SITE_FILE, encoding="utf-8") as file:
        before, bits = file.read(), os.stat(SITE_FILE).st_mode & 0o777
    try:
        with open(SITE_FILE, "w", encoding="utf-8") as file:
            file.write(before if text is None else text)
        os.chmod(SITE_FILE, mode)
        yield
    finally:
        os.chmod(SITE_FILE, bits)
        with open(SITE_FILE, "w", encoding="utf-8") as file:
            file.write(before)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (None, 0o600),
        ("mpi = ", 0o644),
        ('mpi = "sometimes"\n', 0o644),
        ("nonsense = 1\n", 0o644),
        ("\0", 0o644),
    ],
    ids=["unreadable", "cut short", "wrong value", "unknown key", "no text"],
)
def test_settings_of_the_site_that_are_wrong(marker, text, mode):
    """FAIRLEAD_RESOLVE=start: else srun itself would be the one that says so."""
    with site_settings(text, mode):
        for options in (("-n2",), ("-N2", "-n4")):
            refused(marker, "error [config]", SITE_FILE, options=options, FAIRLEAD_RESOLVE="start")


def test_settings_that_are_wrong_on_one_node(marker, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("mpi = 7\n")
    bind = ("mount", "--bind", str(wrong), SITE_FILE)
    script = f'test "$SLURMD_NODENAME" = n3 || exit 0; touch {marker}'
    with on_node("n3", *bind, undo=("umount", SITE_FILE)):
        result = srun("-w", "n2,n3", "-N2", "-n2", "sh", "-c", script, container=SMALL)
    assert result.returncode == 125, result.stderr
    (line,) = jobs.error_lines(result)
    assert "error [config]" in line
    assert SITE_FILE in line


# -- disks and /proc -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["site", "own"])
def test_store_on_a_disk_that_can_only_be_read(marker, kind):
    place = f"{BED}/tiny"
    remount = ("mount", "-o", "remount,ro", place)
    with contextlib.ExitStack() as stack:
        for node in ("n1", "n2"):
            stack.enter_context(on_node(node, *remount, undo=("mount", "-o", "remount,rw", place)))
        stack.enter_context(plugin_words(*([f"site={place}/site"] if kind == "site" else [])))
        variables = {"FAIRLEAD_STORE": f"{place}/own"}
        refused(
            marker,
            "error [store]",
            "Read-only file system",
            options=("-w", "n1,n2", "-N2", "-n2"),
            **variables,
        )


def test_shared_store_on_a_full_disk(marker):
    """The storekeeper's refusal is the step's: it does not fill the user's own store instead."""
    place = f"{BED}/tiny"
    owner = str(os.stat("/var/lib/fairlead").st_uid)
    fill = f"mkdir -m 700 {place}/site && chown {owner}:{owner} {place}/site && head -c 1900k /dev/zero > {place}/fill"
    with (
        on_node("n1", "sh", "-c", fill, undo=("sh", "-c", f"rm -rf {place}/site {place}/fill")),
        plugin_words(f"site={place}/site"),
    ):
        refused(marker, "error [no-space]", options=("-w", "n1", "-n2"))


def test_proc_that_hides_other_users_processes():
    hide = ("mount", "-t", "proc", "-o", "hidepid=invisible", "proc", "/proc")
    with on_node("n4", *hide, undo=("umount", "/proc")):
        shown = jobs.output(
            srun(
                "-w",
                "n4",
                "-n2",
                "sh",
                "-c",
                "echo in ${FAIRLEAD_CONTAINER:-host}",
                container=SMALL,
            )
        )
    assert shown.count("in 127.0.0.1") == 2


def test_proc_that_is_not_there(marker):
    with on_node("n4", "mount", "-t", "tmpfs", "tmpfs", "/proc", undo=("umount", "/proc")):
        result = srun("-w", "n4", "-n2", "touch", marker, container=SMALL)
    assert result.returncode != 0
