"""One dataclass for each command: its fields are the flags, its docstrings the help, calling it runs it."""
