"""A job script written for pyxis means the same here: every option, variable and word that its users type."""

import os
import re
import shutil
import sys
import tempfile
import time

import jobs
import pytest
from installation import plugin_words
from jobs import REGISTRY, SMALL, batch, error_lines, output

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import images

IMAGE = f"{REGISTRY}#demo/pyxis:1"
HUB = f"{REGISTRY}/demo/pyxis:1"
APPLETS = ("sh", "cat", "echo", "env", "grep", "id", "ls", "pwd", "readlink", "touch", "true", "wc", "hostname")  # fmt: skip
ENVIRONMENT = ["PATH=/bin", "FROM=image", "LC_ALL=C.image", "PYTORCH_VERSION=2.1"]
LOG = "/var/lib/fairlead-bed/log/slurmd-n4.log"


def srun(*words, image=IMAGE, **options):
    named = (f"--container-image={image}",) if image else ()
    return jobs.run("srun", *named, *words, **options)


def shown(*words, script="", **options):
    """Run a script inside; return the lines that it printed."""
    return output(srun(*words, "sh", "-c", script, **options)).splitlines()


@pytest.fixture(scope="module", autouse=True)
def _image():
    """An image without a working directory, with an entrypoint and the variables of a PyTorch image."""
    busybox = shutil.which("busybox")
    with open(busybox, "rb") as file:
        binary = images.program(file.read())
    entry = images.program(b'#!/bin/sh\necho "entrypoint of $FROM"\nexec "$@"\n')
    tree = {"bin/busybox": binary, "entry": entry, "evil": images.symlink("/proc")}
    tree |= {f"bin/{name}": images.symlink("busybox") for name in APPLETS}
    config = {"Env": ENVIRONMENT, "Entrypoint": ["/entry"], "Cmd": ["/bin/sh"]}
    images.push(REGISTRY, "demo/pyxis", "1", images.image([images.layer(tree)], config))


@pytest.fixture(scope="module")
def place():
    """A directory of the user's with files of odd names."""
    path = tempfile.mkdtemp(prefix="fairlead-pyxis-", dir="/var/tmp")
    for name in ("plain", "a b", "c:d", "e,f", "#x", r"\040y"):
        os.mkdir(os.path.join(path, name))
        with open(os.path.join(path, name, "who"), "w", encoding="utf-8") as file:
            file.write(name + "\n")
    with open(os.path.join(path, "file.txt"), "w", encoding="utf-8") as file:
        file.write("a file\n")
    for top, folders, files in os.walk(path):
        for name in (*folders, *files, "."):
            os.chown(os.path.join(top, name), jobs.USER.pw_uid, jobs.USER.pw_gid)
    yield path
    shutil.rmtree(path)


# -- the image -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [IMAGE, f"docker://{IMAGE}", f"someone@{IMAGE}", HUB, f"docker://{HUB}"],
    ids=["enroot", "uri", "user", "docker", "docker-uri"],
)
def test_every_way_to_name_an_image(name):
    assert shown(script="echo $FROM", image=name) == ["image"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UPPER", "error [reference]: "),
        ("./no-such.sqsh", f"error [image-not-found]: {jobs.USER.pw_dir}/no-such.sqsh"),
        ("/dev/urandom", "error [archive]: /dev/urandom"),
    ],
)  # fmt: skip
def test_a_wrong_image_is_one_line(name, words):
    result = srun("true", image=name)
    assert result.returncode == 125
    assert [words in line for line in error_lines(result)] == [True], result.stderr


# -- what the container is like --------------------------------------------------------------------


def test_variables_of_the_host_come_in_but_for_the_locale_and_what_the_image_sets():
    host = {"MINE": "host", "FROM": "host", "LANG": "de_DE", "LANGUAGE": "de", "LC_ALL": "de_DE"}
    seen = shown(script="echo $MINE $FROM; echo $LANG.$LANGUAGE.$LC_ALL", **host)
    assert seen == ["host image", "..C.image"]


def test_locale_stays_with_our_own_option():
    result = jobs.run("srun", f"--container={SMALL}", "sh", "-c", "echo $LANG", LANG="de_DE")
    assert output(result) == "de_DE\n"


