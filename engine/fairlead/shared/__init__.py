"""The node's shared store: filled by the storekeeper, mounted by the broker, asked by engines.

Stands beside ``store``, which is a user's own. docs/adr/0007 says who does what and why.
"""
