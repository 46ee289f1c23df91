"""Runs done again: what a results file records, and a run of one's own that is killed and resumed."""
