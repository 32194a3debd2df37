"""A line of JSON for each step that asked for a container, written by root where the plugstack line says so."""

import contextlib
import json
import os
import tempfile

import jobs
import pytest
from installation import plugin_line, plugin_words
from jobs import SMALL, output
from test_plan_cache import forget, frozen

WHO = 'echo "$SLURM_JOB_ID"'


@pytest.fixture(scope="module")
def log():
    """The file that is written to, and what reads its new lines; each must be one object."""
    with tempfile.TemporaryDirectory(prefix="fairlead-log-") as place:
        path, seen = f"{place}/steps.json", 0
        os.chmod(place, 0o700)  # root's: no user reads what others ran

        def lines(count):
            nonlocal seen

            def new():
                with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
                    return file.read().splitlines()[seen:]

            jobs.wait_for(lambda: len(new() or ()) >= count, 60)
            found = [json.loads(line) for line in new()]
            seen += len(found)
            assert len(found) == count
            return found

        words = plugin_line()[1].split()[2:]
        with plugin_words(*words, f"log={path}"):
            yield lines


def srun(*words, **options):
    return jobs.srun("--nodelist=n1", "-n1", *words, **options)


def test_launch_by_the_engine_and_from_a_kept_plan(log):
    image = frozen(SMALL)
    forget()
    for kept in (False, True):
        job = output(srun("-n2", "sh", "-c", WHO, container=image)).split()[0]
        (line,) = log(1)
        assert line.pop("time").startswith("20")
        assert line.pop("seconds") >= 0
        assert line.pop("ready_ms") >= 0
        assert line == {
            "event": "step",
            "host": "n1",
            "job": int(job),
            "step": "0",
            "uid": jobs.USER.pw_uid,
            "gid": jobs.USER.pw_gid,
            "tasks": 2,
            "reference": image,
            "outcome": "started",
            "status": 0,
            "kept_plan": kept,
            "image": image,
        }


def test_refusal_is_logged_with_the_line_that_the_user_got(log):
    refused = srun("--container-mounts=/no/such:/x", "true", container=SMALL)
    (said,) = jobs.error_lines(refused)
    (line,) = log(1)
    assert (line["outcome"], line["status"], "image" in line) == ("refused", 125, False)
    assert line["error"] == said.partition("fairlead: ")[2]


def test_each_node_writes_and_a_step_on_the_host_does_not(log):
    output(jobs.srun("-N2", "-n2", "true", container=SMALL))
    output(srun("true"))
    output(srun("true", container="none"))
    assert {line["host"] for line in log(2)} == {"n1", "n2"}
    jobs.batch(f"srun -n1 true; srun -n1 --container={SMALL} true\n", "--nodelist=n1")
    (line,) = log(1)
    assert line["step"] == "1"


def test_batch_script_inside_is_a_step_of_that_name(log):
    jobs.batch("true\n", "--nodelist=n1", f"--container-image={SMALL}")
    (line,) = log(1)
    assert (line["step"], line["outcome"]) == ("batch", "started")


def test_what_a_user_forges_stays_a_value(log):
    """A client without the plugin may put anything where ours puts the reference."""
    forged = 'x"}\n{"event":"step","uid":0,"job":1}\n\\\x01\x7fé'
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        with open("/etc/slurm/slurm.conf", encoding="utf-8") as file:
            lines = [line for line in file if not line.startswith("PlugStackConfig")]
        conf.write("".join(lines) + "PlugStackConfig=/dev/null\n")
        conf.flush()
        os.chmod(conf.name, 0o644)
        refused = srun("true", SLURM_CONF=conf.name, SLURM_FAIRLEAD_REF=forged)
    assert refused.returncode != 0
    (line,) = log(1)
    assert (line["uid"], line["outcome"]) == (jobs.USER.pw_uid, "refused")
    assert line["reference"] == forged.encode().decode("latin-1")
