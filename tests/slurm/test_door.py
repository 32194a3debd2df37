"""``--container`` on srun, sbatch and salloc: one sentence of the documentation, one test."""

import os

import jobs
import pytest
from jobs import MPI, SMALL, batch, output, srun

WHERE = 'echo "${FAIRLEAD_CONTAINER:-host}"'


def test_tasks_run_in_the_image_on_every_node_as_the_user():
    shown = output(
        srun(
            "-N2",
            "-n4",
            "sh",
            "-c",
            "cat /etc/image 2>/dev/null; id -u; ls /bin/busybox",
            container=SMALL,
        )
    )
    assert shown.count(f"{jobs.USER.pw_uid}\n") == 4
    assert shown.count("/bin/busybox\n") == 4


def test_container_none_is_the_host():
    assert output(srun("sh", "-c", WHERE, container="none")) == "host\n"


def test_srun_container_variable():
    assert SMALL in output(srun("sh", "-c", WHERE, SRUN_CONTAINER=SMALL))


def test_option_beats_the_variable():
    assert output(srun("sh", "-c", WHERE, container="none", SRUN_CONTAINER=SMALL)) == "host\n"


def test_help_shows_our_options():
    shown = jobs.run("srun", "--help").stdout
    for option in (
        "--container-mpi",
        "--container-workdir",
        "--container-entrypoint",
        "--container-batch",
    ):
        assert option in shown
    assert "Ignoring conflicting option" not in jobs.run("srun", "--help").stderr


def test_one_namespace_pair_per_node_and_step():
    command = "echo $SLURMD_NODENAME $(readlink /proc/self/ns/user) $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/net); sleep 1"  # at once: numbers are used again
    seen = {
        tuple(line.split())
        for line in output(srun("-N2", "-n6", "sh", "-c", command, container=SMALL)).splitlines()
    }
    assert len(seen) == 2
    assert len({user for _, user, _, _ in seen}) == 2
    assert {net for *_, net in seen} == {os.readlink("/proc/self/ns/net")}


def test_two_steps_of_a_job_do_not_share_a_namespace():
    step = "srun -n1 --overlap sh -c 'readlink /proc/self/ns/mnt; sleep 1'"  # at once: numbers are used again
    first, second = batch(f"{step} & {step}; wait", "-n2", f"--container={SMALL}").split()
    assert first != second


def test_batch_script_runs_on_the_host_and_its_steps_inherit():
    lines = batch(
        f"{WHERE}\nsrun sh -c '{WHERE}'\nsrun --container=none sh -c '{WHERE}'\n",
        f"--container={SMALL}",
    ).split()
    assert lines[0] == "host"
    assert lines[1].startswith(SMALL)
    assert lines[2] == "host"


def test_directive_in_the_script():
    assert batch(f"#SBATCH --container={SMALL}\nsrun sh -c '{WHERE}'\n").startswith(SMALL)


def test_sbatch_container_variable():
    assert batch(f"srun sh -c '{WHERE}'\n", SBATCH_CONTAINER=SMALL).startswith(SMALL)


def test_step_overrides_the_jobs_container_in_every_variable():
    shown = batch(
        f"srun --container={SMALL} sh -c '{WHERE}; echo $SLURM_CONTAINER'\n", f"--container={MPI}"
    )
    container, label = shown.split()
    assert container.startswith(f"{SMALL}@sha256:")
    assert label == container


def test_batch_script_inside():
    shown = batch(
        f"{WHERE}; test -e /bin/busybox && echo inside\n",
        f"--container={SMALL}",
        "--container-batch",
    )
    assert shown.split()[0].startswith(SMALL)
    assert "inside" in shown


def test_nothing_survives_in_the_environment_of_a_job_without_a_container():
    shown = batch("env | grep -c FAIRLEAD || true\n")
    assert shown.strip() == "0"


def test_export_none_keeps_the_container():
    assert SMALL in output(srun("--export=NONE", "/bin/sh", "-c", WHERE, container=SMALL))


def test_job_array_tasks_each_get_the_container():
    for index in ("1", "2"):
        shown = batch(
            f"srun sh -c 'echo \"$SLURM_ARRAY_TASK_ID {index}\"; {WHERE}'\n",
            f"--container={SMALL}",
            f"--array={index}",
        )
        assert f"{index} {index}" in shown
        assert SMALL in shown


