"""Images as registries serve them: names, credentials, the wire, and what the documents say.

``reference`` and ``manifest`` are pure; ``auth`` reads files and runs credential helpers;
``registry`` is the only module of the package that opens sockets (``transport`` builds its
connections, ``headers`` reads hostile headers).
"""
