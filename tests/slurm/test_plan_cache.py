"""The second identical launch on a node starts no Python, and nothing else is different."""

import contextlib
import os
import re
import shutil
import stat
import struct
import time
import urllib.request

import jobs
import pytest
from installation import installed_prefix, plugin_line, prefix, replace_engine
from jobs import MPI, MPICH, REGISTRY, SMALL, error_lines, output

from fairlead import kernel
from fairlead.run import block

PLANS = f"/var/tmp/fairlead-plans-{jobs.USER.pw_uid}"
ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


def frozen(reference):
    """A reference with the digest that its tag means now."""
    name, _, tag = reference.removeprefix(f"{REGISTRY}/").rpartition(":")
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{name}/manifests/{tag}")
    request.add_header("Accept", ACCEPT)
    with urllib.request.urlopen(request) as answer:
        return f"{REGISTRY}/{name}@{answer.headers['Docker-Content-Digest']}"


def srun(*words, nodes="n1", **options):
    """Run srun on the same nodes each time: every node has plans of its own."""
    return jobs.srun(f"--nodelist={nodes}", *words, **options)


def forget():
    shutil.rmtree(PLANS, ignore_errors=True)


def entries():
    return [f"{PLANS}/{name}" for name in os.listdir(PLANS)] if os.path.isdir(PLANS) else []


class Engine:
    """Counts the starts of the interpreter, whatever starts it."""

    def __init__(self, log):
        self._log = log
        self._seen = 0

    def starts(self):
        """How often it was started since the last question."""
        with open(self._log, encoding="utf-8") as file:
            now = file.read().count("start")
        new, self._seen = now - self._seen, now
        return new


@contextlib.contextmanager
def counted(place, *, site):
    log = f"{place}/starts"
    with open(log, "w", encoding="utf-8"):
        os.chmod(log, 0o666)
    replace_engine(
        place,
        f'#!/bin/sh\necho start >> {log}\nexec {installed_prefix()}/venv/bin/python "$@"\n',
    )
    forget()
    with prefix(place, site=site):
        yield Engine(log)
    forget()


@pytest.fixture(params=["user", "site"])
def engine(request, other_prefix):
    """The engine, watched, with each kind of store."""
    site = request.param == "site"
    if site and " site=" not in plugin_line()[1]:
        pytest.skip("the installed plugin has no shared store")
    with counted(other_prefix, site=site) as watched:
        output(srun("true", container=frozen(SMALL)))  # the image is there, access is proven
        watched.starts()
        forget()
        yield watched


@pytest.fixture
def own(other_prefix):
    """The engine, watched, with a store of the user's own."""
    with counted(other_prefix, site=False) as watched:
        yield watched


def test_second_launch_starts_no_python(engine):
    image = frozen(SMALL)
    first = output(srun("echo", "up", container=image))
    assert engine.starts() == 1
    for _ in range(3):
        assert output(srun("echo", "up", container=image)) == first
    assert engine.starts() == 0


def test_eight_tasks_share_the_container_of_a_kept_plan(engine):
    image = frozen(SMALL)
    words = ("-n8", "readlink", "/proc/self/ns/mnt")
    output(srun(*words, container=image))
    engine.starts()
    shown = output(srun(*words, container=image)).split()
    assert engine.starts() == 0
    assert len(shown) == 8
    assert len(set(shown)) == 1


def normal(text):
    """What is left of a text when the numbers of jobs, ports, mounts and descriptors are taken out."""
    text = re.sub(r"^\d+ \d+ \d+:\d+ ", "", text, flags=re.MULTILINE)
    text = re.sub(r"(master|shared|propagate_from):\d+", r"\1", text)
    text = re.sub(r"/proc/self/fd/\d+", "/proc/self/fd", text)
    lines = text.splitlines()
    return [
        # OMPI_MCA_orte_precondition_transports: a key of the step, from Slurm 23.11 on
        re.sub(r"(?<==)[0-9a-f]{16}-[0-9a-f]{16}$|\d{2,}", "N", line)
        if re.match("SLURM|PMIX|OMPI_MCA_orte|.*[/ ](s?pmix)", line)
        else line
        for line in lines
    ]


LOOK = "cat /proc/self/mountinfo; env | sort; pwd; id; ls -la / /dev; cat /etc/passwd /etc/group; umask; grep -E 'Cap|NoNew|Sig' /proc/self/status"


@pytest.mark.pmix
def test_everything_inside_is_as_the_engine_made_it(engine):
    image = frozen(SMALL)
    options = ("--mpi=pmix", "sh", "-c", LOOK.replace("ls -la", "ls"))
    made = output(srun(*options, container=image))
    assert engine.starts() == 1
    kept = output(srun(*options, container=image))
    assert engine.starts() == 0
    assert set(normal(kept)) ^ set(normal(made)) == set()
    assert len(normal(kept)) == len(normal(made))
    assert "overlay" in made


