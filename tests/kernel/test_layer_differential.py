"""Random layers, applied by the C reader with either sink and by the model: the same tree, or both refuse."""

import os

import layer_box
import layer_strategies
import pytest
import tarmaker as tar
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from tarmaker import directory, file, symlink

EXAMPLES = int(os.environ.get("FAIRLEAD_EXAMPLES", "600"))


@pytest.fixture(scope="module", params=layer_box.BOXES)
def box(request):
    with layer_box.BOXES[request.param]() as worker:
        yield worker


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layers=layer_strategies.LAYERS,
    piece=st.sampled_from([0, 0, 1, 7, 511, 513]),
    early=st.booleans(),
)
@example(
    layers=[[directory(b"a"), file(b"a/b")], [file(b"a/c"), file(b".wh.a")]], piece=0, early=False
)
def test_reader_and_model_agree(box, layers, piece, early):
    answer = box.apply(*(tar.archive(*layer) for layer in layers), piece=piece, early=early)
    event("refused" if answer.error else "applied")
    box.assert_as_modelled(answer, layers)
    if answer.error:  # and without what was refused
        layers = layer_box.acceptable(layers)
        answer = box.apply(*(tar.archive(*layer) for layer in layers), piece=piece)
        box.assert_as_modelled(answer, layers)
        assert not answer.error


def plain(layers):
    """Whether no parent is a link: through those, what a marker hides depends on what came before."""
    return all(entry.type != tar.SYMLINK for layer in layers for entry in layer)


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layers=layer_strategies.LAYERS.filter(plain),
    where=st.integers(0, 8),
    marker=st.sampled_from([b"", b"a/", b"a/b/"]),
)
def test_an_opaque_marker_means_the_same_wherever_it_stands(box, layers, where, marker):
    *lower, last = layers
    opaque = file(marker + b".wh..wh..opq")
    first = box.apply(*(tar.archive(*layer) for layer in [*lower, [opaque, *last]]))
    moved = box.apply(
        *(tar.archive(*layer) for layer in [*lower, [*last[:where], opaque, *last[where:]]])
    )
    if not first.error and not moved.error:
        assert first.tree == moved.tree


def test_a_link_and_its_opaque_marker_first():
    layers = [[directory(b"a"), file(b"a/x"), symlink(b"l", b"a")], [file(b"l/.wh..wh..opq")]]
    model = layer_box.expected(layers)
    assert b"/a/x" not in model.snapshot()
