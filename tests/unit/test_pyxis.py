"""What srun's options mean: each value one thing, or one line that names its option."""

import contextlib
import os

import plans
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead import errors
from fairlead.plan import pyxis
from fairlead.plan import request as launch

CWD = "/scratch/run"


def volumes(text, cwd=CWD):
    return [(v.source, v.destination, v.flags, v.kind) for v in pyxis.mounts(text, cwd)]


def applied(**facts):
    return launch.check(pyxis.apply(plans.request(), facts))


def refused(**facts):
    with pytest.raises(errors.Error) as caught:
        applied(**facts)
    return caught.value.line()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a", ("/a", "/a", (), "bind")),
        ("/a:/b", ("/a", "/b", (), "bind")),
        ("/a:/b:", ("/a", "/b", (), "bind")),
        ("/a:/b:ro", ("/a", "/b", ("ro",), "bind")),
        (
            "/a:/b:ro+nosuid+nodev+noexec+rprivate",
            ("/a", "/b", ("ro", "noexec", "rprivate"), "bind"),
        ),
        ("/a:/b:x-create=dir+bind", ("/a", "/b", ("bind",), "bind")),
        ("/a:/b:nofail", ("/a", "/b", ("optional",), "bind")),
        ("/a b:/c d", ("/a b", "/c d", (), "bind")),
        (r"/a\:b:/c\,d", ("/a:b", "/c,d", (), "bind")),
        (r"/a\\:/b", ("/a\\", "/b", (), "bind")),
        (r"/a\040b:/c#d", (r"/a\040b", "/c#d", (), "bind")),
        ("/a:/$HOME", ("/a", "/$HOME", (), "bind")),
        ("./:/work", (CWD, "/work", (), "bind")),
        ("./data", (f"{CWD}/data", f"{CWD}/data", (), "bind")),
        ("../up:/up", ("/scratch/up", "/up", (), "bind")),
        ("/a:./b", ("/a", "/b", (), "bind")),
        ("tmpfs:/t", ("tmpfs", "/t", (), "tmpfs")),
        ("tmpfs:/t:size=1g+ro", ("tmpfs", "/t", ("size=1g", "ro"), "tmpfs")),
        ("umount:/t", ("umount", "/t", (), "umount")),
    ],
)
def test_a_mount_as_pyxis_reads_it(text, expected):
    assert volumes(text) == [expected]


def test_several_mounts_keep_their_order_and_a_double_is_one():
    assert [v[:2] for v in volumes("/a:/b,tmpfs:/t,/a:/b,/c")] == [
        ("/a", "/b"),
        ("tmpfs", "/t"),
        ("/c", "/c"),
    ]


