"""The command ``fairlead``: a launch that was decided before starts no Python and behaves as the first one did."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import images
import pytest

ROOT = Path(__file__).parents[2]
UID, GID = 23461, 23462
PLANS = f"/var/tmp/fairlead-plans-{UID}"
APPLETS = ("sh", "echo", "cat", "env", "pwd", "id", "sleep", "grep", "sort", "true", "ls", "kill")


def drop() -> None:
    os.setgroups([])
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    """An image of busybox, named by its digest, with an entrypoint and a user who leads to a note."""
    files: dict[str, bytes | images.Entry] = {
        "bin/busybox": images.program(Path("/bin/busybox").read_bytes()),
        "bin/entry": images.program(b'#!/bin/sh\necho entry\nexec "$@"\n'),
    }
    files.update({f"bin/{name}": images.symlink("busybox") for name in APPLETS})
    config: dict[str, object] = {
        "Env": ["PATH=/bin", "FROM=image"],
        "Entrypoint": ["/bin/entry"],
        "Cmd": ["echo", "default command"],
        "WorkingDir": "/bin",
        "User": "nginx",
    }
    images.push(registry, "front/box", "1", images.image([images.layer(files)], config))
    request = urllib.request.Request(f"http://{registry}/v2/front/box/manifests/1")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    with urllib.request.urlopen(request) as answer:
        return f"{registry}/front/box@{answer.headers['Docker-Content-Digest']}"


class Installation:
    """A prefix with the command and, in Python's place, a script that counts its starts."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._seen = 0
        self.environ = {
            "HOME": f"{place}/home",
            "PATH": os.environ["PATH"],
            "FAIRLEAD_STORE": f"{place}/home/store",
            "FAIRLEAD_SITE_CONFIG": f"{place}/none",
        }
        os.makedirs(f"{place}/venv/bin")
        os.makedirs(f"{place}/home")
        self.log = f"{place}/starts"
        Path(self.log).touch()
        os.chmod(self.log, 0o666)
        python = Path(f"{place}/venv/bin/python")
        python.write_text(f'#!/bin/sh\necho start >> {self.log}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        lines = (
            "import sys",
            f"sys.path.insert(0, {str(ROOT / 'engine')!r})",
            "from fairlead.cli.main import main",
            "sys.exit(main())",
        )
        Path(f"{place}/venv/bin/fairlead").write_text("\n".join(lines) + "\n")
        make = ["make", "-s", "-C", str(ROOT / "spank_shim")]
        where = {**os.environ, "PREFIX": place}
        source = f"{place}/source"
        for part in ("spank_shim", "c_ext"):
            shutil.copytree(ROOT / part, f"{source}/{part}", ignore=shutil.ignore_patterns("*.so"))
        make[-1] = f"{source}/spank_shim"
        subprocess.run([*make, "clean", "install-front", f"PREFIX={place}"], env=where, check=True)
        os.chown(f"{place}/home", UID, GID)

    def start(self, *words: str, cwd: str = "", **variables: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [f"{self.place}/bin/fairlead", *words], preexec_fn=drop, cwd=cwd or f"{self.place}/home",
            env={**self.environ, **variables}, stdin=pipe, stdout=pipe, stderr=pipe, text=True,
        )  # fmt: skip

    def run(
        self, *words: str, cwd: str = "", stdin: str = "", **variables: str
    ) -> tuple[int, str, str]:
        process = self.start(*words, cwd=cwd, **variables)
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out, err

    def starts(self) -> int:
        """How often Python was started since the last question."""
        now = Path(self.log).read_text().count("start")
        new, self._seen = now - self._seen, now
        return new


@pytest.fixture(scope="module")
def installed() -> Iterator[Installation]:
    if os.geteuid() != 0:
        pytest.skip("becomes another user, so it starts as root")
    place = f"/var/tmp/fairlead-front-{os.getpid()}"
    os.makedirs(place)
    yield Installation(place)
    shutil.rmtree(place)
    shutil.rmtree(PLANS, ignore_errors=True)


@pytest.fixture
def fairlead(installed: Installation) -> Installation:
    shutil.rmtree(PLANS, ignore_errors=True)
    installed.starts()
    return installed


