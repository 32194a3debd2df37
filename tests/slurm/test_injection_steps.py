"""The host's MPI comes into an image once per node: one injection for all users, made by the storekeeper."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess

import jobs
import pytest
from installation import installed_prefix
from jobs import MPICH, output
from test_plan_cache import counted, frozen
from test_shared_store import OTHER, SERVICE, as_other, root_store, site_store

HELLO = ("--mpi=pmi2", "-n2", "--nodelist=n1", "./hello_mpi")
WHOSE = re.compile(r"rank \d of 2 .*, (the host's MPI|the image's own MPI): (\S+), build-id (\w+)")


def places(user):
    """Where a user's own store has layers of the host's MPI."""
    return glob.glob(f"/var/tmp/fairlead-{user.pw_uid}.{user.pw_gid}/*/*/mpi-[0-9.]*")


def injections():
    """The node's injections, as files that can be told apart."""
    found = glob.glob(f"{site_store()}/injections/*.erofs")
    return {path: (os.stat(path).st_ino, os.stat(path).st_mtime_ns) for path in found}


def ranks(shown):
    found = WHOSE.findall(shown)
    assert len(found) == 2, shown
    return found


def forget():
    """Let no user have launched an image with MPI on this node."""
    for path in injections():
        os.unlink(path)
    for user in (jobs.USER, OTHER):
        let_grants_name_none(user)
        shutil.rmtree(f"/var/tmp/fairlead-plans-{user.pw_uid}", ignore_errors=True)
        for place in places(user):
            shutil.rmtree(place)


def let_grants_name_none(user):
    """Take the injections out of a user's grants, which stay: other tests go on from these."""
    for path in glob.glob(f"{site_store()}/grants/{user.pw_uid}/*"):
        times = os.stat(path)
        with open(path, encoding="ascii") as file:
            lines = [line for line in file if not line.startswith("injection ")]
        with open(path, "w", encoding="ascii") as file:
            file.writelines(lines)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def empty():
    forget()
    yield
    assert jobs.nodes_out_of_service() == []


def test_two_users_of_a_node_share_one_build(empty):
    first = ranks(output(jobs.srun(*HELLO, container=MPICH)))
    made = injections()
    assert len(made) == 1
    assert all(os.stat(path).st_uid == SERVICE for path in made)
    second = ranks(output(as_other("srun", f"--container={MPICH}", *HELLO)))
    assert injections() == made
    assert first == second
    assert {whose for whose, *_ in first} == {"the host's MPI"}
    assert places(jobs.USER) == places(OTHER) == []


def test_kept_plan_uses_the_injection_without_python(empty, other_prefix):
    with counted(other_prefix, site=True) as engine:
        image = frozen(MPICH)
        first = output(jobs.srun(*HELLO, container=image))
        engine.starts()
        (path,) = injections()
        os.utime(path, (1000, os.stat(path).st_mtime))
        again = output(jobs.srun(*HELLO, container=image))
        assert engine.starts() == 0
        assert sorted(ranks(again)) == sorted(ranks(first))
        assert os.stat(path).st_atime > 1000
        os.unlink(path)  # gone: the engine has another made
        assert ranks(output(jobs.srun(*HELLO, container=image)))
        assert engine.starts() == 2  # and a storekeeper
        assert list(injections()) == [path]


def test_installation_that_only_a_users_environment_leads_to_is_not_shared(empty):
    place = f"/srv/fairlead-own-mpi-{os.getpid()}"
    os.makedirs(place)
    for path in glob.glob("/usr/lib/x86_64-linux-gnu/libmpich*.so.12"):
        shutil.copy(path, place)
    os.chmod(place, 0o755)
    try:
        result = jobs.srun(*HELLO, container=MPICH, LD_LIBRARY_PATH=place)
    finally:
        shutil.rmtree(place)
    assert {whose for whose, *_ in ranks(output(result))} == {"the host's MPI"}
    assert injections() == {}
    assert places(jobs.USER)


def test_check_finds_a_damaged_injection_and_the_next_launch_replaces_it(empty):
    assert ranks(output(jobs.srun(*HELLO, container=MPICH)))
    (path,) = injections()
    os.chmod(path, 0o600)
    os.truncate(path, os.stat(path).st_size - 4096)
    shown = check()
    assert re.search(rf"damaged: {path}: has \d+ bytes instead of \d+", shown)
    assert ranks(output(jobs.srun(*HELLO, container=MPICH)))
    assert check() == ""


def check():
    command = [f"{installed_prefix()}/bin/fairlead", "store", "check"]
    environ = {"PATH": jobs.PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    return subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True).stdout


def test_gc_keeps_the_injection_of_a_living_job_and_takes_the_one_that_no_image_needs(empty):
    process = jobs.start(
        "srun", f"--container={MPICH}", "--mpi=pmi2", "sh", "-c", "echo up; exec sleep 60"
    )
    try:
        assert process.stdout.readline() == "up\n"
        items = [item for item in root_store("ls") if item["kind"] == "injection"]
        assert len(items) == 1
        assert items[0]["in_use_by"].startswith("job ")
        root_store("gc", "--all")
        assert len(injections()) == 1
    finally:
        jobs.run("scancel", "--user", jobs.USER.pw_name)
        process.communicate()
    jobs.wait_for(lambda: not jobs.run("squeue", "-h").stdout)
    let_grants_name_none(jobs.USER)
    removed = root_store("gc")["removed"]
    assert [item["kind"] for item in removed if item["name"] == items[0]["name"]] == ["injection"]
    assert injections() == {}
