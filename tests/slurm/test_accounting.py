"""Who ran what: a second cluster keeps accounts, and ``fairlead jobs`` reads them."""

import json
import os
import shutil
import subprocess
import tempfile

import jobs
import pytest
from jobs import REGISTRY, SMALL, output
from test_submit import digest_of

ENTRY = f"{REGISTRY}/demo/entry:1"
BED = "acct"
CONF = f"/var/lib/fairlead-bed-{BED}/etc/slurm.conf"
CLUSTER = f"{os.path.dirname(__file__)}/../bed/cluster"
WHO = 'echo "$SLURM_JOB_ID"'


@pytest.fixture(scope="module", autouse=True)
def _accounts():
    environ = {**os.environ, "FAIRLEAD_BED": BED, "FAIRLEAD_BED_ACCOUNTING": "1"}
    environ.pop("SLURM_CONF", None)
    if os.path.exists(CONF):  # of a run that was killed
        subprocess.run([CLUSTER, "down"], env=environ, check=True, capture_output=True)
    up = subprocess.run([CLUSTER, "up"], env=environ, capture_output=True, text=True)
    assert up.returncode == 0, up.stdout + up.stderr
    yield
    subprocess.run([CLUSTER, "down"], env=environ, check=True, capture_output=True)


def run(*words, **variables):
    return jobs.run(*words, SLURM_CONF=CONF, **variables)


def told(*words, **variables):
    return json.loads(output(run("fairlead", "jobs", "--json", *words, **variables)))


@pytest.fixture(scope="module")
def history():
    """One job of each kind; what each of their steps ran, by (job, step)."""
    small, entry = ((image, digest_of(image)) for image in (SMALL, ENTRY))
    place = tempfile.mkdtemp(prefix="fairlead-accounting-")
    os.chown(place, jobs.USER.pw_uid, jobs.USER.pw_gid)
    file = f"{place}/own.toml"
    with open(file, "w", encoding="ascii") as out:
        out.write(f'image = "{SMALL}"\n')

    def of(result):
        return output(result).splitlines()[-1].partition(";")[0]

    output(run("srun", "hostname"))
    by_srun = of(run("srun", "-n1", f"--container={SMALL}", "sh", "-c", WHO))
    by_file = of(run("srun", "-n1", f"--environment={file}", "sh", "-c", WHO))
    in_salloc = f"srun -n1 --container={SMALL} true; srun -n1 sh -c '{WHO}'"
    by_salloc = of(run("salloc", "-Q", f"--container={ENTRY}", "sh", "-c", in_salloc))
    script = f"srun true; srun --container={ENTRY} false; srun --container=none true"
    quiet = ("--parsable", "--output=/dev/null")
    array = run("sbatch", *quiet, "--array=0-1", f"--container={SMALL}", f"--wrap={script}")
    number = of(array)
    inside = of(run("sbatch", *quiet, f"--container-image={SMALL}", "--wrap=true"))
    shutil.rmtree(place)
    expected = {
        (by_srun, "0"): small,
        (by_file, "0"): small,
        (by_salloc, "0"): small,
        (by_salloc, "1"): entry,
        (inside, ""): small,
        **{(f"{number}_{task}", "0"): small for task in (0, 1)},
        **{(f"{number}_{task}", "1"): entry for task in (0, 1)},
    }
    # slurmdbd is told a moment later. Until a job has a step, it stands for itself.
    jobs.wait_for(lambda: set(ran()) >= set(expected) and all(i["end"] for i in told()), 60)
    return expected


def ran(*words):
    return {(item["job"], item["step"]): (item["image"], item["digest"]) for item in told(*words)}


def test_jobs_steps_arrays_and_environment_files_are_kept_with_their_digest(history):
    assert ran() == history


def test_a_digest_and_a_name_find_who_ran_them(history):
    of_entry = {key: image for key, image in history.items() if image[0] == ENTRY}
    of_small = {key: image for key, image in history.items() if image[0] == SMALL}
    digest = digest_of(ENTRY)
    for what in (digest, digest[:14], "entry", "demo/entry:1", ENTRY, f"{ENTRY}@{digest}"):
        assert ran(what) == of_entry, what
    assert ran("small") == of_small
    assert ran("entry:2") == ran("mall") == ran(f"{SMALL}@{digest}") == {}


