"""For all tests."""

import signal
import sys
from pathlib import Path

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.insert(0, str(Path(__file__).parent))
import shapes  # noqa: E402

shapes.install()  # before a test imports the library
