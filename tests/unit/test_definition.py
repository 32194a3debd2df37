"""What an environment file asks for becomes the request; what the door was told beats it."""

import types

import pytest

from fairlead import config, errors
from fairlead.host import witness
from fairlead.image import edf, reference
from fairlead.plan import definition as definitions
from fairlead.plan import env
from fairlead.plan import request as launch
from fairlead.run import environment, step

REQUEST = launch.Request("", ("./app",), {"HOME": "/h"}, "/work/dir", use_entrypoint=True)
FILE = "/e/x.toml"


def under(told=(), request=REQUEST, **values):
    values = {"image": edf.Text("debian:12", f"{FILE}:1")} | values
    return definitions.under(request, edf.Definition("x", (FILE,), **values), frozenset(told))


def texts(*values):
    return tuple(edf.Text(value, f"{FILE}:{n}") for n, value in enumerate(values, 2))


def annotations(**values):
    entries = ((name.replace("__", "."), value) for name, value in values.items())
    return tuple(edf.Entry(name, value, f"{FILE}:9") for name, value in entries)


def test_scalars_and_lists_arrive():
    asked = under(
        workdir=edf.Text("./sub", f"{FILE}:2"),
        entrypoint=edf.Flag(True, f"{FILE}:3"),
        writable=edf.Flag(False, f"{FILE}:4"),
        devices=texts("/dev/x"),
        env=(edf.Entry("A", "${B}", f"{FILE}:5"),),
        annotations=annotations(a__b="c"),
    )
    assert asked.reference == "debian:12"
    assert (asked.workdir, asked.use_entrypoint, asked.writable) == ("/work/dir/sub", True, False)
    assert asked.devices == ("/dev/x",)
    assert asked.templates == (("A", "${B}", f"{FILE}:5"),)
    assert asked.annotations == (("a.b", "c"),)


def test_entrypoint_is_off_where_the_file_says_nothing():
    assert not under().use_entrypoint
    assert under(["entrypoint"]).use_entrypoint


def test_what_the_door_was_told_beats_the_file():
    request = REQUEST._replace(reference="mine:1", workdir="/mine", mpi="auto")
    asked = under(
        ["image", "workdir", "writable", "mpi", "entrypoint"],
        request,
        workdir=edf.Text("/file", ""),
        writable=edf.Flag(False, ""),
        annotations=annotations(com__hooks__mpi__enabled="true"),
    )
    assert (asked.reference, asked.workdir, asked.mpi) == ("mine:1", "/mine", "auto")
    assert asked.writable


def test_mounts_of_the_file_come_before_the_command_lines():
    mine = launch.Volume("/m", "/m")
    asked = under(
        request=REQUEST._replace(volumes=(mine,)),
        mounts=texts("/a:/b", "./c:/d:ro", "/x.sqsh:/x:sqsh"),
    )
    assert asked.volumes == (
        launch.Volume("/a", "/b", (), "bind", f"{FILE}:2"),
        launch.Volume("/work/dir/c", "/d", ("ro",), "bind", f"{FILE}:3"),
        launch.Volume("/x.sqsh", "/x", (), "image", f"{FILE}:4"),
        mine,
    )


@pytest.mark.parametrize(
    ("value", "mode"), [("true", "host"), ("TRUE", "host"), ("false", "image"), (None, "auto")]
)
def test_mpi_hook_chooses_whose_mpi_runs(value, mode):
    given = annotations(com__hooks__mpi__enabled=value) if value else ()
    assert under(annotations=given).mpi == mode


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"mounts": texts("/a:")},
            "error [edf]: /e/x.toml:2: '/a:' has no destination (write SRC[:DST[:FLAG+FLAG]],...)",
        ),
        (
            {"mounts": texts(":/a")},
            "error [edf]: /e/x.toml:2: ':/a' has no source (write SRC[:DST[:FLAG+FLAG]],...)",
        ),
        (
            {"mounts": texts("/a:/b:ro+suid")},
            "error [edf]: /e/x.toml:2: '/a:/b:ro+suid' flag 'suid': a container gives nobody further rights (leave it out)",
        ),
        (
            {"mounts": texts("data:/b")},
            "error [edf]: /e/x.toml:2: 'data:/b' has a source that is no path, tmpfs or umount (begin it with / or ./)",
        ),
        (
            {"annotations": annotations(com__hooks__mpi__enabled="maybe")},
            'error [edf]: /e/x.toml:9: annotation com.hooks.mpi.enabled: \'maybe\' is neither true nor false (write "true" or "false")',
        ),
        ({"image": None}, 'error [edf]: /e/x.toml: names no image (add image = "...")'),
    ],
)
def test_each_mistake_has_one_line(values, line):
    with pytest.raises(errors.EdfError) as caught:
        under(**values)
    assert caught.value.line() == line


