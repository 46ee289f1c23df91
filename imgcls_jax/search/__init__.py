"""Hyper-parameter search: the space, what is tried of it, and the runs that try it."""
