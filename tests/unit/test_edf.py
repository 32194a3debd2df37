"""Environment files: what a good one means, and the exact line for each way to get one wrong."""

import hashlib
import os
import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fairlead import errors
from fairlead.cli import edf as verb
from fairlead.image import edf, tomllines

ENVIRON = {"SCRATCH": "/scratch", "USER": "ada", "EMPTY": ""}

WHOLE = """\
image = "nvcr.io#nvidia/pytorch:24.01"
workdir = "/capstor/${USER}"
entrypoint = true
writable = false
mounts = [
    "${SCRATCH}:${SCRATCH}",   # a comment, with "quotes" and ]
    '/data/x.sqsh:/x:sqsh',
]
devices = ["nvidia.com/gpu=all"]

[env]
OMP_NUM_THREADS = "8"
PATH = "${PATH}:/custom/bin"
DEBUG = ""

[annotations]
com.hooks.cxi.enabled = "false"

[annotations.com.hooks.ssh]
enabled = true
port = 2222
"""

KNOWN = ", ".join(edf.KEYS)


@pytest.fixture
def home(tmp_path):
    os.makedirs(tmp_path / ".edf")
    return tmp_path


def write(home, name, text):
    path = home / ".edf" / f"{name}.toml"
    path.write_text(text)
    return str(path)


def read(home, name, **environ):
    return edf.read(name, {"HOME": str(home), **ENVIRON, **environ}, str(home))


def lines(home, name, **environ):
    """Return the error lines, with the directory of the files as ~."""
    problems = read(home, name, **environ)[1]
    return [problem.line().replace(str(home), "~") for problem in problems]


def test_every_key_with_its_line(home):
    path = write(home, "whole", WHOLE)
    found, problems = read(home, "whole")
    assert problems == ()
    assert found == edf.Definition(
        name="whole",
        files=(path,),
        digest=hashlib.sha256(WHOLE.encode()).hexdigest(),
        image=edf.Text("nvcr.io#nvidia/pytorch:24.01", f"{path}:1"),
        workdir=edf.Text("/capstor/ada", f"{path}:2"),
        entrypoint=edf.Flag(True, f"{path}:3"),
        writable=edf.Flag(False, f"{path}:4"),
        mounts=(
            edf.Text("/scratch:/scratch", f"{path}:6"),
            edf.Text("/data/x.sqsh:/x:sqsh", f"{path}:7"),
        ),
        devices=(edf.Text("nvidia.com/gpu=all", f"{path}:9"),),
        env=(
            edf.Entry("OMP_NUM_THREADS", "8", f"{path}:12"),
            edf.Entry("PATH", "${PATH}:/custom/bin", f"{path}:13"),
            edf.Entry("DEBUG", "", f"{path}:14"),
        ),
        annotations=(
            edf.Entry("com.hooks.cxi.enabled", "false", f"{path}:17"),
            edf.Entry("com.hooks.ssh.enabled", "true", f"{path}:20"),
            edf.Entry("com.hooks.ssh.port", "2222", f"{path}:21"),
        ),
    )


def test_digest_is_of_all_that_was_read(home):
    write(home, "base", 'image = "a"\n')
    write(home, "own", 'base_environment = "base"\n')
    before = read(home, "own")[0].digest
    assert read(home, "own")[0].digest == before
    write(home, "base", 'image = "b"\n')
    assert read(home, "own")[0].digest != before


def test_image_that_cannot_be_expanded_is_not_the_inherited_one(home):
    write(home, "base", 'image = "a"\n')
    own = write(home, "own", 'base_environment = "base"\nimage = "${NOT_THERE}"\n')
    found, (problem,) = read(home, "own")
    assert isinstance(problem, edf.UndefinedError)
    assert found.image == edf.Text("", f"{own}:2")


