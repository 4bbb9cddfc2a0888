"""`python -m worker.cli`: the same as the console script `headrace`."""

from __future__ import annotations

import sys

from worker.cli import main

sys.exit(main())
