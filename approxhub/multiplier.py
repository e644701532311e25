"""A multiplier: two operand formats and the product it gives for every pair of values.

The table is indexed ``T[a, b]``, a = activation, b = weight, by two's-complement bit patterns.
Everything public takes and returns values. Imports numpy; never torch.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from approxhub.errors import InputError, MultiplierIdError, TableError
from approxhub.ids import Modifier, MultiplierId
from approxhub.metrics import Metrics, exhaustive_metrics, sampled_metrics
from approxhub.operands import MAX_BITS, OperandFormat

__all__ = [
    "MAX_TABLE_BITS",
    "Circuit",
    "Hardware",
    "Multiplier",
    "Provenance",
    "exact",
    "format_pair",
    "parse_format_pair",
    "resolved",
    "table_sha256",
]

MAX_TABLE_BITS = 24
_EAGER_BITS = 16  # up to 8x8, metrics are quick enough for a repr
_INT32 = np.iinfo(np.int32)
_SCALAR_ONLY = ("truth value of an array", "only integer scalar arrays", "can be converted to")

IntArray = npt.NDArray[np.int64]
Table = npt.NDArray[np.int32]


def table_sha256(table: npt.ArrayLike) -> str:
    """SHA-256 over a table as little-endian int32 in C order: the table's identity."""
    return hashlib.sha256(np.ascontiguousarray(table, dtype="<i4").tobytes()).hexdigest()


def format_pair(a: OperandFormat, b: OperandFormat) -> str:
    """Write two operand formats as ids do: ``'8u'`` if they agree, else ``'8ux4s'``."""
    return str(a) if a == b else f"{a}x{b}"


def parse_format_pair(text: str) -> tuple[OperandFormat, OperandFormat]:
    """Read what :func:`format_pair` writes."""
    a, x, b = text.partition("x")
    return OperandFormat.parse(a), OperandFormat.parse(b if x else a)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a circuit costs, as silicon or on an FPGA; any figure may be unknown.

    Parameters
    ----------
    power_mw, area_um2, delay_ns : float or None
        Power in milliwatts, area in square micrometres, delay in nanoseconds.
    technology : str or None
        Name of the process, or the kind of FPGA, that the figures hold for; only figures of one
        technology can be compared.
    luts : int or None
        Lookup tables that it takes on an FPGA, which has no area.
    """

    power_mw: float | None = None
    area_um2: float | None = None
    delay_ns: float | None = None
    technology: str | None = None
    luts: int | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a multiplier comes from.

    Parameters
    ----------
    source, release, commit, path, url : str or None
        Library, release, commit and file that hold the circuit, and its address.
    source_sha256 : str or None
        SHA-256 of that file.
    licence : str or None
        SPDX identifier.
    citation, doi : str or None
        The paper to cite.
    notes : tuple of str
        What was found while it was read, e.g. a printed metric that does not hold.
    """

    source: str | None = None
    release: str | None = None
    commit: str | None = None
    path: str | None = None
    url: str | None = None
    source_sha256: str | None = None
    licence: str | None = None
    citation: str | None = None
    doi: str | None = None
    notes: tuple[str, ...] = ()


