"""A tag becomes a digest once, where the job is submitted: srun, sbatch and salloc."""

import os
import shutil
import subprocess
import tempfile
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


@pytest.fixture
def place():
    """A directory of the user's, removed at the end."""
    path = tempfile.mkdtemp(prefix="fairlead-submit-")
    os.chown(path, jobs.USER.pw_uid, jobs.USER.pw_gid)
    yield path
    shutil.rmtree(path)


def held(place, script, *words, **variables):
    """Submit a job that waits, and return its number."""
    command = ("sbatch", "--parsable", "--hold", f"--output={place}/%a", *words, f"--wrap={script}")
    return output(jobs.run(*command, **variables)).strip()


def released(job, paths, count):
    """Let a job run, and return what it printed to each path, which is as many lines."""
    output(jobs.run("scontrol", "release", job))
    jobs.wait_for(lambda: all(len(_lines(path)) == count for path in paths), 120)
    return [_lines(path) for path in paths]


def test_steps_that_name_a_tag_agree_though_it_moves(moving, place):
    """Each srun names the tag itself; two at once, and the tag moves after the first two.

    The last is told that the job was requeued, which Slurm delays by two minutes."""
    tag, move = moving
    first, moved = digest_of(SMALL), digest_of(OTHER)
    script = f"""
srun -n1 --overlap --container={tag} sh -c '{SAY}' & srun -n1 --overlap --container={tag} sh -c '{SAY}'; wait
touch {place}/ready; while ! test -e {place}/moved; do sleep 0.1; done
srun -n1 --container={tag} sh -c '{SAY}'
srun -n1 --container-image={tag.replace("/", "#", 1)} sh -c '{SAY}'
SLURM_RESTART_COUNT=1 srun -n1 --container={tag} sh -c '{SAY}' 2>{place}/noted
"""
    path = f"{place}/0"
    job = held(place, script, "-n2", f"--output={path}")
    try:
        output(jobs.run("scontrol", "release", job))
        jobs.wait_for(lambda: os.path.exists(f"{place}/ready"), 120)
        move(OTHER)
        open(f"{place}/moved", "w", encoding="ascii").close()
        jobs.wait_for(lambda: len(_lines(path)) == 5, 120)
        assert _lines(path) == [*[f"{tag}@{first}"] * 4, f"{tag}@{moved}"]
        assert output(srun("-n1", "sh", "-c", SAY, container=tag)).strip() == f"{tag}@{moved}"
    finally:
        jobs.run("scancel", job)


def test_step_that_names_the_jobs_tag_runs_what_the_job_was_submitted_with(moving, place):
    tag, move = moving
    script = f"srun -n1 --container={tag} sh -c '{SAY}'"
    job = held(place, script, "--array=0-1", f"--container={tag}")
    try:
        move(OTHER)
        shown = released(job, [f"{place}/0", f"{place}/1"], 1)
        assert shown == [[f"{tag}@{digest_of(SMALL)}"]] * 2
    finally:
        jobs.run("scancel", job)


def test_image_of_an_environment_file_is_frozen_and_a_change_of_it_is_said(moving, place):
    tag, move = moving
    file = f"{place}/own.toml"

    def write(value):
        with open(file, "w", encoding="ascii") as out:
            out.write(
                f'image = "{tag}"\nmounts = ["/usr/share:/${{SLURM_JOB_ID}}"]\n[env]\nA = "{value}"\n'
            )

    write("then")
    # The second step names the file itself: its content of now, with the job's digest.
    script = f"""
srun -n1 sh -c 'test -d /$SLURM_JOB_ID && echo "$A $FAIRLEAD_CONTAINER"' 2>&1
srun -n1 --environment={file} sh -c 'echo "$A $FAIRLEAD_CONTAINER"' 2>&1
"""
    job = output(
        jobs.run(
            "sbatch", "--parsable", "--hold", f"--output={place}/0", "--container=./own.toml",
            f"--wrap={script}", cwd=place,
        )
    ).strip()  # fmt: skip
    try:
        move(OTHER)
        write("now")
        frozen = f"{tag}@{digest_of(SMALL)}"
        label = output(jobs.run("squeue", "-h", "-j", job, "-O", "container:300")).strip()
        assert label == frozen
        (shown,) = released(job, [f"{place}/0"], 3)
        changed = f"fairlead: {file}: changed since the job was submitted: the image is the one of then, the rest is read now"
        assert sorted(shown) == sorted([changed, f"now {frozen}", f"now {frozen}"])
    finally:
        jobs.run("scancel", job)


def test_what_is_wrong_with_an_environment_file_is_said_before_there_is_a_job(place):
    file = f"{place}/wrong.toml"
    with open(file, "w", encoding="ascii") as out:
        out.write(f'image = "{SMALL}"\nmounts = ["/a:/proc/b"]\n')
    before = _next_job(output(jobs.run("scontrol", "show", "config")))
    for words in (("srun", "true"), ("sbatch", "--wrap=true"), ("salloc", "true")):
        for option in (f"--environment={file}", f"--container={file}"):
            result = jobs.run(words[0], option, *words[1:])
            assert (result.returncode, result.stdout) == (125, ""), words
            assert result.stderr == (
                f"fairlead: error [usage]: {file}:2: destination '/proc/b': cannot be replaced (choose another)\n"
            )
    assert _next_job(output(jobs.run("scontrol", "show", "config"))) == before


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
