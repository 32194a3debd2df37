"""What becomes of other engines' words: the table is true, and files are read by it."""

import argparse
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fairlead import errors, keys, sarusjson
from fairlead.cli import main, migrate, migrate_sarus, migrate_script, peers
from fairlead.image import edf
from fairlead.plan import definition

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


# -- the table -------------------------------------------------------------------------------------


def test_page_is_written_from_the_table():
    hint = "python -m fairlead.cli.peers > docs/migrate.md"
    assert text_of("docs/migrate.md") == peers.markdown(), hint


def test_no_word_of_a_table_stands_twice():
    for peer in peers.PEERS:
        words = [word for row in peer.rows for word in row.theirs if word != "udiRoot.conf"]
        assert sorted(words) == sorted(set(words)), peer.name


def options_of(verb):
    actions = main.parser_for(verb)._actions
    return {name for action in actions for name in action.option_strings}


def test_what_is_the_same_exists():
    shim = re.findall(r'\{ "([a-z-]+)",', text_of("spank_shim/options.c"))
    srun = {f"--{name}" for name in shim}
    run = options_of("run")
    for peer, known in ((peers.PYXIS, srun), (peers.EDF, srun), (peers.SARUS, run), (peers.PODMAN_HPC, run)):  # fmt: skip
        for row in peer.rows:
            if row.here == peers.SAME:
                missing = {word for word in row.theirs if word.startswith("-")} - known
                assert missing <= {"-it", "-ti"}, (peer.name, missing)
    keys = {row.theirs[0] for row in peers.EDF.rows if row.theirs[0] in edf.KEYS}
    assert keys == set(edf.KEYS)


def test_annotations_are_those_that_are_known():
    rows = {row.theirs[0].removesuffix(".*"): row for row in peers.EDF.rows if row.theirs[0].startswith("com.")}  # fmt: skip
    assert rows.keys() == definition.ANNOTATIONS.keys()
    for name, known in definition.ANNOTATIONS.items():
        assert known.done == (rows[name].here != peers.NONE), name


def test_verbs_options_and_settings_that_rows_name_exist():
    settings = set(keys.SETTINGS) | {"site_env", "site_mounts", "forbidden_mounts"}
    settings |= {"signature_policy", "containers_config"}
    for peer in peers.PEERS:
        for row in peer.rows:
            for verb in re.findall(r"fairlead ([a-z]+)", f"{row.here} {row.remark}"):
                assert verb in main.VERBS, (peer.name, row.shown)
            if re.fullmatch(r"[a-z]+_[a-z_]+", row.here):
                assert row.here in settings, (peer.name, row.shown)
            if row.here.startswith(("-v", "-w", "-e", "--")) and not row.here.startswith("--cont"):
                for option in re.findall(r"(?:^| )(--?[a-z-]+)", row.here):
                    assert option in options_of("run"), (peer.name, row.shown)


# -- scripts and configurations --------------------------------------------------------------------

SCRIPT = r"""#!/bin/bash
#SBATCH -N2 --container-image=nvcr.io#nvidia/pytorch:24.01 --time=1
#SBATCH --image=docker:ubuntu:22.04
export PYXIS_CONTAINER_MOUNTS=/a:/b
# srun --container-image=no
srun --container-mounts=/a:/b \
     --container-frob=3 ./app --bind x
srun -n2 sarus run --mpi -e A=1 --ssh ubuntu:20.04 ls --mount
module load x && apptainer exec --nv -B /s:/s --frob docker://ubuntu ls -B
ch-run -w -b /a:/b ./dir -- ls -t
podman-hpc run --rm -v/a:/b ubuntu ls; /usr/bin/shifter --image=docker:x/y:1 ls
enroot start --rw ubuntu.sqsh 'two
lines'
echo srun --mpi=pmix
"""


