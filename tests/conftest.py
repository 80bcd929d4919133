"""For all tests."""

import os
import signal
import sys
from pathlib import Path

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; what they start inherits it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))

import shapes  # noqa: E402  (after the number of threads, which torch reads once)
from quick import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: E402, F401

shapes.install()  # before a test imports the library