def test_working_directory_and_entrypoint_are_kept_with_their_plan(engine):
    image = frozen(SMALL)
    for directory in ("/tmp", "/bin", "/tmp", "/bin"):
        assert output(srun(f"--container-workdir={directory}", "pwd", container=image)) == (
            f"{directory}\n"
        )
    assert engine.starts() == 2


LINE = re.compile(
    r"rank (\d) of (\d) on \S+ \((\S+)\): (.*), (the host's MPI|the image's own MPI):"
)


@pytest.mark.parametrize(
    ("image", "pmi", "mode"),
    [(MPI, "pmix", "host"), (MPI, "pmix", "image"), (MPICH, "pmi2", "host")],
)
def test_ranks_on_two_nodes_meet_in_kept_plans(engine, image, pmi, mode):
    image = frozen(image)
    options = (f"--mpi={pmi}", "-n4", f"--container-mpi={mode}", "./hello_mpi")
    # The launch that fetches an image, or first looks at the host's MPI, is not kept.
    output(srun("-n1", "true", container=image))
    output(srun(*options, nodes="n1,n2", container=image))
    assert engine.starts() >= 2  # and storekeepers, where the image is new
    shown = output(srun(*options, nodes="n1,n2", container=image))
    assert engine.starts() == 0
    ranks = LINE.findall(shown)
    assert sorted(rank for rank, *_ in ranks) == ["0", "1", "2", "3"], shown
    assert {whose.split("'")[0] for *_, whose in ranks} == {
        "the host" if mode == "host" else "the image"
    }


@pytest.mark.pmix
def test_steps_of_a_job_and_of_the_next_one_use_the_same_plan(own):
    image = frozen(MPI)
    step = "srun --mpi=pmix -n2 ./hello_mpi\n"
    shown = jobs.batch(step * 2, f"--container={image}", "-n2", "-w", "n1")
    assert own.starts() == 1
    shown += jobs.batch(step, f"--container={image}", "-n2", "-w", "n1")
    assert own.starts() == 0
    assert len(LINE.findall(shown)) == 6


@pytest.fixture
def other_major():
    """A prefix with an OpenMPI that calls itself 5: it does not stand in for 4 unless it is asked to."""
    place = f"/var/tmp/fairlead-five-{os.getpid()}"
    os.makedirs(f"{place}/lib")
    with open("/usr/lib/x86_64-linux-gnu/libmpi.so.40", "rb") as file:
        library = file.read()
    version = re.search(rb"\x004\.(\d+\.\d+)\x00", library)
    assert version
    with open(f"{place}/lib/libmpi.so.40", "wb") as file:
        file.write(library.replace(version.group(), b"\x005." + version.group(1) + b"\x00"))
    yield place
    shutil.rmtree(place)


@pytest.mark.host_mpi("openmpi", 4)
def test_note_is_said_at_every_launch(own, other_major):
    image = frozen(MPI)
    notes = []
    for starts in (2, 0):
        result = srun(
            "--mpi=pmix", "-n2", "./hello_mpi", nodes="n1,n2", container=image, MPI_HOME=other_major
        )
        output(result)
        notes.append([line for line in result.stderr.splitlines() if "fairlead:" in line])
        assert own.starts() == starts
    assert notes[0] == notes[1]
    assert len(notes[0]) == 1
    assert "is another major release than the image's" in notes[0][0]


def test_command_that_is_not_there_is_said_by_the_engine_every_time(own):
    image = frozen(SMALL)
    results = [srun("/no/such/command", container=image) for _ in range(2)]
    assert own.starts() == 2
    assert [result.returncode for result in results] == [127, 127]
    assert error_lines(results[0]) == error_lines(results[1])
    assert len(error_lines(results[0])) == 1


@pytest.mark.parametrize(
    "words",
    [
        {"container": SMALL, "FAIRLEAD_RESOLVE": "start"},
        {"FAIRLEAD_PLAN_CACHE": "0"},
        {"FAIRLEAD_VERBOSE": "1"},
    ],
)
def test_what_is_not_kept(own, words):
    words = {"container": frozen(SMALL), **words}
    output(srun("true", **words))
    output(srun("true", **words))
    assert own.starts() == 2
    assert entries() == []


def test_removed_image_is_not_run_from_a_plan(own):
    image = frozen(SMALL)
    output(srun("true", container=image))
    output(jobs.run("fairlead", "rm", image.partition("@")[2]))
    own.starts()
    result = srun("true", container=image, FAIRLEAD_PULL="never")
    assert own.starts() == 1
    assert "is not in the store" in error_lines(result)[0]


@pytest.fixture
def granted(other_prefix):
    """The engine, watched, and the user's grant for the small image in the shared store."""
    site = re.search(r" site=(\S+)", plugin_line()[1])
    if not site:
        pytest.skip("the installed plugin has no shared store")
    image = frozen(SMALL)
    grant = f"{site.group(1)}/grants/{jobs.USER.pw_uid}/{image.rpartition(':')[2]}"
    with counted(other_prefix, site=True) as watched:
        output(srun("true", container=image))
        yield watched, image, grant
        with contextlib.suppress(FileNotFoundError):
            os.unlink(grant)  # the next one proves access anew


