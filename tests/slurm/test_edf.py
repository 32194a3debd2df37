"""``--environment`` on srun and sbatch: an environment file describes the container of a step."""

import os
import subprocess

import jobs
import pytest
from jobs import REGISTRY, SMALL, batch, output, srun
from test_plan_cache import counted, frozen

ENTRY = f"{REGISTRY}/demo/entry:1"
SHOW = (
    "echo $SLURMD_NODENAME A=$A B=$B GONE=${GONE-unset} DEMO=$DEMO LANG=${LANG-unset}; pwd;"
    " cat /data/file /sq/file; touch /new 2>/dev/null || echo read-only"
)
FILE = """\
base_environment = "base"
image = "${IMAGE}"
workdir = "/data"
writable = false
mounts = ["${HOME}/edf-data:/data:ro", "./edf-data.sqsh:/sq:sqsh"]
[env]
A = "${DEMO}:${FROM_JOB}"
GONE = ""
[annotations]
com.hooks.ssh.enabled = "true"
com.hooks.cxi.enabled = "true"
"""


@pytest.fixture(scope="module", autouse=True)
def files():
    """The user's environment files, and what they mount."""
    home = jobs.USER.pw_dir
    texts = {
        ".edf/base.toml": 'mounts = ["/usr/share:/host-share:ro"]\n[env]\nB = "${SLURM_JOB_ID}"\n',
        ".edf/whole.toml": FILE,
        ".edf/plain.toml": f'image = "{SMALL}"\n',
        ".edf/entry.toml": f'image = "{ENTRY}"\nentrypoint = true\n',
        ".edf/wrong.toml": f'image = "{SMALL}"\nmount = ["/a:/b"]\n',
        "edf-data/file": "from the host\n",
    }
    script = "".join(
        f"mkdir -p {os.path.dirname(f'{home}/{name}')}; cat > {home}/{name} <<'END'\n{text}END\n"
        for name, text in texts.items()
    )
    jobs.run("sh", "-c", script)
    image = f"{home}/edf-data.sqsh"
    make = ["mksquashfs", f"{home}/edf-data", image, "-noappend", "-no-progress", "-quiet"]
    subprocess.run(make, check=True, capture_output=True)
    yield
    jobs.run("rm", "-rf", *(f"{home}/{name}" for name in (".edf", "edf-data", "edf-data.sqsh")))


def test_step_is_what_the_file_describes():
    shown = srun(
        *("-N2", "--environment=whole", "sh", "-c", SHOW),
        IMAGE=SMALL, FROM_JOB="job", GONE="host", LANG="C.UTF-8",
    )  # fmt: skip
    lines = output(shown).splitlines()
    for node in ("n1", "n2"):
        (line,) = [line for line in lines if line.startswith(f"{node} ")]
        assert line.startswith(f"{node} A=small:job B=")
        assert line.endswith(" GONE=unset DEMO=small LANG=unset")
        assert line.split("B=")[1].split()[0].isdecimal()
    for text in ("/data", "read-only"):
        assert lines.count(text) == 2, lines
    assert lines.count("from the host") == 4
    file = f"{jobs.USER.pw_dir}/.edf/whole.toml"
    noted = f"nothing acts on these annotations but a hook of the site: com.hooks.ssh.enabled ({file}:10)"
    assert shown.stderr.count(noted) == 1


