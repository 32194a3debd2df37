"""The container's environment follows the rules of plan/env.py."""

from fairlead.plan import env


def changed(environ=None, image=(), injected=(), asked=()):
    return {v.name: v.value for v in env.changes(environ or {}, image, injected, asked, "ref")}


def test_image_value_wins_over_the_jobs():
    assert changed({"LANG": "de"}, (("LANG", "C"),))["LANG"] == "C"


def test_jobs_variables_that_the_image_does_not_name_are_untouched():
    assert "OMP_NUM_THREADS" not in changed({"OMP_NUM_THREADS": "4"})


def test_image_cannot_change_what_slurm_and_pmi_need():
    hostile = (
        ("SLURM_PROCID", "9"),
        ("PMI_FD", "1"),
        ("PMIX_RANK", "7"),
        ("PMI2_X", "1"),
        ("HOME", "/root"),
    )
    assert not {name for name, _ in hostile} & set(changed({}, hostile))


def test_path_is_the_images_or_the_usual_one_never_the_hosts():
    assert changed({"PATH": "/host"}, (("PATH", "/image"),))["PATH"] == "/image"
    assert changed({"PATH": "/host"})["PATH"] == env.DEFAULT_PATH


def test_loader_variables_of_the_host_are_dropped_unless_the_image_sets_them():
    host = {"LD_PRELOAD": "/host.so", "LD_LIBRARY_PATH": "/host", "BASH_ENV": "/host.sh"}
    assert changed(host)["LD_PRELOAD"] is None
    assert changed(host)["BASH_ENV"] is None
    assert changed(host, (("LD_LIBRARY_PATH", "/image/lib"),))["LD_LIBRARY_PATH"] == "/image/lib"


def test_what_the_injection_sets_wins_over_the_image():
    result = changed({}, (("OPAL_PREFIX", "/image"),), (("OPAL_PREFIX", "/host"),))
    assert result["OPAL_PREFIX"] == "/host"


def test_what_the_user_asks_for_wins_over_all():
    result = changed({"A": "job"}, (("A", "image"),), (("A", "mpi"),), (("A", "asked"),))
    assert result["A"] == "asked"


def test_every_change_has_a_reason():
    changes = env.changes({"ENV": "x"}, (("A", "1"),), (("B", "2"),), (("C", "3"),), "ref")
    assert all(change.reason for change in changes)


def test_what_relocates_an_mpi_of_the_host_does_not_reach_the_images_own():
    host = {"OPAL_PREFIX": "/opt/mpi", "UCX_MODULE_DIR": "/opt/ucx"}
    result = changed(host)
    assert result["OPAL_PREFIX"] is None
    assert result["UCX_MODULE_DIR"] is None
    assert changed(host, (), (("OPAL_PREFIX", "/opt/mpi"),))["OPAL_PREFIX"] == "/opt/mpi"