def test_annotations_that_nothing_acts_on_are_told_once():
    given = (
        *annotations(com__hooks__ssh__enabled="true", com__hooks__dcgm__enabled="false"),
        *annotations(com__hooks__cxi__enabled="true", com__hooks__new__thing="x", other="y"),
        *annotations(com__hooks__netstack__provider="x"),
    )
    assert under(annotations=given).notes == (
        "nothing acts on these annotations but a hook of the site: com.hooks.ssh.enabled (/e/x.toml:9), com.hooks.new.thing (/e/x.toml:9)",
    )
    assert under().notes == ()


# -- variables -------------------------------------------------------------------------------------


def changed(*templates, environ=None, image=(), asked=(), injected=()):
    before = env.changes(environ or {}, image, injected, asked, "ref")
    names = frozenset(name for name, _ in asked)
    after = definitions.variables(
        before,
        environ or {},
        tuple((name, text, f"{FILE}:1") for name, text in templates),
        names,
        dict(injected).get("LD_PRELOAD"),
    )
    return {variable.name: variable.value for variable in after}


def test_variable_of_the_image_is_known_and_beats_the_hosts():
    image = (("PATH", "/image"), ("A", "image"))
    got = changed(
        ("PATH", "${PATH}:/x"), ("B", "${A}${C}"), image=image, environ={"A": "1", "C": "2"}
    )
    assert (got["PATH"], got["B"]) == ("/image:/x", "image2")


def test_file_beats_the_image_and_the_command_line_the_file():
    got = changed(("A", "file"), ("B", "file"), image=(("A", "image"),), asked=(("B", "mine"),))
    assert (got["A"], got["B"]) == ("file", "mine")


def test_empty_value_unsets():
    assert changed(("A", ""), ("B", "${NONE:-}"), image=(("A", "image"),)) == {
        "PATH": env.DEFAULT_PATH, "FAIRLEAD_CONTAINER": "ref", "A": None, "B": "",
    }  # fmt: skip


def test_entries_do_not_see_one_another():
    assert changed(("A", "new"), ("B", "${A}"), environ={"A": "old"})["B"] == "old"
    with pytest.raises(errors.EdfError) as caught:
        changed(("A", "new"), ("B", "${A}"))
    assert caught.value.line() == (
        "error [edf]: /e/x.toml:1: the variable A is not defined (set it, or write ${A:-default})"
    )


def test_hosts_library_path_stays_outside():
    got = changed(
        ("LD_LIBRARY_PATH", "/x:${LD_LIBRARY_PATH}"), environ={"LD_LIBRARY_PATH": "/host"}
    )
    assert got["LD_LIBRARY_PATH"] == "/x:"


def test_what_the_mpi_needs_in_ld_preload_stays():
    ours = (("LD_PRELOAD", "/ours.so"),)
    assert changed(("LD_PRELOAD", "/mine.so"), injected=ours)["LD_PRELOAD"] == "/mine.so:/ours.so"
    assert changed(("LD_PRELOAD", ""), injected=ours)["LD_PRELOAD"] == "/ours.so"


# -- doors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("edf:pytorch", "pytorch"), ("edf:./x", "./x"), ("x.toml", "./x.toml"),
        ("/a/x.toml", "/a/x.toml"), ("debian:12", None), ("docker://q.io/x.toml", None),
        ("q.io:5000/x.toml", None), ("q.io#x.toml", None), ("x.sqsh", None), ("", None),
    ],
)  # fmt: skip
def test_reference_that_names_an_environment_file(text, name):
    assert reference.environment(text) == name


