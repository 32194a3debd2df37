"""What is found of Slurm's client programs on a host, and what a container gets of it."""

import os
import pwd

import plans
import pytest

from fairlead import errors
from fairlead.host import clients, witness
from fairlead.plan import clients as plan_clients
from fairlead.plan import mounts, plan

FOUND = clients.Clients(
    programs=("srun", "sinfo"),
    directory="/opt/slurm/bin",
    loader="/usr/lib/ld.so",
    libraries=("/usr/lib", "/opt/slurm/lib"),
    configuration="/run/slurm/conf/slurm.conf",
    paths=(
        "/opt/slurm/lib/slurm",
        "/run/slurm/conf/slurm.conf",
        "/etc/plugstack.conf",
        "/opt/fairlead/lib/fairlead/spank_fairlead.so",
        "/run/munge",
    ),
    accounts=("slurm:x:64030:64030::/:/usr/sbin/nologin",),
    seen=(),
)


@pytest.fixture
def host(tmp_path):
    """A host whose srun is this test's own: a copy of a program that any host has."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("srun", "sinfo", "other"):
        os.symlink(os.path.realpath("/usr/bin/env"), bin_ / name)
    etc = tmp_path / "etc"
    (etc / "plugstack.conf.d").mkdir(parents=True)
    (etc / "slurm.conf").write_text(f"PluginDir={tmp_path}/plugins\nSlurmUser=0\n")
    (etc / "plugstack.conf").write_text("# one\ninclude plugstack.conf.d/*.conf\n")
    (etc / "plugstack.conf.d/a.conf").write_text("required /opt/a/a.so x=/y\noptional b.so\n")
    return tmp_path, {"PATH": f"relative:{bin_}:/usr/bin", "SLURM_CONF": str(etc / "slurm.conf")}


def test_programs_configuration_plugins_and_libraries_are_found(host):
    place, environ = host
    found = clients.find(environ)
    assert found.directory == os.path.dirname(os.path.realpath("/usr/bin/env"))
    assert os.path.isfile(found.loader)
    assert any(os.path.exists(f"{path}/libc.so.6") for path in found.libraries)
    assert found.paths[:5] == (
        f"{place}/plugins",
        f"{place}/etc/slurm.conf",
        f"{place}/etc/plugstack.conf",
        f"{place}/etc/plugstack.conf.d/a.conf",
        "/opt/a/a.so",
    )
    assert found.accounts == (f"{pwd.getpwuid(0).pw_name}:x:0:0::/:/usr/sbin/nologin",)


@pytest.mark.parametrize(
    "path",
    [
        "bin/srun",
        "etc/slurm.conf",
        "etc/plugstack.conf",
        "etc/plugstack.conf.d",
        "etc/plugstack.conf.d/a.conf",
    ],
)
def test_everything_that_was_read_is_witnessed(host, path):
    place, environ = host
    assert witness.file(f"{place}/{path}") in clients.find(environ).seen


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"PATH": "/nonexistent"}, "srun is not in the job's PATH"),
        ({"SLURM_CONF": "/nonexistent/slurm.conf"}, "/nonexistent/slurm.conf is not there"),
    ],
)
def test_host_without_clients_is_one_line(host, changes, line):
    with pytest.raises(errors.SlurmError, match="Slurm's client programs") as caught:
        clients.find({**host[1], **changes})
    assert line in caught.value.line()


def test_wrapper_script_is_no_program(host):
    place, environ = host
    (place / "bin/srun").unlink()
    (place / "bin/srun").write_text("#!/bin/sh\n")
    (place / "bin/srun").chmod(0o755)
    with pytest.raises(errors.SlurmError, match="is no program of this machine"):
        clients.find(environ)


def test_container_gets_everything_read_only_and_by_the_names_that_are_looked_for():
    made = plan_clients.brought(FOUND, "/opt/fairlead/hosted", {})
    assert {(mount.source, mount.destination) for mount in made.mounts} == {
        ("/usr/lib/ld.so", "/.fairlead/slurm/loader"),
        ("/usr/lib", "/.fairlead/slurm/lib/0"),
        ("/opt/slurm/lib", "/.fairlead/slurm/lib/1"),
        ("/opt/slurm/bin", "/.fairlead/slurm/bin"),
        ("/opt/slurm/lib/slurm", "/opt/slurm/lib/slurm"),
        ("/run/slurm/conf", "/run/slurm/conf"),
        ("/etc/plugstack.conf", "/etc/plugstack.conf"),
        ("/opt/fairlead/lib/fairlead", "/opt/fairlead/lib/fairlead"),
        ("/run/munge", "/run/munge"),
        ("/opt/fairlead/hosted", "/usr/bin/srun"),
        ("/opt/fairlead/hosted", "/usr/bin/sinfo"),
    }
    assert {mount.options for mount in made.mounts} == {("rbind", "ro")}


@pytest.mark.parametrize("given", [None, "30", plan_clients.SEAL_VALUE])
def test_seal_keeps_what_the_user_set(given):
    environ = {} if given is None else {"SLURM_WAIT": given}
    made = plan_clients.brought(FOUND, "/x", environ)
    values = {variable.name: variable.value for variable in made.variables}
    assert values["SLURM_WAIT"] == plan_clients.SEAL_VALUE
    assert values["SLURM_CONF"] == FOUND.configuration
    assert values.get("SLURM_FAIRLEAD_WAIT") == ("30" if given == "30" else None)


def test_seal_is_the_plugins_own():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(f"{root}/spank_shim/seal.h", encoding="utf-8") as file:
        header = file.read()
    for name, value in (
        ("SEAL_VARIABLE", plan_clients.SEAL),
        ("SEAL_VALUE", plan_clients.SEAL_VALUE),
        ("SEAL_VARIABLE_SAVED", plan_clients.SAVED),
    ):
        assert f'#define {name} "{value}"' in header


def test_starter_knows_as_many_directories_as_the_plan_names():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(f"{root}/spank_shim/hosted.c", encoding="utf-8") as file:
        text = file.read()
    assert f'#define ROOT "{plan_clients.ROOT}"' in text
    assert text.count('LIB("') == plan_clients.MAX_LIBRARIES
    many = FOUND._replace(libraries=tuple(f"/lib/{n}" for n in range(9)))
    with pytest.raises(errors.SlurmError, match="9 directories, at most 8"):
        plan_clients.brought(many, "/x", {})


def test_accounts_of_slurm_are_the_hosts_whatever_the_image_says():
    image = "root:x:0:0::/root:/bin/sh\nslurm:x:7:7::/:/bin/false\nother:x:64030:1::/:/bin/sh\n"
    accounts = (*FOUND.accounts, "root:x:0:0::/:/usr/sbin/nologin")
    files = mounts.identity_files(plans.FACTS, image, "", accounts)
    passwd = next(mount.source for mount in files if mount.destination == "/etc/passwd")
    assert [line.split(":")[:3:2] for line in passwd.splitlines()] == [
        ["ada", "1000"],
        ["slurm", "64030"],
        ["root", "0"],
    ]
    assert "root:x:0:0::/root:/bin/sh" in passwd  # as the image has it


def test_plan_with_clients_has_their_mounts():
    made = plan_clients.brought(FOUND, "/opt/fairlead/hosted", {})
    result = plan.make(plans.source(), plans.request(), plans.FACTS, plan.Injection(), made)
    assert "/usr/bin/srun" in {mount.destination for mount in result.mounts}


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"remap_root": True}, "--container-remap-root"),
        ({"unshare": ("net",)}, "--container-unshare=net"),
    ],
)
def test_what_would_not_work_together_is_refused(changes, option):
    from fairlead.plan import request

    request.check(plans.request(**changes))
    with pytest.raises(errors.UsageError, match=option):
        request.check(plans.request(slurm_inside=True, **changes))
