"""The formats that ApproxHub brings, for the plug-in host."""

from __future__ import annotations

from approxhub.formats import c_array, c_model, csv, hdf5, npy, raw, text, triples
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMATS"]

FORMATS: tuple[TableFormat, ...] = (
    npy.FORMAT,
    npy.ZIP_FORMAT,
    hdf5.OBJECT_FORMAT,
    hdf5.FORMAT,
    raw.FORMAT,
    text.FORMAT,
    triples.FORMAT,
    csv.FORMAT,
    c_array.FORMAT,
    c_model.FORMAT,
)
