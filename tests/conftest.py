"""For all tests."""

import signal

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