def test_job_script(tmp_path, capsys):
    path = tmp_path / "job.sh"
    path.write_text(SCRIPT)
    assert migrate.run(argparse.Namespace(files=[str(path)]), None) == 1
    shown = capsys.readouterr().out.replace(f"{path}:", "")
    expected = """\
2: --container-image: the same (dockerd:// asks the node's docker; containers-storage: reads podman's store)
3: --image: --container=REF (srun, sbatch, salloc; fairlead run REF without Slurm; id:HEX is not known)
4: PYXIS_CONTAINER_MOUNTS: the same (the options' defaults)
6: --container-mounts: the same (also tmpfs:DST, umount:DST, and mounts in the long syntax, type=bind,...)
6: --container-frob: not known of pyxis 0.24
8: run: fairlead run (in a job: srun --container=REF COMMAND)
8: --mpi: -m (--mpi takes a mode here: auto (default), host, image)
8: -e: the same
8: --ssh: nothing (is refused: nothing listens in a container)
9: exec: fairlead run REF COMMAND (in a job: srun --container=REF COMMAND)
9: --nv: not needed (the GPUs of a job are there; others: --gpu=all)
9: -B: -v SRC[:DST[:ro]] (one each)
9: --frob: not known of Apptainer and Singularity 1.5
10: -w: nothing (the image stays as it is; a named container keeps changes: --name)
10: -b: -v SRC[:DST]
11: run: fairlead run REF COMMAND (in a job: srun --container=REF COMMAND)
11: --rm: the same (accepted; nothing is left behind)
11: -v: the same
11: shifter: fairlead run REF COMMAND (in a job: srun --container=REF COMMAND)
11: --image: --container=REF (srun, sbatch, salloc; fairlead run REF without Slurm; id:HEX is not known)
12: start: fairlead run REF COMMAND (or FILE.sqsh)
12: --rw: not needed (is so by default)
"""
    assert shown == expected


@pytest.mark.parametrize(
    ("name", "text", "expected", "status"),
    [
        (
            "plugstack.conf",
            "required /opt/lib/spank_pyxis.so runtime_path=/run sbatch_support=0 frob=1\noptional x.so a=1\n",
            (
            "1: runtime_path=: not needed (plugstack.conf: nothing is kept while a container runs)\n"
            "1: sbatch_support=: the same (plugstack.conf)\n1: frob=: not known of pyxis 0.24\n"
            ),
            1,
        ),
        (
            "enroot.conf",
            "# comment\nENROOT_CACHE_PATH ${HOME}/x\nENROOT_MOUNT_HOME y\n",
            (
            "2: ENROOT_CACHE_PATH: FAIRLEAD_STORE (one store for everything)\n"
            "3: ENROOT_MOUNT_HOME: mount_home (setting)\n"
            ),
            0,
        ),
        (
            "x.toml",
            'image = "x"\nfrob = 1\n[annotations]\ncom.hooks.ssh.enabled = "true"\nmine = "x"\n',
            (
            "1: image: the same (everything that can be named elsewhere: digests, .sqsh, .sif, oci:)\n"
            "2: frob: not known of EDF of CSCS's Container Engine documentation of 2026-08\n"
            "3: annotations: the same (go to the site's hooks, too)\n"
            "4: com.hooks.ssh.enabled: nothing (nothing listens in a container: srun --overlap, fairlead exec)\n"
            ),
            1,
        ),
        ("plain.sh", "srun -n4 ./app\n", " nothing in it is of another container engine\n", 0),
    ],
)  # fmt: skip
def test_configurations(tmp_path, capsys, name, text, expected, status):
    path = tmp_path / name
    path.write_text(text)
    assert migrate.run(argparse.Namespace(files=[str(path)]), None) == status
    assert capsys.readouterr().out.replace(f"{path}:", "") == expected


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("none", "error [usage]: {}: No such file or directory (name a file)"),
        ("folder", "error [usage]: {}: is no regular file (name a file)"),
        ("fifo", "error [usage]: {}: is no regular file (name a file)"),
        ("large", "error [usage]: {}: is larger than 1 MiB (name another file)"),
        ("list.json", "error [usage]: {}: is no JSON object (name a sarus.json)"),
        ("bad.json", "error [usage]: {}: no JSON value (name a sarus.json)"),
    ],
)  # fmt: skip
def test_file_that_cannot_be_read(tmp_path, name, line):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bad.json").write_text("")
    with pytest.raises(errors.UsageError) as caught:
        migrate.run(argparse.Namespace(files=[str(tmp_path / name)]), None)
    assert caught.value.line() == line.format(tmp_path / name)


