"""The reader of the plan cache under AddressSanitizer and UBSan, and the key that tells processes apart."""

import os
import random
import shutil
import struct
import subprocess

import pytest

from fairlead import kernel
from fairlead.run import block

HERE = os.path.dirname(os.path.abspath(__file__))
C_EXT = os.path.join(HERE, "..", "..", "c_ext")
DRIVER = os.path.join(HERE, "..", "c", "feed_plans.c")
SOURCES = ("block", "plan_check", "plan_entry", "plan_expand", "plan_key")
FLAGS = ("-std=gnu17", "-g", "-O1", "-D_GNU_SOURCE", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")  # fmt: skip
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
EXAMPLES = int(os.environ.get("FAIRLEAD_EXAMPLES", "600"))
REPAIRED = 1


def build(binary, compiler, *flags):
    sources = [f"{C_EXT}/{name}.c" for name in SOURCES]
    subprocess.run([compiler, *FLAGS, *flags, "-o", binary, DRIVER, *sources], check=True)
    os.chmod(binary, 0o755)


class Driver:
    def __init__(self, process):
        self._process = process

    def feed(self, data, flags=0):
        self._process.stdin.write(struct.pack("=II", flags, len(data)) + data)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the driver died: see its report on stderr"
        return line.decode().strip()


@pytest.fixture(scope="module", params=["gcc", "clang"])
def driver(request, tmp_path_factory):
    compiler = request.param
    binary = str(tmp_path_factory.mktemp("driver") / "feed_plans")
    probe = [compiler, *SANITIZERS, "-x", "c", "-", "-o", binary]
    if not shutil.which(compiler) or subprocess.run(probe, input=b"int main(void){}").returncode:
        pytest.skip(f"no {compiler} with sanitizers here")
    build(binary, compiler, *SANITIZERS)
    with subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Driver(process)
        process.stdin.close()
    assert process.returncode == 0, "a leak"


def packed(*records, key=b"key", expires=2**40):
    body = block.join(list(records))
    tail = struct.pack("=QII", expires, len(key), len(body)) + key + body
    return b"FAIRPL1\0" + struct.pack("=Q", kernel.plan_hash(tail)) + tail


def whole():
    """An entry with every kind of record, all of whose checks hold in the driver's environment."""
    lib = kernel.lib
    return packed(
        block.record(lib.OP_NOTE, 0, "a note"),
        block.record(lib.OP_HOLD, 0, "/"),
        block.record(lib.OP_IMAGE, 0, "sha256:0", "injection"),
        block.record(lib.OP_CHECK_FILE, 0, "/nonexistent", "absent"),
        block.record(lib.OP_CHECK_FILE, lib.CHECK_KIND | lib.CHECK_NOFOLLOW, "/dev/null", "device 1:3"),
        block.record(lib.OP_CHECK_FILE, lib.CHECK_KIND | lib.RECORD_TEMPLATE, "/x${SLURM_JOB_ID}", "absent"),
        block.record(lib.OP_CHECK_VARIABLE, 0, "A", "1"),
        block.record(lib.OP_CHECK_VARIABLE, 0, "EMPTY", ""),
        block.record(lib.OP_CHECK_VARIABLE, 0, "MISSING"),
        block.record(lib.OP_CHECK_VARIABLE, lib.CHECK_PRESENT, "SLURM_JOB_ID"),
        block.record(lib.OP_CHECK_NAMES, 0, "PMIX_", "PMIX_SERVER_TMPDIR"),
        block.record(lib.OP_CHECK_SAME, 0, "/tmp", "${PMIX_SERVER_TMPDIR}"),
        block.record(lib.OP_ROOT, 0, "/tree"),
        block.record(lib.OP_BIND, lib.RECORD_TEMPLATE, "${PMIX_SERVER_TMPDIR}/${SLURM_JOB_ID}", "/p"),
        block.record(lib.OP_ENV_SET, 0, "LITERAL", "${A}"),
        block.record(lib.OP_WORKDIR, 0, "/"),
    )  # fmt: skip


def test_whole_entry_is_accepted_and_every_truncation_refused(driver):
    data = whole()
    assert driver.feed(data).startswith("ok ")
    assert {driver.feed(data[:size]) for size in range(len(data))} == {"refused"}


def test_every_flipped_bit_is_found_by_the_sum(driver):
    data = whole()
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        assert driver.feed(bytes(flipped)) == "refused", place


def test_entry_over_the_limit_is_refused(driver):
    lib = kernel.lib
    record = block.record(lib.OP_ENV_SET, 0, "A", "x" * lib.PLAN_ENTRY_MAX_SIZE)
    assert driver.feed(packed(record)) == "refused"


def test_sizes_that_wrap_are_refused(driver):
    data = bytearray(whole())
    for key, body in ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 1), (0, 0xFFFFFFFF), (0, 0)):
        struct.pack_into("=II", data, 24, key, body)
        assert driver.feed(bytes(data), REPAIRED) == "refused"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("${MISSING}", "unexpanded 2"),
        ("${A", "unexpanded 74"),
        ("${}", "unexpanded 74"),
        ("${A B}", "unexpanded 74"),
        ("${1}", "unexpanded 74"),
        ("$" * 5000, "unexpanded 36"),
        ("${A}" * 5000, "unexpanded 36"),
        ("$A$", "ok"),
    ],
)
def test_templates_that_cannot_be_expanded(driver, text, answer):
    lib = kernel.lib
    record = block.record(lib.OP_BIND, lib.RECORD_TEMPLATE, text, "/")
    assert driver.feed(packed(record)).startswith(answer)


