"""What this node has; read-only."""
