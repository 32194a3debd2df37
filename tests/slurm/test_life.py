"""How much is started, what is left, and how a step ends early."""

import contextlib
import os
import re
import time

import jobs
import psutil
import pytest
from installation import installed_prefix, prefix, replace_engine
from jobs import SMALL, output, srun

# Standard modules that cost a launch half a millisecond or more, with what they bring.
COSTLY = {"collections", "contextlib", "enum", "functools", "json", "re", "resource", "subprocess",
          "threading", "tomllib", "types", "typing", "urllib3"}  # fmt: skip


def processes_of_the_user():
    return {
        process.pid: (process.info["name"], process.info["cmdline"])
        for process in jobs.processes("cmdline", "uids", "status")
        if process.info["uids"]
        and process.info["uids"].real == jobs.USER.pw_uid
        and process.info["status"] != psutil.STATUS_ZOMBIE  # of a pid 1 that does not reap
    }


def host_mounts():
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def run_entries():
    return {os.path.join(path, name) for path, _, names in os.walk("/run") for name in names}


@contextlib.contextmanager
def sleeping_step(*options, seconds="60"):
    """A contained step whose tasks sleep; ended and waited for at the end."""
    process = jobs.start(
        "srun", f"--container={SMALL}", *options, "sh", "-c", f"echo up; exec sleep {seconds}"
    )
    try:
        assert process.stdout.readline() == "up\n"
        jobs.wait_for(lambda: "sleep" in {name for name, _ in processes_of_the_user().values()})
        jobs.wait_for(lambda: "sh" not in {name for name, _ in processes_of_the_user().values()})
        yield process
    finally:
        process.terminate()
        process.communicate()
        jobs.run("scancel", "--user", jobs.USER.pw_name)


def test_one_engine_start_per_node_and_step_and_none_per_task(other_prefix):
    log = f"{other_prefix}/starts"
    with open(log, "w", encoding="utf-8"):
        os.chmod(log, 0o666)
    replace_engine(
        other_prefix,
        f'#!/bin/sh\necho start >> {log}\nexec {installed_prefix()}/venv/bin/python "$@"\n',
    )
    with prefix(other_prefix):
        output(srun("-N2", "-n8", "true", container=SMALL, FAIRLEAD_RESOLVE="start"))
    with open(log, encoding="utf-8") as file:
        assert file.read().count("start") == 2


def test_engine_works_in_the_jobs_cgroup_on_all_its_cpus(other_prefix):
    log = f"{other_prefix}/engine"
    with open(log, "w", encoding="utf-8"):
        os.chmod(log, 0o666)
    replace_engine(
        other_prefix,
        f"#!/bin/sh\ncat /proc/self/cgroup >> {log}\ngrep -E 'Cpus_allowed_list|NoNewPrivs' /proc/self/status >> {log}\n"
        f'env >> {log}\nexec {installed_prefix()}/venv/bin/python "$@"\n',
    )
    with prefix(other_prefix):
        output(
            srun("--cpu-bind=map_cpu:0", "true", container=SMALL, LD_DEBUG="files", PYTHONHOME="/x")
        )
    with open(log, encoding="utf-8") as file:
        seen = file.read()
    assert re.search(r"/job_\d+/step_", seen), "not in the step's cgroup"
    assert f"Cpus_allowed_list:\t0-{os.cpu_count() - 1}\n" in seen
    assert "NoNewPrivs:\t1" in seen
    assert "LD_DEBUG" not in seen
    assert "PYTHONHOME" not in seen


@pytest.mark.parametrize("site", [True, False], ids=["shared store", "own store"])
def test_warm_step_loads_nothing_that_is_costly(other_prefix, site):
    """The launch path comes from one file, and what follows brings no further module of any weight."""
    log = f"{other_prefix}/imports"
    with open(log, "w", encoding="utf-8"):
        os.chmod(log, 0o666)
    replace_engine(
        other_prefix,
        f"""#!/bin/sh
exec {installed_prefix()}/venv/bin/python -X importtime "$@" 2>> {log}
""",
    )
    with prefix(other_prefix, site=site):
        output(srun("true", container=SMALL, FAIRLEAD_PULL="missing"))
        os.truncate(log, 0)
        output(srun("true", container=SMALL, FAIRLEAD_PULL="missing"))
    with open(log, encoding="utf-8") as file:
        loaded = {line.rpartition("|")[2].strip() for line in file if line.startswith("import")}
    assert "fairlead.run.step" in loaded
    assert loaded & COSTLY == set()


