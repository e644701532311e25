"""The frame around an HDF5 file that proves its bytes before libhdf5 sees one of them.

A user block holds a magic, a schema version, the length and the SHA-256 of all that follows, and
the SHA-256 of itself. Works on bytes in memory; imports the standard library and the errors.
"""

from __future__ import annotations

import hashlib
import struct

from approxhub.errors import VerificationError

__all__ = ["BLOCK", "seal", "unseal"]

BLOCK = 512
"""Bytes of the user block."""

_HEAD = struct.Struct("<16sIQ32s")  # magic, schema version, length of the body, its SHA-256


def seal(file: bytes, magic: bytes, version: int) -> bytes:
    """Fill the user block, of `BLOCK` bytes, of an HDF5 file.

    Examples
    --------
    >>> unseal(seal(bytes(BLOCK) + b"body", b"SIXTEEN BYTES OK", 3), b"SIXTEEN BYTES OK", "a body")
    3
    """
    body = file[BLOCK:]
    head = _HEAD.pack(magic, version, len(body), hashlib.sha256(body).digest())
    head += hashlib.sha256(head).digest()
    return head.ljust(BLOCK, b"\0") + body


def unseal(data: bytes, magic: bytes, noun: str) -> int:
    """Check a sealed file, and return its schema version.

    Parameters
    ----------
    data : bytes
        The whole file.
    magic : bytes
        What it must begin with.
    noun : str
        What it should be, for the error.

    Raises
    ------
    VerificationError
        If the bytes are not those that were sealed.
    """
    head, digest = data[: _HEAD.size], data[_HEAD.size : _HEAD.size + 32]
    if len(data) < BLOCK or hashlib.sha256(head).digest() != digest:
        raise VerificationError("the header is damaged")
    if any(data[_HEAD.size + 32 : BLOCK]):
        raise VerificationError("the header is damaged")
    found, version, length, digest = _HEAD.unpack(head)
    if found != magic:
        raise VerificationError(f"it is not {noun} of ApproxHub")
    if len(data) != BLOCK + length:
        raise VerificationError(f"it has {len(data)} bytes, not {BLOCK + length}")
    if hashlib.sha256(memoryview(data)[BLOCK:]).digest() != digest:
        raise VerificationError("its SHA-256 is not the one in its header")
    return int(version)
