"""OCI hooks of the site: real scripts, at every moment, as the user."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary import GID, UID, User
from site_directory import Site, box, site_directory

# As Sarus' hooks begin: the state on stdin, then the bundle's configuration.
BEGIN = """#!/usr/bin/python3 -I
import ctypes, json, os, sys
state = json.load(sys.stdin)
config = json.load(open(state["bundle"] + "/config.json"))
root = config["root"]["path"]
"""
MOUNT = """
libc = ctypes.CDLL(None, use_errno=True)
def bind(source, target):
    if libc.mount(source.encode(), target.encode(), None, 4096, None):
        sys.exit(os.strerror(ctypes.get_errno()))
"""


@pytest.fixture
def site(user: User) -> Iterator[Site]:
    with site_directory() as made:
        user.environ["FAIRLEAD_SITE_CONFIG"] = str(made.place / "fairlead.toml")
        yield made


@pytest.fixture
def image(user: User) -> str:
    return box(user)


def line(user: User, *words: str) -> str:
    done = user.run("run", *words)
    assert done.returncode == 125, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def output(user: User, *words: str) -> str:
    done = user.run("run", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stage", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.parametrize("readonly", [(), ("--read-only",)])
def test_hook_writes_into_the_root(
    user: User, site: Site, image: str, stage: str, readonly: tuple[str, ...]
) -> None:
    site.hook(
        BEGIN + 'os.mkdir(root + "/made")\nopen(root + "/made/file", "w").write("by a hook\\n")\n',
        stage,
    )
    shown = output(
        user, *readonly, image, "sh", "-c", "cat /made/file; (echo x >/made/new) 2>&1 || true"
    )
    assert shown.startswith("by a hook\n")
    assert ("Read-only" in shown) is bool(readonly)
    assert not (Path(image) / "made").exists()


def test_hook_mounts_into_the_root(user: User, site: Site, image: str) -> None:
    """What it needs is a capability in the container's user namespace; of the host it has none."""
    (site.place / "data").mkdir(mode=0o755)
    (site.place / "data/file").write_text("of the site\n")
    program = f'os.mkdir(root + "/site")\nbind("{site.place}/data", root + "/site")\n'
    site.hook(BEGIN + MOUNT + program, "createContainer")
    before = Path("/proc/self/mountinfo").read_text()
    assert output(user, image, "cat", "/site/file") == "of the site\n"
    assert Path("/proc/self/mountinfo").read_text() == before


def test_hook_is_told_the_state_and_runs_as_the_user(user: User, site: Site, image: str) -> None:
    program = (
        'seen = {"state": state, "config": config, "env": dict(os.environ), "args": sys.argv,\n'
        '        "ids": [os.getuid(), os.getgid()], "fds": os.listdir("/proc/self/fd"),\n'
        '        "status": open("/proc/self/status").read(), "cwd": os.getcwd()}\n'
        'json.dump(seen, open(root + "/seen", "w"))\n'
    )
    site.hook(BEGIN + program, "createRuntime", args=["name", "-x"], env=["HOOK=1", "LC_ALL=C"])
    seen = json.loads(
        output(user, "--annotation", "org.example.a=b", "-e", "JOB=1", image, "cat", "/seen")
    )
    state, config = seen["state"], seen["config"]
    assert state["ociVersion"] == "1.1.0"
    assert state["status"] == "creating"
    assert state["annotations"] == {"org.example.a": "b"}
    assert state["id"] == f"fairlead-{state['pid']}"
    assert seen["cwd"] == state["bundle"]
    assert config["process"]["args"] == ["cat", "/seen"]
    assert "JOB=1" in config["process"]["env"]
    assert config["annotations"]["org.example.a"] == "b"
    assert {k: v for k, v in seen["env"].items() if k != "LC_CTYPE"} == {"HOOK": "1", "LC_ALL": "C"}
    assert seen["args"][1:] == ["-x"]
    assert seen["ids"] == [UID, GID]
    assert len(seen["fds"]) == 4  # 0 to 2, and that of the listing
    assert "NoNewPrivs:\t1" in seen["status"]


