"""Layers that depend on what lies below them, and layers that do not."""

import layer_box
import pytest
import tarmaker as tar
from layer_row import SECOND, XATTRS
from tarmaker import device, directory, fifo, file, hardlink, symlink

BASE = (
    directory(b"d", 0o750, mtime=5 * SECOND, xattrs=XATTRS),
    file(b"d/old", b"old" * 3000, mode=0o640, mtime=7 * SECOND + 5, xattrs=XATTRS),
    hardlink(b"d/other", b"d/old"),
    hardlink(b"third", b"d/old"),
    symlink(b"l", b"d"),
    fifo(b"d/p"),
)


@pytest.fixture(scope="module")
def box():
    with layer_box.image_box() as worker:
        yield worker


def applied(box, *layers):
    """Apply, and compare with the model; returns the answer."""
    answer = box.apply(*(tar.archive(*layer) for layer in layers))
    box.assert_as_modelled(answer, layers)
    return answer


def alone(box, *layers):
    """Tell which of the layers stand alone."""
    return [fact.stands_alone for fact in applied(box, *layers).facts]


@pytest.mark.parametrize(
    "layer",
    [
        (),
        (file(b"a", b"A"), symlink(b"s", b"a"), hardlink(b"b", b"a")),
        (directory(b"d"), file(b"d/new"), file(b"d/.wh.old")),
        (directory(b"d"), file(b"d/.wh..wh..opq"), directory(b"d/e"), file(b"d/e/f")),
        (file(b".wh.d"), file(b".wh.none")),
        (file(b".wh.d"), file(b"d/e/f")),  # d is known to be new
        (symlink(b"s", b"d"), directory(b"d"), file(b"s/f")),
        (device(b"third", 1, 3),),
    ],
)
def test_a_layer_that_lists_its_parents_stands_alone(box, layer):
    assert alone(box, BASE, layer) == [True, True]


@pytest.mark.parametrize(
    "layer",
    [
        (file(b"d/new"),),
        (file(b"l/new"),),
        (file(b"none/new"),),
        (hardlink(b"x", b"third"),),
        (file(b"d/.wh.old"),),
        (file(b"l/.wh.old"),),
        (file(b"d/.wh..wh..opq"),),
        (file(b".wh..wh..opq"),),
        (device(b"d/old", 1, 3),),
    ],
)
def test_a_layer_that_has_to_look_below_says_so(box, layer):
    answer = box.apply(tar.archive(*BASE), tar.archive(*layer))
    assert [fact.stands_alone for fact in answer.facts] == [True, False]


STACKS = [
    (BASE, (file(b"d/new"), hardlink(b"x", b"d/other"), file(b"l/.wh.old"), file(b"f", b"F" * 9000))),
    (BASE, (directory(b"d"), file(b"d/.wh.old"), file(b"a", b"A"), symlink(b"s", b"t" * 4090))),
    (BASE, (file(b"f", b"F"), symlink(b"s", b"l"), file(b"s/f"), hardlink(b"g", b"f"), file(b".wh.d"))),
    ((symlink(b"s", b"/" * 4085 + b"d"), directory(b"d")), (file(b"s/f", b"F" * 5000), file(b"s/g"))),
]  # fmt: skip


@pytest.mark.parametrize("layers", STACKS)
def test_when_the_lower_images_are_given_does_not_matter(box, layers):
    archives = [tar.archive(*layer) for layer in layers]
    late, early = box.apply(*archives), box.apply(*archives, early=True)
    assert late.tree == early.tree
    assert late.facts == early.facts
    if all(fact.stands_alone for fact in late.facts):
        assert late.digests == early.digests


def test_a_layer_that_stands_alone_is_the_same_above_anything(box):
    layer = tar.archive(directory(b"d"), file(b"d/.wh.old"), file(b"f"), directory(b"d/e"))
    lowers = (BASE, (file(b"d", b"D"),), (directory(b"d"), file(b"d/old"), file(b"d/e")))
    answers = [box.apply(tar.archive(*lower), layer, early=True) for lower in lowers]
    assert all(answer.facts[1].stands_alone for answer in answers)
    assert len({answer.digests[1] for answer in answers}) == 1


def test_the_lowest_layer_may_ask_and_finds_nothing(box):
    assert alone(box, (file(b"d/f"), file(b"e/.wh.x"))) == [False]


def test_what_follows_a_question_keeps_its_place(box):
    """The link is made through the lower ``l`` and replaced only then."""
    layers = BASE, (file(b"l/first"), file(b".wh.l"), directory(b"l"), file(b"l/second"))
    tree = applied(box, *layers).tree
    assert b"/d/first" in tree
    assert b"/l/second" in tree


