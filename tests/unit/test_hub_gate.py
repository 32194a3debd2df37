"""What a step's nodes say, and what becomes of the step: decided without a socket."""

import pytest

from fairlead.run import hostlist, hub_gate, hub_progress, hub_report


def meeting(*names, expected=0, timeout_s=60.0):
    made = hub_gate.Meeting(expected or len(names), timeout_s)
    nodes = [made.hello(index, name, "n[1-4]", 10.0) for index, name in enumerate(names)]
    return made, nodes


def facts(**values):
    return "\t".join(f"{key.replace('__', '.')}={value}" for key, value in values.items())


def decided(made, now=100.0, gate=True):
    return made.decide(now, gate=gate)


def test_ranks_run_when_all_nodes_are_ready_and_of_one_kind():
    made, nodes = meeting("n1", "n2")
    made.ready(nodes[0], 5, "image=a", 11.0)
    assert decided(made, 11.0) is None
    made.ready(nodes[1], 5, "image=a", 12.0)
    assert decided(made, 12.0) == (0, "")


def test_nodes_that_differ_are_named_with_what_they_have():
    made, nodes = meeting("n1", "n2", "n3", "n4")
    for node in nodes:
        mpi = "the image's own" if node.name == "n3" else "the host's OpenMPI 4.1.4"
        made.ready(node, 5, facts(engine="1", image="a", mpi=mpi), 11.0)
    assert decided(made) == (
        125,
        (
            "error [gate]: the step's nodes differ in MPI: n[1-2,4]: the host's OpenMPI 4.1.4; n3: the "
            "image's own (install the same MPI on all nodes, or use --container-mpi=image)"
        ),
    )


def test_cause_is_named_before_what_follows_from_it():
    made, nodes = meeting("n1", "n2")
    made.ready(nodes[0], 5, facts(mpi="a", request="1"), 11.0)
    made.ready(nodes[1], 5, facts(mpi="b", settings__mpi="image", request="2"), 11.0)
    assert "differ in the setting mpi: n1: (none); n2: image" in decided(made).line


def test_values_and_host_lists_in_a_line_are_bounded():
    made = hub_gate.Meeting(2048, 60.0)
    for index in range(2048):
        node = made.hello(index, f"node{index * 2}", "", 1.0)
        made.ready(node, 1, f"mpi={'x' * 1000}{index % 2}", 2.0)
    assert len(decided(made).line) < 1000


@pytest.mark.parametrize(
    ("failing", "line"),
    [
        ((0, 1, 2), "error [image-not-found]: x:1: no such tag (check the name)"),
        ((2,), "error [image-not-found]: n3: x:1: no such tag (check the name)"),
        ((0, 2), "error [image-not-found]: n[1,3]: x:1: no such tag (check the name)"),
    ],
)
def test_line_of_a_failure_names_the_nodes_unless_all_failed(failing, line):
    made, nodes = meeting("n1", "n2", "n3")
    for index, node in enumerate(nodes):
        if index in failing:
            made.failed(
                node, 126, "error [image-not-found]: x:1: no such tag (check the name)", 11.0
            )
        else:
            made.ready(node, 1, "", 11.0)
    assert decided(made, 11.0) == (126, line)


def test_node_that_fails_is_not_waited_beside_for_longer_than_a_second():
    made, nodes = meeting("n1", "n2", "n3")
    made.failed(nodes[1], 125, "error [store]: full", 11.0)
    assert decided(made, 11.9) is None
    assert decided(made, 12.1).line == "error [store]: n2: full"


def test_others_that_failed_otherwise_are_counted():
    made, nodes = meeting("n1", "n2", "n3")
    for node, text in zip(nodes, ("full", "full", "no room"), strict=True):
        made.failed(node, 125, f"error [store]: {text}", 11.0)
    assert decided(made).line == "error [store]: n[1-2]: full (1 other failed otherwise)"


def test_node_that_hangs_up_is_named_even_after_it_was_ready():
    made, nodes = meeting("n1", "n2", "n3")
    made.ready(nodes[0], 1, "", 11.0)
    made.gone(nodes[0], 11.5)
    assert decided(made, 13.0) == (
        125,
        "error [gate]: n1: ended before its container stood (killed? out of memory? see slurmd's log)",
    )