def test_mounts_of_both_syntaxes_stand_in_one_list():
    """As they do when the option is given several times, or by salloc and again by srun."""
    text = "type=bind,source=/a,destination=/b,readonly,type=tmpfs,dst=/t,/c:/d:ro,umount:/e,type=bind,src=./f,dst=/g"
    assert [v[:4] for v in volumes(text)] == [
        ("/a", "/b", ("ro",), "bind"),
        ("tmpfs", "/t", (), "tmpfs"),
        ("/c", "/d", ("ro",), "bind"),
        ("umount", "/e", (), "umount"),
        ("/scratch/run/f", "/g", (), "bind"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "type=bind,source=/a,/b,destination=/c",
            (
                "--container-mounts type=bind,source=/a: has no destination "
                "(write type=bind,source=SRC,destination=DST[,readonly])"
            ),
        ),
        (
            "type=bind,src=/a,dst=/b,suid",
            (
                "--container-mounts type=bind,src=/a,dst=/b,suid: 'suid' is not a key of bind "
                "(there are type, source, destination, readonly, rw, bind-propagation)"
            ),
        ),
        (
            "./x:../y",
            "--container-mounts: destination '/../y': holds '..' (write the plain path)",
        ),
        (":", "--container-mounts: ':' has no source (write SRC[:DST[:FLAG+FLAG]],...)"),
        (
            "/tmp:",
            "--container-mounts: '/tmp:' has no destination (write SRC[:DST[:FLAG+FLAG]],...)",
        ),
        ("/a,,/b", "--container-mounts: '' has no source (write SRC[:DST[:FLAG+FLAG]],...)"),
        (
            "devpts:/x:ro",
            (
                "--container-mounts: 'devpts:/x:ro' has a source that is no path, tmpfs or umount "
                "(begin it with / or ./)"
            ),
        ),
        (
            "$HOME:/x",
            (
                "--container-mounts: '$HOME:/x' has a source that is no path, tmpfs or umount "
                "(begin it with / or ./)"
            ),
        ),
        (
            "/tmp:mnt:ro",
            "--container-mounts: '/tmp:mnt:ro' has a destination that is no path (begin it with /)",
        ),
        ("tmpfs", "--container-mounts: 'tmpfs' has no destination (write tmpfs:DST)"),
        (
            "/a:/b:ro:x",
            r"--container-mounts: '/a:/b:ro:x' has more than two ':' (write \: for one in a path)",
        ),
        (
            "/a:/b:suid",
            (
                "--container-mounts: '/a:/b:suid' flag 'suid': a container gives nobody further "
                "rights (leave it out)"
            ),
        ),
        (
            "/a:/b:rshared",
            (
                "--container-mounts: '/a:/b:rshared' flag 'rshared': no mount leads from a container "
                "to the host (leave it out)"
            ),
        ),
        (
            "/a:/b:ro+rw",
            "--container-mounts: '/a:/b:ro+rw' flags 'ro' and 'rw' exclude each other (give one)",
        ),
        (
            "/a:/b:readonly",
            (
                "--container-mounts: '/a:/b:readonly' flag 'readonly' is not known (known are ro, rw, "
                "bind, rbind, noexec, private, rprivate, slave, rslave, unbindable, runbindable)"
            ),
        ),
        (
            "tmpfs:/t:size=",
            "--container-mounts: 'tmpfs:/t:size=' flag 'size=': no value of size (e.g. size=1g)",
        ),
        (
            "umount:/t:ro",
            "--container-mounts: 'umount:/t:ro' flag 'ro': nothing is mounted (write umount:DST)",
        ),
        (
            "/a:/../b",
            "--container-mounts: destination '/../b': holds '..' (write the plain path)",
        ),
        (
            "/a:/proc/sys",
            "--container-mounts: destination '/proc/sys': cannot be replaced (choose another)",
        ),
        ("/a:/", "--container-mounts: destination '/': cannot be replaced (choose another)"),
        (
            "/a\n:/b",
            (
                r"--container-mounts: source '/a\n': too long, or holds a control character "
                "(choose another path)"
            ),
        ),
    ],
)
def test_a_wrong_mount_is_one_line(text, line):
    assert refused(mounts=text) == f"error [usage]: {line}"


def test_a_relative_source_without_a_directory_is_refused():
    with pytest.raises(errors.UsageError, match="the job's directory is gone"):
        pyxis.mounts("./x:/y", "")


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"env": "A,,B"},
            "--container-env: '' is not the name of a variable (write NAME,NAME)",
        ),
        ({"env": "FOO,"}, "--container-env: '' is not the name of a variable (write NAME,NAME)"),
        (
            {"env": "A=1"},
            "--container-env: 'A=1' is not the name of a variable (write NAME,NAME)",
        ),
        (
            {"env": "9A"},
            "--container-env: '9A' is not the name of a variable (write NAME,NAME)",
        ),
        (
            {"unshare": "net,pid"},
            "--container-unshare: 'pid' is not one of net, ipc, uts (e.g. net,ipc)",
        ),
        (
            {"unshare": "net,"},
            "--container-unshare: '' is not one of net, ipc, uts (e.g. net,ipc)",
        ),
        (
            {"name": ":exec"},
            (
                "--container-name: '' is not a name (letters, digits, '_', '-' and '.', at most 128, "
                "not '-' or '.' first)"
            ),
        ),
        (
            {"name": "save-3"},
            (
                "--container-name: 'save-3' begins with 'save-', as what is saved does "
                "(choose another)"
            ),
        ),
        (
            {"name": "/tmp/foo"},
            (
                "--container-name: '/tmp/foo' is not a name (letters, digits, '_', '-' and '.', at "
                "most 128, not '-' or '.' first)"
            ),
        ),
        (
            {"name": "a:attach"},
            (
                "--container-name: 'attach' is not one of auto, create, exec, no_exec "
                "(write NAME[:MODE])"
            ),
        ),
        (
            {"save": "/tmp/"},
            "--container-save: '/tmp/' is a directory (name the file to write)",
        ),
        ({"save": "./"}, "--container-save: './' is a directory (name the file to write)"),
        (
            {"writable": "maybe"},
            "--container-writable: 'maybe' is neither 0 nor 1 (see srun --help)",
        ),
        (
            {"mount_home": "2"},
            "--container-mount-home: '2' is neither 0 nor 1 (see srun --help)",
        ),
        (
            {"remap_root": "x"},
            "--container-remap-root: 'x' is neither 0 nor 1 (see srun --help)",
        ),
        (
            {"annotation": "hook"},
            "--container-annotation: 'hook' is not NAME=VALUE (write NAME=VALUE)",
        ),
        (
            {"annotation": "a=1,=b"},
            "--container-annotation: '=b' is not NAME=VALUE (write NAME=VALUE)",
        ),
        (
            {"annotation": "a=1\n2"},
            "annotation 'a': empty, or holds a control character (write NAME=VALUE)",
        ),
        (
            {"gpu": "some"},
            "GPUs 'some': not one of auto, all, none (use --container-gpu)",
        ),
        (
            {"save": "/a\nb"},
            r"--container-save: file '/a\nb': too long, or holds a control character (choose another path)",
        ),
        (
            {"save": "oci:/tmp/"},
            "--container-save: '/tmp/' is a directory (name the file to write)",
        ),
        (
            {"mpi": "both"},
            "mpi mode 'both': not one of auto, host, image (use --container-mpi=auto|host|image)",
        ),
    ],
)
def test_a_wrong_value_is_one_line(facts, line):
    assert refused(**facts) == f"error [usage]: {line}"


