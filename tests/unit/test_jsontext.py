"""JSON without the json package reads what the package reads, and refuses what it refuses."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import jsontext

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_whatever_json_writes_is_read_back(value):
    for indent in (None, 2):
        text = json.dumps(value, indent=indent, allow_nan=False)
        assert jsontext.loads(text) == jsontext.loads(f" \n{text}\t".encode()) == json.loads(text)


@given(st.text('{}[]",:0-1.eE+ntrufals\\u d8\n', max_size=12))
def test_what_json_refuses_is_refused(text):
    def strict(word):
        raise ValueError(word)

    try:
        wanted = json.loads(text, parse_constant=strict)
    except ValueError:
        with pytest.raises(ValueError):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == wanted


@pytest.mark.parametrize("text", ["", " ", "NaN", "[Infinity]", "{} x", "{}{}", "\ufeff{}", "[1,]"])
def test_no_json_text(text):
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_bytes_that_are_no_utf8_are_refused():
    with pytest.raises(ValueError):
        jsontext.loads(b'"\xff"')


def test_objects_become_what_the_caller_makes_of_their_pairs():
    assert jsontext.loads('{"a": 1, "a": {"b": 2}}', tuple) == (("a", 1), ("a", (("b", 2),)))


def test_nesting_without_end_is_an_error_not_a_crash():
    with pytest.raises(RecursionError):
        jsontext.loads("[" * 100_000)


@pytest.mark.parametrize("text", ["{", "[1,", '"open', "{1: 2}", '{"a": }', ""])
def test_malformed_text_is_a_value_error_where_json_was_never_loaded(text):
    script = (
        "import sys; from fairlead import jsontext; assert 'json' not in sys.modules\n"
        "try: jsontext.loads(sys.argv[1])\n"
        "except ValueError: sys.exit(0)\n"
        "sys.exit(1)"
    )
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, text], env=environ, capture_output=True)
    assert done.returncode == 0, done.stderr
