"""A tag becomes a digest once, where the job is submitted: srun, sbatch and salloc."""

import os
import subprocess
import time

import jobs
import pytest
from installation import prefix
from jobs import REGISTRY, SMALL, error_lines, output, srun

OTHER = f"{REGISTRY}/demo/entry:1"
SAY = 'echo "$FAIRLEAD_CONTAINER"'


def skopeo(*words):
    result = subprocess.run(
        ["skopeo", "--insecure-policy", *words], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


def digest_of(image):
    return skopeo("inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{image}")


@pytest.fixture
def moving():
    """A tag, and what moves it to another image."""
    tag = f"{REGISTRY}/demo/moving:{os.getpid()}-{time.monotonic_ns()}"

    def move(image):
        insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
        skopeo("copy", "--quiet", *insecure, f"docker://{image}", f"docker://{tag}")

    move(SMALL)
    return tag, move


def test_step_is_told_its_digest(moving):
    tag, _ = moving
    shown = output(srun("-N2", "-n2", "sh", "-c", SAY, container=tag))
    assert shown.splitlines().count(f"{tag}@{digest_of(SMALL)}") == 2


def test_every_task_of_an_array_runs_what_the_tag_was(moving):
    tag, move = moving
    place = f"/tmp/fairlead-submit-{os.getpid()}"
    os.makedirs(place)
    os.chown(place, jobs.USER.pw_uid, jobs.USER.pw_gid)
    script = "srun sh -c 'echo \"$FAIRLEAD_CONTAINER\"'; srun -n1 sh -c 'echo \"$SLURM_CONTAINER\"'"
    submitted = jobs.run(
        "sbatch",
        "--parsable",
        "--hold",
        "--array=0-2",
        f"--container={tag}",
        f"--output={place}/%a",
        f"--wrap={script}",
    )
    job = output(submitted).strip()
    try:
        move(OTHER)
        frozen = f"{tag}@{digest_of(SMALL)}"
        label = output(jobs.run("squeue", "-h", "-j", job, "-O", "container:300")).split()
        assert set(label) == {frozen}
        output(jobs.run("scontrol", "release", job))
        wanted = [frozen] * 2
        for task in range(3):
            path = f"{place}/{task}"
            assert jobs.wait_for(lambda path=path: _lines(path) == wanted, 60), _lines(path)
    finally:
        jobs.run("scancel", job)
        subprocess.run(["rm", "-rf", place], check=True)


def _lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file if "queued and waiting" not in line]
    except FileNotFoundError:
        return []


def test_nodes_can_be_left_to_ask(moving):
    tag, move = moving
    path = f"/tmp/fairlead-submit-{os.getpid()}.out"
    script = "srun sh -c 'echo \"$FAIRLEAD_CONTAINER\"'"
    words = ("--parsable", "--hold", f"--container={tag}", f"--output={path}", f"--wrap={script}")
    job = output(jobs.run("sbatch", *words, FAIRLEAD_RESOLVE="start")).strip()
    try:
        move(OTHER)
        output(jobs.run("scontrol", "release", job))
        wanted = f"{tag}@{digest_of(OTHER)}"
        assert jobs.wait_for(lambda: wanted in _lines(path), 60)
    finally:
        jobs.run("scancel", job)
        if os.path.exists(path):
            os.unlink(path)


def test_tag_that_is_not_there_is_said_before_there_is_a_job():
    missing = f"{REGISTRY}/demo/small:never"
    before = output(jobs.run("scontrol", "show", "config"))
    for words in (("srun", "true"), ("sbatch", "--wrap=true"), ("salloc", "true")):
        result = jobs.run(words[0], f"--container={missing}", *words[1:])
        assert result.returncode == 125
        assert result.stdout == ""
        assert result.stderr == (
            f"fairlead: error [image-not-found]: {missing}: the registry has no such image or tag: "
            "manifest unknown (check the name and the tag)\n"
        ), words
    assert _next_job(before) == _next_job(output(jobs.run("scontrol", "show", "config")))


def _next_job(config):
    return next(line for line in config.splitlines() if line.startswith("NEXT_JOB_ID"))


def test_registry_out_of_reach_is_one_line_that_names_the_way_round():
    (line,) = error_lines(srun("true", container="127.0.0.1:1/demo/small:1"))
    assert "error [registry-unreachable]: 127.0.0.1:1/demo/small:1: Connection refused" in line
    assert line.endswith("FAIRLEAD_RESOLVE=start leaves the question to the nodes)")


def test_host_without_an_engine_leaves_it_to_the_nodes(other_prefix):
    with prefix(other_prefix):
        result = srun("true", container=SMALL)
    assert "each node looks up what the tag means: no engine answers on this host" in result.stderr
