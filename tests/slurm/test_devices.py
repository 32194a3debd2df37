"""Devices, hooks and GPUs in steps: what ``fairlead run`` does, once per node, by srun's options."""

import json
import os
import shutil
from pathlib import Path

import jobs
import pytest
from jobs import SMALL, output, srun

HOOK = """#!/usr/bin/python3 -I
import json, os, sys
state = json.load(sys.stdin)
root = json.load(open(state["bundle"] + "/config.json"))["root"]["path"]
open(root + "/hooked", "a").write(state["id"] + " " + " ".join(sorted(state["annotations"])) + "\\n")
"""


@pytest.fixture(scope="module")
def site():
    """A site with a CDI device and a hook that an annotation selects, under root's own directory."""
    place = Path(f"/opt/fairlead-site-{os.getpid()}")
    for name in ("", "cdi", "hooks.d"):
        (place / name).mkdir(mode=0o755)

    def put(name, text, mode=0o644):
        path = place / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    put("site.toml", f'cdi_dirs = ["{place}/cdi"]\nhooks_dirs = ["{place}/hooks.d"]\n')
    put(
        "cdi/thing.yaml",
        "cdiVersion: 0.6.0\nkind: vendor.com/thing\ndevices:\n- name: one\n  containerEdits:\n"
        "    env: [THING=one]\n    deviceNodes: [{path: /dev/thing, hostPath: /dev/zero}]\n",
    )
    programs = {
        "good": HOOK,
        "bad": "#!/bin/sh\ncat >/dev/null\necho no licence\nexit 2\n",
        "slow": "#!/bin/sh\nexec sleep 600\n",
    }
    for name, program in programs.items():
        table = {
            "version": "1.0.0",
            "hook": {
                "path": put(name, program, 0o755),
                "timeout": 2,
                "env": ["PATH=/bin:/usr/bin"],
            },
            "when": {"annotations": {"^hook$": f"^{name}$"}},
            "stages": ["createContainer"],
        }
        put(f"hooks.d/{name}.json", json.dumps(table))
    yield {"FAIRLEAD_SITE_CONFIG": f"{place}/site.toml", "place": str(place)}
    shutil.rmtree(place)


@pytest.fixture
def settings(site):
    return {"FAIRLEAD_SITE_CONFIG": site["FAIRLEAD_SITE_CONFIG"]}


def line(done):
    assert done.returncode == 125, (done.returncode, done.stdout, done.stderr)
    shown = [each for each in done.stderr.splitlines() if "fairlead" in each]
    assert len(shown) == 1, done.stderr
    return shown[0].partition("fairlead: ")[2]


def test_devices_by_path_and_by_cdi_name_on_every_node(settings):
    command = "echo $THING; head -c 1 /dev/thing | od -An -c; test -c /dev/other && echo both"
    words = ("-N2", "--container-device=vendor.com/thing=one,/dev/full:/dev/other", "sh", "-c")
    shown = output(srun(*words, command, container=SMALL, **settings)).split()
    assert sorted(shown) == ["\\0", "\\0", "both", "both", "one", "one"]


def test_device_that_is_none_is_refused_before_there_is_an_allocation(settings):
    done = srun("--container-device=thing", "true", container=SMALL, **settings)
    assert (
        "error [usage]: device 'thing': neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name "
        "(write e.g. /dev/fuse or nvidia.com/gpu=0)"
    ) in done.stderr
    assert done.returncode != 0
    assert "queued" not in done.stderr


def test_unknown_cdi_device_is_one_line(settings, site):
    words = ("-N2", "-n4", "--container-device=vendor.com/thing=two", "true")
    assert line(srun(*words, container=SMALL, **settings)) == (
        f"error [device]: vendor.com/thing=two: no CDI specification in {site['place']}/cdi has it "
        "(there are vendor.com/thing=one)"
    )


def test_annotation_selects_a_hook_which_runs_once_per_node(settings):
    words = ("-N2", "-n4", "--container-annotation=hook=good,other=x", "cat", "/hooked")
    shown = output(srun(*words, container=SMALL, **settings)).splitlines()
    assert len(shown) == 4
    assert len(set(shown)) == 2  # each node's own
    assert all(each.startswith("fairlead-") and each.endswith(" hook other") for each in shown)
    plain = srun("test", "-e", "/hooked", container=SMALL, **settings)
    assert plain.returncode == 1


def test_failing_and_hanging_hooks_end_the_step_with_one_line(settings, site):
    place = site["place"]
    bad = srun("-N2", "-n4", "--container-annotation=hook=bad", "true", container=SMALL, **settings)
    assert line(bad) == (
        f"error [hook]: createContainer hook {place}/bad: exit status 2: no licence "
        f"(it is named by {place}/hooks.d/bad.json)"
    )
    slow = srun("--container-annotation=hook=slow", "true", container=SMALL, **settings)
    assert line(slow) == (
        f"error [hook]: createContainer hook {place}/slow: not done after 2 s and killed "
        f"(it is named by {place}/hooks.d/slow.json)"
    )
    assert "drain" not in jobs.run("sinfo", "-h", "-o", "%T").stdout


def test_gpus_that_are_not_there(settings):
    if any(map(os.path.exists, ("/dev/dri", "/dev/kfd", "/sys/module/nvidia"))):
        return  # this machine has some
    refused = srun("--container-gpu=all", "true", container=SMALL, **settings)
    assert "error [device]: GPUs: this node has no driver of an NVIDIA, AMD or Intel GPU (" in line(
        refused
    )
    wrong = srun("--container-gpu=some", "true", container=SMALL)
    assert "error [usage]: --container-gpu=some: not one of auto, all, none" in wrong.stderr
    noted = srun("true", container=SMALL, SLURM_JOB_GPUS="0", **settings)
    assert noted.returncode == 0
    assert noted.stderr.count("the job has GPUs, but this node has no driver of an NVIDIA") == 1