def test_options_beat_the_file():
    """One job; a line for each way to name a file and for each option that goes before it."""
    home = jobs.USER.pw_dir
    where = 'echo "$FAIRLEAD_CONTAINER"'
    script = f"""cd {home}
srun --edf=plain sh -c '{where}'
srun --environment=./.edf/plain.toml sh -c '{where}'
srun --environment={home}/.edf/plain sh -c '{where}'
srun --container=.edf/plain.toml sh -c '{where}'
srun --container=edf:plain sh -c '{where}'
srun --environment=whole --container={ENTRY} --container-workdir=/tmp --container-writable \
    --container-mounts=type=bind,source=/etc/hostname,destination=/mine,readonly sh -c '{where}; pwd; touch /new && echo written; test -f /mine && test -d /host-share && echo both'
srun --container={SMALL} --container-mounts=./edf-data.sqsh:/sq:sqsh,/etc:/host-etc:ro cat /sq/file
srun --environment=entry sh -c 'echo entered'
srun --environment=entry --no-container-entrypoint sh -c 'echo entered'
srun sh -c 'echo ${{FAIRLEAD_CONTAINER:-host}}'
"""
    lines = batch(script, "-n1", IMAGE="none/such:1", FROM_JOB="job").splitlines()
    lines = [line for line in lines if not line.startswith("fairlead: ")]
    small, entry = (name.rpartition(":")[0] for name in (SMALL, ENTRY))
    assert all(line.startswith(small) for line in lines[:5]), lines
    assert lines[5].startswith(entry)
    assert lines[6:9] == ["/tmp", "written", "both"]
    assert lines[9:] == ["from the host", "entrypoint ran", "entered", "entered", "host"]


def test_batch_script_runs_inside_as_under_the_container_engine():
    text = '#SBATCH --environment=plain\necho "$FAIRLEAD_CONTAINER"; cat /opt/demo/hello\n'
    shown = batch(text).splitlines()
    assert shown[0].startswith(SMALL.rpartition(":")[0])
    assert shown[1] == "hello from the small image"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--environment=wrong",),
            "{home}/.edf/wrong.toml:2: unknown key 'mount' (did you mean mounts?)",
        ),
        (
            ("--environment=plian",),
            "plian: no such environment file in {home}/.edf (did you mean plain?)",
        ),
        (
            ("--environment=./none.toml",),
            "./none.toml: no such environment file (check the path)",
        ),
        (
            ("--environment=whole",),
            "{home}/.edf/whole.toml:2: the variable IMAGE is not defined (set it, or write ${{IMAGE:-default}})",
        ),
    ],
)
def test_what_is_wrong_is_said_once_and_nothing_runs(words, line):
    refused = srun("-N2", *words, "echo", "ran")
    assert refused.returncode == 125
    assert refused.stdout == ""
    expected = f"fairlead: error [edf]: {line.format(home=jobs.USER.pw_dir)}"
    assert [text.partition("fairlead: ")[2] for text in jobs.error_lines(refused)] == [
        expected.removeprefix("fairlead: ")
    ]


def test_option_without_a_value_is_refused_by_srun():
    refused = srun("--environment=", "true")
    assert refused.returncode == 125
    assert "error [usage]: --environment: no value (see srun --help)" in refused.stderr


def test_second_launch_starts_no_python_until_a_file_changes(other_prefix):
    name = f"{jobs.USER.pw_dir}/.edf/kept.toml"
    base = f"{jobs.USER.pw_dir}/.edf/kept-base.toml"

    def write(path, text):
        jobs.run("sh", "-c", f"cat > {path} <<'END'\n{text}END\n")

    def shown(**variables):
        words = ("--nodelist=n1", "--environment=kept", "sh", "-c", "echo $A $B")
        return output(srun(*words, **variables))

    write(name, f'base_environment = "kept-base"\nimage = "{frozen(SMALL)}"\n[env]\nA = "1"\n')
    for variables, submission in (({}, 1), ({"FAIRLEAD_RESOLVE": "start"}, 0)):
        write(base, '[env]\nB = "${FROM_JOB:-none}"\n')
        with counted(other_prefix, site=False) as engine:
            assert shown(**variables) == "1 none\n"
            engine.starts()
            assert (shown(**variables), engine.starts()) == ("1 none\n", submission)
            assert (shown(FROM_JOB="x", **variables), engine.starts()) == ("1 x\n", submission + 1)
            write(base, '[env]\nB = "changed"\n')
            assert (shown(**variables), engine.starts()) == ("1 changed\n", submission + 1)
            assert (shown(**variables), engine.starts()) == ("1 changed\n", submission)
