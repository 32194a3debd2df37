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


CONTROL = "too long, or holds a control character (choose another path)"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"mpi": "both"}, "[usage]: mpi mode 'both': not one of auto, host, image (use --container-mpi=auto|host|image)"),
        ({"workdir": "relative"}, "[workdir]: working directory 'relative': not an absolute path (write it from /)"),
        *(
            ({"workdir": path}, f"[workdir]: {path}: /proc, /sys and /dev cannot be a working directory (choose another with --container-workdir (or fairlead run --workdir))")
            for path in ("/proc/self/fd/7", "/proc", "/sys/class", "/dev")
        ),
        ({"workdir": "/a\nb"}, rf"[workdir]: working directory '/a\nb': {CONTROL}"),
        ({"workdir": "/" + "a" * 4000}, f"[workdir]: working directory '/{'a' * 79}': {CONTROL}"),
        ({"volumes": (launch.Volume("/a", "/b/../../c"),)}, "[usage]: --volume: destination '/b/../../c': holds '..' (write the plain path)"),
        *(
            ({"volumes": (launch.Volume("/a", path),)}, f"[usage]: --volume: destination '{path}': cannot be replaced (choose another)")
            for path in ("/proc", "//proc/x", "/./dev", "/sys/fs", "/")
        ),
        ({"volumes": (launch.Volume("rel", "/b"),)}, "[usage]: --volume: source 'rel': not an absolute path (write it from /)"),
        ({"volumes": (launch.Volume("/a", "b"),)}, "[usage]: --volume: destination 'b': not an absolute path (write it from /)"),
        ({"volumes": (launch.Volume("/a", "/b\x7f"),)}, rf"[usage]: --volume: destination '/b\x7f': {CONTROL}"),
        ({"volumes": (launch.Volume("/a\x00", "/b"),)}, rf"[usage]: --volume: source '/a\x00': {CONTROL}"),
        ({"variables": (("", "x"),)}, "[usage]: environment variable '': not a name (write NAME=VALUE)"),
        ({"variables": (("A=B", "x"),)}, "[usage]: environment variable 'A=B': not a name (write NAME=VALUE)"),
        ({"gpu": "some"}, "[usage]: GPUs 'some': not one of auto, all, none (use --container-gpu)"),
        ({"annotations": (("", "x"),)}, "[usage]: annotation '': empty, or holds a control character (write NAME=VALUE)"),
        ({"annotations": (("a", "x\ny"),)}, "[usage]: annotation 'a': empty, or holds a control character (write NAME=VALUE)"),
    ],
)  # fmt: skip
def test_hostile_requests_are_refused(change, line):
    with pytest.raises(errors.Error) as caught:
        launch.check(plans.request(**change))
    assert caught.value.line() == f"error {line}"
