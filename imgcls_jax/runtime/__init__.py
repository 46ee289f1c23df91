"""The process: its start, its settings, its signals and its files; several processes as one."""
