"""What the container sees of the host, and in which order."""

import plans
import pytest

from fairlead import errors
from fairlead.plan import mounts
from fairlead.plan import request as launch


def destinations(plan):
    return [mount.destination for mount in plan.mounts]


def test_kernel_trees_come_first_and_the_users_wishes_last():
    request = plans.request(volumes=(launch.Volume("/opt/host", "/etc/hosts"),))
    order = destinations(plans.make(request_=request))
    assert order[:3] == ["/proc", "/sys", "/dev"]
    assert order[-1] == "/etc/hosts"


def test_home_cwd_and_tmp_are_the_hosts():
    assert {"/home/ada", "/scratch/run", "/tmp", "/var/tmp"} <= set(destinations(plans.make()))


def test_home_can_be_left_out():
    assert "/home/ada" not in destinations(plans.make(request_=plans.request(mount_home=False)))


def test_home_that_is_left_out_does_not_come_in_as_the_jobs_directory():
    facts = plans.FACTS._replace(directories=plans.PLACES | {"/home/ada/run"})
    for cwd in ("/home/ada", "/home/ada/run"):
        request = plans.request(cwd=cwd, mount_home=False)
        plan = plans.make(facts_=facts, request_=request)
        assert not [path for path in destinations(plan) if path.startswith("/home")]
        assert plan.workdir == "/"


def test_cwd_below_home_is_not_bound_twice():
    facts = plans.FACTS._replace(directories=plans.PLACES | {"/home/ada/run"})
    plan = plans.make(facts_=facts, request_=plans.request(cwd="/home/ada/run"))
    assert "/home/ada/run" not in destinations(plan)
    assert plan.workdir == "/home/ada/run"


@pytest.mark.parametrize(
    "path", ["/", "/usr/share", "/etc", "/opt/host", "/lib", "/var/lib/x", "/var", "/usr"]
)
def test_cwd_never_hides_the_images_own_trees(path):
    assert not mounts.may_bind(path)


@pytest.mark.parametrize("path", ["/usrlocal", "/scratch", "/data/usr", "/optics"])
def test_forbidden_trees_are_compared_by_component(path):
    assert mounts.may_bind(path)


def test_pmix_directories_of_the_step_are_bound_at_their_own_paths():
    facts = plans.FACTS._replace(
        pmix=(
            ("/spool/pmix.1.0", "${PMIX_SERVER_TMPDIR}"),
            ("/fast/spmix_appdir_1000_1.0", "/fast/spmix_appdir_1000_${SLURM_JOB_ID}.0"),
        )
    )
    plan = plans.make(facts_=facts)
    assert {"/spool/pmix.1.0", "/fast/spmix_appdir_1000_1.0"} <= set(destinations(plan))


def test_passwd_names_the_user_once_and_keeps_the_images_entries():
    text = "root:x:0:0::/root:/bin/sh\nada:x:5:5::/:/bin/sh\nother:x:1000:1::/:/bin/sh\n"
    passwd = next(
        m for m in mounts.identity_files(plans.FACTS, text, "") if m.destination == "/etc/passwd"
    )
    assert passwd.source.splitlines() == [
        "ada:x:1000:1000::/home/ada:/bin/sh",
        "root:x:0:0::/root:/bin/sh",
    ]


def test_group_names_every_group_of_the_user():
    group = next(
        m
        for m in mounts.identity_files(plans.FACTS, "", "wheel:x:2000:\n")
        if m.destination == "/etc/group"
    )
    assert group.source.splitlines() == ["ada:x:1000:ada", "physics:x:2000:ada"]


def test_every_mount_has_a_reason():
    assert all(mount.reason for mount in plans.make().mounts)


def test_kernel_trees_refuse_an_images_symbolic_link():
    strict = {m.destination for m in plans.make().mounts if "strict" in m.options}
    assert strict == {"/proc", "/sys", "/dev"}


def test_devices_are_an_allow_list_with_numbers():
    devices = [m for m in plans.make().mounts if m.type == "device"]
    assert [(m.destination, m.options) for m in devices] == [
        ("/dev/null", ("1:3",)),
        ("/dev/ptmx", ("5:2",)),
    ]


def planned(*volumes):
    return plans.make(request_=plans.request(volumes=volumes)).mounts


def test_a_volume_says_whether_the_mounts_below_come_along():
    tree = planned(launch.Volume("/a", "/b", ("ro", "rbind")))[-1]
    shallow = planned(launch.Volume("/a", "/b", ("rw", "bind", "noexec")))[-1]
    assert (tree.type, tree.options) == ("bind", ("rbind", "ro"))
    assert (shallow.type, shallow.options) == ("bind", ("bind", "noexec"))


def test_a_tmpfs_is_mounted_where_it_was_asked_for():
    made = planned(launch.Volume("tmpfs", "/t", ("size=1m",), "tmpfs"))[-1]
    assert (made.destination, made.type, made.options) == ("/t", "tmpfs", ("size=1m",))


def test_umount_takes_away_what_was_to_be_mounted_there_and_below():
    away = launch.Volume("umount", "/dev/shm", (), "umount")
    assert "/dev/shm" not in [mount.destination for mount in planned(away)]
    several = (
        launch.Volume("/a", "/x"),
        launch.Volume("/b", "/x/y"),
        launch.Volume("/c", "/xy"),
        launch.Volume("umount", "/x/", (), "umount"),
        launch.Volume("/d", "/x"),
    )
    assert [mount.source for mount in planned(*several)][-2:] == ["/c", "/d"]


def test_umount_of_the_home_leaves_no_working_directory_there():
    away = launch.Volume("umount", "/scratch/run", (), "umount")
    plan = plans.make(request_=plans.request(volumes=(away,)))
    assert plan.workdir == "/home/ada"


def test_umount_where_nothing_is_mounted_is_an_error():
    away = launch.Volume("umount", "/usr", (), "umount", "--container-mounts")
    with pytest.raises(errors.MountError) as caught:
        planned(away)
    assert caught.value.line() == (
        "error [mount]: --container-mounts: umount:/usr: nothing is mounted there (leave it out)"
    )
