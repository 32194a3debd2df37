"""Run a newer glibc's libraries on an image's older glibc, which stays as it is (down-binding).

A library asks for symbols by version, and a glibc that is older than the one it was linked to
defines fewer of them: ``version 'GLIBC_2.34' not found``. Most of those are old functions under a
new label. The data flow::

    versions   an image's glibc: which library defines which symbol in which versions  (reads files)
    rules      what glibc's history says: renamed, changed in meaning, data, never possible
    binding    closure + family → Decision: nothing to do, down-bind, impossible            pure
    polyfill   Decision → one ELF library that defines the missing versions                 pure
    patch      host library + Decision → the same library asking the polyfill               pure
    dynamic    the parts of an ELF file that the two rewrite                                pure
    arch       all that differs between processors

The functions that no older glibc has are ``libfairlead-glibc.so`` (c_ext/polyfill), which needs no
version of anything.
"""
