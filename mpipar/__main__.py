"""``python -m mpipar``: the command `mpipar`."""

from __future__ import annotations

import sys

from mpipar.cli import main

sys.exit(main())
