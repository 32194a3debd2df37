"""``fairlead doctor`` on the machine that runs the tests: it changes nothing and its lines add up."""

from __future__ import annotations

import json
import os


def test_lines_and_json_say_the_same_and_nothing_is_made(bench):
    before = sorted(os.listdir(bench.root.parent)), sorted(os.listdir(bench.home))
    done = bench.run("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == int(any(item["verdict"] == "fail" for item in found))
    lines = bench.run("doctor").stdout.splitlines()
    assert [line[:4].strip() for line in lines] == [item["verdict"] for item in found]
    subjects = {item["subject"]: item for item in found}
    assert {"kernel", "user namespaces", "EROFS", "upper on disk", "mode", "registries"} <= set(
        subjects
    )
    assert str(bench.root) in subjects["store"]["found"]
    assert (sorted(os.listdir(bench.root.parent)), sorted(os.listdir(bench.home))) == before


def test_namespace_and_overlay_are_really_tried(bench):
    found = {item["subject"]: item for item in json.loads(bench.run("doctor", "--json").stdout)}
    # The machine of the tests must have them: a launch needs both.
    assert found["user namespaces"]["verdict"] == "ok"
    assert found["overlay"]["verdict"] == "ok"


def test_store_of_another_is_a_failure_with_exit_status_1(bench):
    bench.root.mkdir(mode=0o777)
    bench.root.chmod(0o777)
    done = bench.run("doctor")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line[6:].startswith("store "))
    assert line.startswith("fail")
    assert "others may write there (mode 0777)" in line
    assert "set FAIRLEAD_STORE" in line


def test_node_without_slurm_is_told_so(bench, tmp_path):
    done = bench.run("doctor", SLURM_CONF=str(tmp_path / "none"))
    assert "no Slurm on this node; fairlead run works without" in done.stdout
    assert "user: tree (no plugin)" in done.stdout


def test_wrong_setting_is_one_line(bench):
    assert "is not a size like" in bench.line("doctor", FAIRLEAD_STORE_QUOTA="lots")