def test_nothing_is_left_once_the_application_runs():
    mounts, entries = host_mounts(), run_entries()
    with sleeping_step("-n2"):
        names = [name for name, _ in processes_of_the_user().values()]
        assert names.count("sleep") == 2
        assert set(names) <= {"srun", "sleep"}, names
        assert host_mounts() == mounts
        assert run_entries() == entries
    jobs.wait_for(lambda: not processes_of_the_user())


def test_no_descriptor_of_ours_reaches_the_application():
    with sleeping_step():
        pid = next(pid for pid, (name, _) in processes_of_the_user().items() if name == "sleep")
        targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not [
            target for target in targets if "memfd" in target or "ns" in target.split(":")[0]
        ], targets
        assert len(targets) == 3, targets


def test_no_zombie_and_no_child_of_ours_below_the_application():
    with sleeping_step():
        pid = next(pid for pid, (name, _) in processes_of_the_user().items() if name == "sleep")
        assert psutil.Process(pid).children() == []
        assert psutil.Process(pid).parent().name() == "slurmstepd"
        siblings = psutil.Process(pid).parent().children()
        assert not [child for child in siblings if child.status() == psutil.STATUS_ZOMBIE]


def test_scancel_ends_a_running_container_at_once():
    with sleeping_step() as process:
        begin = time.monotonic()
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        process.wait(timeout=20)
        assert time.monotonic() - begin < 10
    jobs.wait_for(lambda: not processes_of_the_user())


def test_signal_reaches_the_application_once():
    script = "trap 'echo got' USR1; echo up; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; done"
    process = jobs.start("srun", f"--container={SMALL}", "sh", "-c", script)
    assert process.stdout.readline() == "up\n"
    job = jobs.output(jobs.run("squeue", "-h", "-u", jobs.USER.pw_name, "-o", "%A")).split()[0]
    jobs.run("scancel", "--signal=USR1", f"{job}.0")
    shown, _ = process.communicate(timeout=30)
    assert shown.count("got") == 1


@pytest.fixture
def stuck_engine(other_prefix):
    """An engine that never answers: as one in the middle of a long pull."""
    replace_engine(other_prefix, "#!/bin/sh\nexec sleep 300\n")
    with prefix(other_prefix):
        yield


def test_step_can_be_cancelled_while_the_engine_works(stuck_engine):
    words = ("-N2", "-n4", f"--container={SMALL}", "true")
    process = jobs.start("srun", *words, FAIRLEAD_RESOLVE="start")
    jobs.wait_for(lambda: [1 for name, _ in processes_of_the_user().values() if name == "sleep"])
    begin = time.monotonic()
    jobs.run("scancel", "--user", jobs.USER.pw_name)
    process.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    jobs.wait_for(lambda: not processes_of_the_user(), 5)
    assert jobs.nodes_out_of_service() == []


def test_killed_builder_is_replaced_by_another_task(stuck_engine):
    """The elected task dies; its engine dies with it; the next task builds (and hangs likewise here)."""
    words = ("--no-kill", "-n2", f"--container={SMALL}", "true")
    process = jobs.start("srun", *words, FAIRLEAD_RESOLVE="start")
    try:
        engines = jobs.wait_for(
            lambda: [pid for pid, (name, _) in processes_of_the_user().items() if name == "sleep"]
        )
        builder = psutil.Process(engines[0]).ppid()
        os.kill(builder, 9)
        again = jobs.wait_for(
            lambda: [
                pid
                for pid, (name, _) in processes_of_the_user().items()
                if name == "sleep" and pid != engines[0]
            ],
            5,
        )
        assert psutil.Process(again[0]).ppid() != builder
        assert engines[0] not in processes_of_the_user()
    finally:
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        process.communicate(timeout=30)