def test_lists_and_tables_are_appended_and_the_rest_overrides(home):
    first = write(home, "first", 'image = "a"\nmounts = ["/1:/1"]\n[env]\nA = "1"\nB = "1"\n')
    second = write(home, "second", 'image = "b"\nworkdir = "/2"\nmounts = ["/2:/2"]\n')
    own = write(
        home,
        "own",
        'base_environment = ["first", "second"]\nmounts = ["/3:/3"]\nwritable = true\n'
        '[env]\nB = "3"\n[annotations]\nx = "y"\n',
    )
    found, problems = read(home, "own")
    assert problems == ()
    assert found.files == (own, first, second)
    assert found.image == edf.Text("b", f"{second}:1")
    assert found.workdir == edf.Text("/2", f"{second}:2")
    assert found.writable == edf.Flag(True, f"{own}:3")
    assert [mount.value for mount in found.mounts] == ["/1:/1", "/2:/2", "/3:/3"]
    assert found.env == (edf.Entry("A", "1", f"{first}:4"), edf.Entry("B", "3", f"{own}:5"))


def test_name_is_looked_for_in_the_directories_of_edf_path(home, tmp_path):
    os.makedirs(tmp_path / "one")
    os.makedirs(tmp_path / "two")
    (tmp_path / "two/x.toml").write_text('image = "two"\n')
    write(home, "x", 'image = "home"\n')
    looked = []
    place = f"{tmp_path}/one:relative:{tmp_path}/two"
    found = edf.load("x", {"HOME": str(home), "EDF_PATH": place}, "/", looked.append)
    assert found.image.value == "two"
    assert looked == [f"{tmp_path}/one/x.toml", f"{tmp_path}/two/x.toml"]
    assert edf.load("x.toml", {"HOME": str(home)}, "/").image.value == "home"


def test_path_is_absolute_or_starts_from_the_working_directory(tmp_path):
    (tmp_path / "x.toml").write_text('image = "here"\n')
    (tmp_path / "sub").mkdir()
    for name in ("./x.toml", "./x", f"{tmp_path}/x.toml", f"{tmp_path}/x", "./sub/../x.toml"):
        assert edf.load(name, {}, str(tmp_path)).image.value == "here", name


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("${USER}", "ada"),
        ("a${USER}b${SCRATCH}", "aadab/scratch"),
        ("${NONE:-x:y}", "x:y"),
        ("${NONE:-}", ""),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("$${USER}", "${USER}"),
        ("$$$${USER}", "$${USER}"),
        ("$USER", "$USER"),
        ("5$", "5$"),
    ],
)
def test_expansion(template, value):
    assert edf.expand(template, ENVIRON.get, "x:1") == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('mount = ["/a:/b"]', "~/.edf/x.toml:1: unknown key 'mount' (did you mean mounts?)"),
        (
            'image = "i"\nzzz = 1',
            f"~/.edf/x.toml:2: unknown key 'zzz' (known keys: {KNOWN})",
        ),
        ("image = 1", "~/.edf/x.toml:1: image is an integer, not a string (see fairlead edf check)"),
        (
            '\n\nwritable = "yes"',
            "~/.edf/x.toml:3: writable is a string, not true or false (see fairlead edf check)",
        ),
        (
            'mounts = "/a:/b"',
            "~/.edf/x.toml:1: mounts is a string, not an array of strings (see fairlead edf check)",
        ),
        (
            'mounts = [\n  "/a:/b",\n  3]',
            "~/.edf/x.toml:3: mounts[1] is an integer, not a string (see fairlead edf check)",
        ),
        ("env = 1", "~/.edf/x.toml:1: env is an integer, not a table of strings (see fairlead edf check)"),
        (
            "[env]\n\nA = 1",
            "~/.edf/x.toml:3: env.A is an integer, not a string (write its value in quotes)",
        ),
        ('[env]\n"A=B" = "1"', "~/.edf/x.toml:2: 'A=B' is no name of a variable (write NAME)"),
        ('[env]\nA = "\\u0000"', "~/.edf/x.toml:2: env.A holds a NUL character (leave it out)"),
        (
            "[annotations]\na.b = [1]",
            "~/.edf/x.toml:2: annotations.a.b is an array, not a string (see fairlead edf check)",
        ),
        (
            "annotations = 2020-01-01",
            "~/.edf/x.toml:1: annotations is a date or time, not a table of strings (see fairlead edf check)",
        ),
        (
            'image = "${NONE}"',
            "~/.edf/x.toml:1: the variable NONE is not defined (set it, or write ${NONE:-default})",
        ),
        (
            'mounts = ["${1}:/x"]',
            "~/.edf/x.toml:1: '${1}' is no variable (write ${NAME}, ${NAME:-default}, or $$ for a dollar)",
        ),
        (
            '[env]\nA = "${B"',
            "~/.edf/x.toml:2: '${B' is no variable (write ${NAME}, ${NAME:-default}, or $$ for a dollar)",
        ),
        (
            'workdir = "/a\\nb"',
            "~/.edf/x.toml:1: workdir: '/a\\nb' is too long, or holds a control character (see fairlead edf check)",
        ),
        ("base_environment = 1", "~/.edf/x.toml:1: base_environment is an integer, not a string or an array of strings (see fairlead edf check)"),
        (
            'base_environment = ["y"]',
            "~/.edf/x.toml:1: base_environment y: no such environment file in ~/.edf (set EDF_PATH, or write the path)",
        ),
        (
            'base_environment = "./y.toml"',
            "~/.edf/x.toml:1: base_environment ./y.toml: no such environment file (check the path)",
        ),
        (
            'base_environment = "x"',
            "~/.edf/x.toml:1: inherits from itself: ~/.edf/x.toml -> ~/.edf/x.toml (shorten the chain)",
        ),
        ("image =", "~/.edf/x.toml:1: Invalid value (write it as TOML)"),
        ('a = 1\na = 2', "~/.edf/x.toml:2: Cannot overwrite a value (write it as TOML)"),
        ("a = " + "[" * 5000, "~/.edf/x.toml: nested too deeply, or holds a number that is too long (write it as TOML)"),
        ("a = " + "1" * 5000, "~/.edf/x.toml: nested too deeply, or holds a number that is too long (write it as TOML)"),
        ("#" * (edf.LIMIT_BYTES + 1), "~/.edf/x.toml: is larger than 1 MiB (name another file)"),
    ],
)  # fmt: skip
def test_each_mistake_has_one_line(home, text, expected):
    write(home, "x", text)
    assert lines(home, "x") == [f"error [edf]: {expected}"]


