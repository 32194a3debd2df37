"""The hub: where the nodes of a step meet before any rank runs, in a child of their srun.

srun's side of the plugin (``spank_shim/hub_start.c``) opens a listening socket, exports its port
and a cookie to the step, and starts this. On each node the task that builds the container connects
first thing (``spank_shim/gate.c``), from then on tells how far it is, and waits for one word before
a rank may run.

Messages are lines of at most 4,096 bytes: a topic and words, with one space between.

    node → hub
    hello 1 COOKIE INDEX NAME     first of all: protocol, cookie in hex, the node's number in the
                                  step, its name
    image DONE TOTAL              bytes of the image that are here, of how many (0: not known)
    image ready                   all of it
    phases NAME=MICROSECONDS ...  how long the engine took for what (``run.report``)
    ready MICROSECONDS FACTS      the container stands, so long after the task began; FACTS are
                                  KEY=VALUE with tabs between: what must be the same on all nodes
    failed STATUS LINE            it cannot be had: the ranks' exit status, and the line for the user
    need DIGEST SIZE              *
    have DIGEST                   *
    failed-blob DIGEST            *

    hub → node
    go                            run the ranks
    stop STATUS                   end them with this status and say nothing: the hub has spoken
    fetch DIGEST                  *
    wait DIGEST NODE              *
    arrived DIGEST ...            *

(*) are ``run.hub_blobs``'s, if it is there: one pull for a job.

Rules:
- A topic is an entry of ``TOPICS``: a function of the hub, the node and the words; it answers with
  ``hub.tell``. Several topics that belong together are a module ``run.hub_*``.
- Everything that comes is hostile: lines, connections without a cookie and their number are
  bounded, and nothing of it is printed unescaped.
- The hub alone speaks: one line for the step, whatever happened on how many nodes.
- It ends when every node was told, and with srun.
"""

from __future__ import annotations
