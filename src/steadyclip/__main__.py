"""`python -m steadyclip`."""

import sys

from steadyclip.cli import main

sys.exit(main())