def test_all_mistakes_are_found_at_once(home):
    write(home, "base", "image = 1\n")
    write(home, "x", 'base_environment = "base"\nfoo = 1\nworkdir = 2\n')
    assert [line.partition(": ")[2] for line in lines(home, "x")] == [
        "~/.edf/base.toml:1: image is an integer, not a string (see fairlead edf check)",
        f"~/.edf/x.toml:2: unknown key 'foo' (known keys: {KNOWN})",
        "~/.edf/x.toml:3: workdir is an integer, not a string (see fairlead edf check)",
    ]


def test_cycle_names_the_chain(home):
    write(home, "a", 'base_environment = "b"\n')
    write(home, "b", '\nbase_environment = ["c"]\n')
    write(home, "c", 'base_environment = "a"\n')
    assert lines(home, "a") == [
        "error [edf]: ~/.edf/c.toml:1: inherits from itself: ~/.edf/a.toml -> ~/.edf/b.toml -> ~/.edf/c.toml -> ~/.edf/a.toml (shorten the chain)"
    ]


def test_ten_levels_are_read_and_eleven_are_not(home):
    write(home, "0", 'image = "deep"\n')
    for level in range(1, 12):
        write(home, str(level), f'base_environment = "{level - 1}"\n')
    assert read(home, "10")[0].image.value == "deep"
    assert read(home, "10")[1] == ()
    (line,) = lines(home, "11")
    assert line.startswith(
        "error [edf]: ~/.edf/1.toml:1: inherits over more than 10 levels: ~/.edf/11.toml -> "
    )


