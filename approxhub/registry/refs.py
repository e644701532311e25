"""Refs: a small checksummed JSON file per id, which names the object that the id stands for.

Reads and writes bytes, never files. Imports the standard library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from approxhub.errors import ApproxHubError, VerificationError
from approxhub.multiplier import Hardware, Multiplier, Provenance
from approxhub.registry.objects import Migrations, check_identity, migrate

__all__ = ["SCHEMA_VERSION", "Ref", "decode_ref", "encode_ref"]

SCHEMA_VERSION = 2
"""Version 2 added ``hardware.luts``."""


def _with_luts(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "hardware": {**content["hardware"], "luts": None}}


MIGRATIONS: Migrations = {1: _with_luts}
"""From a schema version to the function that lifts a ref's content to the next one."""


@dataclass(frozen=True, slots=True)
class Ref:
    """What is kept of a multiplier besides its table.

    Parameters
    ----------
    id : str
        Full id without modifiers.
    object : str
        Identity of its object.
    hardware, provenance, printed
        As on the multiplier.
    """

    id: str
    object: str
    hardware: Hardware = Hardware()
    provenance: Provenance = Provenance()
    printed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, m: Multiplier) -> Ref:
        """What to keep of a multiplier."""
        return cls(m.id, m.identity, m.hardware, m.provenance, m.printed)


def _checksum(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def encode_ref(ref: Ref) -> bytes:
    """Bytes of a ref; equal refs give equal bytes."""
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(ref)}
    sealed = {"sha256": _checksum(content), "ref": content}
    return (json.dumps(sealed, sort_keys=True, indent=1) + "\n").encode()


def decode_ref(data: bytes, migrations: Migrations = MIGRATIONS) -> Ref:
    """Read a ref's bytes back.

    Raises
    ------
    VerificationError
        If they are not what was written.
    StoreError
        If a newer ApproxHub wrote them.
    """
    try:
        sealed = json.loads(data)
        content = sealed["ref"]
        if _checksum(content) != sealed["sha256"]:
            raise VerificationError("its SHA-256 is not the one written in it")
        version = content.pop("schema_version")
        content = migrate(content, version, SCHEMA_VERSION, migrations)
        notes = tuple(content["provenance"].pop("notes"))
        return Ref(
            id=content["id"],
            object=check_identity(content["object"]),
            hardware=Hardware(**content["hardware"]),
            provenance=Provenance(**content["provenance"], notes=notes),
            printed=content["printed"],
        )
    except ApproxHubError:
        raise
    except Exception as error:
        raise VerificationError(f"it cannot be read: {type(error).__name__}: {error}") from error