def test_what_is_saved_beside_a_file():
    assert applied(save="docker://host/x:1").save == "docker://host/x:1"
    assert applied(save="oci:out").save == "oci:/scratch/run/out"
    with pytest.raises(errors.UsageError) as caught:
        pyxis.apply(plans.request(cwd=""), {"save": "out.sqsh"})
    assert caught.value.line() == (
        "error [usage]: --container-save: 'out.sqsh' is relative, and the job's directory is gone (write it from /)"
    )


def test_a_name_of_129_characters_is_too_long():
    assert applied(name="a" * 128).name == "a" * 128
    assert "is not a name" in refused(name="a" * 129)


def test_what_is_not_given_stays_as_the_settings_have_it():
    before = plans.request(mpi="host", writable=False, mount_home=False)
    assert pyxis.apply(before, {}) == before


def test_the_command_line_beats_the_settings():
    before = plans.request(mpi="host", writable=False, mount_home=False)
    made = pyxis.apply(before, {"mpi": "image", "writable": "1", "mount_home": "1"})
    assert (made.mpi, made.writable, made.mount_home) == ("image", True, True)


def test_pyxis_own_image_option_brings_its_other_meanings():
    plain, styled = applied(), applied(style="pyxis")
    assert plain.dropped == ()
    assert styled.dropped == ("LANG", "LANGUAGE", "LC_ALL")
    assert (plain.remap_pytorch, styled.remap_pytorch) == (False, True)


def test_under_pyxis_the_working_directory_is_the_images_or_the_root():
    styled = applied(style="pyxis")
    assert plans.make(request_=styled).workdir == "/"
    assert plans.make(request_=styled, workdir="/w").workdir == "/w"
    assert plans.make(request_=applied()).workdir == CWD


def test_the_sites_entrypoint_default_is_for_pyxis_style_only():
    assert not applied(execute_entrypoint="1").use_entrypoint
    assert applied(style="pyxis", execute_entrypoint="1").use_entrypoint
    assert not applied(style="pyxis", execute_entrypoint="1", entrypoint="0").use_entrypoint


def test_save_is_relative_to_the_jobs_directory():
    assert applied(save="x.sqsh").save == f"{CWD}/x.sqsh"
    assert applied(save="/y/../x.sqsh").save == "/x.sqsh"


def test_lists_are_taken_once_each_in_order():
    assert applied(env="B,A,B").kept_variables == ("B", "A")
    assert applied(unshare="uts,net,uts").unshare == ("net", "uts")


PATHS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30).map(
    lambda text: "/" + text
)


def guarded(path):
    """Write a path as one who means exactly that path."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


@settings(max_examples=60)
@given(st.lists(st.tuples(PATHS, PATHS), min_size=1, max_size=4, unique=True))
def test_any_path_can_be_written_and_means_itself(pairs):
    text = ",".join(f"{guarded(one)}:{guarded(other)}" for one, other in pairs)
    assert [v[:2] for v in volumes(text)] == [(one, plain(other)) for one, other in pairs]


def plain(path):
    """Return a destination without what says nothing; one with '..' is left for the check."""
    return path if ".." in path.split("/") else f"/{os.path.normpath(path).lstrip('/')}"


@settings(max_examples=60)
@given(st.text(st.sampled_from("/a.:,\\+ \n#$=rotmpfsu"), max_size=24))
def test_any_text_is_mounts_that_pass_the_check_or_one_line(text):
    with contextlib.suppress(errors.Error):
        for volume in applied(mounts=text).volumes:
            assert volume.destination.startswith("/")
            assert ".." not in volume.destination.split("/")
            assert "\n" not in volume.destination + volume.source
            assert volume.kind in ("bind", "tmpfs", "umount")