def test_users_and_times_narrow_it(history):
    assert ran(f"--user={jobs.USER.pw_name}", "--since=1h") == history
    assert ran("--user=nobody") == {}
    shown = {item["user"] for item in told()}
    assert shown == {jobs.USER.pw_name}
    assert all(item["start"] and item["end"] and item["nodes"] for item in told())


def test_table_is_a_line_each(history):
    lines = output(run("fairlead", "jobs", "entry")).splitlines()
    assert lines[0].split() == ["JOB.STEP", "USER", "STATE", "START", "END", "NODES", "IMAGE"]
    assert len(lines) == 4
    assert sum(" FAILED " in line for line in lines) == 2
    short = digest_of(ENTRY).removeprefix("sha256:")[:12]
    assert all(line.endswith(f"{ENTRY}@sha256:{short}") for line in lines[1:])


def test_sacct_itself_answers(history):
    (job,) = [job for job, step in history if not step]
    words = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "Container")
    assert output(run(*words)).strip() == "@".join(history[job, ""])


def test_label_that_looks_like_other_columns_forges_nothing(history):
    """From a client without the plugin, where Slurm takes any text for a container."""
    label = f"x\n999999|root|COMPLETED|1|2|n1|{SMALL}\n999998.0|root|COMPLETED|1|2|n1|{SMALL}"
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        with open(CONF, encoding="utf-8") as file:
            lines = [line for line in file if not line.startswith("PlugStackConfig")]
        conf.write("".join(lines) + "PlugStackConfig=/dev/null\n")
        conf.flush()
        os.chmod(conf.name, 0o644)
        words = (
            "sbatch",
            "--parsable",
            "--output=/dev/null",
            f"--container={label}",
            "--wrap=true",
        )
        job = output(jobs.run(*words, SLURM_CONF=conf.name)).strip()
    after = output(run("srun", "-n1", f"--container={SMALL}", "sh", "-c", WHO)).strip()
    expected = {job for job, _ in history} | {job, after}
    jobs.wait_for(lambda: {item["job"] for item in told()} >= expected, 60)
    assert {item["job"] for item in told()} == expected
    assert ran(SMALL) == {
        **{key: image for key, image in history.items() if image[0] == SMALL},
        (after, "0"): (SMALL, digest_of(SMALL)),
    }
    assert len(output(run("fairlead", "jobs")).splitlines()) == len(history) + 3


def test_without_accounts_what_is_known_now_is_shown_and_said():
    job = output(
        jobs.run("sbatch", "--parsable", "--hold", f"--container={SMALL}", "--wrap=true")
    ).strip()
    try:
        shown = jobs.run("fairlead", "jobs", "--json", "small")
        assert shown.stderr == (
            "fairlead: Slurm keeps no accounting here: only jobs that it knows now are shown\n"
        )
        (found,) = [item for item in json.loads(output(shown)) if item["job"] == job]
        assert found == {
            "job": job,
            "step": "",
            "user": jobs.USER.pw_name,
            "state": "PENDING",
            "start": "",
            "end": "",
            "nodes": "",
            "image": SMALL,
            "digest": digest_of(SMALL),
        }
    finally:
        jobs.run("scancel", job)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--since=1x",),
            "error [usage]: --since=1x: not a time that has been (write 12h, 7d, 2026-11-01 or 2026-11-01T12:30)",
        ),
        (
            ("--since=2099-01-01",),
            "error [usage]: --since=2099-01-01: not a time that has been (write 12h, 7d, 2026-11-01 or 2026-11-01T12:30)",
        ),
        (
            ("--user=a,b",),
            "error [usage]: --user=a,b: not the name of a user (see fairlead --help)",
        ),
        (
            ("--user=nosuchuser",),
            "error [slurm]: sacct: error: Invalid user id: nosuchuser (see sacct)",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(words, line):
    refused = run("fairlead", "jobs", *words)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert refused.stderr == f"fairlead: {line}\n"
