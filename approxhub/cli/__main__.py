"""``python -m approxhub.cli``."""

from __future__ import annotations

from approxhub.cli import main

main()