def test_container_env_lets_the_host_win_and_the_entrypoint_see_it():
    words = ("--container-env=FROM,LANG", "--container-env", "NOT_SET", "--container-entrypoint")
    seen = shown(*words, script="echo $FROM $LANG", FROM="host", LANG="de_DE")
    assert seen == ["entrypoint of host", "host de_DE"]


def test_working_directory_is_the_images_or_the_root():
    assert shown(script="pwd") == ["/"]
    assert shown("--container-workdir=/bin", script="pwd") == ["/bin"]
    assert shown(script="pwd", image=SMALL) == ["/opt/demo"]


def test_entrypoint_and_its_log():
    assert shown("--container-entrypoint", "--container-entrypoint-log", script="echo x") == [
        "entrypoint of image",
        "x",
    ]
    assert shown("--no-container-entrypoint", script="echo x") == ["x"]


def test_home_is_there_when_asked():
    find = f"grep -c ' {jobs.USER.pw_dir} ' /proc/self/mountinfo; true"
    assert shown("--container-mount-home", script=find) == ["1"]
    assert shown("--no-container-mount-home", script=find) == ["0"]


def test_writable_and_readonly():
    assert shown("--container-writable", script="touch /x && ls /x") == ["/x"]
    result = srun("--container-readonly", "touch", "/x")
    assert "Read-only file system" in result.stderr


def test_remap_root_is_a_name_and_no_right():
    script = "id -u; cat /proc/self/uid_map; echo $HOME; grep -c ' /root ' /proc/self/mountinfo; touch ~/by-root; grep CapEff /proc/self/status"
    words = ("--container-remap-root", "--container-mount-home")
    seen = shown(*words, script=script)
    made = f"{jobs.USER.pw_dir}/by-root"
    assert os.stat(made).st_uid == jobs.USER.pw_uid
    os.unlink(made)
    assert seen[0] == "0"
    assert seen[1].split() == ["0", str(jobs.USER.pw_uid), "1"]
    assert seen[2:4] == ["/root", "1"]
    assert int(seen[4].split()[1], 16) == 0
    assert shown("--no-container-remap-root", script="id -u") == [str(jobs.USER.pw_uid)]


def test_unshared_namespaces_are_the_steps_own_and_the_same_for_its_tasks():
    script = "echo $(readlink /proc/self/ns/net) $(readlink /proc/self/ns/ipc) $(readlink /proc/self/ns/uts) $(ls /sys/class/net)"
    first, second = shown("-n2", "--container-unshare=net,ipc", script=script)
    host = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc")]
    assert first == second
    net, ipc, _, interfaces = first.split(" ", 3)
    assert net != host[0]
    assert ipc != host[1]
    assert interfaces == "lo"
    assert shown(script=script)[0].split()[0] == host[0]


def test_kept_plan_keeps_namespaces_and_root():
    """The second and third launch come from the cache; a plan of other options is another plan."""
    digest = output(jobs.run("fairlead", "inspect", HUB)).partition("sha256:")[2][:64]
    name = f"{REGISTRY}#demo/pyxis@sha256:{digest}"
    script = "id -u; ls /sys/class/net; grep -c ' /t tmpfs' /proc/mounts; echo $RANK"
    words = ("--nodelist=n1", "--container-remap-root", "--container-unshare=net")
    for _ in range(3):
        seen = shown(*words, "--container-mounts=tmpfs:/t", script=script, image=name)
        assert seen == ["0", "lo", "1", "0"]
    assert shown("--nodelist=n1", script=script + "; true", image=name)[0] == str(jobs.USER.pw_uid)


def test_ranks_of_pytorch_are_slurms():
    script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $SLURM_JOB_ID $SLURMD_NODENAME"
    seen = sorted(line.split() for line in shown("-N2", "--ntasks-per-node=2", script=script, RANK="9", MASTER_PORT=""))  # fmt: skip
    assert [line[0] for line in seen] == ["0", "1", "2", "3"]
    assert [line[1] for line in seen] == ["0", "1", "0", "1"]
    job, first = int(seen[0][4]), seen[0][5]
    assert {tuple(line[2:4]) for line in seen} == {("4", first)}, job
    assert shown(script="echo ${RANK:-none}", image=SMALL) == ["none"]


