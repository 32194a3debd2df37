"""The model of many nodes (``bench/scale``) against what can be said without a model."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

GB = 1e9


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    path = str(Path(__file__).parents[2] / "bench/scale")
    loader = importlib.machinery.SourceFileLoader("scale", path)
    spec = importlib.util.spec_from_loader("scale", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_bandwidth_is_shared_by_those_who_want_it_at_a_time(scale: ModuleType) -> None:
    env = scale.simpy.Environment()
    line = scale.Shared(env, total=100.0, each=80.0)
    ended = {}

    def flow(name: str, begin: float, size: float):  # type: ignore[no-untyped-def]
        yield env.timeout(begin)
        yield line.transfer(size)
        ended[name] = round(env.now, 6)

    # One second alone at 80, then three seconds at 50 each, then the second one alone again.
    env.process(flow("first", 0, 80 + 150))
    env.process(flow("second", 1, 150 + 160))
    env.run()
    assert ended == {"first": 4.0, "second": 6.0}
    assert (line.bytes, line.count, line.peak) == (540, 2, 2)


def test_tree_holds_every_receiver(scale: ModuleType) -> None:
    assert scale.levels(15, 8) == [8, 7]
    assert scale.levels(8, 8) == [8]
    assert sum(scale.levels(16383, 8)) == 16383
    assert len(scale.levels(16383, 8)) == 5


def test_registry_that_all_pull_from_is_the_limit(scale: ModuleType) -> None:
    site = scale.Site()
    found = scale.World(site, 256, 1 * GB).run("every")
    assert found.registry_bytes == pytest.approx(256 * GB)
    assert found.blob_gets == 256 * len(scale.LAYERS)
    alone = 256 * GB / site.registry
    assert alone < found.ready_s < alone * 1.1


@pytest.mark.parametrize("way", ["sbcast", "directory"])
def test_registry_sends_a_layer_once_where_nodes_share(scale: ModuleType, way: str) -> None:
    small = scale.World(scale.Site(), 16, 1 * GB).run(way)
    large = scale.World(scale.Site(), 512, 1 * GB).run(way)
    for found in (small, large):
        assert found.registry_bytes == pytest.approx(1 * GB)
        assert found.blob_gets == len(scale.LAYERS)
    assert small.ready_s < large.ready_s


def test_broadcast_grows_with_the_tree_and_not_with_the_nodes(scale: ModuleType) -> None:
    site = scale.Site(hop_jitter_s=0.0, hub_s=0.0)
    by_nodes = {n: scale.World(site, n, 1 * GB).run("sbcast").ready_s for n in (500, 1000, 4600)}
    assert [len(scale.levels(n - 1, site.fan_out)) for n in by_nodes] == [3, 4, 4]
    assert by_nodes[500] < by_nodes[1000]
    assert by_nodes[1000] == pytest.approx(by_nodes[4600])


def test_runs_are_the_same_each_time(scale: ModuleType) -> None:
    first, second = (scale.World(scale.Site(), 64, 1 * GB).run("sbcast") for _ in range(2))
    assert first == second
