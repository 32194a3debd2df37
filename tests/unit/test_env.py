"""The container's environment follows the rules of plan/env.py."""

import pytest

from fairlead.plan import env


def changed(environ=None, image=(), injected=(), asked=(), **wishes):
    changes = env.changes(environ or {}, image, injected, asked, "ref", **wishes)
    return {change.name: change.value for change in changes}


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


def test_a_dropped_variable_is_the_images_or_nothing():
    host = {"LANG": "de", "LC_ALL": "de"}
    made = changed(host, (("LANG", "C"),), dropped=("LANG", "LC_ALL", "LANGUAGE"))
    assert (made["LANG"], made["LC_ALL"]) == ("C", None)
    assert "LANGUAGE" not in made


def test_a_kept_variable_of_the_host_beats_the_image():
    host = {"A": "host", "PATH": "/host", "LD_LIBRARY_PATH": "/lib", "LANG": "de"}
    image = (("A", "image"), ("PATH", "/image"), ("B", "image"))
    made = changed(host, image, dropped=("LANG",), kept=(*host, "B"))
    assert made.keys() & host.keys() == {"PATH"}
    assert (made["PATH"], made["B"]) == ("/host", "image")


def test_a_kept_preload_stays_before_what_the_world_check_needs():
    made = changed(
        {"LD_PRELOAD": "/mine.so"}, (), (("LD_PRELOAD", "/ours.so"),), kept=("LD_PRELOAD",)
    )
    assert made["LD_PRELOAD"] == "/mine.so:/ours.so"


PYTORCH = (("PYTORCH_VERSION", "2.1"),)
STEP = {"SLURM_STEP_NODELIST": "rack[1-2]n[03-04],x", "SLURM_JOB_ID": "4537"}


def pytorch(environ, image):
    return {v.name: (v.value, v.task) for v in env.for_pytorch(environ, image)}


def test_pytorch_learns_of_its_ranks_from_slurm():
    assert pytorch(STEP, PYTORCH) == {
        "RANK": ("${SLURM_PROCID}", True),
        "LOCAL_RANK": ("${SLURM_LOCALID}", True),
        "WORLD_SIZE": ("${SLURM_NTASKS}", True),
        "MASTER_ADDR": ("rack1n03", False),
        "MASTER_PORT": ("61001", False),
    }


def test_pytorch_variables_of_the_job_stay_but_for_the_ranks_own():
    given = {"MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "9", "RANK": "9"}
    assert set(pytorch({**STEP, **given}, PYTORCH)) == {"RANK", "LOCAL_RANK"}


def test_without_pytorch_in_the_image_nothing_is_mapped():
    assert pytorch(STEP, ()) == {}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("n1", "n1"),
        ("n[1-4]", "n1"),
        ("n[07,1-4]", "n07"),
        ("a,b", "a"),
        ("r[1-2]n[3-4]x,b[1-2]", "r1n3x"),
        ("", ""),
    ],
)
def test_first_host_of_slurms_list(text, first):
    assert env.first_host(text) == first
