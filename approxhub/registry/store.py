"""The store: fetched multipliers on disk, which are the right ones or none.

``objects/<identity>.h5`` hold tables, ``factors/<identity>.h5`` their integer factors, and
``refs/<source>/<path>.json`` say which id stands for which. Files appear whole or not at all;
readers take no lock. Imports h5py and filelock only when something is read, written or locked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from approxhub.errors import (
    ApproxHubError,
    MultiplierIdError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    VerificationError,
)
from approxhub.ids import LOCAL, MultiplierId, is_source_name
from approxhub.multiplier import Multiplier
from approxhub.registry import objects, refs
from approxhub.registry.refs import Ref

__all__ = ["STALE_SECONDS", "TEMPORARY", "Store", "default_root", "healing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_LOCK_SECONDS = 600.0

TEMPORARY = ".tmp-"
"""What the names of files begin with that are not complete."""

STALE_SECONDS = 3600.0
"""Age from which a temporary file is one that a process which was killed has left."""


def default_root() -> Path:
    """Folder of the cache: ``APPROXHUB_HOME``, else ``approxhub`` in the XDG cache folder."""
    home = os.environ.get("APPROXHUB_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    base = Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()
    return base / "approxhub"


class Store:
    """The cache of fetched multipliers.

    Parameters
    ----------
    root : path, optional
        Its folder; :func:`default_root` when not given. Made at the first write.

    Examples
    --------
    >>> import tempfile
    >>> from approxhub.multiplier import Multiplier
    >>> store = Store(tempfile.mkdtemp())
    >>> store.put(Multiplier.from_table([[0, 0], [0, 1]], name="and"))
    >>> store.get("local:and")
    <Multiplier local:and: 1u x 1u, exact>
    >>> store.get("local:or") is None
    True
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = default_root() if root is None else Path(root)

    # --- places -----------------------------------------------------------------

    def object_path(self, identity: str) -> Path:
        """File of an object."""
        return self.root / "objects" / f"{objects.check_identity(identity)}.h5"

    def factors_path(self, identity: str) -> Path:
        """File of the factors of an object."""
        return self.root / "factors" / f"{objects.check_identity(identity)}.h5"

    def ref_path(self, id: str) -> Path:
        """File of an id's ref; an id's grammar keeps it inside the cache."""
        parsed = MultiplierId.parse(id)
        if parsed.source is None or parsed.modifiers:
            raise StoreError(f"{id!r} is not a full id without modifiers: it names no file")
        return self.root / "refs" / parsed.source / f"{parsed.path}.json"

    def index_path(self, name: str) -> Path:
        """File of an index that was added; the grammar of a source's name keeps it inside."""
        if not is_source_name(name):
            raise StoreError(f"{name!r} is not the name of a source: it names no file")
        return self.root / "indexes" / f"{name}.json"

    def index_names(self) -> list[str]:
        """Names of the indexes that were added, sorted; by the names of the files alone."""
        found = sorted(p.stem for p in (self.root / "indexes").glob("*.json"))
        return [name for name in found if is_source_name(name)]

    def has(self, id: MultiplierId) -> bool:
        """Whether there is a ref of a full id."""
        return self.ref_path(str(id)).exists()

    def ids(self) -> list[str]:
        """Ids that have a ref, sorted; by the names of the files alone."""
        folder = self.root / "refs"
        found = []
        for path in sorted(folder.glob("*/**/*.json")):
            source, *parts = path.relative_to(folder).with_suffix("").parts
            # with_suffix cuts ".json" only: names may have dots of their own
            with contextlib.suppress(MultiplierIdError):
                found.append(str(MultiplierId.parse(f"{source}:{'/'.join(parts)}")))
        return found

    def identities(self) -> list[str]:
        """Identities that have an object, sorted; by the names of the files alone."""
        return self._stems("objects")

    def factored(self) -> list[str]:
        """Identities that have factors, sorted; by the names of the files alone."""
        return self._stems("factors")

    def _stems(self, folder: str) -> list[str]:
        paths = (self.root / folder).glob("*.h5")
        return sorted(p.stem for p in paths if objects.is_identity(p.stem))

    # --- reading ----------------------------------------------------------------

    def read_ref(self, id: str) -> Ref | None:
        """Ref of an id, or None if there is none.

        Raises
        ------
        VerificationError
            If the file is damaged.
        """
        path = self.ref_path(id)
        data = _read(path)
        if data is None:
            return None
        with _about(path, id):
            ref = refs.decode_ref(data)
            if ref.id != id:
                raise VerificationError(f"it is the ref of {ref.id!r}")
        return ref

    def get(self, id: str) -> Multiplier | None:
        """Return the multiplier of a full id, verified, or None if it is not here.

        Raises
        ------
        VerificationError
            If a file is damaged.
        StoreError
            If a file cannot be read, or is of a newer ApproxHub.
        """
        ref = self.read_ref(id)
        return None if ref is None else self.open(ref)

    def open(self, ref: Ref) -> Multiplier | None:
        """Return the multiplier of a ref, verified, or None if its object is not here."""
        path = self.object_path(ref.object)
        data = _read(path)
        if data is None:
            return None
        with _about(path, ref.id):
            stored = objects.decode(data)
            made = Multiplier(
                ref.id,
                stored.a,
                stored.b,
                table=stored.table,
                circuit=stored.circuit(),
                hardware=ref.hardware,
                provenance=ref.provenance,
                printed=ref.printed,
            )
            if made.identity != ref.object:
                raise VerificationError(f"it holds {made.identity}")
            # Computed from this very table when it was stored: spare the reader doing it again.
            made.__dict__["metrics"] = stored.metrics
        return made

    def find(self, identity: str) -> Multiplier | None:
        """Return a multiplier by identity, under the first id that stands for it, or None."""
        if not objects.is_identity(identity) or not self.object_path(identity).exists():
            return None
        for id in self.ids():
            with contextlib.suppress(VerificationError):
                ref = self.read_ref(id)
                if ref is not None and ref.object == identity:
                    return self.open(ref)
        return self.open(Ref(f"local:{identity}", identity))

    def get_factors(self, identity: str) -> bytes | None:
        """Bytes of the factors of an object, not looked into, or None if there are none.

        Raises
        ------
        StoreError
            If the file cannot be read.
        """
        return _read(self.factors_path(identity))

    def get_index(self, name: str) -> bytes | None:
        """Bytes of an index that was added, not looked into, or None if there is none.

        Raises
        ------
        StoreError
            If the file cannot be read.
        """
        return _read(self.index_path(name))

    # --- writing ----------------------------------------------------------------

    def put(self, multiplier: Multiplier) -> None:
        """Keep a multiplier: first its object, then its ref, each whole or not at all.

        Raises
        ------
        StoreFullError, StoreReadOnlyError, StoreError
            If it cannot be kept; the cache is then as it was.
        """
        object = objects.encode(objects.StoredObject.of(multiplier))
        ref = refs.encode_ref(Ref.of(multiplier))
        with self.exclusive():  # an object that is there must stay until the ref is
            self._write(
                {
                    self.object_path(multiplier.identity): object,
                    self.ref_path(multiplier.id): ref,
                }
            )

    def put_factors(self, identity: str, data: bytes) -> None:
        """Keep the bytes of the factors of an object, whole or not at all.

        Raises
        ------
        StoreFullError, StoreReadOnlyError, StoreError
            If they cannot be kept; the cache is then as it was.
        """
        self._write({self.factors_path(identity): data})

    def put_index(self, name: str, data: bytes) -> None:
        """Keep the bytes of an index, whole or not at all.

        Raises
        ------
        StoreFullError, StoreReadOnlyError, StoreError
            If they cannot be kept; the cache is then as it was.
        """
        self._write({self.index_path(name): data})

    def _write(self, files: Mapping[Path, bytes]) -> None:
        staged: list[tuple[str, Path]] = []
        try:
            # All bytes are on the disk before the first name changes.
            for path, data in files.items():
                if _read(path) != data:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _sweep(path.parent)
                    staged.append((_stage(path, data), path))
            while staged:
                os.replace(*staged[0])
                _, path = staged.pop(0)
                _sync_folder(path.parent)
        except OSError as error:
            raise _translated(error, self.root) from error
        finally:
            for temporary, _ in staged:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def discard(self, paths: Iterable[Path]) -> None:
        """Delete files of the cache, in this order, and the folders of refs that are left empty.

        Raises
        ------
        StoreReadOnlyError, StoreError
            If one cannot be deleted; those before it are gone.
        """
        refs_folder = self.root / "refs"
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _translated(error, self.root) from error
            with contextlib.suppress(OSError):  # not empty
                for folder in path.parents:
                    if refs_folder not in folder.parents:
                        break
                    folder.rmdir()

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from adding refs and from removing objects meanwhile."""
        return self.lock("objects")

    @contextlib.contextmanager
    def lock(self, id: str, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
        """Keep other processes from fetching `id` meanwhile; readers are not kept from anything.

        Raises
        ------
        StoreError
            If the lock cannot be had.
        """
        import filelock

        path = self.root / f".lock-{hashlib.sha256(id.encode()).hexdigest()[:32]}"
        lock = filelock.FileLock(path)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=seconds, poll_interval=0.01)
        except filelock.Timeout:
            raise StoreError(
                f"another process has been at work on {id} for {seconds:.0f} s ({path})"
            ) from None
        except OSError as error:
            raise _translated(error, self.root) from error
        try:
            yield
        finally:
            # While it is held: whoever waits on the old file sees that it is gone, and retries.
            # Should two fetches overlap all the same, each still writes whole files.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def _about(path: Path, id: str) -> Iterator[None]:
    """Say in an error which file of the cache it is about, and how to heal it."""
    try:
        yield
    except StoreError as error:
        error.args = (f"{path}: {error}",)
        raise
    except ApproxHubError as error:
        raise VerificationError(f"{path} is damaged: {error}; {healing(id)}") from error


def healing(id: str) -> str:
    """Say how to get back what the cache has lost of a multiplier.

    Examples
    --------
    >>> healing("evoapproxlib:v1.1/mul8u_1JFF")
    '`approxhub fetch evoapproxlib:v1.1/mul8u_1JFF` gets it again'
    >>> healing("local:mine")
    'import it again, or `approxhub remove local:mine`'
    """
    source, _, path = id.partition(":")
    if source != LOCAL:
        return f"`approxhub fetch {id}` gets it again"
    if objects.is_identity(path):  # no id stands for it
        return "`approxhub cache prune --damaged` removes it"
    return f"import it again, or `approxhub remove {id}`"


def _stage(path: Path, data: bytes) -> str:
    """Write a temporary file beside `path`, and see it onto the disk."""
    temporary = str(path.parent / f"{TEMPORARY}{secrets.token_hex(8)}")
    # Not a private file as tempfile makes them: the umask says who may read the cache.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed an hour ago or more has left."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not everywhere can a folder be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _translated(error: OSError, root: Path) -> StoreError:
    why = error.strerror or str(error)
    if error.errno in _FULL:
        return StoreFullError(
            f"the disk of the cache {root} is full ({why}); free some space, or set "
            "APPROXHUB_HOME to a folder on another disk"
        )
    if error.errno in _READ_ONLY:
        return StoreReadOnlyError(
            f"the cache {root} cannot be written ({why}); what is in it still loads; set "
            "APPROXHUB_HOME to a folder of your own to fetch more"
        )
    return StoreError(
        f"the cache {root} cannot be written ({why}); set APPROXHUB_HOME to a folder of your own"
    )
