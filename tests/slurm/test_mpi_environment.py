"""LD_PRELOAD and LD_LIBRARY_PATH, set by the image or by the job, lead no rank to another MPI than the announced one."""

import hashlib
import json
import os
import shutil
import urllib.request

import mpi_judge
import pytest
from jobs import REGISTRY, error_lines, output, srun
from test_mpi import build_id

KIND = "mpi-bookworm-mpich"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libmpich.so.12"
OPTIONS = ("--mpi=pmi2", "-n2", "-N1", "--container-mpi=host")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def ask(method, path, data=None, kind="application/octet-stream"):
    request = urllib.request.Request(path, data=data, method=method)
    request.add_header("Content-Type", kind)
    request.add_header("Accept", MANIFEST)
    with urllib.request.urlopen(request) as answer:
        return answer.read(), answer.headers


def variant(**variables):
    """Push the image with other variables, of the same layers; return its reference."""
    place = f"http://{REGISTRY}/v2/demo/{KIND}"
    manifest = json.loads(ask("GET", f"{place}/manifests/1")[0])
    config = json.loads(ask("GET", f"{place}/blobs/{manifest['config']['digest']}")[0])
    config["config"]["Env"] += [f"{name}={value}" for name, value in variables.items()]
    text = json.dumps(config).encode()
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    upload = ask("POST", f"{place}/blobs/uploads/", b"")[1]["Location"]
    ask("PUT", f"{upload}{'&' if '?' in upload else '?'}digest={digest}", text)
    manifest["config"].update(digest=digest, size=len(text))
    text = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    ask("PUT", f"{place}/manifests/{digest}", text, MANIFEST)
    return f"{REGISTRY}/demo/{KIND}@{digest}"


@pytest.fixture(scope="module")
def copy():
    """A copy of the host's library in a directory of the user's."""
    place = f"/var/tmp/fairlead-copy-{os.getpid()}"
    os.makedirs(place)
    yield shutil.copy(LIBRARY, place)
    shutil.rmtree(place)


def only_the_hosts(result):
    ranks = [match.groupdict() for match in mpi_judge.RANK.finditer(output(result))]
    assert sorted(rank["rank"] for rank in ranks) == ["0", "1"], result.stdout
    for rank in ranks:
        assert (rank["size"], rank["own"], rank["other"]) == ("2", "0", "1")
        assert rank["id"] == build_id(LIBRARY)
        assert rank["library"].startswith("/.fairlead/mpi/")


@pytest.mark.parametrize(
    "variables",
    [
        {"LD_LIBRARY_PATH": "/opt/mpi/private"},
        {"LD_PRELOAD": "/opt/mpi/private/libmpich.so.12"},
        {"LD_LIBRARY_PATH": "/opt/mpi/private", "LD_PRELOAD": "libmpich.so.12"},
    ],
    ids="+".join,
)
def test_image_leads_its_programs_to_the_hosts_library_all_the_same(variables):
    """The image's private copy is the host's, too."""
    only_the_hosts(srun(*OPTIONS, "/opt/mpi/c", container=variant(**variables)))


def test_image_that_preloads_what_it_lacks_runs():
    """The words are those of the image's own loader."""
    result = srun(*OPTIONS, "/opt/mpi/c", container=variant(LD_PRELOAD="/nowhere.so"))
    only_the_hosts(result)
    assert error_lines(result) == []
    assert "object '/nowhere.so' from LD_PRELOAD cannot be preloaded" in result.stderr


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "LD_LIBRARY_PATH"])
def test_jobs_own_means_the_host_and_does_not_reach_the_container(copy, variable):
    """LD_PRELOAD is in srun's environment, too, which loads it. The installation that the path leads to has no C++."""
    value = copy if variable == "LD_PRELOAD" else os.path.dirname(copy)
    container = f"{REGISTRY}/demo/{KIND}:1"
    if variable == "LD_PRELOAD":
        only_the_hosts(srun(*OPTIONS, "/opt/mpi/c", container=container, LD_PRELOAD=value))
    shown = output(
        srun(
            "-n1",
            "sh",
            "-c",
            f"echo ${{{variable}-none}}",
            container=container,
            **{variable: value},
        )
    )
    assert shown == "none\n"


@pytest.mark.host_libc(2, 36)
def test_library_that_a_wrapper_preloads_is_named(copy):
    result = srun(
        *OPTIONS, "env", f"LD_PRELOAD={copy}", "/opt/mpi/c", container=f"{REGISTRY}/demo/{KIND}:1"
    )
    assert result.returncode == 125
    assert "cell" not in result.stdout
    (line,) = error_lines(result)
    assert line == (
        f"fairlead: error [mpi]: the host's MPI was put into the container, but {copy} is mapped: two MPI libraries, or "
        "the wrong one, in one process (use --container-mpi=image to run the image's own MPI)"
    )


@pytest.mark.host_libc(2, 36)
def test_library_that_the_command_line_preloads_is_named_before_the_launch(copy):
    """What is asked for inside is what the loader is asked about."""
    container = variant(LD_PRELOAD=copy)
    result = srun(*OPTIONS, "/opt/mpi/c", container=container)
    assert result.returncode == 125
    (line,) = error_lines(result)
    assert line == (
        f"fairlead: error [mpi]: /opt/mpi/c: the host's MPI was injected, and {copy} would be loaded "
        "(use --container-mpi=image to run the image's own MPI)"
    )
