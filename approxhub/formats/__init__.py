"""Table files: read and written in many formats, and exact about what a file does not say.

Formats come through the hook ``approxhub_formats``, ours included. Importing this package needs
numpy only; h5py and pycparser are imported by the formats that need them.
"""

from __future__ import annotations

from approxhub.formats.data import MAX_ENTRIES, MAX_FILE_BYTES, Operands, TableData
from approxhub.formats.reading import all_formats, read_data, read_table, table_of
from approxhub.formats.writing import table_bytes, write_table

__all__ = [
    "MAX_ENTRIES",
    "MAX_FILE_BYTES",
    "Operands",
    "TableData",
    "all_formats",
    "read_data",
    "read_table",
    "table_bytes",
    "table_of",
    "write_table",
]