def test_port_of_pytorch_is_made_of_the_job():
    job, port = shown(script="echo $SLURM_JOB_ID $MASTER_PORT")[0].split()
    assert int(port) == 61000 + int(job) % 4536


# -- mounts ----------------------------------------------------------------------------------------


def test_mounts_of_every_form(place):
    forms = (
        f"{place}/plain:/one",
        f"{place}/plain",
        f"{place}/file.txt:/deep/er/f.txt:ro",
        f"{place}/a b:/a b",
        rf"{place}/c\:d:/c\:d:ro+noexec+rprivate",
        rf"{place}/e\,f:/e\,f",
        f"{place}/#x:/#x",
        rf"{place}/\040y:/\040y",
        "/dev/null:/null",
        "tmpfs:/t:size=1m",
    )
    script = (
        f"cat /one/who {place}/plain/who /deep/er/f.txt '/a b/who' /c:d/who /e,f/who '/#x/who'"
        r" '/\040y/who'; touch /t/x && ls /t; ls /null"
    )
    assert shown(f"--container-mounts={','.join(forms)}", script=script) == [
        *("plain", "plain", "a file", "a b", "c:d", "e,f", "#x", r"\040y"),
        *("x", "/null"),
    ]


def test_relative_sources_start_in_the_jobs_directory(place):
    words = ("--container-mounts=./plain:/one,../:/up", "--container-mounts=./:/all")
    assert shown(*words, script="cat /one/who; ls /all/file.txt", cwd=place) == [
        "plain",
        "/all/file.txt",
    ]


def test_mounts_of_options_add_up_and_doubles_are_one(place):
    one = f"--container-mounts={place}/plain:/one"
    assert shown(one, one, f"--container-mounts={place}/a b:/two", script="cat /one/who /two/who") == ["plain", "a b"]  # fmt: skip


def test_umount_takes_a_mount_of_ours_away():
    script = "grep -c ' /dev/shm ' /proc/self/mountinfo; true"
    assert shown(script=script) == ["1"]
    assert shown("--container-mounts=umount:/dev/shm", script=script) == ["0"]


