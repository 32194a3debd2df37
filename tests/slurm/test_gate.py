"""The nodes of a step start together or not at all, and one line says why: on four real nodes.

A node is made to differ in the mount namespace of its own slurmd: its steps see other files than the others.
"""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time

import jobs
import pytest
from installation import SITE_FILE, installed_prefix, plugin_words, prefix, replace_engine
from jobs import SMALL, srun

import fairlead

BED = "/var/lib/fairlead-bed"
FOUR = ("-N4", "-n4", "--ntasks-per-node=1")


@pytest.fixture(autouse=True)
def _no_node_is_drained_and_no_hub_stays():
    yield
    jobs.wait_for(lambda: not hubs(), 60)
    assert jobs.nodes_out_of_service() == []


def engines(*words):
    """The processes of the engine with these words behind its file's name."""
    wanted = [f"{installed_prefix()}/libexec/fairlead/engine.py", *words]
    found = jobs.processes("cmdline")
    return [item.pid for item in found if (item.info["cmdline"] or [])[-len(wanted) :] == wanted]


def hubs():
    return engines("hub")


@contextlib.contextmanager
def on_node(node, target, text, tmp_path):
    """Let a file have another text for the steps of one node."""
    with open(f"{BED}/run/slurmd-{node}.pid", encoding="ascii") as file:
        inside = ("nsenter", "--target", file.read().strip(), "--mount", "--")
    source = tmp_path / f"{node}-{os.path.basename(target)}"
    source.write_text(text)
    os.chmod(source, 0o644)
    # From a directory that nobody else can enter: the mount is of the file itself.
    subprocess.run([*inside, "mount", "--bind", str(source), target], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, "umount", "--lazy", target], check=True)


def settings(text):
    with open(SITE_FILE, encoding="utf-8") as file:
        return f"{file.read()}\n{text}\n"


@contextlib.contextmanager
def hanging(node, tmp_path):
    """Let a node's engine never come to an end."""
    script = "import time\ntime.sleep(600)\n"
    engine = f"{installed_prefix()}/libexec/fairlead/engine.py"
    with on_node(node, engine, script, tmp_path):
        yield


def waiting(*words, **variables):
    """Start a step of which one node's engine hangs; return srun and that engine's process."""
    step = jobs.start(
        "srun", *FOUR, f"--container={SMALL}", *words, "true",
        FAIRLEAD_PLAN_CACHE="0", **variables,
    )  # fmt: skip
    jobs.wait_for(lambda: hubs() and len(started()) == 4, 60)
    jobs.wait_for(lambda: len(engines()) == 1, 60)
    return step, engines()[0]


def started():
    """The tasks that build a container."""
    return [item.pid for item in jobs.processes() if item.info["name"] == "fairlead-init"]


def parent(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.search(r"^PPid:\s+(\d+)", file.read(), re.MULTILINE).group(1))


def ended(step):
    """What srun said of ours, and its status."""
    try:
        _, said = step.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        step.kill()
        raise
    return [line for line in said.splitlines() if "fairlead:" in line], step.returncode


def refused(result):
    """The one line of a step that no rank ran in."""
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if "fairlead:" in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("kept", ["0", "1"])
def test_four_nodes_start_with_and_without_a_kept_plan(kept):
    for _ in range(2):
        result = srun(
            *FOUR, "sh", "-c", "echo $SLURMD_NODENAME; ! env | grep FAIRLEAD_HUB",
            container=SMALL, FAIRLEAD_PLAN_CACHE=kept,
        )  # fmt: skip
        assert sorted(jobs.output(result).split()) == ["n1", "n2", "n3", "n4"]
        assert "fairlead" not in result.stderr


def test_tasks_that_did_not_build_pass_the_gate_too():
    result = srun("-N2", "-n8", "sh", "-c", "! env | grep FAIRLEAD_HUB && echo in", container=SMALL)
    assert jobs.output(result).split() == ["in"] * 8


def test_multi_prog_passes_the_gate(tmp_path):
    path = f"{jobs.USER.pw_dir}/gate.conf"
    with open(path, "w", encoding="utf-8") as file:
        file.write("0 echo first\n1-3 echo other\n")
    result = srun(*FOUR, "--multi-prog", path, container=SMALL)
    assert sorted(jobs.output(result).split()) == ["first", "other", "other", "other"]


