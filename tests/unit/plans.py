"""Values that the tests of ``plan`` and ``run`` share: a small image, a user, a request."""

from fairlead.host import facts
from fairlead.image import manifest
from fairlead.plan import plan
from fairlead.plan import request as launch

USER = facts.User(1000, 1000, "ada", "/home/ada", "/bin/bash", ((1000, "ada"), (2000, "physics")))
PLACES = frozenset(
    {"/home/ada", "/scratch/run", "/tmp", "/var/tmp", "/dev/pts", "/dev/shm", "/opt/host"}
)
FACTS = facts.Facts(
    "n1",
    USER,
    (facts.Device("/dev/null", 1, 3), facts.Device("/dev/ptmx", 5, 2)),
    PLACES | {"/etc/hosts", "/etc/resolv.conf"},
    PLACES,
)


def image(**changes):
    """Return an image configuration with the changes."""
    base = manifest.ImageConfig(
        digest="sha256:" + "0" * 64,
        platform=manifest.Platform("linux", "amd64"),
        env=(("PATH", "/image/bin"),),
        entrypoint=(),
        cmd=(),
        workdir="",
        user="",
        labels=(),
        diff_ids=(),
        created="",
    )
    return base._replace(**changes)


def source(**changes):
    """Return an image as the plan takes it."""
    return plan.Source(
        "reg/img:1@sha256:0", image(**changes), ("/store/tree",), "root:x:0:0::/root:/bin/sh\n", ""
    )


def request(**changes):
    """Return a request of a user in /scratch/run for ./app."""
    base = launch.Request("reg/img:1", ("./app",), {"HOME": "/home/ada"}, "/scratch/run")
    return base._replace(**changes)


def make(*, injection=None, facts_=FACTS, request_=None, **image_changes):
    """Return the plan for an image with the changes."""
    return plan.make(
        source(**image_changes), request_ or request(), facts_, injection or plan.Injection()
    )
