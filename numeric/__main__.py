"""``python -m numeric COMMAND``."""

from __future__ import annotations

from numeric.commands.app import main

main()
