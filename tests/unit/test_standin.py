"""The stand-in for typing: a NamedTuple made with it is one, and only the launch path sees it."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ENGINE = str(Path(__file__).parents[2] / "engine")
CLASSES = """
{way}
class Point(NamedTuple):
    '''A point.'''
    x: int
    y: int = 2
    z: str = "z"

    @property
    def sum(self):
        return self.x + self.y

    def __str__(self):
        return "point"
"""


def made(way):
    scope = {"__name__": "made"}
    exec(CLASSES.format(way=way), scope)
    return scope["Point"]


@pytest.fixture(params=["stand-in", "typing"])
def point(request):
    """The same class made both ways: what holds of one must hold of the other."""
    if request.param == "typing":
        return made("from typing import NamedTuple")
    return made(
        "from fairlead import standin\nwith standin.typing_stand_in():\n"
        "    from typing import NamedTuple"
    )


def test_values_are_made_by_position_name_and_default(point):
    assert point(1) == (1, 2, "z")
    assert point(1, z="q", y=5) == (1, 5, "q")
    assert point(x=3) == point(3)
    assert point(1, 2, "z") is not None


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"x": 1}), ((1,), {"q": 1})]
)
def test_wrong_fields_are_refused(point, values, named):
    with pytest.raises(TypeError):
        point(*values, **named)


def test_it_is_a_tuple_with_names(point):
    value = point(1)
    x, y, z = value
    assert (x, y, z) == (value.x, value.y, value.z) == (1, 2, "z")
    assert isinstance(value, tuple)
    assert (value.sum, str(value), repr(value)) == (3, "point", "Point(x=1, y=2, z='z')")
    assert point._fields == ("x", "y", "z")
    assert value._asdict() == {"x": 1, "y": 2, "z": "z"}
    assert value._replace(y=9) == (1, 9, "z")
    assert type(value._replace(y=9)) is point
    assert hash(value) == hash((1, 2, "z"))
    with pytest.raises(ValueError):
        value._replace(q=1)
    with pytest.raises(AttributeError):
        value.x = 2
    with pytest.raises(AttributeError):
        value.more = 2


SCRIPT = """
import sys
from fairlead import standin
with standin.typing_stand_in():
    from fairlead.run import step
loaded = sorted(sys.modules)
import typing
assert typing.get_type_hints and "typing" in sys.modules
from fairlead.image import registry
from fairlead.shared import ask
from fairlead.store import convert, direct, nearby, rootfs, transfer
from fairlead.host import mpi, survey
from fairlead.run import basis, keep, layer, stage
print(*loaded)
"""


def test_launch_path_loads_without_typing_and_goes_on_with_it():
    result = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {ENGINE!r})\n{SCRIPT}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "fairlead.run.step" in loaded
    assert not loaded & {"json", "tomllib", "dataclasses", "urllib3", "hashlib", "threading"}


def test_engines_own_interpreter_pays_for_none_of_the_costly_modules():
    paths = [ENGINE, sysconfig.get_path("purelib")]
    script = f"import sys; sys.path[:0] = {paths!r}\n{SCRIPT.partition('import typing')[0]}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{script}print(*loaded)"],
        capture_output=True,
        text=True,
        env={},
    )
    costly = {"re", "enum", "typing", "collections", "contextlib", "functools", "types"}
    assert result.returncode == 0, result.stderr
    assert not set(result.stdout.split()) & costly