def test_wide_inheritance_is_bounded(home):
    write(home, "leaf", "")
    for level in range(3):
        base = "leaf" if level == 0 else f"wide{level - 1}"
        write(home, f"wide{level}", f"base_environment = {[base] * 50}\n".replace("'", '"'))
    found, problems = read(home, "wide2")
    assert len(found.files) == 4
    assert problems[0].message.endswith(": more than 64 environment files are inherited")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "'': the name is empty (name a file)"),
        ("a\nb", "'a\\nb': the name is too long, or holds a control character (name a file)"),
        ("pytorh", "pytorh: no such environment file in ~/.edf (did you mean pytorch?)"),
        ("/none/x.toml", "/none/x.toml: no such environment file (check the path)"),
        ("here", "here: no such environment file in ~/.edf (write ./here.toml for the file in the working directory)"),
        ("folder", "~/.edf/folder.toml: is no regular file (check its permissions)"),
        ("fifo", "~/.edf/fifo.toml: is no regular file (check its permissions)"),
        ("binary", "~/.edf/binary.toml: is not UTF-8 (write it as TOML)"),
    ],
)  # fmt: skip
def test_file_that_cannot_be_had(home, name, expected):
    write(home, "pytorch", "")
    (home / "here.toml").write_text("")
    (home / ".edf/folder.toml").mkdir()
    (home / ".edf/binary.toml").write_bytes(b"\xff\xfe")
    os.mkfifo(home / ".edf/fifo.toml")
    assert lines(home, name) == [f"error [edf]: {expected}"]


def test_edf_path_without_an_absolute_directory(home):
    assert lines(home, "x", EDF_PATH="rel") == [
        "error [edf]: x: no such environment file in EDF_PATH, which holds no absolute path (set EDF_PATH, or write the path)"
    ]


# -- lines -----------------------------------------------------------------------------------------

KEY = some.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=4)
VALUE = some.sampled_from(
    ['"a"', "'b#'", "true", "1979-05-27 07:32:00", "-1.5e3", '"""\nm\n"" ]"""', "'''\n[x]\n'''",
     '"\\" = ["', "[]", '[1, "]",\n # [\n [2], {a.b = 1}]', "{}", '{ x = "}", y.z = [3] }']
)  # fmt: skip
LINE = some.one_of(
    some.tuples(KEY, VALUE).map(lambda both: f"{both[0]} = {both[1]}"),
    some.tuples(KEY, KEY, VALUE).map(lambda parts: f'"{parts[0]}" . {parts[1]}={parts[2]}'),
    KEY.map(lambda key: f"[{key}] # [no]"),
    some.tuples(KEY, KEY).map(lambda keys: f"[{keys[0]}.'{keys[1]}']"),
    KEY.map(lambda key: f"[[{key}]]"),
    some.sampled_from(["", "# a = 1", "  "]),
)


def places(value, place=()):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield (*place, key)
            yield from places(item, (*place, key))


@given(some.lists(LINE, max_size=12))
def test_every_place_that_tomllib_finds_has_its_line(written):
    text = "\n".join(written)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = tomllines.lines(text)
    for place in places(table):
        assert place in found, (place, text)
        key = place[-1]
        if isinstance(key, str):
            assert key in text.split("\n")[found[place] - 1], (place, text)
    assert set(found) == set(places(table))


@given(some.text(max_size=200))
def test_any_text_is_a_definition_or_lines(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(text.encode(errors="replace"))
    definition, problems = edf.read(str(path), ENVIRON, "/")
    assert all(isinstance(problem, errors.EdfError) for problem in problems)
    assert problems or definition.files == (str(path),)


@given(some.text("${}:-AU\\SER", max_size=12))
def test_any_template_is_a_value_or_an_error(template):
    try:
        value = edf.expand(template, {"USER": "ada"}.get, "x:1")
    except errors.EdfError as error:
        value = error.message
    assert value.startswith("x:1: ") or "$" in template or value == template


def test_rendered_definition_is_read_as_the_same(home):
    write(home, "base", 'image = "a"\nwritable = true\n[env]\nX = "$${HOME}\\t\\u007f${HOME}"\n')
    write(
        home,
        "x",
        'base_environment = "base"\nmounts = ["$${A}:/b"]\ndevices = ["d=all"]\n'
        '[annotations]\na."b c" = "$$\\\\"\n',
    )
    found, problems = read(home, "x")
    write(home, "again", verb.text(found))
    again, none = read(home, "again")
    assert problems == none == ()
    assert values(again) == values(found)


def values(definition):
    plain = definition._replace(name="", files=(), digest="")
    return [
        [item[:-1] for item in value] if field in {"mounts", "devices", "env", "annotations"}
        else value and value[:-1]
        for field, value in plain._asdict().items()
    ]  # fmt: skip