def test_cancelled_step_needs_no_line():
    made, nodes = meeting("n1", "n2")
    made.ready(nodes[0], 1, "", 11.0)
    for node in nodes:
        made.left(node, 12.0)
        made.gone(node, 12.0)
    assert decided(made) == (125, "")


def test_node_that_does_not_come_is_named_by_the_steps_list():
    made, _ = meeting("n1", "n2", expected=4)
    assert decided(made, 69.0) is None
    assert decided(made, 71.0).line.startswith(
        "error [gate]: n[3-4]: did not come within 60 s of the first node"
    )


def test_nobody_is_missed_before_somebody_came():
    assert decided(hub_gate.Meeting(2, 1.0), 1e9) is None


@pytest.mark.parametrize("index", [-1, 2, 0])
def test_number_that_is_taken_or_none_of_the_steps_is_refused(index):
    made, _ = meeting("n1", "n2")
    assert made.hello(index, "x", "", 1.0) is None


def test_without_a_gate_nobody_is_stopped():
    made, nodes = meeting("n1", "n2")
    made.ready(nodes[0], 1, "mpi=a", 11.0)
    made.failed(nodes[1], 125, "x", 11.0)
    assert decided(made, gate=False) == (-1, "")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), ""),
        (("n1",), "n1"),
        (("n3", "n1", "n2", "n7"), "n[1-3,7]"),
        (("n08", "n09", "n10"), "n[08-09],n10"),
        (("gpu-a1", "cpu", "gpu-a2"), "gpu-a[1-2],cpu"),
        (("login", "x" * 12 + "1234567890"), "login,xxxxxxxxxxxx1234567890"),
    ],
)
def test_host_list_folds(names, text):
    assert hostlist.fold(names) == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3,7],m", ("n1", "n2", "n3", "n7", "m")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
    ],
)
def test_host_list_expands(text, names):
    assert hostlist.expand(text, 8) == names


@pytest.mark.parametrize("text", ["n[1", "n[1-99999999]", "n[a-b]", "r[1-4]n[1-4]", "n[]"])
def test_hostile_host_list_is_refused(text):
    with pytest.raises(ValueError):
        hostlist.expand(text, 8)


def test_progress_names_the_node_that_is_furthest_behind():
    made, nodes = meeting("n1", "n2", "n3", "n4")
    made.ready(nodes[0], 1, "", 11.0)
    for node, done in zip(nodes[1:], (900, 620, 700), strict=True):
        node.done, node.total = done * 10**6, 1_200_000_000
    assert hub_progress.told(made) == "image ready on 1/4 nodes, n3: 51 % of 1.2 GB"


def test_nothing_is_told_where_nobody_fetches():
    assert hub_progress.told(meeting("n1", "n2")[0]) == ""


def test_report_sums_each_phase_over_the_nodes_that_had_it():
    made, nodes = meeting("n1", "n2", "n3")
    for node, fetch in zip(nodes, (1_000_000, 3_000_000, 0), strict=True):
        node.phases = {"resolve": 10_000, "fetch": fetch} if fetch else {"mount": 5_000}
        made.ready(node, 2_000_000, "", 20.0)
    found = hub_report.report({"job": "7", "step": "1", "ref": "x:1"}, made, 20.5)
    assert found["phases"]["fetch"] == {"min": 1.0, "median": 2.0, "max": 3.0, "slowest": "n2"}
    assert found["phases"]["exec"]["max"] == 2.5
    assert [row["kept"] for row in found["nodes"]] == [False, False, True]
    assert hub_report.lines(found)[2:4] == [
        "  resolve     0.010s    0.010s    0.010s  n2",
        "  fetch       1.000s    2.000s    3.000s  n2",
    ]


@pytest.mark.parametrize(
    ("reference", "width", "line"),
    [
        ("h:5/a/b:1@sha256:" + "0" * 64, 0, "fairlead: pulling h:5/a/b:1: T"),
        ("h:5/a/b@sha256:" + "0" * 64, 0, "fairlead: pulling h:5/a/b@sha256:000000000000: T"),
        ("registry.example.org/team/b:1", 30, "fairlead: pulling ...am/b:1: T"),
        ("registry.example.org/team/b:1", 12, "fairlead: pu"),
        ("x\x1b[2J:1", 0, "fairlead: pulling x\\x1b[2J:1: T"),
    ],
)
def test_line_of_progress_fits_its_terminal(reference, width, line):
    assert hub_progress.told_of(reference, "T", width) == line