@pytest.mark.parametrize("kind", ["pmi2", "pmix"])
def test_mpi_job_passes_the_gate(kind):
    image = jobs.MPICH if kind == "pmi2" else jobs.MPI
    result = srun("-N2", "-n4", f"--mpi={kind}", "./hello_mpi", container=image)
    assert result.returncode == 0, result.stderr


def test_node_with_other_settings_is_named(tmp_path):
    with on_node("n4", SITE_FILE, settings("mount_home = false"), tmp_path):
        assert refused(srun(*FOUR, "echo", "ran", container=SMALL)) == (
            "fairlead: error [gate]: the step's nodes differ in the setting mount_home: n[1-3]: "
            "(none); n4: False (let one file of settings lie on all nodes; fairlead config shows "
            "what counts)"
        )


def test_node_with_another_release_is_named(tmp_path):
    path = fairlead.__file__.replace(
        os.path.dirname(os.path.dirname(fairlead.__file__)),
        f"{installed_prefix()}/venv/lib/python3.{os.sys.version_info[1]}/site-packages",
    )
    with open(path, encoding="utf-8") as file:
        text = file.read().replace(f'"{fairlead.__version__}"', '"99.0"')
    with on_node("n2", path, text, tmp_path):
        line = refused(srun(*FOUR, "echo", "ran", container=SMALL))
    assert line.startswith(
        "fairlead: error [gate]: the step's nodes differ in the engine's release: n[1,3-4]: "
    )
    assert "n2: 99.0 (install one release on all nodes)" in line


def test_node_whose_mpi_is_another_is_named(tmp_path):
    # The library of n3's OpenMPI is gone: there the image's own would run.
    library = os.path.realpath("/usr/lib/x86_64-linux-gnu/libmpi.so.40")
    assert os.path.exists(library)
    with on_node("n3", library, "no library\n", tmp_path):
        result = srun(
            *FOUR, "--mpi=pmix", "echo", "ran", container=jobs.MPI, FAIRLEAD_MPI_CROSS_MAJOR="1"
        )
    line = next(line for line in result.stderr.splitlines() if "error [gate]" in line)
    assert result.stdout == ""
    assert "the step's nodes differ in MPI: n[1-2,4]: the host's " in line
    assert "; n3: the image's own" in line


def test_node_that_fails_is_named_with_its_own_words(tmp_path):
    with on_node("n3", SITE_FILE, settings('allowed_registries = ["x.example"]'), tmp_path):
        result = srun(*FOUR, "echo", "ran", container=SMALL)
    assert result.returncode == 125
    assert refused(result).startswith(f"fairlead: error [policy]: n3: {SMALL}")


def test_node_that_fails_stops_one_that_is_at_work(tmp_path):
    bad = settings('allowed_registries = ["x.example"]')
    with hanging("n1", tmp_path), on_node("n3", SITE_FILE, bad, tmp_path):
        result = srun(*FOUR, "true", container=SMALL, FAIRLEAD_PLAN_CACHE="0")
    assert result.returncode == 125
    assert "error [policy]: n3: " in refused(result)


def test_builder_that_is_killed_is_named(tmp_path):
    with hanging("n2", tmp_path):
        step, engine = waiting()
        os.kill(parent(engine), signal.SIGKILL)
        lines, status = ended(step)
    assert status == 137
    assert lines == [
        (
            "fairlead: error [gate]: n2: ended before its container stood (killed? out of memory? see "
            "slurmd's log)"
        )
    ]


def test_builder_that_hangs_waits_for_the_users_scancel_alone(tmp_path):
    with hanging("n2", tmp_path):
        step, engine = waiting()
        os.kill(parent(engine), signal.SIGSTOP)
        assert step.poll() is None
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        lines, status = ended(step)
    assert status != 0
    assert lines == []
    assert not engines()


def test_hub_that_is_killed_ends_the_step_with_one_line(tmp_path):
    with hanging("n2", tmp_path):
        step, _ = waiting()
        os.kill(hubs()[0], signal.SIGKILL)
        lines, status = ended(step)
    assert status in {125, 143}
    assert len(lines) == 1
    assert "error [gate]: lost srun's hub before" in lines[0]


def test_srun_that_is_killed_takes_its_hub_with_it(tmp_path):
    with hanging("n2", tmp_path):
        step, _ = waiting()
        step.kill()
        ended(step)
        jobs.wait_for(lambda: not hubs(), 60)
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        jobs.wait_for(lambda: not engines(), 90)