def settings(**changes):
    return config.load({"HOME": "/nowhere"}, site_file="/nonexistent").override("x", **changes)


def job(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    return witness.Environment({"HOME": str(tmp_path), "IMAGE": "debian:12", "UNUSED": "1"})


def test_step_with_an_environment_file(tmp_path):
    environ = job(tmp_path, 'image = "${IMAGE}"\n[annotations]\ncom.hooks.mpi.type = "mpich-4"\n')
    facts = {"ref": "edf:./x", "cwd": str(tmp_path), "mpi": "host"}
    request, changed = step.launch_from(facts, environ, settings())
    assert (request.reference, request.mpi) == ("debian:12", "host")
    assert changed.mpi_profile == "mpich-4"
    assert changed.origins["mpi_profile"] == f"annotation com.hooks.mpi.type ({tmp_path}/x.toml:3)"
    both = {"ref": "mine:1", "environment": "./x", "cwd": str(tmp_path)}
    assert step.launch_from(both, environ, settings())[0].reference == "mine:1"


def test_everything_that_was_looked_at_is_witnessed(tmp_path):
    environ = job(tmp_path, 'base_environment = "./b"\nimage = "${IMAGE}"\n')
    (tmp_path / "b.toml").write_text("")
    request = launch.Request("", (), environ, str(tmp_path))
    applied, _ = environment.applied(request, settings(), "./x", frozenset())
    assert {seen.path for seen in applied.seen} == {f"{tmp_path}/x.toml", f"{tmp_path}/b.toml"}
    assert environ.asked == {"IMAGE": "debian:12"}
    missing, _ = environment.applied(request, settings(), f"{tmp_path}/x", frozenset())
    assert missing.reference == "debian:12"
    (tmp_path / ".edf").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "two/x.toml").write_text('image = "a"\n')
    environ = witness.Environment({"EDF_PATH": f"{tmp_path}/.edf:{tmp_path}/two"})
    request = launch.Request("", (), environ, str(tmp_path))
    found = environment.applied(request, settings(), "x", frozenset())[0].seen
    assert [seen.text == "absent" for seen in found] == [True, False]


def test_image_that_is_an_environment_file_again_is_refused(tmp_path):
    environ = job(tmp_path, 'image = "./x.toml"\n')
    request = launch.Request("", (), environ, str(tmp_path))
    with pytest.raises(errors.EdfError) as caught:
        environment.applied(request, settings(), "./x", frozenset())
    assert caught.value.line().replace(str(tmp_path), "~") == (
        "error [edf]: ~/x.toml:1: image names an environment file (inherit it with base_environment)"
    )


def test_gpus_of_the_file_are_asked_for():
    from fairlead.run import launch as prepare

    image = types.SimpleNamespace(config=types.SimpleNamespace(env=()))

    def wish(*templates, **more):
        return prepare.wish(REQUEST._replace(templates=templates, **more), image, settings())

    asked = ("NVIDIA_VISIBLE_DEVICES", "0,1", "x:1")
    assert wish() is None
    assert wish(asked).which == ("0", "1")
    assert wish(asked, variables=(("NVIDIA_VISIBLE_DEVICES", "2"),)).which == ("2",)


def test_long_syntax_is_one_value_of_container_mounts():
    from fairlead.plan import pyxis

    text = "type=bind,source=./a,destination=/b,readonly"
    wanted = launch.Volume("/w/a", "/b", ("ro",), "bind", "--container-mounts")
    assert pyxis.mounts(text, "/w") == (wanted,)
    with pytest.raises(errors.UsageError) as caught:
        pyxis.mounts("type=bind,source=/a", "/w")
    assert caught.value.line() == (
        "error [usage]: --container-mounts type=bind,source=/a: has no destination "
        "(write type=bind,source=SRC,destination=DST[,readonly])"
    )


def test_squashfs_is_a_flag_of_container_mounts():
    from fairlead.plan import pyxis

    (volume,) = pyxis.mounts("/a.sqsh:/b:sqsh+noexec", "/w")
    assert volume == launch.Volume("/a.sqsh", "/b", ("noexec",), "image", "--container-mounts")
