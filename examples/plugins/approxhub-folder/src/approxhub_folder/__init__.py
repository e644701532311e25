"""A private folder of tables, as a multiplier source for ApproxHub. Imports nothing heavy."""

from __future__ import annotations

from approxhub import hookimpl
from approxhub.plugins import MultiplierSource
from approxhub_folder import folder

__all__: list[str] = []


@hookimpl
def approxhub_multiplier_sources() -> list[MultiplierSource]:
    """Offer what lies in the folder, as ``folder:<name>``."""
    return [MultiplierSource("folder", list=folder.entries, fetch=folder.fetch)]