def test_start_container_hook_is_the_images_and_has_no_capability(
    user: User, site: Site, image: str
) -> None:
    program = Path(image) / "bin/started"
    program.write_text("#!/bin/sh\ngrep Cap /proc/self/status >/started\ncat >>/started\n")
    program.chmod(0o755)
    table = {
        "version": "1.0.0",
        "hook": {"path": "/bin/started", "env": ["PATH=/bin"]},
        "when": {"always": True},
        "stages": ["startContainer"],
    }
    site.file("hooks.d/a.json", json.dumps(table))
    shown = output(user, image, "cat", "/started")
    sets = dict(entry.split(":\t") for entry in shown.split("\n")[:5])
    assert {sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert json.loads(shown.split("\n")[5])["status"] == "created"


def test_hook_that_fails_inside_ends_the_launch(user: User, site: Site, image: str) -> None:
    hook = {"path": "/bin/busybox", "args": ["sh", "-c", "echo broken; exit 4"]}
    table = {
        "version": "1.0.0",
        "hook": hook,
        "when": {"always": True},
        "stages": ["startContainer"],
    }
    path = site.file("hooks.d/a.json", json.dumps(table))
    assert line(user, image, "true") == (
        "fairlead: error [hook]: startContainer hook /bin/busybox: exit status 4: broken "
        f"(it is named by {path})"
    )
    hook["path"] = "/bin/nosuch"
    site.file("hooks.d/a.json", json.dumps(table))
    assert line(user, image, "true") == (
        "fairlead: error [hook]: startContainer hook /bin/nosuch: No such file or directory "
        f"(it is named by {path})"
    )


def test_command_has_no_capability_after_a_hook_had(user: User, site: Site, image: str) -> None:
    site.hook("#!/bin/sh\ncat >/dev/null\n", "createContainer")
    shown = output(user, image, "sh", "-c", "grep Cap /proc/self/status")
    assert {entry.split()[1] for entry in shown.splitlines()} == {"0" * 16}


def test_hooks_run_by_stage_and_then_by_name(user: User, site: Site, image: str) -> None:
    def note(word: str) -> str:
        return BEGIN + f'open(root + "/order", "a").write("{word} ")\n'

    site.hook(note("createContainer"), "createContainer", name="1.json")
    site.hook(note("first"), "prestart", name="2.json")
    site.hook(note("second"), "prestart", name="3.json")
    site.hook(note("createRuntime"), "createRuntime", name="4.json")
    assert output(user, image, "cat", "/order") == "first second createRuntime createContainer "


def test_annotation_of_the_user_selects_a_hook(user: User, site: Site, image: str) -> None:
    site.hook(
        BEGIN + 'open(root + "/ran", "w")\n',
        "createContainer",
        when={"annotations": {"^com\\.hooks\\.x\\.enabled$": "^true$"}},
    )
    words = (image, "sh", "-c", "test -e /ran && echo ran || echo not")
    assert output(user, *words) == "not\n"
    assert output(user, "--annotation", "com.hooks.x.enabled=false", *words) == "not\n"
    assert output(user, "--annotation", "com.hooks.x.enabled=true", *words) == "ran\n"
    assert "error [usage]: --annotation 'x': no value (write NAME=VALUE)" in line(
        user, "--annotation", "x", *words
    )


def test_failing_hook_ends_the_launch_with_its_last_words(
    user: User, site: Site, image: str
) -> None:
    path = site.hook(
        "#!/bin/sh\ncat >/dev/null\necho first\necho 'no \033[1mroom' >&2\nexit 3\n",
        "createContainer",
    )
    assert line(user, image, "true") == (
        f"fairlead: error [hook]: createContainer hook {site.place}/bin/10-test.json.hook: exit "
        f"status 3: no \\x1b[1mroom (it is named by {path})"
    )


def test_hanging_hook_is_killed_with_all_that_it_started(
    user: User, site: Site, image: str
) -> None:
    program = "#!/bin/sh\necho waiting\nsleep 987654 & sleep 987654\n"
    path = site.hook(program, "createRuntime", timeout=1, env=["PATH=/bin:/usr/bin"])
    assert line(user, image, "true") == (
        f"fairlead: error [hook]: createRuntime hook {site.place}/bin/10-test.json.hook: not done "
        f"after 1 s and killed: waiting (it is named by {path})"
    )
    commands = [
        entry.read_bytes() for entry in Path("/proc").glob("[0-9]*/cmdline") if entry.exists()
    ]
    assert b"sleep\x00987654\x00" not in commands


def test_hook_that_leaves_a_process_with_its_output_does_not_hang(
    user: User, site: Site, image: str
) -> None:
    program = "#!/bin/sh\ncat >/dev/null\nsleep 20 &\n"
    site.hook(program, "createRuntime", timeout=15, env=["PATH=/bin:/usr/bin"])
    assert output(user, image, "sh", "-c", "echo ran") == "ran\n"


def test_killed_hook_and_missing_interpreter_are_told(user: User, site: Site, image: str) -> None:
    path = site.hook("#!/bin/sh\nkill -9 $$\n", "prestart")
    assert line(user, image, "true") == (
        f"fairlead: error [hook]: prestart hook {site.place}/bin/10-test.json.hook: ended by signal 9 "
        f"(it is named by {path})"
    )
    site.hook("#!/nosuch/sh\n", "prestart")
    assert ": No such file or directory (it is named by" in line(user, image, "true")


def test_hook_that_others_may_write_is_refused(user: User, site: Site, image: str) -> None:
    path = site.hook("#!/bin/sh\ncat >/dev/null\n", "prestart")
    program = site.place / "bin/10-test.json.hook"
    remedy = "only what root alone can change is used; ask the administrator"
    for place in (program, path, site.place / "bin", site.place / "hooks.d"):
        mode = place.stat().st_mode & 0o777
        place.chmod(mode | 0o020)
        assert line(user, image, "true") == (
            f"fairlead: error [hook]: {place}: others than root may write to it "
            f"(mode {mode | 0o020:04o}) ({remedy})"
        )
        place.chmod(mode)
    assert output(user, image, "sh", "-c", "echo fine") == "fine\n"


def test_sarus_json_of_the_site_with_its_hooks(user: User, site: Site, image: str) -> None:
    (site.place / "data").mkdir(mode=0o755)
    (site.place / "data/file").write_text("of the site\n")
    mount = {"type": "bind", "source": f"{site.place}/data", "destination": "/site", "flags": {}}
    table = {
        "siteMounts": [mount],
        "environment": {"set": {"SITE": "x"}, "prepend": {"PATH": "/site/bin"}},
        "userMounts": {"notAllowedPrefixesOfPath": ["/etc"]},
        "hooksDir": f"{site.place}/hooks.d",
    }
    file = site.file("sarus.json", json.dumps(table))
    site.settings(sarus_json=str(file))
    site.hook(BEGIN + 'open(root + "/hooked", "w").write("hooked\\n")\n', "createContainer")
    shown = output(user, image, "sh", "-c", "cat /hooked /site/file; echo $SITE ${PATH%%:*}")
    assert shown == "hooked\nof the site\nx /site/bin\n"
    assert line(user, "-v", "/tmp:/etc/x", image, "true") == (
        f"fairlead: error [policy]: --volume: /etc/x: {file} forbids mounts to /etc/ "
        "(use what the file named allows, or ask the administrator)"
    )
    assert user.run("config", "site_mounts").stdout == f"{site.place}/data:/site\n"
    assert f"# {file}" in user.run("config").stdout


def test_malformed_hook_stops_every_launch(user: User, site: Site, image: str) -> None:
    path = site.file("hooks.d/x.json", '{"version": "1.0.0"}')
    assert line(user, image, "true") == (
        f"fairlead: error [hook]: {path}: hook: missing (ask the administrator (setting hooks_dirs))"
    )


def test_hook_once_the_command_runs_is_refused_by_name(user: User, site: Site, image: str) -> None:
    path = site.hook("#!/bin/sh\n", "createContainer", "poststart")
    assert line(user, image, "true") == (
        f"fairlead: error [hook]: {path}: {site.place}/bin/10-test.json.hook cannot run at poststart: "
        "nothing of Fairlead is left once the command has started "
        "(ask the administrator to remove the stage from the hook)"
    )


def test_poststop_hook_runs_when_the_command_has_ended_whatever_it_ended_with(
    user: User, site: Site, image: str
) -> None:
    note = Path(user.place) / "note"
    program = f"""
seen = {{"state": state, "args": config["process"]["args"], "ids": [os.getuid(), os.getgid()],
        "host": os.path.exists("{site.place}"), "fds": len(os.listdir("/proc/self/fd"))}}
open("{note}", "a").write(json.dumps(seen) + "\\n")
"""
    site.hook(BEGIN + program, "poststop", args=["name"], env=["A=b"])
    words = ("--annotation", "a=b", image, "sh", "-c")
    assert output(user, *words, f"test ! -e {note} && echo before") == "before\n"
    assert user.run("run", *words, "exit 3").returncode == 3
    assert user.run("run", *words, "kill -9 $$").returncode == -9
    assert user.run("run", *words, "kill -TERM $$").returncode == -15
    assert user.run("run", image, "nosuch").returncode == 127
    shown = [json.loads(each) for each in note.read_text().splitlines()]
    assert len(shown) == 5
    for seen in shown:
        assert seen["state"]["status"] == "stopped"
        assert "pid" not in seen["state"]
        assert not Path(seen["state"]["bundle"]).exists()  # by now
        assert seen["ids"] == [UID, GID]
        assert seen["host"]
        assert seen["fds"] == 4  # 0 to 2, and that of the listing
    assert shown[0]["state"]["annotations"] == {"a": "b"}
    assert [seen["args"][-1] for seen in shown[1:]] == [
        *("exit 3", "kill -9 $$", "kill -TERM $$", "nosuch")
    ]


def test_signal_to_what_was_started_reaches_the_command_that_a_poststop_hook_waits_for(
    user: User, site: Site, image: str
) -> None:
    note = Path(user.place) / "note"
    site.hook(BEGIN + f'open("{note}", "w")\n', "poststop")
    script = "trap 'echo asked; exit 7' TERM; echo ready; while :; do read x; done"
    process = user.start(
        "run", image, "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=120)[0] == "asked\n"
    assert process.returncode == 7
    assert note.exists()


def test_lock_of_a_name_is_not_kept_by_what_waits_for_the_command(
    user: User, site: Site, image: str
) -> None:
    note = Path(user.place) / "note"
    site.hook(BEGIN + f'open("{note}", "a").write("x")\n', "poststop")
    script = "echo up; read x"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first = user.start("run", "--name", "box", image, "sh", "-c", script, **pipes)
    assert first.stdout is not None
    assert first.stdout.readline() == "up\n"
    assert output(user, "--name", "box", image, "sh", "-c", "echo joined") == "joined\n"
    assert not note.exists()  # who joins a container does not end it
    first.communicate("x\n", timeout=120)
    assert first.returncode == 0
    assert note.read_text() == "x"


def test_poststop_hook_that_fails_is_a_warning_and_the_next_one_runs(
    user: User, site: Site, image: str
) -> None:
    note = Path(user.place) / "note"
    path = site.hook("#!/bin/sh\ncat >/dev/null\necho stuck\nexit 2\n", "poststop", name="1.json")
    site.hook(BEGIN + f'open("{note}", "w")\n', "poststop", name="2.json")
    done = user.run("run", image, "sh", "-c", "exit 4")
    assert done.returncode == 4
    assert done.stderr == (
        f"fairlead: warning: poststop hook {site.place}/bin/1.json.hook: exit status 2: stuck "
        f"(it is named by {path})\n"
    )
    assert note.exists()


def test_poststop_hook_cleans_up_after_a_hook_that_failed(
    user: User, site: Site, image: str
) -> None:
    note = Path(user.place) / "note"
    site.hook("#!/bin/sh\ncat >/dev/null\nexit 2\n", "createRuntime", name="1.json")
    site.hook(BEGIN + f'open("{note}", "w")\n', "poststop", name="2.json")
    assert "createRuntime hook" in line(user, image, "true")
    assert note.exists()


FILTER = """#!/usr/bin/python3 -I
import json, sys
config = json.load(sys.stdin)
assert config["annotations"]["by"] == "user"
"""
ANSWER = "json.dump(config, sys.stdout)\n"


def test_precreate_hook_changes_variables_and_adds_mounts(
    user: User, site: Site, image: str
) -> None:
    (site.place / "data").mkdir(mode=0o755)
    (site.place / "data/file").write_text("of the site\n")
    program = f"""
env = dict(each.split("=", 1) for each in config["process"]["env"])
assert env.pop("GONE") == "1"
env["SEEN"] = config["process"]["args"][-1]
config["process"]["env"] = [f"{{name}}={{text}}" for name, text in env.items()]
config["mounts"] += [
    {{"destination": "/site", "type": "bind", "source": "{site.place}/data", "options": ["ro"]}},
    {{"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}},
]
"""
    site.hook(FILTER + program + ANSWER, "precreate", name="1.json")
    site.hook(
        FILTER + 'assert any(m["destination"] == "/site" for m in config["mounts"])\n' + ANSWER,
        "precreate",
        name="2.json",
    )
    script = "echo $SEEN ${GONE-none}; cat /site/file; echo x >/scratch/y; cat /scratch/y #last"
    words = ("--annotation", "by=user", "-e", "GONE=1", image, "sh", "-c", script)
    assert output(user, *words) == f"{script} none\nof the site\nx\n"
    shown = user.run("plan", *words).stdout
    assert f"hook of {site.place}/hooks.d/1.json" in shown


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ('config["process"]["args"] = ["sh"]', "process.args: may not be changed (process.env and mounts may)"),
        ('config["root"]["readonly"] = True', "root: may not be changed (process.env and mounts may)"),
        ('config["hooks"]["prestart"] = []', "hooks: may not be changed (process.env and mounts may)"),
        ('del config["annotations"]', "annotations: may not be changed (process.env and mounts may)"),
        ('config["process"]["env"] = ["A"]', "process.env[0]: 'A' is not NAME=VALUE"),
        ('config["process"]["env"] = None', "process.env: is no list"),
        ('config["mounts"].pop(0)', "mounts: /proc was taken away or changed"),
        ('config["mounts"].append({"source": "/x"})', "mounts[{last}].destination: missing"),
        ('config["mounts"].append({"destination": "/a/../b"})', "mounts[{last}].destination: '/a/../b' is no absolute path"),
        ('config["mounts"].append({"destination": "/proc/x", "type": "tmpfs"})', "mounts[{last}]: destination '/proc/x': cannot be replaced"),
        ('config["mounts"].append({"destination": "/x", "type": "nfs"})', "mount of type 'nfs' at /x (asked for by the hook of {path})"),
        ('config["mounts"].append({"destination": "/x", "source": "/y", "options": ["suid"]})', "mount option 'suid' at /x cannot be had (asked for by the hook of {path})"),
        ('config = []', "the file: is no object"),
    ],
)  # fmt: skip
def test_precreate_hook_may_change_nothing_else(
    user: User, site: Site, image: str, change: str, complaint: str
) -> None:
    path = site.hook(
        FILTER + 'last = len(config["mounts"])\n' + change + "\n" + ANSWER, "precreate"
    )
    said = line(user, "--annotation", "by=user", image, "true")
    shown = re.sub(r"mounts\[\d+\]", "mounts[{last}]", said)
    assert shown == (
        f"fairlead: error [hook]: precreate hook {site.place}/bin/10-test.json.hook: what it answers: "
        f"{complaint.replace('{path}', str(path))} (it is named by {path})"
    )


