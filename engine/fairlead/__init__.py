"""Fairlead runs OCI containers under Slurm at native speed, with nothing left running.

The folder list is the data flow; a module imports only what stands above it in this list:

    errors, log, config     what failed and why; stderr lines; settings that know their origin
    kernel, sinks           the C extension, which kernel alone imports
    image                   reference, credentials, registry, manifest
    store                   blobs and layers on node-local disk
    shared                  the store that all users of a node share
    host                    what this node has
    glibc                   the host's libraries on an image's older C library
    plan                    image + request + host -> Plan, pure
    run                     effects: namespaces, hand-over, exec
    cli                     one file per verb
"""

__version__ = "0.1.0"
