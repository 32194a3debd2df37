"""Whether an image fits is known before its first byte, and room is made only where that helps."""

import pytest

from fairlead import config as settings
from fairlead import errors
from fairlead.image.manifest import Descriptor
from fairlead.store import room
from fairlead.store.layout import Store
from fairlead.store.room import Forecast, Limits, Reclaim

GZIP, PLAIN = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
)
MB = 10**6


def descriptor(size, media_type=GZIP):
    return Descriptor(media_type=media_type, digest="sha256:" + "a" * 64, size=size)


def test_forecast_counts_the_compressed_layer_and_what_it_unpacks_to():
    found = room.forecast(unpacked=[descriptor(100)], stored=[descriptor(100)])
    assert found == Forecast(least=200, likely=350)


def test_layer_without_compression_does_not_grow():
    layers = [descriptor(100, PLAIN)]
    assert room.forecast(unpacked=layers, stored=layers) == Forecast(200, 200)


def test_layer_that_is_there_is_not_fetched():
    assert room.forecast(unpacked=[descriptor(100)], stored=()) == Forecast(100, 250)


def test_layer_that_comes_twice_is_stored_once():
    layers = [descriptor(100), descriptor(100)]
    assert room.forecast(unpacked=layers, stored=layers).least == 300


@pytest.mark.parametrize(
    ("limits", "used", "available"),
    [
        (Limits(1000, 600, None, 0), 0, 600),
        (Limits(1000, 600, None, 100), 0, 500),
        (Limits(1000, 600, 300, 0), 200, 100),
        (Limits(1000, 600, 300, 0), 400, 0),
        (Limits(1000, 50, None, 100), 0, 0),
        (Limits(1000, 150, 900, 100), 0, 50),
    ],
)
def test_settings_only_narrow_what_is_free(limits, used, available):
    assert limits.available(used) == available


class Disk:
    """A file system with so much free, and a store of which so much is unused."""

    def __init__(self, monkeypatch, free, unused=0, used=0):
        self.unused, self.freed = unused, 0
        self.used = used
        self.asked = []
        monkeypatch.setattr(room, "limits", lambda *_: Limits(10**12, free, self.quota, 0))
        self.quota = None

    def free_up(self, wanted):
        self.asked.append(wanted)
        return min(wanted, self.unused)

    def make(self, need):
        config = settings.load({}, site_file="/nonexistent", home="/nonexistent")
        reclaim = Reclaim(lambda: self.used, lambda: self.unused, self.free_up)
        room.make(Store("/s"), config, need, "q.io/x:1", reclaim)


def test_what_fits_removes_nothing(monkeypatch):
    disk = Disk(monkeypatch, 100, unused=1000)
    disk.make(Forecast(50, 100))
    assert disk.asked == []


def test_room_is_made_for_what_is_likely(monkeypatch):
    disk = Disk(monkeypatch, 100, unused=1000)
    disk.make(Forecast(50, 300))
    assert disk.asked == [200]


def test_what_cannot_fit_is_refused_with_the_figures_and_removes_nothing(monkeypatch):
    disk = Disk(monkeypatch, 1200 * MB, unused=800 * MB)
    with pytest.raises(errors.SpaceError) as caught:
        disk.make(Forecast(3100 * MB, 5000 * MB))
    assert caught.value.message == (
        "/s: q.io/x:1 needs 3.1 GB or more, 1.2 GB free, gc can free 800.0 MB"
    )
    assert disk.asked == []


def test_quota_is_named_when_it_is_what_is_in_the_way(monkeypatch):
    disk = Disk(monkeypatch, 10_000 * MB, used=900 * MB)
    disk.quota = 1000 * MB
    with pytest.raises(errors.SpaceError) as caught:
        disk.make(Forecast(200 * MB, 500 * MB))
    assert "100.0 MB free under store_quota, gc can free 0.0 MB" in caught.value.message
    assert caught.value.hint == "raise store_quota or lower store_min_free"


def test_image_that_may_fit_is_tried_with_a_note(monkeypatch, capfd):
    disk = Disk(monkeypatch, 300 * MB, unused=100 * MB)
    disk.make(Forecast(200 * MB, 500 * MB))
    assert disk.asked == [200 * MB]
    assert capfd.readouterr().err == (
        "fairlead: q.io/x:1 may not fit: about 500.0 MB needed in /s, 400.0 MB free\n"
    )


def test_limits_are_read_from_the_file_system_and_the_settings(tmp_path):
    environ = {"FAIRLEAD_STORE_QUOTA": "50%", "FAIRLEAD_STORE_MIN_FREE": "1G"}
    config = settings.load(environ, site_file="/nonexistent", home="/nonexistent")
    found = room.limits(Store(str(tmp_path)), config)
    assert 0 < found.free <= found.total
    assert (found.quota, found.min_free) == (found.total // 2, 1 << 30)
