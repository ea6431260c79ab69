"""``python -m mpipar``: the command `mpipar`."""

from __future__ import annotations

import sys

from mpipar.cli import main

if __name__ == "__main__":
    sys.exit(main())