def test_node_without_the_plugin_is_missed(tmp_path):
    bed = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bed")
    subprocess.run([f"{bed}/cluster", "node-without-plugin", "n4"], check=True)
    try:
        result = srun(*FOUR, "echo", "ran", container=SMALL, FAIRLEAD_GATE_TIMEOUT="2")
    finally:
        subprocess.run([f"{bed}/cluster", "node-with-plugin", "n4"], check=True)
    assert result.returncode != 0
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if "fairlead:" in line]
    assert [line for line in lines if "execve" not in line] == [
        (
            "fairlead: error [gate]: n4: did not come within 2 s of the first node (is the plugin there, and "
            "is srun's host reachable from there? see gate_timeout)"
        )
    ]


def test_heterogeneous_step_goes_without_a_gate():
    one = ("-N2", f"--container={SMALL}", "sh", "-c", "echo $SLURMD_NODENAME")
    result = jobs.run("srun", *one, ":", *one)
    assert sorted(jobs.output(result).split()) == ["n1", "n2", "n3", "n4"]
    assert "fairlead" not in result.stderr


def test_hub_that_does_not_start_is_one_line(other_prefix):
    real = f"{installed_prefix()}/venv/bin/python"
    replace_engine(
        other_prefix, f'#!/bin/bash\nif [ "$4" = hub ]; then exit 1; fi\nexec {real} "$@"\n'
    )
    with prefix(other_prefix):
        result = srun("-N2", "echo", "ran", container=SMALL)
    assert result.returncode in {125, 143}
    assert re.fullmatch(
        r"fairlead: error \[gate\]: n1: cannot reach srun's hub at 127\.0\.0\.1, port \d+: Connection "
        r"refused \(is the port open to the nodes\? see SrunPortRange; FAIRLEAD_GATE=0 does without\)",
        refused(result),
    )


def test_without_a_gate_no_node_waits_for_another(tmp_path):
    with hanging("n2", tmp_path):
        step = jobs.start(
            "srun", *FOUR, f"--container={SMALL}", "sh", "-c", "echo $SLURMD_NODENAME",
            FAIRLEAD_GATE="0", FAIRLEAD_PLAN_CACHE="0",
        )  # fmt: skip
        assert sorted(step.stdout.readline().strip() for _ in range(3)) == ["n1", "n3", "n4"]
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        ended(step)


def test_hub_listens_in_the_sites_range_of_ports(tmp_path):
    place = f"/var/tmp/fairlead-gate-{os.getpid()}"
    os.mkdir(place)
    conf = f"{place}/slurm.conf"
    try:
        with (
            open(os.path.realpath("/etc/slurm/slurm.conf"), encoding="utf-8") as file,
            open(conf, "w", encoding="utf-8") as out,
        ):
            out.write(f"{file.read()}\nSrunPortRange=47100-47180\n")
        with hanging("n2", tmp_path):
            step, _ = waiting(SLURM_CONF=conf)
            port = listening(hubs()[0])
            jobs.run("scancel", "--user", jobs.USER.pw_name)
            ended(step)
    finally:
        os.unlink(conf)
        os.rmdir(place)
    assert 47100 <= port <= 47180


def listening(pid):
    """The port on which a process listens as descriptor 3."""
    inode = re.search(r"\d+", os.readlink(f"/proc/{pid}/fd/3")).group()
    for name in ("tcp6", "tcp"):
        with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if len(words) > 9 and words[9] == inode:
                    return int(words[1].rpartition(":")[2], 16)
    raise AssertionError("the hub does not listen")


def test_strangers_do_not_disturb_a_step(tmp_path):
    with hanging("n2", tmp_path):
        step, engine = waiting()
        port = listening(hubs()[0])
        for words in (b"ready 5 a\n", b"hello 1 " + b"0" * 64 + b" 1 n2 n2\n", os.urandom(5000)):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
                stranger.sendall(words)
                with contextlib.suppress(ConnectionError):
                    assert stranger.recv(10) == b""
        assert step.poll() is None
        os.kill(parent(engine), signal.SIGTERM)
        lines, _ = ended(step)
    assert lines == []  # a task that was told to end needs no line


