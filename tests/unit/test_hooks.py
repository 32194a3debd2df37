"""OCI hooks: files are read strictly, and only what the user said selects one."""

import json
import os

import plans
import pytest

from fairlead import errors
from fairlead.host import hooks, owned
from fairlead.plan import edits, oci
from fairlead.plan import hooks as plan_hooks
from fairlead.plan import plan as launch_plan
from fairlead.plan import request as launch

FILE = {
    "version": "1.0.0",
    "hook": {"path": "/opt/hook", "args": ["hook", "-x"], "env": ["A=1"], "timeout": 3},
    "when": {"always": True},
    "stages": ["createRuntime", "startContainer"],
}


def rule(**changes):
    return hooks.parse(json.dumps(FILE | changes).encode(), "h.json")


def test_file_gives_one_hook_for_each_stage():
    found = rule()
    assert found.when == hooks.When(always=True)
    assert found.hooks == tuple(
        hooks.Hook(stage, "/opt/hook", ("hook", "-x"), ("A=1",), 3, "h.json")
        for stage in ("createRuntime", "startContainer")
    )


def test_defaults_of_a_hook():
    found = rule(hook={"path": "/opt/hook"}).hooks[0]
    assert (found.args, found.env, found.timeout_s) == (("/opt/hook",), (), 30)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "0.1.0"}, "version: '0.1.0' is not 1.0.0"),
        ({"hook": {}}, "hook.path: missing"),
        ({"hook": {"path": "hook"}}, "hook.path: 'hook' is no absolute path"),
        ({"hook": {"path": "/h", "shell": True}}, "hook.shell: unknown field"),
        (
            {"hook": {"path": "/h", "timeout": 0}},
            "hook.timeout: 0 is not between 1 and 3600 seconds",
        ),
        ({"hook": {"path": "/h", "env": ["A"]}}, "hook.env: 'A' is not NAME=VALUE"),
        ({"stages": []}, "stages: names no stage"),
        (
            {"stages": ["later"]},
            "stages[0]: 'later' is not one of precreate, prestart, createRuntime,",
        ),
        ({"when": {}}, "when: names no condition"),
        ({"when": {"sometimes": True}}, "when.sometimes: unknown field"),
        ({"when": {"always": 1}}, "when.always: 1 is neither true nor false"),
        (
            {"when": {"commands": ["("]}},
            "when.commands[0]: '(' is no pattern: missing ), unterminated",
        ),
        ({"when": {"annotations": {"a": "["}}}, "when.annotations.a: '[' is no pattern:"),
        ({"when": {"annotations": ["a"]}}, "when.annotations: is no object"),
        ({"more": 1}, "more: unknown field"),
    ],
)
def test_what_breaks_the_schema_is_refused_with_its_place(changes, says):
    with pytest.raises(errors.HookError) as caught:
        rule(**changes)
    assert caught.value.line().startswith(f"error [hook]: h.json: {says}")


@pytest.mark.parametrize(
    ("when", "applies"),
    [
        ({"always": True}, True),
        ({"always": False}, False),
        ({"hasBindMounts": True}, True),
        ({"annotations": {"^com\\.hooks\\.ssh\\.enabled$": "^true$"}}, True),
        ({"annotations": {"^com\\.hooks\\.ssh\\.enabled$": "^false$"}}, False),
        ({"annotations": {"hooks": "true", "other": "."}}, False),
        ({"annotations": {"hooks": "true"}, "always": True}, True),
        ({"annotations": {"none": "true"}, "always": True}, False),
        ({"commands": ["app$", "other"]}, True),
        ({"commands": ["^app"]}, False),
        ({"commands": ["app$"], "always": False}, False),
    ],
)
def test_all_conditions_must_hold(when, applies):
    request = plans.request(
        annotations=(("com.hooks.ssh.enabled", "true"),), volumes=(launch.Volume("/a", "/b"),)
    )
    assert plan_hooks.applies(rule(when=when).when, request) is applies


def test_volumes_are_the_users_own():
    when = rule(when={"hasBindMounts": True}).when
    assert not plan_hooks.applies(when, plans.request())


def test_command_of_the_image_selects_nothing():
    """Row 18 of the attacks: an image that calls its entrypoint as a hook's pattern wants it."""
    when = rule(when={"commands": ["."]}).when
    assert not plan_hooks.applies(when, plans.request(command=(), use_entrypoint=True))


def test_labels_of_an_image_select_nothing():
    request = plans.request()
    chosen = plan_hooks.chosen((rule(when={"annotations": {"enabled": "true"}}),), request)
    plan = launch_plan.make(
        plans.source(labels=(("enabled", "true"),)),
        request,
        plans.FACTS,
        launch_plan.Injection(),
        edits.Edits(hooks=chosen),
    )
    assert plan.hooks == ()


@pytest.mark.parametrize("stage", ["poststart"])
def test_hook_for_a_moment_that_no_launch_has_is_refused_by_name(stage):
    with pytest.raises(errors.HookError) as caught:
        plan_hooks.check(rule(stages=[stage]).hooks)
    assert caught.value.line() == (
        f"error [hook]: h.json: /opt/hook cannot run at {stage}: {plan_hooks.IMPOSSIBLE[stage]} "
        "(ask the administrator to remove the stage from the hook)"
    )


def test_precreate_hook_is_no_part_of_the_configuration():
    """The runtime specification has no such stage: another runtime may refuse it."""
    chosen = rule(stages=["precreate", "poststop"]).hooks
    plan = launch_plan.make(
        plans.source(),
        plans.request(),
        plans.FACTS,
        launch_plan.Injection(),
        edits.Edits(hooks=chosen),
    )
    assert list(oci.config(plan, {})["hooks"]) == ["poststop"]


def test_files_come_by_name_and_later_directories_replace(tmp_path):
    tmp_path.chmod(0o755)
    for place, name, path in (
        ("a", "20-x.json", "/first"),
        ("a", "10-y.json", "/second"),
        ("a", "note.txt", "/third"),
        ("b", "20-x.json", "/later"),
    ):
        (tmp_path / place).mkdir(exist_ok=True, mode=0o755)
        file = tmp_path / place / name
        file.write_text(json.dumps(FILE | {"hook": {"path": path}, "stages": ["prestart"]}))
        file.chmod(0o644)
    root = owned.Root(str(tmp_path), os.getuid())
    found = hooks.read(("/a", "/none", "/b"), root)
    assert [each.hooks[0].path for each in found] == ["/second", "/later"]
    assert found[1].hooks[0].origin == "/b/20-x.json"


def test_annotation_with_a_control_character_is_refused():
    with pytest.raises(errors.UsageError) as caught:
        launch.check(plans.request(annotations=(("a", "b\nc"),)))
    assert caught.value.line() == (
        "error [usage]: annotation 'a': empty, or holds a control character (write NAME=VALUE)"
    )