def test_a_long_list_of_mounts_arrives_whole(place):
    """Far more than any buffer of the way: 64 KiB in one value."""
    entry = f"{place}/plain:/one"
    text = ",".join([entry] * (65536 // len(entry))) + f",{place}/a b:/last"
    assert len(text) > 64000
    assert shown(f"--container-mounts={text}", script="cat /one/who /last/who") == ["plain", "a b"]


def test_mount_is_checked_as_the_user(place):
    """podman CVE-2024-9407: what the user cannot read is no more readable inside."""
    result = srun("--container-mounts=/etc/shadow:/shadow", "cat", "/shadow")
    assert result.returncode != 0
    assert "Permission denied" in result.stderr
    secret = f"{place}/secret"
    os.makedirs(f"{secret}/in")
    os.chmod(secret, 0o700)
    os.chown(secret, 0, 0)
    result = srun(f"--container-mounts={secret}/in:/x", "true")
    assert result.returncode == 125
    assert f"error [mount]: cannot mount {secret}/in: Permission denied" in result.stderr


# -- sbatch, salloc, variables ---------------------------------------------------------------------


def test_batch_script_runs_inside():
    assert batch("echo $FROM; pwd\n", f"--container-image={IMAGE}").split() == ["image", "/"]


def test_directives_of_a_script(place):
    named = IMAGE.replace("#", r"\#")  # Slurm takes what is behind a bare one for a comment
    script = f"#SBATCH --container-image={named}\n#SBATCH --container-mounts={place}/plain:/one\ncat /one/who\n"
    assert batch(script) == "plain\n"


def test_steps_inherit_what_the_allocation_was_given_and_add_to_it(place):
    given = (f"--container-image={IMAGE}", f"--container-mounts={place}/plain:/one", "--container-readonly")  # fmt: skip
    step = f"srun --container-mounts='{place}/a b:/two' --container-writable sh -c 'cat /one/who /two/who; touch /x && echo $FROM $LANG.'"
    result = jobs.run("salloc", *given, "sh", "-c", step)
    assert output(result).splitlines() == ["plain", "a b", "image ."]


def test_other_image_in_a_step():
    result = jobs.run("salloc", f"--container-image={IMAGE}", "sh", "-c", f"srun --container-image={SMALL} sh -c 'echo $DEMO'; srun --container={SMALL} sh -c 'echo $LANG'; srun --container=none sh -c 'echo ${{FROM:-host}}'")  # fmt: skip
    assert output(result).splitlines() == ["small", "C.UTF-8", "host"]


def test_export_none_keeps_the_options(place):
    words = ("--export=NONE", f"--container-mounts={place}/plain:/one")
    result = srun(*words, "/bin/cat", "/one/who")
    assert output(result) == "plain\n"


VARIABLES = {
    "PYXIS_CONTAINER_WORKDIR": ("/bin", "pwd", "/bin"),
    "PYXIS_CONTAINER_MOUNTS": ("tmpfs:/t", "grep -c ' /t tmpfs' /proc/mounts", "1"),
    "PYXIS_CONTAINER_MOUNT_HOME": ("no", f"grep -c ' {jobs.USER.pw_dir} ' /proc/self/mountinfo; true", "0"),
    "PYXIS_CONTAINER_REMAP_ROOT": ("true", "id -u", "0"),
    "PYXIS_CONTAINER_ENTRYPOINT": ("1", "true", "entrypoint of image"),
    "PYXIS_CONTAINER_ENTRYPOINT_LOG": ("y", "echo ok", "ok"),
    "PYXIS_CONTAINER_WRITABLE": ("n", "touch /x 2>/dev/null || echo refused", "refused"),
    "PYXIS_CONTAINER_READONLY": ("yes", "touch /x 2>/dev/null || echo refused", "refused"),
    "PYXIS_CONTAINER_ENV": ("MINE,FROM", "echo $FROM", "host"),
    "PYXIS_CONTAINER_UNSHARE": ("net", "ls /sys/class/net", "lo"),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
def test_variable_is_the_default_of_its_option(name):
    value, script, expected = VARIABLES[name]
    found = shown(
        script=script, image="", PYXIS_CONTAINER_IMAGE=IMAGE, FROM="host", **{name: value}
    )
    assert found == [expected]


def test_command_line_beats_the_variables():
    variables = {
        "PYXIS_CONTAINER_IMAGE": SMALL,
        "PYXIS_CONTAINER_WORKDIR": "/nowhere",
        "PYXIS_CONTAINER_READONLY": "1",
        "PYXIS_CONTAINER_REMAP_ROOT": "1",
    }
    words = ("--container-workdir=/bin", "--container-writable", "--no-container-remap-root")
    seen = shown(*words, script="echo $FROM; pwd; touch /x && id -u", **variables)
    assert seen == ["image", "/bin", str(jobs.USER.pw_uid)]


def test_image_variable_puts_a_batch_script_inside_and_none_takes_a_step_out():
    assert batch("echo $FROM\n", PYXIS_CONTAINER_IMAGE=IMAGE) == "image\n"
    result = jobs.run("srun", "--container=none", "sh", "-c", "echo ${FROM:-host}", PYXIS_CONTAINER_IMAGE=IMAGE)  # fmt: skip
    assert output(result) == "host\n"


# -- what is refused -------------------------------------------------------------------------------

NAME = "letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first"
REFUSED = [
    (("--container-mounts=",), "[usage]: --container-mounts: no value (see srun --help)"),
    (("--container-workdir=",), "[usage]: --container-workdir: no value (see srun --help)"),
    (("--container-env=",), "[usage]: --container-env: no value (see srun --help)"),
    (("--container-unshare=",), "[usage]: --container-unshare: no value (see srun --help)"),
    (("--container-name=",), "[usage]: --container-name: no value (see srun --help)"),
    (("--container-save=",), "[usage]: --container-save: no value (see srun --help)"),
    (("--container-mounts=:",), "[usage]: --container-mounts: ':' has no source (write SRC[:DST[:FLAG+FLAG]],...)"),
    (("--container-mounts=/tmp:",), "[usage]: --container-mounts: '/tmp:' has no destination (write SRC[:DST[:FLAG+FLAG]],...)"),
    (("--container-mounts=/tmp:mnt:ro",), "[usage]: --container-mounts: '/tmp:mnt:ro' has a destination that is no path (begin it with /)"),
    (("--container-mounts=/home:../home",), "[usage]: --container-mounts: destination '/../home': holds '..' (write the plain path)"),
    (("--container-mounts=/tmp:/x:suid",), "[usage]: --container-mounts: '/tmp:/x:suid' flag 'suid': a container gives nobody further rights (leave it out)"),
    (("--container-mounts=/tmp:/proc",), "[usage]: --container-mounts: destination '/proc': cannot be replaced (choose another)"),
    (("--container-mounts=/tmp:/x\n/y",), "[usage]: --container-mounts: destination '/x\\n/y': too long, or holds a control character (choose another path)"),
    (("--container-workdir=here",), "[workdir]: --container-workdir: not an absolute path (write it from /)"),
    (("--container-env=FOO,",), "[usage]: --container-env: '' is not the name of a variable (write NAME,NAME)"),
    (("--container-unshare=net,pid",), "[usage]: --container-unshare: 'pid' is not one of net, ipc, uts (e.g. net,ipc)"),
    (("--container-name=/tmp/foo",), f"[usage]: --container-name: '/tmp/foo' is not a name ({NAME})"),
    (("--container-name=:exec",), f"[usage]: --container-name: '' is not a name ({NAME})"),
    (("--container-name=a:b",), "[usage]: --container-name: 'b' is not one of auto, create, exec, no_exec (write NAME[:MODE])"),
    (("--container-save=/tmp/",), "[usage]: --container-save: '/tmp/' is a directory (name the file to write)"),
    (("--container-readonly", "--container-writable"), "[usage]: --container-writable: given together with --container-readonly (give one)"),
    (("--container-mount-home", "--no-container-mount-home"), "[usage]: --no-container-mount-home: given together with --container-mount-home (give one)"),
    (("--container-image=other",), "[usage]: --container-image: given twice, with different values (give one)"),
    (("--container-workdir=/a", "--container-workdir=/b"), "[usage]: --container-workdir: given twice, with different values (give one)"),
    (("--container=x",), "[usage]: --container-image: given together with --container (give one)"),
    ((f"--container-mounts={'/tmp:/x,' * 13000}/tmp:/x",), "[usage]: --container-mounts: longer than 98304 bytes (name a directory above what it lists)"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), REFUSED, ids=[row[0][0][12:40] for row in REFUSED])
def test_refused_before_there_is_a_job(words, line):
    """By sbatch: nothing is submitted, nobody waits in the queue to be told of a slip."""
    result = jobs.run("sbatch", f"--container-image={IMAGE}", *words, "--wrap=true")
    assert result.returncode == 125
    assert result.stderr.splitlines() == [f"fairlead: error {line}"] or result.stderr.splitlines()[-1] == f"sbatch: fairlead: error {line}"  # fmt: skip
    assert "Submitted" not in result.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--container-mounts=/no/such:/x",), "[mount]: cannot mount /no/such: No such file or directory (check that the path exists and that you may read it)"),
        (("--container-mounts=/no/$USER:/x",), "[mount]: cannot mount /no/$USER: No such file or directory (only your shell expands variables, and it sees no #SBATCH line)"),
        (("--container-mounts=umount:/bin",), "[mount]: --container-mounts: umount:/bin: nothing is mounted there (leave it out)"),
        (("--container-mounts=/tmp:/evil/sys",), "[mount]: /evil/sys: the image has a symbolic link in place of this directory (rebuild the image)"),
        pytest.param(("--mpi=pmix", "--container-remap-root"), "[usage]: --container-remap-root: the step's PMIx server does not answer uid 0 (start the step with --mpi=none or --mpi=pmi2, or leave the option out)", marks=pytest.mark.pmix),
        pytest.param(("--mpi=pmix", "--container-unshare=net"), "[usage]: --container-unshare=net: the step's PMIx server listens on the host's network (start the step with --mpi=none or --mpi=pmi2, or leave the option out)", marks=pytest.mark.pmix),
    ],
    ids=["source", "variable", "umount", "proc", "pmix-root", "pmix-net"],
)  # fmt: skip
def test_refused_on_the_nodes_in_one_line(words, line):
    result = srun("-N2", "-n4", *words, "true")
    assert result.returncode == 125
    assert [found.partition("error ")[2] for found in error_lines(result)] == [line]
    assert jobs.nodes_out_of_service() == []


def test_a_forged_variable_is_checked_on_the_node_again():
    """What srun exports anybody can set: only the node's word counts."""
    forged = {"SLURM_FAIRLEAD_MOUNTS": "/tmp:/proc", "SLURM_JOB_ID_": ""}
    result = jobs.run("salloc", "sh", "-c", f"srun --container={SMALL} true", **forged)
    assert result.returncode != 0
    assert (
        "error [usage]: --container-mounts: destination '/proc': cannot be replaced"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ({"PYXIS_CONTAINER_WRITABLE": "maybe"}, "$PYXIS_CONTAINER_WRITABLE: neither true nor false (write 1 or 0)"),
        ({"PYXIS_CONTAINER_WRITABLE": "1", "PYXIS_CONTAINER_READONLY": "1"}, "$PYXIS_CONTAINER_READONLY: contradicts the variable of its opposite (unset one)"),
        ({"FAIRLEAD_MPI": "both"}, "$FAIRLEAD_MPI=both: not one of auto, host, image"),
    ],
    ids=["boolean", "both", "word"],
)  # fmt: skip
def test_a_wrong_variable_is_named(variable, line):
    result = srun("true", **variable)
    assert result.returncode == 125
    assert error_lines(result)[0].endswith(f"fairlead: error [usage]: {line}")


