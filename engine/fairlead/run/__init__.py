"""Effects: the plan becomes namespaces, mounts and a process."""
