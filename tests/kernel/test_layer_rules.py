"""The table of layer semantics: each row applied by either sink, held against what it says and against the model."""

import layer_box
import layer_corpus
import pytest
import tarmaker as tar
from layer_corpus import Row, archives, meant
from tarmaker import Entry


@pytest.fixture(scope="module", params=layer_box.BOXES)
def box(request):
    with layer_box.BOXES[request.param]() as worker:
        yield worker


def at(path):
    return b"/" + path if path else b""


def assert_row(row: Row, answer):
    if row.refused:
        assert answer.kind == "LayerError"
        assert row.refused in answer.error
        return
    assert not answer.error
    tree = answer.tree
    for path, content in row.has.items():
        assert tree[at(path)][3] == content, path
    for path in row.gone:
        assert at(path) not in tree, path
    for path, mode in row.modes.items():
        assert oct(tree[at(path)][1]) == oct(mode), path
    for path, mtime in row.mtimes.items():
        assert tree[at(path)][2] == mtime, path
    for path, xattrs in row.xattrs.items():
        assert tree[at(path)][5] == tuple(sorted(xattrs)), path
    for one, other in row.shared:
        assert tree[at(one)][4] == tree[at(other)][4]
    for one, other in row.apart:
        assert tree[at(one)][4] != tree[at(other)][4]
    for kind, count in row.warns.items():
        assert layer_box.warned(answer)[kind] == count
    for name in (name for path in tree for name in path.split(b"/")):
        assert not name.startswith(b".wh."), "a marker became a file"


@pytest.mark.parametrize("row", layer_corpus.ROWS, ids=lambda row: row.claim)
def test_rule(box, row):
    answer = box.apply(*archives(row), umask=row.umask)
    assert_row(row, answer)
    if not row.refused:
        box.assert_as_modelled(answer, meant(row))


@pytest.mark.parametrize("row", [row for row in layer_corpus.ROWS if row.refused and all(
    isinstance(part, Entry) for parts in row.layers for part in parts) and row.end == tar.END],
    ids=lambda row: row.claim)  # fmt: skip
def test_the_model_refuses_too(row):
    if row.claim in ("a_link_with_a_target_too_long_is_refused", "a_maze_of_links_is_refused"):
        return  # limits of the kernel, which the model does not know
    assert layer_box.expected(meant(row)) is None


def test_every_claim_is_made_once():
    claims = [row.claim for row in layer_corpus.ROWS]
    assert len(claims) == len(set(claims))
