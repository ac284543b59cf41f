"""``python -m analytic``: see :mod:`analytic.cli`."""

from __future__ import annotations

import sys

from analytic.cli import main

if __name__ == "__main__":
    sys.exit(main())
