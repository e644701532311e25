"""Factors objects: the bytes that hold one factorisation, and prove themselves.

The scheme of :mod:`approxhub.registry.objects`: an HDF5 file behind a user block with a magic, the
schema version, the length and the SHA-256 of all that follows, checked before libhdf5 sees a byte.
Reads and writes bytes, never files. Imports h5py only to encode or decode.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import ApproxHubError, VerificationError
from approxhub.factorization.factors import Factorization
from approxhub.operands import OperandFormat
from approxhub.registry.framing import BLOCK, seal, unseal
from approxhub.registry.objects import Migrations, check_identity, migrate

__all__ = ["SCHEMA_VERSION", "from_bytes", "to_bytes"]

SCHEMA_VERSION = 1

MIGRATIONS: Migrations = {}
"""From a schema version to the function that lifts a factors object's content to the next one."""

_MAGIC = b"APPROXHUB-FACTOR"
_NUMBERS = ("with_exact", "rank_table", "rank_error")
_DTYPES = (np.int8, np.int16, np.int32, np.int64)


def to_bytes(factors: Factorization) -> bytes:
    """Bytes of a factors object; equal factors give equal bytes.

    Examples
    --------
    >>> import approxhub as ah
    >>> from approxhub.factorization import factorize
    >>> f = factorize(ah.load("drum:4s/k=2"))
    >>> from_bytes(to_bytes(f)) == f
    True
    """
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110"), userblock_size=BLOCK) as file:
        file.attrs["identity"] = check_identity(factors.identity)
        file.attrs["a"], file.attrs["b"] = str(factors.a), str(factors.b)
        for name in _NUMBERS:
            file.attrs[name] = int(getattr(factors, name))
        for name in ("u", "v"):
            data = _smallest(getattr(factors, name))
            # Nothing to compress in an empty one, and it cannot have chunks.
            packed: dict[str, Any] = (
                {"shuffle": True, "compression": "gzip", "compression_opts": 4, "fletcher32": True}
                if data.size
                else {}
            )
            file.create_dataset(name, data=data, track_times=False, **packed)
    return seal(buffer.getvalue(), _MAGIC, SCHEMA_VERSION)


def from_bytes(data: bytes, migrations: Migrations = MIGRATIONS) -> Factorization:
    """Read a factors object's bytes back.

    They prove that they are what was written. That this is a factorisation of a given table,
    :meth:`Factorization.verify` proves.

    Raises
    ------
    VerificationError
        If they are not what was written.
    StoreError
        If a newer ApproxHub wrote them.
    """
    version = unseal(data, _MAGIC, "a factors object")
    try:
        content = _content(data) if version <= SCHEMA_VERSION else {}
        return _factors(migrate(content, version, SCHEMA_VERSION, migrations))
    except ApproxHubError:
        raise
    except Exception as error:  # sealed bytes, and yet no factors: somebody else's making
        raise VerificationError(f"{type(error).__name__}: {error}") from error


def _content(data: bytes) -> dict[str, Any]:
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        return {**file.attrs, "u": file["u"][()], "v": file["v"][()]}


def _factors(content: dict[str, Any]) -> Factorization:
    for name in ("u", "v"):
        if content[name].dtype.kind != "i" or content[name].ndim != 2:
            raise VerificationError(f"{name} does not hold integers")
    return Factorization(
        check_identity(content["identity"]),
        OperandFormat.parse(content["a"]),
        OperandFormat.parse(content["b"]),
        content["u"],
        content["v"],
        with_exact=bool(content["with_exact"]),
        rank_table=int(content["rank_table"]),
        rank_error=int(content["rank_error"]),
    )


def _smallest(factor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = (int(factor.min()), int(factor.max())) if factor.size else (0, 0)
    fits = (d for d in _DTYPES if np.iinfo(d).min <= low and high <= np.iinfo(d).max)
    return factor.astype(np.dtype(next(fits)).newbyteorder("<"))