@runtime_checkable
class Circuit(Protocol):
    """Anything that evaluates products of values, with or without a table.

    `source_sha256` identifies it where no table can. A circuit's products are below
    ``2**(a.bits + b.bits)`` in size; sums over them are bounded by that.
    """

    @property
    def source_sha256(self) -> str:
        """Hash of whatever defines the circuit."""

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of broadcastable int64 arrays of values, int64."""


@dataclass(frozen=True)
class _Exact:
    """The exact product."""

    source_sha256: str = hashlib.sha256(b"approxhub exact product 1").hexdigest()

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        return a * b


@dataclass(frozen=True)
class _Function:
    """A caller's function, checked at every call."""

    function: Callable[[IntArray, IntArray], npt.ArrayLike]
    fingerprint: str
    bound: int

    @property
    def source_sha256(self) -> str:
        return hashlib.sha256(f"function {self.fingerprint}".encode()).hexdigest()

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        a, b = np.broadcast_arrays(a, b)
        out = np.asarray(self._products(a, b))
        if out.dtype.kind not in "iu" or out.shape != a.shape:
            raise InputError(
                f"the function of multiplier {self.fingerprint!r} must return integers of shape "
                f"{a.shape}, got {out.dtype} of shape {out.shape}"
            )
        # Before the conversion to int64, which would wrap what does not fit.
        if out.size and max(-int(out.min()), int(out.max())) > self.bound:
            raise InputError(
                f"the function of multiplier {self.fingerprint!r} returned a product beyond "
                f"+-{self.bound}"
            )
        return out.astype(np.int64)

    def _products(self, a: IntArray, b: IntArray) -> npt.ArrayLike:
        try:
            return self.function(a, b)
        except (TypeError, ValueError) as error:
            # What numpy says of `if` on an array, and of int() and range() of one.
            if not any(text in str(error) for text in _SCALAR_ONLY):
                raise
            raise InputError(
                f"the function of multiplier {self.fingerprint!r} takes single numbers, but gets "
                f"whole arrays ({error}); use np.where in it, or wrap it in "
                "np.vectorize(f, otypes=[np.int64])"
            ) from error


@dataclass(frozen=True)
class _Modified:
    """A circuit behind one modifier; `a` and `b` are the formats of the inner circuit."""

    inner: Circuit
    modifier: Modifier
    a: OperandFormat
    b: OperandFormat

    @property
    def source_sha256(self) -> str:
        return hashlib.sha256(f"{self.modifier} {self.inner.source_sha256}".encode()).hexdigest()

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        if self.modifier.kind == "swap":
            return self.inner.evaluate(b, a)
        if self.modifier.kind == "zerogate":
            return np.where((a == 0) | (b == 0), 0, self.inner.evaluate(a, b))
        # Magnitudes enter the circuit, the signs join its product. The most negative code
        # of a full-width wrapper has a magnitude that the circuit cannot hold: it saturates.
        both = self.modifier.target == "both"
        x = np.minimum(np.abs(a), self.a.max) if both else a
        product = self.inner.evaluate(x, np.minimum(np.abs(b), self.b.max))
        return np.where(((a < 0) & both) ^ (b < 0), -product, product)