def test_options_without_an_image_are_ignored_aloud():
    result = jobs.run("srun", "--container-mounts=/tmp:/x", "--container-readonly", "echo", "ok")
    assert output(result) == "ok\n"
    why = "no image is named (--container-image or --container)"
    found = [line.partition("fairlead: ")[2] for line in result.stderr.splitlines()]
    assert found == [f"ignoring --container-mounts: {why}", f"ignoring --container-readonly: {why}"]


# -- the administrator's words ---------------------------------------------------------------------


def test_names_can_be_switched_off_for_a_cluster_that_loads_pyxis():
    with plugin_words("pyxis_compat=no"):
        listed = jobs.run("srun", "--help").stdout
        result = jobs.run("srun", f"--container={SMALL}", "sh", "-c", "echo $DEMO", PYXIS_CONTAINER_IMAGE=IMAGE)  # fmt: skip
    assert "--container-image" not in listed
    assert "--container-workdir" not in listed
    assert "--container-mpi" in listed
    assert output(result) == "small\n"


def test_sbatch_support_off_leaves_sruns_options():
    with plugin_words("sbatch_support=0"):
        assert "--container-image" not in jobs.run("sbatch", "--help").stdout
        assert "--container-image" in jobs.run("srun", "--help").stdout
        assert batch("echo ${FROM:-host}\n", PYXIS_CONTAINER_IMAGE=IMAGE) == "host\n"


