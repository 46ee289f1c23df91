"""Numbers computed from labels and scores on the host."""
