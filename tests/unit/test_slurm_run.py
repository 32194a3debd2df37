"""What ``fairlead slurm-run`` refuses, and what it makes of a task's words."""

import os

import pytest

from fairlead import config as settings
from fairlead.cli import main, slurm_run


@pytest.fixture
def user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def said(capfd, *words):
    status = main.main(["slurm-run", *words])
    return status, capfd.readouterr().err.splitlines()


def test_root_gets_no_container(capfd, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    status, lines = said(capfd, "--", "/none", "image", "true")
    assert status == 125
    assert lines[-1].startswith("fairlead: error [root]: containers do not run as root")


def test_task_without_a_command_is_one_line(capfd, user):
    assert said(capfd, "--", "/none", "image") == (
        125,
        ["fairlead: error [usage]: slurm-run: no command (RunTimeRun ends with %@)"],
    )


def test_environment_that_is_not_there_is_one_line(capfd, user):
    line = (
        "fairlead: error [slurm]: /none/e: cannot read the task's environment: No such file or directory "
        "(oci.conf takes CreateEnvFile=null, and '%e' in RunTimeRun)"
    )
    assert said(capfd, "--", "/none/e", "image", "true") == (125, [line])


@pytest.mark.parametrize("name", ["-v", "--help", "--verbose"])
def test_name_is_no_option(name):
    arguments = main.parser_for("slurm-run").parse_args(["--", "/e", name, "ls", "--", "-l"])
    assert (arguments.reference, arguments.command) == (name, ["ls", "--", "-l"])


def test_script_of_a_batch_job_is_bound_into_the_container(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    script = "/var/spool/slurmd/job00007/slurm_script"
    request, _ = slurm_run._request("image", (script,), settings.load({}))
    assert [(volume.source, volume.flags) for volume in request.volumes] == [(script, ("ro",))]
    assert not request.use_entrypoint
    request, _ = slurm_run._request("image", ("/bin/true",), settings.load({}))
    assert request.volumes == ()