def test_entrypoint_by_default_where_the_site_says_so():
    with plugin_words("execute_entrypoint=1"):
        assert shown(script="echo x") == ["entrypoint of image", "x"]
        assert shown("--no-container-entrypoint", script="echo x") == ["x"]


def test_arguments_that_mean_nothing_here_are_told_in_slurmds_log():
    """slurmd reads the line when it starts."""
    cluster = os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed/cluster"
    )
    start = os.path.getsize(LOG)
    words = ("importer=/usr/bin/x", "use_squashfuse=1", "container_scope=job", "execute=1")
    import subprocess

    with plugin_words(*words):
        subprocess.run([cluster, "node-with-plugin", "n4"], check=True, capture_output=True)
    subprocess.run([cluster, "node-with-plugin", "n4"], check=True, capture_output=True)
    deadline = time.monotonic() + 20
    told: list[str] = []
    while time.monotonic() < deadline and len(told) < 3:
        with open(LOG, encoding="utf-8", errors="replace") as file:
            file.seek(start)
            told = re.findall(r"fairlead: plugstack argument (.*)", file.read())
    assert told[:3] == [
        "importer=/usr/bin/x has no effect: images are fetched by the engine",
        "use_squashfuse=1 has no effect: squashfs files are unpacked",
        "execute=1 has no effect: not understood",
    ]
