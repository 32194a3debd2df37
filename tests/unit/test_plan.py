"""The plan is a pure function of image, request, facts and injection."""

import json

import plans
import pytest

from fairlead import errors
from fairlead.plan import oci
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch


def test_same_input_same_plan():
    assert plans.make() == plans.make()


def test_entrypoint_is_off_unless_asked():
    plan = plans.make(entrypoint=("/entry",), cmd=("serve",))
    assert (plan.arguments, plan.command) == ((), ("./app",))


def test_entrypoint_goes_before_the_command_when_asked():
    plan = plans.make(request_=plans.request(use_entrypoint=True), entrypoint=("/entry", "-x"))
    assert (plan.arguments, plan.command) == (("/entry", "-x"), ("./app",))


def test_images_command_is_the_default_with_the_entrypoint():
    plan = plans.make(
        request_=plans.request(use_entrypoint=True, command=()), entrypoint=("/e",), cmd=("serve",)
    )
    assert (plan.arguments, plan.command) == (("/e",), ("serve",))


def test_entrypoint_can_be_replaced_or_emptied():
    given = plans.request(use_entrypoint=True, entrypoint=("/other",))
    assert plans.make(request_=given, entrypoint=("/entry",)).arguments == ("/other",)
    assert (
        plans.make(request_=given._replace(entrypoint=()), entrypoint=("/entry",)).arguments == ()
    )


def test_no_command_anywhere_is_an_error():
    with pytest.raises(errors.UsageError, match="no command of its own"):
        plans.make(request_=plans.request(command=(), use_entrypoint=True))


def test_multi_prog_step_has_no_command_in_its_plan():
    step = launch.Step("1", "0", 0, 1, 2, 2, multi_prog=True)
    assert plans.make(request_=plans.request(command=(), step=step)).command == ()


@pytest.mark.parametrize(
    ("asked", "image", "cwd", "expected"),
    [
        ("/asked", "/image", "/scratch/run", "/asked"),
        (None, "/image", "/scratch/run", "/image"),
        (None, "image/dir", "/scratch/run", "/image/dir"),
        (None, "/", "/scratch/run", "/scratch/run"),
        (None, "", "/scratch/run", "/scratch/run"),
        (None, "", "/usr/share", "/home/ada"),
        (None, "", "", "/home/ada"),
    ],
)
def test_working_directory(asked, image, cwd, expected):
    plan = plans.make(request_=plans.request(workdir=asked, cwd=cwd), workdir=image)
    assert plan.workdir == expected
    assert plan.workdir_reason
    assert plan.makes_workdir == (expected.startswith("/image"))


def test_images_user_is_ignored_with_a_word():
    assert "nginx" in plans.make(user="nginx").notes[0]
    assert plans.make(user="root").notes == ()
    assert plans.make(user="ada:ada").notes == ()


def test_injection_layer_lies_over_the_image():
    plan = plans.make(
        injection=launch_plan.Injection(
            "/store/inject", (("LD_LIBRARY_PATH", "/x"),), ("why",), ("how",)
        )
    )
    assert plan.layers == ("/store/inject", "/store/tree")
    assert "why" in plan.notes
    assert plan.mpi == ("how",)


def test_oci_form_is_a_runtime_configuration():
    plan = plans.make()
    spec = json.loads(json.dumps(oci.config(plan, {"SLURM_JOB_ID": "7", "PATH": "/host"})))
    assert spec["ociVersion"].startswith("1.")
    assert spec["process"]["args"] == ["./app"]
    assert spec["process"]["noNewPrivileges"] is True
    assert "SLURM_JOB_ID=7" in spec["process"]["env"]
    assert "PATH=/image/bin" in spec["process"]["env"]
    assert spec["linux"]["uidMappings"] == [{"containerID": 1000, "hostID": 1000, "size": 1}]
    private = {"optional", "strict", "dev"}
    assert not any(private & set(mount["options"]) for mount in spec["mounts"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mpi": "both"}, errors.UsageError),
        ({"workdir": "relative"}, errors.WorkdirError),
        ({"workdir": "/proc/self/fd/7"}, errors.WorkdirError),
        ({"workdir": "/a\nb"}, errors.WorkdirError),
        ({"volumes": (launch.Volume("/a", "/b/../../c"),)}, errors.UsageError),
        ({"volumes": (launch.Volume("/a", "/proc"),)}, errors.UsageError),
        ({"volumes": (launch.Volume("/a", "//proc/x"),)}, errors.UsageError),
        ({"volumes": (launch.Volume("/a", "/./dev"),)}, errors.UsageError),
        ({"volumes": (launch.Volume("rel", "/b"),)}, errors.UsageError),
        ({"variables": (("", "x"),)}, errors.UsageError),
    ],
)
def test_hostile_requests_are_refused(change, error):
    with pytest.raises(error) as caught:
        launch.check(plans.request(**change))
    assert "\n" not in caught.value.line()
