"""Hooks before a container is planned and after it has ended, in steps: once per node, as the user."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import jobs
import pytest
from jobs import SMALL, USER, output, srun

NOTE = """#!/usr/bin/python3 -I
import json, os, sys
state = json.load(sys.stdin)
config = json.load(open(state["bundle"] + "/config.json"))
mine = os.listdir("/proc/self/fd")
place = state["annotations"]["place"]
seen = {"id": state["id"], "status": state["status"], "ids": [os.getuid(), os.getgid()],
        "groups": sorted(os.getgroups()), "args": config["process"]["args"], "fds": len(mine),
        "env": dict(os.environ), "host": os.path.exists("/opt/fairlead/venv")}
with open(place + "/" + state["id"], "w") as file:
    json.dump(seen, file)
"""
BAD = "#!/bin/sh\ncat >/dev/null\necho no 'licence \033[1mserver'\nexit 3\n"
SLOW = "#!/bin/sh\nsleep 987653 & exec sleep 987653\n"
FILTER = """#!/usr/bin/python3 -I
import json, sys
config = json.load(sys.stdin)
config["process"]["env"].append("FILTERED=" + config["process"]["args"][0])
json.dump(config, sys.stdout)
"""


@pytest.fixture(scope="module")
def site():
    """A site whose hooks are selected by the annotation ``hook``, as root must have them."""
    place = Path(f"/opt/fairlead-after-{os.getpid()}")
    for name in ("", "hooks.d"):
        (place / name).mkdir(mode=0o755)

    def put(name, text, mode=0o644):
        (place / name).write_text(text)
        (place / name).chmod(mode)
        return str(place / name)

    put("site.toml", f'hooks_dirs = ["{place}/hooks.d"]\n')
    for name, stage, text, wanted in (
        ("note", "poststop", NOTE, "note|bad|broken"),
        ("bad", "poststop", BAD, "bad"),
        ("slow", "poststop", SLOW, "slow"),
        ("broken", "createRuntime", BAD, "broken"),
        ("filter", "precreate", FILTER, "filter"),
    ):
        table = {
            "version": "1.0.0",
            "hook": {"path": put(name, text, 0o755), "timeout": 2, "env": ["PATH=/bin:/usr/bin"]},
            "when": {"annotations": {"^hook$": f"^({wanted})$"}},
            "stages": [stage],
        }
        if name == "note":
            table["hook"]["timeout"] = 30
        put(f"hooks.d/{name}.json", json.dumps(table))
    yield str(place)
    shutil.rmtree(place)


@pytest.fixture
def notes():
    with tempfile.TemporaryDirectory(prefix="fairlead-notes-") as name:
        os.chown(name, USER.pw_uid, USER.pw_gid)
        yield Path(name)


def words(notes, hook):
    return f"--container-annotation=hook={hook},place={notes}"


def settings(site):
    return {"container": SMALL, "FAIRLEAD_SITE_CONFIG": f"{site}/site.toml"}


def read(notes):
    return {path.name: json.loads(path.read_text()) for path in notes.iterdir()}


def test_poststop_hook_runs_once_per_node_as_the_user_before_srun_returns(site, notes):
    command = ("sh", "-c", "echo $SLURM_JOB_ID.$SLURM_STEP_ID; exit $SLURM_PROCID")
    done = srun("-N2", "-n4", words(notes, "note"), *command, **settings(site))
    assert done.returncode == 3  # the last rank's
    step = done.stdout.split()[0]
    found = read(notes)
    assert set(found) == {f"fairlead-{step}.0", f"fairlead-{step}.1"}
    for seen in found.values():
        assert seen["status"] == "stopped"
        assert seen["ids"] == [USER.pw_uid, USER.pw_gid]
        assert seen["groups"] == sorted(os.getgrouplist(USER.pw_name, USER.pw_gid))
        assert seen["args"] == ["sh"]  # the words after it are each task's own
        assert {k: v for k, v in seen["env"].items() if k != "LC_CTYPE"} == {
            "PATH": "/bin:/usr/bin"
        }
        assert seen["host"]
        assert seen["fds"] == 4


def test_poststop_hook_runs_in_a_batch_step_that_is_the_container(site, notes):
    shown = jobs.batch(
        "echo inside; test -e /etc/alpine-release || true\n",
        f"--container={SMALL}",
        "--container-batch",
        words(notes, "note"),
        FAIRLEAD_SITE_CONFIG=f"{site}/site.toml",
    )
    assert "inside" in shown
    assert len(read(notes)) == 1


def test_poststop_hook_runs_after_a_step_that_was_killed(site, notes):
    command = ("sh", "-c", "echo $SLURM_JOB_ID.$SLURM_STEP_ID; exec sleep 1000")
    told = words(notes, "note")
    process = jobs.start(
        "srun", f"--container={SMALL}", "-N2", "-n2", told, *command,
        FAIRLEAD_SITE_CONFIG=f"{site}/site.toml",
    )  # fmt: skip
    steps = [process.stdout.readline().strip() for _ in range(2)]
    jobs.run("scancel", "--signal=KILL", steps[0])
    process.communicate(timeout=120)
    assert process.returncode == 137
    wait(lambda: len(list(notes.iterdir())) == 2)


def wait(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come about within a minute")


def test_poststop_hook_that_fails_is_a_warning_and_the_next_one_runs(site, notes):
    done = srun(words(notes, "bad"), "sh", "-c", "exit 4", **settings(site))
    assert done.returncode == 4
    shown = [each for each in done.stderr.splitlines() if "fairlead" in each]
    assert len(shown) == 1, done.stderr
    assert shown[0].partition("fairlead: ")[2] == (
        f"warning: poststop hook {site}/bad: exit status 3: no licence \\x1b[1mserver "
        f"(it is named by {site}/hooks.d/bad.json)"
    )
    assert len(read(notes)) == 1


def test_poststop_hook_that_hangs_is_killed_with_all_that_it_started(site, notes):
    done = srun(words(notes, "slow"), "true", **settings(site))
    assert done.returncode == 0
    assert (
        f"fairlead: warning: poststop hook {site}/slow: not done after 2 s and killed"
        in done.stderr
    )
    assert not sleeping()
    assert "drain" not in jobs.run("sinfo", "-h", "-o", "%T").stdout


def sleeping():
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes())
        except OSError:
            continue
    return b"sleep\x00987653\x00" in found


def test_poststop_hook_cleans_up_after_a_hook_that_failed(site, notes):
    done = srun(words(notes, "broken"), "true", **settings(site))
    assert done.returncode == 125
    assert f"error [hook]: createRuntime hook {site}/broken: exit status 3" in done.stderr
    assert len(read(notes)) == 1


def test_precreate_hook_changes_what_is_planned(site, notes):
    shown = output(
        srun("-N2", "-n2", words(notes, "filter"), "sh", "-c", "echo $FILTERED", **settings(site))
    )
    assert shown.split() == ["sh", "sh"]
