"""Images on this node's disk: content-addressed, crash-safe, shared by any number of processes.

``layout`` and ``blobs`` and ``records`` are cheap to import and stand on the launch path;
``resolve``, ``transfer``, ``convert`` and ``layers`` are loaded when something must be fetched.
"""