class Multiplier:
    """An approximate (or exact) multiplier of two integers.

    Made by :func:`approxhub.load`, :func:`exact`, :meth:`from_table` or :meth:`from_function`
    rather than directly. Two multipliers are equal when their operand formats and tables are.

    Parameters
    ----------
    id : str or MultiplierId
        Its name, e.g. ``'evoapproxlib:v1.1/mul8u_1JFF'``.
    a, b : OperandFormat
        Formats of the activation (first) and the weight (second) operand.
    table : array_like of int, shape (2**a.bits, 2**b.bits), optional
        Products indexed by bit patterns, ``T[a, b]``.
    circuit : Circuit, optional
        Evaluates products where no table is given; tabulated on first need up to 24 bits.
    hardware : Hardware, optional
    provenance : Provenance, optional
    printed : mapping of str to str, optional
        Metrics as printed by the source, keyed as :meth:`Metrics.to_json`.

    Raises
    ------
    TableError
        If the table's shape, dtype or range does not fit, or neither table nor circuit is given.

    Examples
    --------
    >>> m = exact(bits=8, signed=True)
    >>> m(-3, 5)
    -15
    >>> m
    <Multiplier exact:8s: 8s x 8s, exact>
    """

    def __init__(
        self,
        id: str | MultiplierId,
        a: OperandFormat,
        b: OperandFormat,
        *,
        table: npt.ArrayLike | None = None,
        circuit: Circuit | None = None,
        hardware: Hardware | None = None,
        provenance: Provenance | None = None,
        printed: Mapping[str, str] | None = None,
    ) -> None:
        self._id = MultiplierId.parse(id) if isinstance(id, str) else id
        self._a, self._b = a, b
        self._hardware = hardware or Hardware()
        self._provenance = provenance or Provenance()
        self._printed = dict(printed or {})
        self._circuit = circuit
        self._lock = threading.Lock()
        self._table: Table | None = None
        if table is not None:
            self._table = _checked_table(table, a, b)
        elif circuit is None:
            raise TableError(f"multiplier {self._id} needs a table or a circuit")

    # --- making ---------------------------------------------------------------

    @classmethod
    def from_table(
        cls,
        table: npt.ArrayLike,
        *,
        name: str,
        a_signed: bool = False,
        b_signed: bool = False,
        order: str = "pattern",
        hardware: Hardware | None = None,
        provenance: Provenance | None = None,
    ) -> Multiplier:
        """Make a multiplier of a table of products.

        Parameters
        ----------
        table : array_like of int, shape (2**bits_a, 2**bits_b)
            Products ``T[a, b]``: activation first. The widths are read off the shape.
        name : str
            Its name; the id becomes ``local:<name>``.
        a_signed, b_signed : bool
            Whether the operands are two's complement.
        order : {'pattern', 'offset'}
            Index order of signed operands: bit pattern (0..127, -128..-1) or ascending value.
        hardware : Hardware, optional
        provenance : Provenance, optional

        Raises
        ------
        TableError
            If the rows differ in length, the shape is not two powers of two of 2 to 65,536, there
            are more than 2**24 entries, or an entry is not an integer of 32 bits.

        Examples
        --------
        >>> import numpy as np
        >>> t = np.outer(np.arange(16), np.arange(16)) & ~1
        >>> m = Multiplier.from_table(t, name="even")
        >>> m(3, 5)
        14
        """
        array = _table_array(table)
        if array.ndim != 2 or any(n < 2 or n & (n - 1) for n in array.shape):
            raise TableError(
                "a table needs the shape (2**bits_a, 2**bits_b), e.g. (256, 256); "
                f"got {array.shape}"
            )
        if max(array.shape) > 1 << MAX_BITS:
            raise TableError(f"operands have at most {MAX_BITS} bits; got the shape {array.shape}")
        a, b = (
            OperandFormat(n.bit_length() - 1, s)
            for n, s in zip(array.shape, (a_signed, b_signed), strict=True)
        )
        _check_entries(array)  # in the caller's own order, which an error names
        if order == "offset":
            array = array[np.ix_(a.values() - a.min, b.values() - b.min)]
        elif order != "pattern":
            raise InputError(f"order must be 'pattern' or 'offset', got {order!r}")
        return cls(_local(name), a, b, table=array, hardware=hardware, provenance=provenance)

    @classmethod
    def from_function(
        cls,
        function: Callable[[IntArray, IntArray], npt.ArrayLike],
        *,
        name: str,
        a: OperandFormat | str,
        b: OperandFormat | str,
        fingerprint: str | None = None,
        hardware: Hardware | None = None,
        provenance: Provenance | None = None,
    ) -> Multiplier:
        """Make a multiplier of a function of two arrays of values.

        Parameters
        ----------
        function : callable
            Takes two int64 arrays of one shape, returns integers of that shape. Tabulated at
            once up to 24 bits; kept and called on demand above.
        name : str
            Its name; the id becomes ``local:<name>``.
        a, b : OperandFormat or str
            Operand formats, e.g. ``'8u'``.
        fingerprint : str, optional
            Text that identifies the function. Needed above 24 bits, where there is no table
            whose hash could.
        hardware : Hardware, optional
        provenance : Provenance, optional

        Raises
        ------
        InputError
            If the function takes no arrays or returns something else, a wide one has no
            fingerprint, or `a` or `b` is no operand format.

        Examples
        --------
        >>> m = Multiplier.from_function(lambda a, b: (a * b) | 1, name="odd", a="8u", b="4u")
        >>> m(2, 3)
        7
        """
        a = a if isinstance(a, OperandFormat) else OperandFormat.parse(a)
        b = b if isinstance(b, OperandFormat) else OperandFormat.parse(b)
        wide = a.bits + b.bits > MAX_TABLE_BITS
        if wide and not fingerprint:
            raise InputError(
                f"{a} x {b} is too wide for a table: pass fingerprint='...', a text that "
                "identifies the function (its identity otherwise is the hash of its table)"
            )
        bound = (1 << (a.bits + b.bits)) - 1 if wide else _INT32.max
        circuit = _Function(function, fingerprint or name, bound)
        made = cls(_local(name), a, b, circuit=circuit, hardware=hardware, provenance=provenance)
        if not wide:
            _ = made.table
        return made

    # --- what it is -----------------------------------------------------------

    @property
    def id(self) -> str:
        """Full id, e.g. ``'evoapproxlib:v1.1/mul8u_1JFF'``."""
        return str(self._id)

    @property
    def a(self) -> OperandFormat:
        """Format of the activation, the first operand."""
        return self._a

    @property
    def b(self) -> OperandFormat:
        """Format of the weight, the second operand."""
        return self._b

    @property
    def hardware(self) -> Hardware:
        """Power, area, delay and their technology; None where unknown."""
        return self._hardware

    @property
    def provenance(self) -> Provenance:
        """Source, release, commit, path, hashes, licence, citation."""
        return self._provenance

    @property
    def printed(self) -> Mapping[str, str]:
        """Metrics as the source prints them (a copy)."""
        return dict(self._printed)

    @property
    def circuit(self) -> Circuit | None:
        """What evaluates products where there is no table; None if it was made of one."""
        return self._circuit

    @property
    def has_table(self) -> bool:
        """Whether the operands are narrow enough (24 bits together) for a table."""
        return self._a.bits + self._b.bits <= MAX_TABLE_BITS

    @property
    def table(self) -> Table:
        """Products ``T[a, b]`` by bit pattern: int32, read-only, (2**a.bits, 2**b.bits).

        Raises
        ------
        TableError
            If the operands have more than 24 bits together.
        """
        if not self.has_table:
            raise TableError(
                f"{self.id} ({self._a} x {self._b}) has 2**{self._a.bits + self._b.bits} products, "
                f"too many for a table; call it on values instead: m(a, b)"
            )
        with self._lock:
            if self._table is None:
                self._table = self._tabulate()
            return self._table

    def _tabulate(self) -> Table:
        assert self._circuit is not None
        va, vb = self._a.values(), self._b.values()
        table = np.empty((va.size, vb.size), dtype=np.int32)
        step = max(1, (1 << 20) // vb.size)
        for i in range(0, va.size, step):
            block = self._circuit.evaluate(va[i : i + step, None], vb[None, :])
            if block.min() < _INT32.min or block.max() > _INT32.max:
                raise TableError(f"{self.id}: a product does not fit 32 bits")
            table[i : i + step] = block
        table.flags.writeable = False
        return table

    def described(
        self,
        *,
        hardware: Hardware | None = None,
        provenance: Provenance | None = None,
        printed: Mapping[str, str] | None = None,
    ) -> Multiplier:
        """The same circuit with something else said of it.

        Parameters
        ----------
        hardware : Hardware, optional
        provenance : Provenance, optional
        printed : mapping of str to str, optional
            Metrics as its source prints them. What is not given stays.

        Returns
        -------
        Multiplier

        Examples
        --------
        >>> from approxhub import exact
        >>> m = exact(8).described(hardware=Hardware(power_mw=0.4))
        >>> m.hardware.power_mw, m.identity == exact(8).identity
        (0.4, True)
        """
        made = Multiplier(
            self._id,
            self._a,
            self._b,
            table=self.table if self.has_table else None,
            circuit=self._circuit,
            hardware=self._hardware if hardware is None else hardware,
            provenance=self._provenance if provenance is None else provenance,
            printed=self._printed if printed is None else printed,
        )
        for known in ("identity", "metrics"):  # of the same table: spare counting it again
            if known in self.__dict__:
                made.__dict__[known] = self.__dict__[known]
        return made

    @functools.cached_property
    def table_sha256(self) -> str | None:
        """SHA-256 of the table as little-endian int32, C order; None without a table."""
        return table_sha256(self.table) if self.has_table else None

    @functools.cached_property
    def identity(self) -> str:
        """Content hash with the operand formats: what two equal multipliers share."""
        if self.has_table:
            return f"{self._a}x{self._b}-{self.table_sha256}"
        assert self._circuit is not None
        return f"{self._a}x{self._b}-circuit-{self._circuit.source_sha256}"

    @functools.cached_property
    def metrics(self) -> Metrics:
        """Error metrics: over all pairs with a table, else over a seeded sample."""
        if self.has_table:
            return exhaustive_metrics(self.table, self._a, self._b)
        assert self._circuit is not None
        return sampled_metrics(self._circuit.evaluate, self._a, self._b)

    def metrics_under(
        self, p_a: npt.ArrayLike | None = None, p_b: npt.ArrayLike | None = None
    ) -> Metrics:
        """Error metrics when operands are not uniform.

        Parameters
        ----------
        p_a, p_b : array_like of float, optional
            Weight of each value in ascending order (``a.min`` first), length ``2**bits``;
            uniform when not given. Need not sum to 1.

        Raises
        ------
        InputError
            If a distribution has the wrong length or weights.
        TableError
            If the multiplier has no table.

        Examples
        --------
        >>> import numpy as np
        >>> m = Multiplier.from_function(lambda a, b: a * b + (b == 0), name="m", a="4u", b="4u")
        >>> m.metrics_under(p_b=np.arange(16)).ep_pct  # b is never 0
        0.0
        """
        w_a, w_b = _distribution(p_a, "a"), _distribution(p_b, "b")
        return exhaustive_metrics(self.table, self._a, self._b, w_a, w_b)

    @functools.cached_property
    def is_exact(self) -> bool:
        """Whether every product is the exact one (False where no table can prove it)."""
        if isinstance(self._circuit, _Exact):
            return True
        if not self.has_table:
            return False
        va, vb = self._a.values(), self._b.values()
        return bool((self.table == va[:, None] * vb[None, :]).all())

    @functools.cached_property
    def is_commutative(self) -> bool | None:
        """Whether ``m(a, b) == m(b, a)`` for all pairs; None without a table."""
        if self._a != self._b:
            return False
        return bool((self.table == self.table.T).all()) if self.has_table else None

    @functools.cached_property
    def preserves_zero(self) -> bool | None:
        """Whether a zero operand always gives zero; None without a table."""
        if not self.has_table:
            return None
        return not (self.table[0].any() or self.table[:, 0].any())

    @functools.cached_property
    def max_abs(self) -> int:
        """Largest absolute product; without a table the bound ``2**(a.bits + b.bits)``."""
        low, high = self.extremes
        return max(high, -low)

    @functools.cached_property
    def extremes(self) -> tuple[int, int]:
        """Smallest and largest product; without a table -+ ``2**(a.bits + b.bits)``."""
        if not self.has_table:
            bound = 1 << (self._a.bits + self._b.bits)
            return -bound, bound
        return int(self.table.min()), int(self.table.max())

    # --- products -------------------------------------------------------------

    @overload
    def __call__(self, a: int, b: int) -> int: ...
    @overload
    def __call__(self, a: npt.ArrayLike, b: npt.ArrayLike) -> IntArray | int: ...
    def __call__(self, a: npt.ArrayLike, b: npt.ArrayLike) -> IntArray | int:
        """Products of values (not bit patterns).

        Parameters
        ----------
        a, b : array_like of int
            Activations and weights; broadcast against each other.

        Returns
        -------
        ndarray of int64, or int for two scalars

        Raises
        ------
        InputError
            If an operand is not of an integer type, or the shapes do not broadcast.
        OperandRangeError
            If a value is outside its operand's range.
        """
        x, w = self._a.check(a, "a"), self._b.check(b, "b")
        try:
            np.broadcast_shapes(x.shape, w.shape)
        except ValueError:
            raise InputError(
                f"operands of shapes {x.shape} and {w.shape} do not broadcast"
            ) from None
        out = self.evaluate(x, w)
        return int(out) if out.ndim == 0 else out

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Like calling, on int64 arrays that are known to be in range."""
        if self.has_table:
            found = self.table[self._a.to_pattern(a), self._b.to_pattern(b)]
            return np.asarray(found, dtype=np.int64)
        assert self._circuit is not None
        return np.asarray(self._circuit.evaluate(a, b), dtype=np.int64)

    # --- modifiers ------------------------------------------------------------

    def swap(self) -> Multiplier:
        """Exchange the operands: ``m.swap()(a, b) == m(b, a)``."""
        return self._modified(Modifier("swap"), self._b, self._a)

    def zerogate(self) -> Multiplier:
        """Let a zero operand give zero, whatever the circuit does."""
        return self._modified(Modifier("zerogate"), self._a, self._b)

    def signmag(self, target: str, bits: int | None = None) -> Multiplier:
        """Put an unsigned circuit behind a sign-magnitude wrapper.

        The magnitude of each signed code enters the circuit, and the signs join its product.

        Parameters
        ----------
        target : {'weights', 'both'}
            Which operands become signed.
        bits : int, optional
            Width of the signed codes: up to the circuit's width plus one (the whole circuit;
            the single code ``-2**(bits-1)`` then saturates). The circuit's width when not given,
            for ``'both'`` that of the narrower operand.

        Raises
        ------
        InputError
            If the circuit is signed, or `target` or `bits` does not fit.

        Examples
        --------
        >>> m = exact(bits=8, signed=False).signmag("weights")
        >>> m.id, str(m.a), str(m.b), m(200, -100)
        ('exact:8u+signmag(weights,8)', '8u', '8s', -20000)
        """
        if target not in ("weights", "both"):
            raise InputError(f"signmag: target must be 'weights' or 'both', got {target!r}")
        signed = [f for f in ((self._a, self._b) if target == "both" else (self._b,)) if f.signed]
        if signed:
            raise InputError(
                f"{self.id} ({self._a} x {self._b}) has a signed operand already; a "
                "sign-magnitude wrapper needs an unsigned circuit"
            )
        narrow = min(self._a.bits, self._b.bits) if target == "both" else self._b.bits
        bits = narrow if bits is None else bits
        if not 2 <= bits <= min(narrow + 1, MAX_BITS):
            raise InputError(
                f"{self.id}: signmag takes 2 to {min(narrow + 1, MAX_BITS)} bits "
                f"for a circuit of {narrow}, got {bits}"
            )
        new = OperandFormat(bits, True)
        modifier = Modifier("signmag", target, bits)
        return self._modified(modifier, new if target == "both" else self._a, new)

    def _modified(self, modifier: Modifier, a: OperandFormat, b: OperandFormat) -> Multiplier:
        try:
            new_id = self._id.with_modifier(modifier)
        except MultiplierIdError as error:
            raise InputError(f"{self.id}: cannot add +{modifier}: {error}") from None
        return Multiplier(
            new_id,
            a,
            b,
            circuit=_Modified(self, modifier, self._a, self._b),
            hardware=self._hardware,
            provenance=self._provenance,
        )

    @property
    def source_sha256(self) -> str:
        """Hash of the identity: makes a multiplier a :class:`Circuit` itself."""
        return hashlib.sha256(self.identity.encode()).hexdigest()

    # --- being an object ------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Multiplier):
            return NotImplemented
        return self is other or self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __reduce__(self) -> tuple[Any, ...]:
        state = _State(
            str(self._id),
            self._a,
            self._b,
            _smallest(self.table) if self.has_table else None,
            None if self.has_table else self._circuit,
            self._hardware,
            self._provenance,
            self._printed,
        )
        return _restore, (state,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Multiplier:
        return self  # immutable, and a table may be 64 MB

    def __copy__(self) -> Multiplier:
        return self

    def __repr__(self) -> str:
        parts = [f"{self._a} x {self._b}"]
        if self._a.bits + self._b.bits <= _EAGER_BITS:
            m = self.metrics
            parts.append(
                "exact" if self.is_exact else f"MAE {m.mae:.4g} ({m.mae_pct:.2g} %), WCE {m.wce}"
            )
        if self._hardware.power_mw is not None:
            parts.append(f"{self._hardware.power_mw:g} mW")
        return f"<Multiplier {self.id}: {', '.join(parts)}>"


@dataclass(frozen=True)
class _State:
    """What a pickle holds."""

    id: str
    a: OperandFormat
    b: OperandFormat
    table: npt.NDArray[Any] | None
    circuit: Circuit | None
    hardware: Hardware
    provenance: Provenance
    printed: dict[str, str] = field(default_factory=dict)


def _restore(state: _State) -> Multiplier:
    return Multiplier(
        state.id,
        state.a,
        state.b,
        table=state.table,
        circuit=state.circuit,
        hardware=state.hardware,
        provenance=state.provenance,
        printed=state.printed,
    )


def _smallest(table: Table) -> npt.NDArray[Any]:
    """The table in the smallest integer type that holds it."""
    low, high = int(table.min()), int(table.max())
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return table.astype(dtype)
    return table


def _table_array(table: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(table)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TableError(f"a table is an array of integers: {error}") from None


def _distribution(p: npt.ArrayLike | None, name: str) -> npt.NDArray[np.float64] | None:
    try:
        return None if p is None else np.asarray(p, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"distribution of operand {name}: not an array of numbers: {error}"
        ) from None


def _checked_table(table: npt.ArrayLike, a: OperandFormat, b: OperandFormat) -> Table:
    array = _table_array(table)
    if a.bits + b.bits > MAX_TABLE_BITS:
        raise TableError(f"{a} x {b}: a table has at most 2**{MAX_TABLE_BITS} entries")
    if array.shape != (a.size, b.size):
        raise TableError(f"{a} x {b} needs a table of shape {(a.size, b.size)}, got {array.shape}")
    _check_entries(array)
    copy = np.array(array, dtype=np.int32, order="C")
    copy.flags.writeable = False
    return copy


def _check_entries(array: npt.NDArray[Any]) -> None:
    """Refuse entries that are no integers of 32 bits."""
    if array.dtype.kind not in "iu":
        hint = (
            "; round and convert it: np.rint(t).astype(np.int32)" if array.dtype.kind == "f" else ""
        )
        raise TableError(f"a table holds integers, got dtype {array.dtype}{hint}")
    low, high = int(array.min()), int(array.max())
    if low < _INT32.min or high > _INT32.max:
        bad = low if low < _INT32.min else high
        x, y = np.argwhere(array == bad)[0]
        raise TableError(
            f"row {x}, column {y} (counted from 0): entry {bad}: a table's entries must fit "
            "32-bit signed integers"
        )


def _local(name: str) -> MultiplierId:
    try:
        parsed = MultiplierId.parse(f"local:{name}")
    except MultiplierIdError:
        parsed = None
    if parsed is None or parsed.modifiers:
        raise InputError(
            f"{name!r} cannot name a multiplier; use letters, digits and . , = _ - / only"
        )
    return parsed


def exact(
    bits: int = 8, signed: bool = True, *, b_bits: int | None = None, b_signed: bool | None = None
) -> Multiplier:
    """Return the exact multiplier of a width and sign.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``exact:8s``, or ``exact:8ux4s`` where the operands differ.

    Raises
    ------
    InputError
        If a width is not 1 to 16.

    Examples
    --------
    >>> exact(8, signed=False)(255, 255)
    65025
    >>> exact(8, False, b_bits=4, b_signed=True).id
    'exact:8ux4s'
    """
    a = OperandFormat(bits, signed)
    b = OperandFormat(bits if b_bits is None else b_bits, signed if b_signed is None else b_signed)
    return Multiplier(f"exact:{format_pair(a, b)}", a, b, circuit=_Exact())


def resolved(multiplier: Multiplier | str) -> Multiplier:
    """A multiplier, or the one of an id.

    Raises
    ------
    NotFoundError, NetworkError
        As :func:`approxhub.load`.

    Examples
    --------
    >>> resolved("exact:4u") == resolved(exact(4, signed=False))
    True
    """
    if isinstance(multiplier, Multiplier):
        return multiplier
    from approxhub.registry import load

    return load(multiplier)