def test_a_directory_that_is_passed_through_keeps_what_it_is(box):
    tree = applied(box, BASE, (file(b"d/new"),), (file(b"l/newer"),)).tree
    assert tree[b"/d"][1:3] == (0o750, 5 * SECOND)
    assert tree[b"/d"][5] == XATTRS


def test_names_of_one_lower_inode_are_one_inode_again(box):
    layer = (hardlink(b"x", b"d/old"), hardlink(b"y", b"third"), hardlink(b"z", b"l/other"))
    tree = applied(box, BASE, layer).tree
    names = (b"/x", b"/y", b"/z", b"/d/old", b"/d/other", b"/third")
    assert {tree[name][4] for name in names} == {b"/d/old"}
    assert tree[b"/x"][1:4] == (0o640, 7 * SECOND + 5, b"old" * 3000)
    assert tree[b"/x"][5] == XATTRS


def test_a_name_that_stays_below_is_a_file_of_its_own(box):
    """What overlayfs cannot show: the directory sink has three names of one inode here."""
    tree = box.apply(tar.archive(*BASE), tar.archive(hardlink(b"x", b"d/old"))).tree
    assert tree[b"/x"][4] == tree[b"/d/old"][4]
    assert tree[b"/third"][4] == tree[b"/d/other"][4] != tree[b"/x"][4]
    assert tree[b"/third"][3] == tree[b"/x"][3]


@pytest.mark.parametrize("size", [0, 1, 1984, 1985, 4096, 5000, 300_000])
def test_a_file_below_is_copied_whole_whatever_its_size(box, size):
    data = bytes(range(251)) * (size // 251 + 1)
    applied(box, (file(b"f", data[:size]),), (hardlink(b"g", b"f"),))


def test_an_opaque_root_hides_the_lower_names_one_by_one(box):
    layers = (
        (*BASE, directory(b"keep"), file(b"keep/old")),
        (file(b"middle"), file(b".wh.third")),
        (directory(b"keep"), file(b"keep/new"), file(b".wh..wh..opq"), file(b"d", b"D")),
        (file(b"last"),),
    )
    assert sorted(applied(box, *layers).tree) == [b"", b"/d", b"/keep", b"/keep/new", b"/last"]


def test_a_whiteout_in_a_directory_that_no_other_layer_has_does_not_show(box):
    """Overlayfs would list it as a device, but for user.overlay.origin."""
    layers = (directory(b"x"), file(b"x/f")), (directory(b"n"), file(b"n/.wh.a"), file(b"n/b"))
    assert sorted(applied(box, *layers).tree) == [b"", b"/n", b"/n/b", b"/x", b"/x/f"]
    assert alone(box, *layers) == [True, True]


def test_what_overlayfs_would_obey_is_not_copied_up_from_below(box):
    lower = (directory(b"d"), file(b"d/.wh..wh..opq"), file(b"d/.wh.x"), file(b"d/y"))
    applied(box, (directory(b"d"), file(b"d/x")), lower, (file(b"d/z"),), (file(b"d/.wh.z"),))


def test_markers_are_counted(box):
    layers = (directory(b"d"), file(b"d/f")), (directory(b"d"), file(b"d/.wh..wh..opq"), file(b".wh.a"))  # fmt: skip
    assert [fact.markers for fact in applied(box, *layers).facts] == [0, 2]


def test_the_root_is_told_to_be_listed(box):
    layers = (directory(b"./", 0o711),), (file(b"a"),), (directory(b"/", 0o500, xattrs=XATTRS),)
    assert [fact.root_listed for fact in applied(box, *layers).facts] == [True, False, True]


def test_a_hundred_and_twenty_layers(box):
    layers = [
        (
            file(b"d/%d" % number, b"%d" % number),
            hardlink(b"last", b"d/%d" % number),
            file(b"d/.wh.%d" % (number - 2)),
        )
        for number in range(119)
    ]
    tree = applied(box, (directory(b"d", 0o700, mtime=SECOND),), *layers).tree
    assert sorted(tree) == [b"", b"/d", b"/d/117", b"/d/118", b"/last"]


def test_a_directory_replaced_again_and_again(box):
    layer = [
        entry
        for number in range(50)
        for entry in (
            directory(b"d"),
            directory(b"d/e"),
            file(b"d/e/%d" % number),
            file(b"d", b"file"),
        )
    ]
    tree = applied(box, BASE, (*layer, directory(b"d"), file(b"d/end"))).tree
    assert sorted(name for name in tree if name.startswith(b"/d")) == [b"/d", b"/d/end"]