def twice(fairlead: Installation, *words: str, **options: str) -> tuple[int, str, str]:
    """Run the same twice: the first through Python, the second without, with the same outcome."""
    first = fairlead.run(*words, **options)
    assert fairlead.starts() == 1
    second = fairlead.run(*words, **options)
    assert fairlead.starts() == 0
    assert (second[0], sorted(second[1].splitlines()), second[2]) == (
        first[0],
        sorted(first[1].splitlines()),
        first[2],
    )
    return first


def test_second_launch_is_the_first_without_python(fairlead: Installation, image: str) -> None:
    status, out, err = twice(fairlead, "run", image, "--", "echo", "a  b", "$c")
    assert (status, out) == (0, "entry\na  b $c\n")
    assert err.count("\n") == 1
    assert "nginx" in err


def test_everything_inside_is_the_same(fairlead: Installation, image: str) -> None:
    look = "env | sort; pwd; id; cat /etc/passwd /etc/group; ls /dev; grep -E 'Cap|NoNew|Sig|Pdeath' /proc/self/status; ls /proc/self/fd"
    _, out, _ = twice(
        fairlead, "run", "--entrypoint", "", "-e", "A=1", "-e", "KEPT", image, "sh", "-c", look,
        KEPT="yes", DROPPED_LATER="no", LD_LIBRARY_PATH="/host",
    )  # fmt: skip
    assert "KEPT=yes\n" in out
    assert "_FAIRLEAD" not in out
    assert "LC_CTYPE" not in out  # Python's own, in the C locale
    assert "LD_LIBRARY_PATH" not in out
    assert "CapEff:\t0000000000000000" in out


def test_images_own_command_and_exit_status(fairlead: Installation, image: str) -> None:
    assert twice(fairlead, "run", image)[1] == "entry\ndefault command\n"
    assert twice(fairlead, "run", image, "sh", "-c", "exit 7")[0] == 7


def test_standard_input_is_the_commands(fairlead: Installation, image: str) -> None:
    assert twice(fairlead, "run", image, "cat", stdin="given\n")[1] == "entry\ngiven\n"


def test_signals_reach_the_command_itself(fairlead: Installation, image: str) -> None:
    words = (
        "run",
        "--entrypoint",
        "",
        image,
        "sh",
        "-c",
        "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done",
    )
    for starts in (1, 0):
        process = fairlead.start(*words)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGUSR1)
        process.communicate(timeout=20)
        assert process.returncode == 9
        assert fairlead.starts() == starts


def test_broken_pipe_ends_the_command_quietly(fairlead: Installation, image: str) -> None:
    """Python ignores SIGPIPE; so may a caller."""
    words = ("run", "--entrypoint", "", image, "sh", "-c", "grep SigIgn /proc/self/status")
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        _, out, _ = twice(fairlead, *words)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert int(out.split()[1], 16) & 1 << signal.SIGPIPE - 1 == 0


@pytest.mark.parametrize("change", ["word", "option", "directory", "variable", "setting", "file"])
def test_another_launch_is_planned_anew(fairlead: Installation, image: str, change: str) -> None:
    home = f"{fairlead.place}/home"
    os.makedirs(f"{home}/other", exist_ok=True)
    os.chown(f"{home}/other", UID, GID)
    twice(fairlead, "run", "-e", "KEPT", image, "env", KEPT="1")
    words = ["run", "-e", "KEPT", image, "env"]
    options = {"KEPT": "1"}
    if change == "word":
        words[-1] = "pwd"
    elif change == "option":
        words[1:1] = ["--read-only"]
    elif change == "directory":
        options["cwd"] = f"{home}/other"
    elif change == "variable":
        options["KEPT"] = "2"
    elif change == "setting":
        options["FAIRLEAD_MOUNT_HOME"] = "0"
    else:
        os.makedirs(f"{home}/.config/fairlead", exist_ok=True)
        Path(f"{home}/.config/fairlead/fairlead.toml").write_text("mount_home = true\n")
    status, out, _ = fairlead.run(*words, **options)
    assert status == 0
    assert fairlead.starts() == 1
    if change == "variable":
        assert "KEPT=2\n" in out
    shutil.rmtree(f"{home}/.config", ignore_errors=True)