def test_salloc_steps_inherit():
    result = jobs.run(
        "salloc", "-n2", f"--container={SMALL}", "sh", "-c", f"{WHERE}; srun sh -c '{WHERE}'"
    )
    lines = output(result).split()
    assert lines[0] == "host"
    assert len([line for line in lines[1:] if line.startswith(SMALL)]) == 2


def test_parallel_steps_of_one_job():
    script = "for i in 1 2 3; do srun -n1 --overlap sh -c 'echo $FAIRLEAD_CONTAINER' & done; wait\n"
    assert batch(script, "-n4", f"--container={SMALL}").count(SMALL) == 3


def test_pty_gives_a_terminal_inside():
    command = [
        "script",
        "-qec",
        f"srun --pty --container={SMALL} sh -c 'test -t 0 && tty && echo terminal'",
        "/dev/null",
    ]
    shown = output(jobs.run(*command, TERM="xterm"))
    assert "terminal" in shown
    assert "/dev/pts/" in shown


def test_multi_prog(tmp_path):
    conf = "/tmp/fairlead-multi.conf"
    with open(conf, "w", encoding="utf-8") as file:
        file.write("# comment\n0 sh -c 'echo zero $FAIRLEAD_CONTAINER'\n1-2 echo one %t %o\n")
    try:
        shown = output(srun("-n3", "--multi-prog", conf, container=SMALL))
    finally:
        os.unlink(conf)
    assert f"zero {SMALL}" in shown
    assert "one 1 0" in shown
    assert "one 2 1" in shown


def test_label_is_seen_by_squeue_and_scontrol():
    process = jobs.start("srun", f"--container={SMALL}", "sleep", "5")
    try:
        assert jobs.wait_for(lambda: SMALL in jobs.run("scontrol", "show", "step").stdout)
    finally:
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        process.communicate()


def test_exit_status_is_the_applications():
    assert srun("sh", "-c", "exit 42", container=SMALL).returncode == 42


def test_signal_of_the_application_is_told():
    assert srun("sh", "-c", "kill -SEGV $$", container=SMALL).returncode in (139, 11)


def test_stdin_and_stdout_are_the_tasks():
    result = jobs.run("sh", "-c", f"echo hello | srun --container={SMALL} cat")
    assert output(result) == "hello\n"


def test_task_prolog_runs_on_the_host_and_its_exports_arrive():
    prolog = "/tmp/fairlead-prolog"
    with open(prolog, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\ntest -e /usr/bin/apt-get && echo export FROM_PROLOG=host\n")
    os.chmod(prolog, 0o755)
    try:
        shown = output(
            srun(f"--task-prolog={prolog}", "sh", "-c", "echo $FROM_PROLOG", container=SMALL)
        )
    finally:
        os.unlink(prolog)
    assert shown == "host\n"


def test_entrypoint_is_off_unless_asked():
    image = f"{jobs.REGISTRY}/demo/entry:1"
    assert "entrypoint" not in output(srun("echo", "x", container=image))
    assert "entrypoint" in output(srun("--container-entrypoint", "echo", "x", container=image))


def test_cwd_above_the_images_trees_does_not_hide_them():
    assert "busybox" in output(srun("ls", "/bin", container=SMALL, cwd="/"))
    assert output(srun("sh", "-c", "ls /var/lib | wc -l", container=SMALL, cwd="/var")) == "0\n"


def test_working_directory():
    assert output(srun("pwd", container=SMALL)) == "/opt/demo\n"
    assert output(srun("--container-workdir=/bin", "pwd", container=SMALL)) == "/bin\n"
    assert output(srun("--chdir=/tmp", "pwd", container=SMALL)) == "/tmp\n"


def test_files_of_the_user_are_the_hosts():
    path = os.path.join(jobs.USER.pw_dir, "written-inside")
    try:
        output(srun("touch", path, container=SMALL))
        assert os.stat(path).st_uid == jobs.USER.pw_uid
    finally:
        os.unlink(path)


def test_affinity_of_the_task_is_slurms_not_the_engines():
    command = ("sh", "-c", "grep Cpus_allowed_list /proc/self/status")
    bare = output(srun("--cpu-bind=map_cpu:0", *command))
    assert output(srun("--cpu-bind=map_cpu:0", *command, container=SMALL)) == bare


@pytest.mark.parametrize("resource", ["n", "c", "s"])
def test_limits_of_the_task_are_the_users(resource):
    command = ("sh", "-c", f"ulimit -{resource}")
    assert output(srun(*command, container=SMALL)) == output(srun(*command))
