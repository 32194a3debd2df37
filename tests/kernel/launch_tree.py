"""Run a command in a container made of a directory tree: the launch path without store and registry.

Called by test_container.py as an ordinary user: ``launch_tree.py JSON``, with the keys of ``main``.
"""

import json
import os
import sys
import threading
import time

from fairlead import errors
from fairlead.host import facts
from fairlead.image import manifest
from fairlead.plan import plan
from fairlead.plan import request as launch
from fairlead.run import block, namespace


def main(tree, command, *, env=(), workdir="", request=None, layer="", passwd="", thread_s=0.0):
    """Plan, enter, execute; returns the exit status of a failure."""
    config = manifest.ImageConfig(
        "sha256:" + "0" * 64,
        manifest.Platform("linux", "amd64"),
        tuple(map(tuple, env)),
        (),
        (),
        workdir,
        "",
        (),
        (),
        "",
    )
    given = dict(request or {})
    given["volumes"] = tuple(launch.Volume(*volume) for volume in given.get("volumes", ()))
    asked = launch.Request("tree", tuple(command), dict(os.environ), os.getcwd(), **given)
    source = plan.Source("tree@sha256:0", config, (tree,), passwd, "")
    try:
        made = plan.make(
            source, launch.check(asked), facts.read(os.environ, (asked.cwd,)), plan.Injection(layer)
        )
        data = block.compile_plan(made)
        if thread_s:
            threading.Thread(target=time.sleep, args=(thread_s,), daemon=True).start()
        namespace.enter(data)
        namespace.execute(data, made.command)
    except errors.Error as error:
        print(error.line(), file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