def test_mutants_with_a_right_sum_never_crash_the_reader(driver):
    dice = random.Random(7)
    base = whole()
    answers = set()
    for _ in range(EXAMPLES * 20):
        data = bytearray(base)
        for _ in range(dice.choice((1, 1, 2, 4, 8))):
            place = dice.randrange(16, len(data))
            if dice.randrange(4) == 0:
                del data[place : place + dice.choice((1, 4, 8))]
            elif dice.randrange(3) == 0:
                data[place:place] = dice.randbytes(dice.choice((1, 4, 8)))
            else:
                data[place] = dice.choice((0, 1, 0x24, 0x7B, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        answers.add(driver.feed(bytes(data), REPAIRED).split()[0])
    assert {"refused", "stale", "ok", "unexpanded"} >= answers
    assert len(answers) > 2, "the mutants do not get anywhere"


# -- the key ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Return the key as another process has it: as another user, with another environment, elsewhere."""
    if os.geteuid() != 0:
        pytest.skip("becomes other users, so it starts as root")
    place = f"/var/tmp/fairlead-key-{os.getpid()}"
    os.makedirs(f"{place}/libexec/fairlead")
    for name in ("engine.py", "fairlead-enter"):
        with open(f"{place}/libexec/fairlead/{name}", "w", encoding="utf-8") as file:
            file.write("1")
    build(f"{place}/driver", "gcc")

    def key(*around, prefix=place, **environ):
        command = [*around, f"{place}/driver", prefix]
        return subprocess.run(command, env=environ, capture_output=True, check=True).stdout

    key.place = place
    yield key
    shutil.rmtree(place)


def user(*options):
    return ("/usr/bin/setpriv", *options)


ADA = ("--reuid=23456", "--regid=23457", "--groups=23457,23499")


def test_same_process_has_the_same_key(shown):
    assert shown(*user(*ADA), HOME="/h", PATH="/a") == shown(*user(*ADA), HOME="/h", PATH="/b")


@pytest.mark.parametrize(
    "options",
    [
        ("--reuid=23458", *ADA[1:]),
        (ADA[0], "--regid=23458", ADA[2]),
        (*ADA[:2], "--groups=23457"),
        (*ADA[:2], "--groups=23457,23498"),
        (*ADA[:2], "--clear-groups"),
    ],
)
def test_another_uid_gid_or_group_has_another_key(shown, options):
    assert shown(*user(*options), HOME="/h") != shown(*user(*ADA), HOME="/h")


@pytest.mark.parametrize(
    "name",
    ["HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "FAIRLEAD_STORE", "FAIRLEAD_X", "SLURMD_NODENAME"],
)  # fmt: skip
def test_what_the_engine_reads_is_in_the_key(shown, name):
    one, other, absent = shown(**{name: "/a"}), shown(**{name: "/b"}), shown()
    assert len({one, other, absent}) == 3


def test_proxy_with_its_password_is_not_in_the_key(shown):
    assert b"secret" not in shown(HTTPS_PROXY="http://me:secret@proxy:3128")


def test_another_boot_and_another_host_have_another_key(shown):
    here = shown()
    other = f"{shown.place}/boot_id"
    with open(other, "w", encoding="utf-8") as file:
        file.write("11111111-2222-3333-4444-555555555555\n")
    around = ("/bin/sh", "-c", 'exec "$@"', "sh")
    assert shown(*around, PATH=os.environ["PATH"]) == here
    script = f'mount --bind {other} /proc/sys/kernel/random/boot_id && exec "$@"'
    around = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh")
    assert shown(*around, PATH=os.environ["PATH"]) != here
    around = ("/usr/bin/unshare", "--uts", "/bin/sh", "-c", 'hostname other && exec "$@"', "sh")
    assert shown(*around, PATH=os.environ["PATH"]) != here


@pytest.mark.parametrize("name", ["engine.py", "fairlead-enter"])
def test_an_update_of_the_installation_has_another_key(shown, name):
    here = shown()
    path = f"{shown.place}/libexec/fairlead/{name}"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write("1")
    os.rename(f"{path}.new", path)
    assert shown() != here