def test_errors_are_pythons_every_time(fairlead: Installation, image: str) -> None:
    for words in (("run", image, "--", "/none"), ("run", "--entrypoint", "", image, "/none"), ("run", "-w", "/none", image, "true"),
                  ("run", "--frob", image), ("rum", image), ("run",)):  # fmt: skip
        first, second = fairlead.run(*words), fairlead.run(*words)
        if words[-1] != "/none" or "--entrypoint" in words:
            assert fairlead.starts() == 2, words
            assert first[0] in (125, 127)
        fairlead.starts()
        assert second == first, words


def test_everything_else_is_pythons_command_line(fairlead: Installation) -> None:
    for words in (("--version",), ("--help",), ("run", "--help"), ("images",), ()):
        through = fairlead.run(*words)
        script = [sys.executable, "-I", f"{fairlead.place}/venv/bin/fairlead", *words]
        straight = subprocess.run(
            script, preexec_fn=drop, env=fairlead.environ, cwd=f"{fairlead.place}/home",
            capture_output=True, text=True,
        )  # fmt: skip
        assert through == (straight.returncode, straight.stdout, straight.stderr)


@pytest.mark.parametrize(
    "variable", ["FAIRLEAD_PLAN_CACHE=0", "FAIRLEAD_PLAN_CACHE=no", "FAIRLEAD_VERBOSE=1"]
)
def test_switched_off(fairlead: Installation, image: str, variable: str) -> None:
    name, _, value = variable.partition("=")
    for _ in range(2):
        assert fairlead.run("run", image, "true", **{name: value})[0] == 0
    assert fairlead.starts() == 2
    assert not os.path.isdir(PLANS)


@pytest.mark.parametrize("fd", ["0", "1", "nine", "-1", "999"])
def test_key_of_somebody_else_is_ignored(fairlead: Installation, image: str, fd: str) -> None:
    """The variable is between the command and Python."""
    script = [sys.executable, "-I", f"{fairlead.place}/venv/bin/fairlead", "run", image, "env"]
    done = subprocess.run(
        script, preexec_fn=drop, env={**fairlead.environ, "_FAIRLEAD_KEY": fd}, text=True,
        cwd=f"{fairlead.place}/home", capture_output=True, input="x",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_FAIRLEAD_KEY" not in done.stdout
    assert not os.path.isdir(PLANS)


def test_many_at_once_agree(fairlead: Installation, image: str) -> None:
    processes = [fairlead.start("run", image, "echo", "x") for _ in range(12)]
    answers = {process.communicate(timeout=120)[0] for process in processes}
    assert answers == {"entry\nx\n"}
    assert {process.returncode for process in processes} == {0}
    fairlead.starts()
    assert fairlead.run("run", image, "echo", "x")[0] == 0
    assert fairlead.starts() == 0
    assert len(os.listdir(PLANS)) == 1


def test_what_an_env_file_says_is_read_each_time(fairlead: Installation, image: str) -> None:
    file = Path(f"{fairlead.place}/home/variables")
    command = ("run", "--entrypoint", "", "--env-file", "variables", image, "sh", "-c", "echo $A")
    for value in "12":
        file.write_text(f"A={value}\n")
        assert fairlead.run(*command)[1] == f"{value}\n"


def test_environment_file_is_kept_until_it_changes(fairlead: Installation, image: str) -> None:
    folder = Path(f"{fairlead.place}/home")
    (folder / "base.toml").write_text('[env]\nB = "${FROM:-none}"\n')
    (folder / "x.toml").write_text(f'image = "{image}"\nbase_environment = "./base.toml"\n')
    words = ("run", "x.toml", "sh", "-c", "echo $B")
    assert twice(fairlead, *words)[1] == "image\n"
    (folder / "base.toml").write_text('[env]\nB = "${MINE:-none}"\n')
    assert twice(fairlead, *words)[1] == "none\n"
    assert fairlead.run(*words, MINE="1")[1] == "1\n"
    assert fairlead.starts() == 1
    assert fairlead.run("run", "--environment", "./x", *words[2:])[1] == "none\n"
    assert fairlead.starts() == 1
    assert fairlead.run("run", "--environment", "./x", *words[2:])[1] == "none\n"
    assert fairlead.starts() == 0