def test_precreate_hook_that_fails_or_says_nothing_ends_the_launch(
    user: User, site: Site, image: str
) -> None:
    path = site.hook("#!/bin/sh\necho '{}'\necho 'not today' >&2\nexit 1\n", "precreate")
    name = f"fairlead: error [hook]: precreate hook {site.place}/bin/10-test.json.hook:"
    assert line(user, image, "true") == f"{name} exit status 1: not today (it is named by {path})"
    site.hook("#!/bin/sh\n", "precreate")
    assert f"{name} what it answers: is no JSON: " in line(user, image, "true")


def test_user_cannot_name_directories_of_hooks(user: User, site: Site, image: str) -> None:
    own = Path(user.place) / ".config/fairlead"
    own.mkdir(parents=True)
    (own / "fairlead.toml").write_text('hooks_dirs = ["/tmp"]\n')
    assert "hooks_dirs is the administrator's to set" in line(user, image, "true")


def test_doctor_shows_hooks_and_devices_and_what_is_wrong_with_them(
    user: User, site: Site, image: str
) -> None:
    site.hook("#!/bin/sh\n", "prestart")
    site.cdi("a.json", env=["A=1"])
    shown = user.run("doctor").stdout
    assert f"{site.place}/bin/10-test.json.hook\n" in shown
    assert "vendor.com/thing=one\n" in shown
    path = site.file("hooks.d/x.json", "{")
    done = user.run("doctor")
    assert done.returncode == 1
    assert f"{path}: is no JSON" in done.stdout