SARUS = """{
 "securityChecks": true,
 "hooksDir": "/opt/sarus/hooks.d",
 "siteMounts": [
   {"type": "bind", "source": "/scratch", "destination": "/scratch", "flags": {}},
   {"type": "bind", "source": "/ro:x", "destination": "/ro", "flags": {"readonly": ""}},
   {"type": "volume"}
 ],
 "siteDevices": [{"source": "/dev/fuse", "access": "rw"}],
 "environment": {"set": {"A": "1"}, "prepend": {"P": "/x"}, "append": [{"Q": "/y"}], "unset": ["R"]},
 "userMounts": {"notAllowedPrefixesOfPath": ["/etc", "/var"], "notAllowedPaths": ["/opt"]},
 "seccompProfile": "/x.json",
 "frobnicate": 1, "defaultMPIType": ["x"],
 "localRepositoryBaseDir": "/home", "apparmorProfile": "x",
 "containersPolicy": {"path": "/etc/sarus/policy.json", "enforce": true},
 "containersRegistries.dPath": "/etc/sarus/registries.d"
}
"""


def test_sarus_json():
    converted = migrate_sarus.convert("s", SARUS)
    assert (
        converted.settings
        == r"""# s:3: hooksDir
hooks_dirs = ["/opt/sarus/hooks.d"]

# s:4: siteMounts
site_mounts = ["/scratch:/scratch", "/ro\\:x:/ro:ro"]

# s:10: environment
site_env = ["A=1", "P^=/x", "Q+=/y", "-R"]

# s:11: userMounts
forbidden_targets = ["/etc/", "/var/", "/opt"]

# s:15: containersPolicy
signature_policy = "/etc/sarus/policy.json"
"""
    )
    assert converted.remarks == (
        "s:4: siteMounts: type 'volume' is not bind",
        "s:9: siteDevices: name them in a CDI specification (cdi_dirs)",
        "s:12: seccompProfile: no privilege can be gained inside; no filter is loaded",
        "s:13: frobnicate: not known of Sarus 1.7",
        "s:13: defaultMPIType: is not of the form that Sarus documents",
        "s:14: localRepositoryBaseDir: set store (must be node-local here, and yours alone)",
        "s:14: apparmorProfile: nothing corresponds",
        "s:16: containersRegistries.dPath: set containers_config (the directory that holds registries.d)",
    )


def test_policy_that_is_a_fallback_and_environment_of_old_releases():
    text = '{"containersPolicy": {"path": "/p", "enforce": false}, "environment": {"set": [{"A": "1"}]}}'
    assert migrate_sarus.convert("s", text) == (
        '# s:1: environment\nsite_env = ["A=1"]\n',
        ("s:1: containersPolicy: is a fallback: where there is no policy.json, copy /p",),
    )


@given(some.text(max_size=200))
def test_any_text_can_be_read(text):
    for reader in (migrate_script.of_script, migrate_script.of_plugstack, migrate_script.of_enroot_conf, migrate_script.of_edf):  # fmt: skip
        for finding in reader(text):
            assert finding.line >= 1


VALUE = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
)  # fmt: skip


@given(some.dictionaries(some.sampled_from(sorted(sarusjson.CONVERTERS)), VALUE))
def test_any_sarus_json_is_settings_or_remarks(table):
    import json
    import tomllib

    converted = migrate_sarus.convert("s", json.dumps(table))
    assert set(tomllib.loads(converted.settings)) <= {
        "site_mounts", "site_env", "signature_policy", "hooks_dirs", "insecure_registries",
        "mpi_profile", "forbidden_targets",
    }  # fmt: skip
