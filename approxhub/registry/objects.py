"""Objects: the bytes that hold one table (or one wide circuit), and prove themselves.

An object is an HDF5 file behind a user block of 512 bytes with a magic, the schema version, the
length and the SHA-256 of all that follows. Nothing is handed to libhdf5 before that digest holds:
flipped bits otherwise gave wrong tables, and one hung the library. Reads and writes bytes, never
files. Imports h5py only to encode or decode.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import ApproxHubError, StoreError, VerificationError
from approxhub.metrics import Metrics
from approxhub.multiplier import Circuit, Multiplier, parse_format_pair
from approxhub.operands import OperandFormat
from approxhub.registry.framing import BLOCK, seal, unseal

if TYPE_CHECKING:
    from approxhub.cmodel import CModel

__all__ = [
    "SCHEMA_VERSION",
    "StoredObject",
    "check_identity",
    "decode",
    "encode",
    "is_identity",
    "migrate",
    "parse_identity",
]

SCHEMA_VERSION = 1

Content = dict[str, Any]
Migrations = Mapping[int, Callable[[Content], Content]]

MIGRATIONS: Migrations = {}
"""From a schema version to the function that lifts an object's content to the next one."""

_MAGIC = b"APPROXHUB-OBJECT"
_IDENTITY = re.compile(r"\d{1,2}[us]x\d{1,2}[us]-(circuit-)?[0-9a-f]{64}")
_METRICS = ("mae", "mse", "mre_pct", "wcre_pct", "ep_pct", "bias")
_DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.int32)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What an object holds.

    Parameters
    ----------
    a, b : OperandFormat
        Operand formats.
    metrics : Metrics
        As computed when it was stored.
    table : ndarray, optional
        Products by bit pattern.
    source, function : bytes, str, optional
        C text and function of a circuit too wide for a table.
    """

    a: OperandFormat
    b: OperandFormat
    metrics: Metrics
    table: npt.NDArray[Any] | None = None
    source: bytes | None = None
    function: str | None = None

    @classmethod
    def of(cls, multiplier: Multiplier) -> StoredObject:
        """What to store of a multiplier.

        Raises
        ------
        StoreError
            If it is too wide for a table, and not a C model either.
        """
        a, b, metrics = multiplier.a, multiplier.b, multiplier.metrics
        if multiplier.has_table:
            return cls(a, b, metrics, table=multiplier.table)
        from approxhub.cmodel import CModel

        circuit = multiplier.circuit
        if not isinstance(circuit, CModel):
            raise StoreError(
                f"{multiplier.id} ({a} x {b}) is too wide for a table and not a C model: the "
                "cache cannot hold it; make it anew where it is needed"
            )
        return cls(a, b, metrics, source=_original(circuit), function=circuit.function)

    def circuit(self) -> Circuit | None:
        """Read the C model again, if there is one."""
        if self.source is None:
            return None
        from approxhub.cmodel import CModel

        return CModel.parse(self.source, a=self.a, b=self.b, function=self.function)


def is_identity(text: str) -> bool:
    """Whether a text has the form of an identity.

    Examples
    --------
    >>> is_identity("8ux8u-" + 64 * "0"), is_identity("../8ux8u")
    (True, False)
    """
    return _IDENTITY.fullmatch(text) is not None


def check_identity(identity: str) -> str:
    """Return `identity` if it has the form of one, and so can name a file.

    Raises
    ------
    VerificationError
        If not.
    """
    if not is_identity(identity):
        raise VerificationError(f"{identity[:80]!r} is not the identity of a table or circuit")
    return identity


def parse_identity(identity: str) -> tuple[OperandFormat, OperandFormat, str | None]:
    """Operand formats that an identity begins with, and the table hash if it ends in one.

    Examples
    --------
    >>> a, b, table = parse_identity("8ux4s-" + 64 * "0")
    >>> str(a), str(b), table == 64 * "0"
    ('8u', '4s', True)
    >>> parse_identity("16ux16u-circuit-" + 64 * "0")[2] is None
    True
    """
    pair, kind, *rest = check_identity(identity).split("-")
    return *parse_format_pair(pair), None if rest else kind


def encode(stored: StoredObject) -> bytes:
    """Bytes of an object; equal objects give equal bytes."""
    import h5py

    buffer = io.BytesIO()
    # Never track times, never the newest file format: the same bytes, readable for long.
    with h5py.File(buffer, "w", libver=("v110", "v110"), userblock_size=BLOCK) as file:
        file.attrs["a"] = str(stored.a)
        file.attrs["b"] = str(stored.b)
        file.attrs["metrics"] = _metrics_text(stored.metrics)
        if stored.table is not None:
            table = _smallest(stored.table)
            file.create_dataset(
                "table",
                data=table,
                chunks=(max(1, min(table.shape[0], (1 << 20) // table.shape[1])), table.shape[1]),
                shuffle=True,
                compression="gzip",
                compression_opts=4,
                fletcher32=True,
                track_times=False,
            )
        else:
            assert stored.source is not None
            text = np.frombuffer(stored.source, dtype=np.uint8)
            file.create_dataset("source", data=text, track_times=False)
            if stored.function is not None:
                file.attrs["function"] = stored.function
    return seal(buffer.getvalue(), _MAGIC, SCHEMA_VERSION)


def decode(data: bytes, migrations: Migrations = MIGRATIONS) -> StoredObject:
    """Read an object's bytes back.

    Raises
    ------
    VerificationError
        If they are not what was written.
    StoreError
        If a newer ApproxHub wrote them.
    """
    version = unseal(data, _MAGIC, "an object")
    try:
        content = migrate(_content(data, version), version, SCHEMA_VERSION, migrations)
        return _stored(content)
    except ApproxHubError:
        raise
    except Exception as error:  # sealed bytes, and yet not an object: somebody else's making
        raise VerificationError(f"{type(error).__name__}: {error}") from error


def _content(data: bytes, version: int) -> Content:
    if version > SCHEMA_VERSION:  # do not even look inside
        return {}
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        content: Content = {k: v for k, v in file.attrs.items() if isinstance(v, str)}
        for name in ("table", "source"):
            if name in file:
                content[name] = file[name][()]
    return content


def _stored(content: Content) -> StoredObject:
    source = content.get("source")
    return StoredObject(
        a=OperandFormat.parse(content["a"]),
        b=OperandFormat.parse(content["b"]),
        metrics=_metrics(json.loads(content["metrics"])),
        table=content.get("table"),
        source=None if source is None else bytes(source),
        function=content.get("function"),
    )


def migrate(content: Content, version: int, to: int, migrations: Migrations) -> Content:
    """Lift what was written with one schema version to another, a step at a time.

    Raises
    ------
    StoreError
        If it is newer, or a step is missing.

    Examples
    --------
    >>> migrate({"old": 1}, 1, 2, {1: lambda c: {"new": c["old"]}})
    {'new': 1}
    """
    if version > to:
        raise StoreError(
            f"it was written with schema version {version} by a newer ApproxHub, and this one "
            f"reads up to {to}; upgrade, or set APPROXHUB_HOME to another folder"
        )
    while version < to:
        if version not in migrations:
            raise StoreError(f"it has schema version {version}, which is no longer read")
        content = migrations[version](content)
        version += 1
    return content


def _original(model: CModel) -> bytes:
    """Bytes that a C model was read from: its text in the encoding that gives back its hash."""
    for encoding in ("utf-8", "utf-8-sig", "latin-1"):
        with contextlib.suppress(UnicodeEncodeError):
            raw = model.source.encode(encoding)
            if hashlib.sha256(raw).hexdigest() == model.source_sha256:
                return raw
    raise StoreError(f"the text of {model.function!r} does not have its hash any more")


def _metrics_text(m: Metrics) -> str:
    fields: dict[str, Any] = {name: getattr(m, name) for name in _METRICS}
    fields.update(wce=m.wce, range_bits=m.range_bits, method=m.method, samples=m.samples)
    fields["interval"] = {k: list(v) for k, v in m.interval.items()}
    return json.dumps(fields, sort_keys=True)


def _metrics(fields: dict[str, Any]) -> Metrics:
    made = Metrics(**fields)
    return replace(made, interval={k: (v[0], v[1]) for k, v in made.interval.items()})


def _smallest(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = int(table.min()), int(table.max())
    fits = (d for d in _DTYPES if np.iinfo(d).min <= low and high <= np.iinfo(d).max)
    return table.astype(np.dtype(next(fits)).newbyteorder("<"))