@pytest.mark.parametrize("loss", ["gone", "old"])
def test_kept_plan_is_no_way_around_a_right_that_was_lost(granted, loss):
    """The broker mounts for a kept plan what it would mount for the engine, and nothing else."""
    engine, image, grant = granted
    engine.starts()
    output(srun("true", container=image))
    assert engine.starts() == 0
    if loss == "gone":
        os.unlink(grant)
    else:
        long_ago = os.stat(grant).st_mtime - 10_000_000
        os.utime(grant, (long_ago, long_ago))
    output(srun("true", container=image))
    assert engine.starts() == 2, "the engine, and a storekeeper that proves access"
    assert os.stat(grant).st_mtime > time.time() - 60


# -- the directory, by others and by accident ------------------------------------------------------


def test_plans_are_the_users_alone(own):
    output(srun("true", container=frozen(SMALL)))
    assert stat.S_IMODE(os.stat(PLANS).st_mode) == 0o700
    assert {os.stat(path).st_uid for path in (PLANS, *entries())} == {jobs.USER.pw_uid}
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in entries()} == {0o600}


@pytest.mark.parametrize("kind", ["another's", "open", "symlink", "file"])
def test_directory_that_another_prepared_is_not_used(own, kind):
    image = frozen(SMALL)
    output(srun("true", container=image))
    (entry,) = entries()
    if kind == "another's":
        os.chown(PLANS, 65534, 65534)
    elif kind == "open":
        os.chmod(PLANS, 0o777)
    elif kind == "symlink":
        os.rename(PLANS, f"{PLANS}.real")
        os.symlink(f"{PLANS}.real", PLANS)
    else:
        shutil.rmtree(PLANS)
        with open(PLANS, "w", encoding="utf-8"):
            pass
    try:
        before = os.stat(entry).st_mtime_ns if kind in ("another's", "open") else 0
        own.starts()
        assert output(srun("echo", "up", container=image)) == "up\n"
        assert own.starts() == 1
        if before:
            assert os.stat(entry).st_mtime_ns == before
    finally:
        if os.path.isdir(PLANS) and not os.path.islink(PLANS):
            shutil.rmtree(PLANS)
        else:
            os.unlink(PLANS)
        shutil.rmtree(f"{PLANS}.real", ignore_errors=True)


def damage(data, place):
    changed = bytearray(data)
    changed[place] ^= 0x40
    return bytes(changed)


@pytest.mark.parametrize("place", [0, 8, 16, 30, 200, -1])
def test_damaged_entry_is_made_anew(own, place):
    image = frozen(SMALL)
    output(srun("true", container=image))
    (entry,) = entries()
    with open(entry, "rb") as file:
        data = file.read()
    with open(entry, "wb") as file:
        file.write(damage(data, place))
    own.starts()
    output(srun("true", container=image))
    assert own.starts() == 1
    output(srun("true", container=image))
    assert own.starts() == 0
    assert jobs.nodes_out_of_service() == []


def poisoned(data, *records):
    """An entry with more records in its launch block, and with a right sum."""
    expires, key_size, _ = struct.unpack_from("=QII", data, 16)
    key, body = data[32 : 32 + key_size], data[32 + key_size :]
    magic, _, count = struct.unpack_from("=8sII", body)
    body = body[16:] + b"".join(records)
    body = struct.pack("=8sII", magic, 16 + len(body), count + len(records)) + body
    tail = struct.pack("=QII", expires, len(key), len(body)) + key + body
    return data[:8] + struct.pack("=Q", kernel.plan_hash(tail)) + tail


def test_poisoned_entry_gives_its_owner_no_more_than_they_have(own):
    """Who may write into a user's entries is the user, or root."""
    image = frozen(SMALL)
    words = ("sh", "-c", "id -u; cat /stolen; touch /usr/x 2>&1; ls /stolen")
    srun(*words, container=image)
    (entry,) = entries()
    with open(entry, "rb") as file:
        data = file.read()
    bind = block.record(kernel.lib.OP_BIND, 0, "/etc/shadow", "/stolen")
    with open(entry, "wb") as file:
        file.write(poisoned(data, bind))
    own.starts()
    result = srun(*words, container=image)
    assert own.starts() == 0, "the entry was not used, so this proves nothing"
    assert result.stdout.split()[0] == str(jobs.USER.pw_uid)
    assert "/stolen" in result.stdout
    assert "Permission denied" in result.stderr
    assert "root:" not in result.stdout


def test_poisoned_entry_that_cannot_be_built_is_made_anew(own):
    image = frozen(SMALL)
    output(srun("echo", "up", container=image))
    (entry,) = entries()
    with open(entry, "rb") as file:
        data = file.read()
    bind = block.record(kernel.lib.OP_BIND, 0, "/nonexistent", "/x")
    with open(entry, "wb") as file:
        file.write(poisoned(data, bind))
    own.starts()
    assert output(srun("echo", "up", container=image)) == "up\n"
    assert own.starts() == 1
    assert output(srun("echo", "up", container=image)) == "up\n"
    assert own.starts() == 0
