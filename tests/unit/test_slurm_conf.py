"""The second PMIx directory is found through Slurm's own configuration."""

import os

import pytest

from fairlead.host import facts, slurm


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TmpFS=/scratch/%n", "/scratch/%n"),
        ("ClusterName=x tmpfs=/a # TmpFS=/b", "/a"),
        ("# TmpFS=/b\n", ""),
        ('TmpFS="/a"\nTmpFS=/c\n', "/c"),
        ("XTmpFS=/a", ""),
    ],
)
def test_key_of_a_slurm_configuration(tmp_path, text, value):
    (tmp_path / "slurm.conf").write_text(text)
    assert slurm.setting(str(tmp_path / "slurm.conf"), "TmpFS") == value


def environment(tmp_path, conf):
    (tmp_path / "slurm.conf").write_text(conf)
    server = tmp_path / "pmix.7.0"
    server.mkdir()
    return {
        "SLURM_CONF": str(tmp_path / "slurm.conf"),
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURMD_NODENAME": "n1",
        "PMIX_SERVER_TMPDIR": f"{server}/",
        "PMIX_DSTORE_21_BASE_PATH": "/gone",
    }


def test_directory_outside_tmp_is_found(tmp_path):
    environ = environment(tmp_path, f"TmpFS={tmp_path}/%n")
    client = tmp_path / f"n1/spmix_appdir_{os.getuid()}_7.0"
    client.mkdir(parents=True)
    assert facts.pmix_directories(environ) == (
        (
            str(client),
            f"{tmp_path}/n1/spmix_appdir_{os.getuid()}_${{SLURM_JOB_ID}}.${{SLURM_STEP_ID}}",
        ),
        (str(tmp_path / "pmix.7.0"), "${PMIX_SERVER_TMPDIR}"),
    )


def test_mpi_conf_comes_before_slurm_conf(tmp_path):
    environ = environment(tmp_path, f"TmpFS={tmp_path}/a")
    (tmp_path / "mpi.conf").write_text(f"PMIxCliTmpDirBase={tmp_path}/b\n")
    for name in "ab":
        (tmp_path / name / f"spmix_appdir_{os.getuid()}_7.0").mkdir(parents=True)
    assert facts.pmix_directories(environ)[0].path.startswith(f"{tmp_path}/b/")


def test_step_without_pmix_has_none():
    assert slurm.pmix_client_templates({"SLURM_JOB_ID": "7"}) == ()
    assert facts.pmix_directories({"SLURM_JOB_ID": "7"}) == ()