@pytest.fixture
def slow_registry():
    """The bed's registry behind a line of 400 KB/s; its address."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(600)

    def copy(source, sink, pause_s):
        with contextlib.suppress(OSError):
            while data := source.recv(8192):
                time.sleep(pause_s)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                upstream = socket.create_connection(("127.0.0.1", 5000))
                for pair in ((client, upstream, 0.0), (upstream, client, 0.02)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    server.close()


def test_progress_is_one_line_for_the_job(slow_registry, tmp_path):
    image = f"{slow_registry}/demo/small:1"
    store = {"FAIRLEAD_STORE": f"/var/tmp/fairlead-gate-{os.getpid()}-%u"}
    master, terminal = pty.openpty()
    with plugin_words():
        plain = jobs.run("srun", *FOUR, f"--container={image}", "true", **store)
        quiet = jobs.run(
            "srun", "--quiet", "-N2", f"--container={image}", "true",
            FAIRLEAD_STORE=f"{store['FAIRLEAD_STORE']}-2",
        )  # fmt: skip
        shown = subprocess.Popen(
            ["srun", "-N2", f"--container={image}", "true"],
            preexec_fn=jobs.become_user, cwd=jobs.USER.pw_dir, stdin=subprocess.DEVNULL,
            env=jobs.environment(FAIRLEAD_STORE=f"{store['FAIRLEAD_STORE']}-3"), stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        assert shown.wait(120) == 0
    seen = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536):
            seen += data
    os.close(master)
    for suffix in ("", "-2", "-3"):
        place = store["FAIRLEAD_STORE"].replace("%u", str(jobs.USER.pw_uid)) + suffix
        subprocess.run(["rm", "-rf", "--", place], check=True)
    line = re.compile(r"image ready on \d/4 nodes, n\d: \d+ % of \d+ MB$")
    mine = [text for text in plain.stderr.splitlines() if "fairlead:" in text]
    assert plain.returncode == 0
    assert mine
    assert all(line.search(text) for text in mine), plain.stderr
    assert quiet.returncode == 0
    assert "fairlead" not in quiet.stderr
    text = seen.decode()
    assert re.search(r"\r\x1b\[Kfairlead: pulling \S+: image ready on \d/2 nodes, n\d: \d+ %", text)
    assert text.endswith("\r\x1b[K")
    assert text.count("\n") == 0


def test_report_names_the_slowest_node_of_each_phase():
    result = srun(*FOUR, "--container-report", "true", container=SMALL, FAIRLEAD_PLAN_CACHE="0")
    assert result.returncode == 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("fairlead:")]
    assert re.match(r"fairlead: start of step \d+\.0 on 4 nodes$", lines[0])
    shown = [
        re.match(r"fairlead:   (\w+) +([\d.]+)s +([\d.]+)s +([\d.]+)s  n[1-4]$", line)
        for line in lines[2:]
    ]
    assert all(shown), lines
    assert [match.group(1) for match in shown] == ["resolve", "inject", "mount", "prove", "exec"]
    for match in shown:
        low, middle, high = map(float, match.groups()[1:])
        assert low <= middle <= high


def test_report_of_one_node_and_of_a_kept_plan_as_json():
    name = f"{jobs.USER.pw_dir}/report.json"
    for _ in range(2):  # the second is from the kept plan
        result = srun("-N1", "--container-report=report.json", "true", container=SMALL)
        assert (result.returncode, result.stderr) == (0, "")
    with open(name, encoding="utf-8") as file:
        found = json.load(file)
    os.unlink(name)
    assert (found["format"], found["image"].partition("@")[0]) == (1, SMALL)
    assert found["nodes"][0]["kept"] is True
    assert set(found["phases"]) == {"mount", "exec"}
    assert set(found["phases"]["exec"]) == {"min", "median", "max", "slowest"}


def test_report_of_a_job_is_asked_for_once():
    shown = jobs.batch(
        "srun true; srun -N2 true", "-N2", f"--container={SMALL}", "--container-report=json"
    )
    reports = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert [len(report["nodes"]) for report in reports] == [2, 2]
    variable = srun("-N2", "true", container=SMALL, FAIRLEAD_REPORT="json")
    assert json.loads(variable.stderr)["step"] == 0


@pytest.mark.parametrize("option", ["--container-report=x", "--container-report=/tmp/"])
def test_report_of_another_form_is_refused(option):
    result = srun("-N1", option, "true", container=SMALL)
    assert result.returncode == 125
    assert result.stderr == (
        f"fairlead: error [usage]: {option}: neither json nor a file's name that ends with .json "
        "(write --container-report alone for a table)\n"
    )
