"""Distributions of operand codes, captured in any forward pass, and the errors they predict.

Nothing is kept of the activations but counts. From them, mean and deviation of a layer's
accumulated error follow for any multiplier, without running the network again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.errors import CalibrationError, InputError, MappingError, TableError
from approxhub.model.layers import require_layers
from approxhub.multiplier import MAX_TABLE_BITS, Multiplier, resolved
from approxhub.nn import ApproxLayer
from approxhub.nn.gradients import (
    BatchedProduct,
    ConvProduct,
    ConvTransposeProduct,
    LinearProduct,
    Product,
)
from approxhub.nn.noise import Noise
from approxhub.operands import OperandFormat
from approxhub.quantization import OperandMapping

__all__ = [
    "AccumulatedError",
    "LayerStatistics",
    "capture_statistics",
    "require_table",
    "set_noise",
]

ERROR_MODELS = ("conditional", "population", "single")

Counts = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AccumulatedError:
    """Error of a layer's integer sums: approximate less exact, in products of codes.

    Parameters
    ----------
    mean, deviation : float
        Over all sums of the layer. Times the scales of activations and weights they are what the
        layer's output differs by.
    terms : int
        Products in each sum; where some sums have fewer, the most.
    """

    mean: float
    deviation: float
    terms: int

    @property
    def per_product(self) -> tuple[float, float]:
        """Mean and deviation of the independent errors of products that give the same sums."""
        return self.mean / self.terms, self.deviation / self.terms**0.5


class LayerStatistics:
    """Counts of the codes that met in one layer.

    Parameters
    ----------
    mapping : OperandMapping
        How codes became operands.
    a, b : OperandFormat
        Formats of the codes of activations and weights.
    fields : int
        How many receptive fields to sample: the activations of one sum.
    taps : bool
        Whether to count what each weight of an output channel meets, by itself.

    Attributes
    ----------
    activations : ndarray of int64, (2**a.bits,)
        How often each code was an activation, by bit pattern, over all passes.
    weights : ndarray of int64, (2**b.bits,)
        The same for weights. (The right operands, in a product of two activations.)
    fields : ndarray of int64, (fields, 2**a.bits)
        Counts within each sampled receptive field, padding included; drawn with equal
        probability from all sums of all passes.
    taps : ndarray of int64, (taps, 2**a.bits), or None
        Counts for each input channel and each place in the kernel (so many as weights of an
        output channel, times the groups), padding included. None if they were not asked for, or
        in a product of two activations.
    terms : int
        Products in each sum.
    """

    def __init__(
        self,
        mapping: OperandMapping,
        a: OperandFormat,
        b: OperandFormat,
        fields: int,
        taps: bool = False,
    ):
        self.mapping, self.a, self.b = mapping, a, b
        self.activations: Counts = np.zeros(a.size, np.int64)
        self.weights: Counts = np.zeros(b.size, np.int64)
        self.fields: Counts = np.zeros((fields, a.size), np.int64)
        self.taps: Counts | None = None
        self.terms = 0
        self._wants_taps = taps
        self._weight_codes: Tensor | None = None
        self._groups, self._sums = 1, 0  # of each output channel
        self._seen = 0
        self._generator = torch.Generator().manual_seed(0)

    # --- seeing -------------------------------------------------------------------

    def observe(self, x: Tensor, w: Tensor, product: Product, zero: Tensor) -> None:
        """Count the codes of one pass.

        Parameters
        ----------
        x, w : Tensor of integers
            Codes of activations and weights.
        product : Product
            Which of them met.
        zero : Tensor of one integer
            The code that padding has.
        """
        if x.numel() == 0 or x.is_meta:
            return
        self.activations += _histogram(x, self.a)
        self.weights += _histogram(w, self.b)
        self.terms = max(self.terms, product.terms(w))
        if self._wants_taps:
            self._observe_taps(x, w, product, zero)
        count = len(self.fields)
        if not count:
            return
        codes, present, sums = receptive_fields(product, x, w, zero, count, self._generator)
        drawn = _histograms(codes, present, self.a)
        # Each slot holds one sum of all that were seen, every one with the same probability.
        total = self._seen + sums
        new = torch.rand(count, generator=self._generator, dtype=torch.float64) < sums / total
        self.fields[new.numpy()] = drawn[new.numpy()]
        self._seen = total

    def _observe_taps(self, x: Tensor, w: Tensor, product: Product, zero: Tensor) -> None:
        found = tap_counts(product, x, w, zero, self.a)
        if found is None:
            return
        if self._weight_codes is None:
            self._weight_codes, self._groups = w.clone(), found.groups
            self.taps = np.zeros_like(found.counts)
        elif not torch.equal(self._weight_codes, w):
            raise CalibrationError("the weights changed while their products were counted")
        assert self.taps is not None
        self.taps += found.counts
        self._sums += found.sums

    # --- predicting ------------------------------------------------------------------

    def error(
        self, multiplier: Multiplier | str, *, model: str = "conditional"
    ) -> AccumulatedError:
        """Predict the accumulated error of the layer with a multiplier.

        With the error ``E[a, b] = T[a, b] - a b``, frequencies ``p(a)`` and ``q(b)`` of the codes,
        and ``K`` products in a sum, the model ``'single'`` takes all operands to be independent:

            mu = sum p(a) q(b) E[a, b]
            sigma^2 = sum p(a) q(b) (E[a, b] - mu)^2
            mean = K mu,  deviation = sqrt(K) sigma

        But activations that meet in one sum are alike: they are near each other in an image, or
        of one example. The model ``'population'`` draws the activations of a sum from the
        frequencies ``p_i(a)`` within one receptive field `i`, which give ``mu_i`` and ``sigma_i``
        as above, and averages over the fields by the law of total variance:

            mean = avg_i(K mu_i)
            deviation^2 = avg_i(K sigma_i^2 + (K mu_i)^2) - mean^2

        Both are from E. Trommer, B. Waschneck, A. Kumar, "Combining Gradients and Probabilities
        for Heterogeneous Approximation of Neural Networks", ICCAD 2022, arXiv 2208.07265. The
        second counts the spread of activations twice, within a field and among fields, and so
        errs upwards. The model ``'conditional'`` takes the activations of each field as they are,
        and only the weights as random, so that ``sigma_i`` is a deviation given the activations:

            sigma_i^2 = sum p_i(a) (sum q(b) E[a, b]^2 - (sum q(b) E[a, b])^2)

        Parameters
        ----------
        multiplier : Multiplier or str
            Any one that fits the layer's mapping, with operands of the same formats.
        model : {'conditional', 'population', 'single'}
            The error model.

        Raises
        ------
        InputError
            If there is no such model.
        CalibrationError
            If no pass reached the layer, or no fields were sampled for a model that needs them.
        MappingError
            If the multiplier does not fit.
        TableError
            If it has no table.
        """
        if model not in ERROR_MODELS:
            raise InputError(f"model must be one of {', '.join(ERROR_MODELS)}, got {model!r}")
        e = self._errors(multiplier)
        if not self.activations.any():
            raise CalibrationError(
                "no forward pass reached this layer while statistics were captured"
            )
        counts = self.fields.astype(np.float64)
        if model == "single":
            counts = self.activations[None] * (self.terms / self.activations.sum())
        if not len(counts):
            raise CalibrationError("no receptive fields were sampled; capture with fields=512")
        q = self.weights / self.weights.sum()
        first, second = e @ q, (e * e) @ q  # given a: mean of the error, and of its square
        means = counts @ first
        if model == "conditional":
            variances = counts @ (second - first**2)
        else:
            variances = counts @ second - means**2 / counts.sum(axis=1).clip(min=1)
        mean = float(means.mean())
        variance = float((variances + means**2).mean()) - mean**2
        return AccumulatedError(mean, max(0.0, variance) ** 0.5, self.terms)

    def channel_means(self, multiplier: Multiplier | str) -> Array | None:
        """Mean accumulated error of each output channel, exactly, over the sums that were seen.

        Parameters
        ----------
        multiplier : Multiplier or str
            Any one that fits the layer's mapping, with operands of the same formats.

        Returns
        -------
        ndarray of float64, (channels,), or None
            In products of codes; None for a product of two activations, which has no channels.

        Raises
        ------
        InputError
            If taps were not counted.
        CalibrationError
            If no pass reached the layer.
        MappingError, TableError
            As :meth:`error`.
        """
        if not self._wants_taps:
            raise InputError("taps were not counted; capture with taps=True")
        if not self.activations.any():
            raise CalibrationError(
                "no forward pass reached this layer while statistics were captured"
            )
        if self.taps is None or self._weight_codes is None:
            return None
        # In float64 these are integers, exactly, below 2^53.
        errors = (self.taps.astype(np.float64) @ self._errors(multiplier)).reshape(
            self._groups, -1, self.b.size
        )
        patterns = (self._weight_codes.flatten(1).to(torch.int64) & (self.b.size - 1)).cpu().numpy()
        within = len(patterns) // self._groups
        places = np.arange(patterns.shape[1])
        sums = [errors[o // within, places, row].sum() for o, row in enumerate(patterns)]
        return np.asarray(sums, dtype=np.float64) / self._sums

    def _errors(self, multiplier: Multiplier | str) -> Array:
        m = resolved(multiplier)
        effective, _, _ = self.mapping.resolve(m)
        if (effective.a, effective.b) != (self.a, self.b):
            raise MappingError(
                f"the codes captured are of {self.a} x {self.b}, but {m.id} takes {effective.a} x "
                f"{effective.b} under the mapping {self.mapping}; set it in the model and capture "
                "again"
            )
        require_table(effective)  # before anything of its size is made
        exact = effective.a.values()[:, None] * effective.b.values()
        return np.asarray(effective.table - exact, dtype=np.float64)

    def __repr__(self) -> str:
        return (
            f"<LayerStatistics {self.a} x {self.b}: {int(self.activations.sum())} activations, "
            f"{self.terms} products in a sum, {len(self.fields)} receptive fields>"
        )


def require_table(m: Multiplier) -> None:
    """Refuse a multiplier whose errors cannot be counted pair by pair.

    Raises
    ------
    TableError
        If it has no table.
    """
    if not m.has_table:
        raise TableError(
            f"{m.id} ({m.a} x {m.b}) has no table, as operands of at most {MAX_TABLE_BITS} bits "
            "together have one; its mean error cannot be predicted or compensated"
        )


def _histogram(codes: Tensor, f: OperandFormat) -> Counts:
    patterns = codes.reshape(-1).to(torch.int64) & (f.size - 1)
    return torch.bincount(patterns, minlength=f.size).cpu().numpy()


def _histograms(codes: Tensor, present: Tensor | None, f: OperandFormat) -> Counts:
    """Counts in each row of (rows, codes); where `present` is False there is no code."""
    patterns = codes.to(torch.int64) & (f.size - 1)
    where = patterns + torch.arange(len(codes), device=codes.device)[:, None] * f.size
    where = where.reshape(-1) if present is None else where[present]
    counts = torch.bincount(where, minlength=len(codes) * f.size)
    return counts.reshape(len(codes), f.size).cpu().numpy()


# --- receptive fields -----------------------------------------------------------------

Fields = tuple[Tensor, Tensor | None, int]


@functools.singledispatch
def receptive_fields(
    product: Product, x: Tensor, w: Tensor, zero: Tensor, count: int, generator: torch.Generator
) -> Fields:
    """Draw sums of a product with equal probability, and give the activations that they meet.

    Parameters
    ----------
    product : Product
    x, w : Tensor of integers
        Codes of activations and weights.
    zero : Tensor of one integer
        The code of padding.
    count : int
        How many to draw, with replacement.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    codes : Tensor of integers, (count, K)
    present : Tensor of bool, (count, K), or None
        Where there is a product; everywhere if None.
    sums : int
        How many sums differ in their activations.

    Raises
    ------
    InputError
        If the product is of a kind that a plug-in brought.
    """
    raise InputError(
        f"the receptive fields of a {type(product).__name__} are not known; capture with fields=0"
    )


def _draw(below: int, count: int, generator: torch.Generator, x: Tensor) -> Tensor:
    return torch.randint(below, (count,), generator=generator).to(x.device)


@receptive_fields.register(LinearProduct)
@receptive_fields.register(BatchedProduct)
def _(
    product: Product, x: Tensor, w: Tensor, zero: Tensor, count: int, generator: torch.Generator
) -> Fields:
    rows = x.reshape(-1, x.shape[-1])
    return rows[_draw(len(rows), count, generator, x)], None, len(rows)


@receptive_fields.register(ConvProduct)
def _(
    product: ConvProduct, x: Tensor, w: Tensor, zero: Tensor, count: int, generator: torch.Generator
) -> Fields:
    padded = F.pad(x, product.padding, value=int(zero))
    kernel = tuple(w.shape[2:])
    steps = list(zip(padded.shape[2:], kernel, product.stride, product.dilation, strict=True))
    size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in steps]
    where = []
    for d, ((_, k, stride, dilation), n) in enumerate(zip(steps, size, strict=True)):
        start = _draw(n, count, generator, x) * stride
        taps = torch.arange(k, device=x.device) * dilation
        where.append(_spread(start[:, None] + taps, d, len(kernel)))
    images = _images(product.groups, x, count, generator, len(kernel))
    codes = padded[tuple([*images, *where])]
    sums = len(x) * product.groups * int(np.prod(size))
    present = None
    if product.skip:
        inside = F.pad(torch.ones_like(x[:1, :1], dtype=torch.bool), product.padding)
        present = inside[tuple([torch.zeros_like(i) for i in images] + where)]
        present = present.expand(codes.shape).reshape(count, -1)
    return codes.reshape(count, -1), present, sums


@receptive_fields.register(ConvTransposeProduct)
def _(
    product: ConvTransposeProduct, x: Tensor, w: Tensor, zero: Tensor, count: int,
    generator: torch.Generator,
) -> Fields:  # fmt: skip
    kernel, where, present, sums = tuple(w.shape[2:]), [], None, len(x) * product.groups
    for d, k in enumerate(kernel):
        stride, padding, dilation = product.stride[d], product.padding[d], product.dilation[d]
        n, extra = x.shape[2 + d], product.output_padding[d]
        out = (n - 1) * stride - 2 * padding + dilation * (k - 1) + extra + 1
        position = _draw(out, count, generator, x)[:, None] + padding
        at = position - torch.arange(k, device=x.device) * dilation
        met = (at % stride == 0) & (at >= 0) & (at < n * stride)
        where.append(_spread((at // stride).clamp(0, n - 1), d, len(kernel)))
        met = _spread(met, d, len(kernel))
        present = met if present is None else present & met
        sums *= out
    images = _images(product.groups, x, count, generator, len(kernel))
    codes = x[tuple([*images, *where])]
    assert present is not None
    return codes.reshape(count, -1), present.expand(codes.shape).reshape(count, -1), sums


def _images(
    groups: int, x: Tensor, count: int, generator: torch.Generator, dims: int
) -> tuple[Tensor, Tensor]:
    """Indices of a random image, and of the channels of a random group, for each field."""
    ones = [1] * dims
    channels = x.shape[1] // groups
    first = _draw(groups, count, generator, x) * channels
    inside = first[:, None] + torch.arange(channels, device=x.device)
    image = _draw(len(x), count, generator, x)
    return image.reshape(-1, 1, *ones), inside.reshape(count, channels, *ones)


def _spread(t: Tensor, d: int, dims: int) -> Tensor:
    """(count, taps) as (count, 1, .., taps, .., 1), with the taps in dimension `d` of the image."""
    shape = [1] * dims
    shape[d] = -1
    return t.reshape(len(t), 1, *shape)


# --- taps ------------------------------------------------------------------------------

_MOST_COUNTERS = 1 << 27


class Taps(NamedTuple):
    """What each weight of an output channel met, in one pass.

    Parameters
    ----------
    counts : ndarray of int64, (taps, codes)
        Taps of one input channel are neighbours.
    sums : int
        Sums of each output channel.
    groups : int
    """

    counts: Counts
    sums: int
    groups: int


@functools.singledispatch
def tap_counts(
    product: Product, x: Tensor, w: Tensor, zero: Tensor, f: OperandFormat
) -> Taps | None:
    """Count the activations that each weight of an output channel meets.

    Parameters
    ----------
    product : Product
    x, w : Tensor of integers
        Codes of activations and weights.
    zero : Tensor of one integer
        The code of padding.
    f : OperandFormat
        Of the activations.

    Returns
    -------
    Taps or None
        None where there are no weights.

    Raises
    ------
    InputError
        If the product is of a kind that a plug-in brought, or there are too many to count.
    """
    raise InputError(
        f"what the weights of a {type(product).__name__} meet is not known; skip that layer"
    )


@tap_counts.register(BatchedProduct)
def _(product: Product, x: Tensor, w: Tensor, zero: Tensor, f: OperandFormat) -> None:
    return None


@tap_counts.register(LinearProduct)
def _(product: Product, x: Tensor, w: Tensor, zero: Tensor, f: OperandFormat) -> Taps:
    rows = x.reshape(-1, x.shape[-1])
    _check_counters(rows.shape[1], f)
    return Taps(_histograms(rows.t(), None, f), len(rows), 1)


@tap_counts.register(ConvProduct)
def _(product: ConvProduct, x: Tensor, w: Tensor, zero: Tensor, f: OperandFormat) -> Taps:
    padded, kernel = F.pad(x, product.padding, value=int(zero)), tuple(w.shape[2:])
    outside = None
    if product.skip:  # no product where there is padding
        outside = F.pad(torch.zeros_like(x, dtype=torch.bool), product.padding, value=True)
    steps = list(zip(kernel, product.stride, product.dilation, strict=True))
    size = [
        (n - d * (k - 1) - 1) // s + 1 for n, (k, s, d) in zip(padded.shape[2:], steps, strict=True)
    ]
    _check_counters(x.shape[1] * int(np.prod(kernel)), f)
    found = []
    for tap in itertools.product(*map(range, kernel)):
        where = (slice(None), slice(None), *(
            slice(t * d, t * d + s * (n - 1) + 1, s)
            for t, (_, s, d), n in zip(tap, steps, size, strict=True)
        ))  # fmt: skip
        present = None if outside is None else ~_by_channel(outside[where])
        found.append(_histograms(_by_channel(padded[where]), present, f))
    counts = np.stack(found, axis=1).reshape(-1, f.size)
    return Taps(counts, len(x) * int(np.prod(size)), product.groups)


@tap_counts.register(ConvTransposeProduct)
def _(product: ConvTransposeProduct, x: Tensor, w: Tensor, zero: Tensor, f: OperandFormat) -> Taps:
    kernel, shape = tuple(w.shape[2:]), x.shape[2:]
    steps = list(zip(kernel, product.stride, product.padding, product.dilation, strict=True))
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, (k, s, p, d), extra in zip(shape, steps, product.output_padding, strict=True)
    ]
    _check_counters(x.shape[1] * int(np.prod(kernel)), f)
    found = []
    for tap in itertools.product(*map(range, kernel)):
        where: list[slice] = [slice(None), slice(None)]
        for t, (_, s, p, d), n, o in zip(tap, steps, shape, out, strict=True):
            # An activation at i gives a product at i * s - p + t * d, if that is in the output.
            first = max(0, -(-(p - t * d) // s))
            where.append(slice(first, max(first, min(n, (o - 1 + p - t * d) // s + 1))))
        found.append(_histograms(_by_channel(x[tuple(where)]), None, f))
    counts = np.stack(found, axis=1).reshape(-1, f.size)
    return Taps(counts, len(x) * int(np.prod(out)), product.groups)


def _by_channel(x: Tensor) -> Tensor:
    """(N, C, ...) as (C, ...)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _check_counters(taps: int, f: OperandFormat) -> None:
    if taps * f.size > _MOST_COUNTERS:
        raise InputError(
            f"{taps:,} weights of a channel and {f.size:,} codes are too many to count them apart"
        )


# --- models ----------------------------------------------------------------------------


@contextmanager
def capture_statistics(
    model: nn.Module, *, fields: int = 512, taps: bool = False
) -> Iterator[Mapping[str, LayerStatistics]]:
    """Count the operands' codes of every approximate layer, in all forward passes inside.

    Any mode but ``'float'`` has codes. Results and state of the model do not change, nor does
    torch's generator.

    Parameters
    ----------
    model : torch.nn.Module
        A converted, calibrated model.
    fields : int
        Receptive fields to sample in each layer; 0 for none.
    taps : bool
        Whether to count what each weight meets, apart, as :func:`compensate` needs it: a counter
        for each code and each weight of an output channel.

    Yields
    ------
    mapping of str to LayerStatistics
        By the names of the layers.

    Raises
    ------
    ConversionError
        If the model has no approximate layer.
    InputError
        If `fields` is negative, or statistics of the model are being captured already.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> x = torch.randn(64, 4)
    >>> _ = ah.calibrate(net, [x]).eval()
    >>> with ah.capture_statistics(net) as statistics, ah.mode(net, "exact"):
    ...     y = net(x)
    >>> statistics["0"]
    <LayerStatistics 8s x 8s: 256 activations, 4 products in a sum, 512 receptive fields>
    >>> coarse, fine = (statistics["0"].error(f"drum:8s/k={k}") for k in (3, 6))
    >>> coarse.deviation > fine.deviation
    True
    """
    if fields < 0:
        raise InputError(f"fields must be 0 or more, got {fields}")
    layers = require_layers(model)
    if any(layer._capture is not None for layer in layers.values()):
        raise InputError("statistics of this model are being captured already")
    found = {
        name: LayerStatistics(
            layer.mapping, layer.effective_multiplier.a, layer.effective_multiplier.b, fields, taps
        )
        for name, layer in layers.items()
    }
    try:
        for name, layer in layers.items():
            layer._capture = functools.partial(_observe, found[name], layer)
        yield found
    finally:
        for layer in layers.values():
            layer._capture = None


def _observe(
    statistics: LayerStatistics, layer: ApproxLayer, x: Tensor, w: Tensor, product: Product
) -> None:
    zero = layer.input_quantizer.zero_point
    # Subtracted before the multiplier, it leaves real zero as 0.
    before = layer.datapath.zero_point == "before"
    statistics.observe(x, w, product, torch.zeros_like(zero) if before else zero)


def set_noise(
    model: nn.Module,
    source: Mapping[str, LayerStatistics] | tuple[float, float] | None,
    *,
    multiplier: Multiplier | str | None = None,
    error_model: str = "conditional",
    learned: bool = False,
) -> None:
    """Say what mode ``'noise'`` adds to the exact products of a model's layers.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    source : mapping of str to LayerStatistics, (float, float), or None
        What :func:`capture_statistics` gave: mean and deviation follow from a multiplier's table
        under the operands of each layer. Or mean and deviation of the error of one product, for
        all layers. None takes the noise away.
    multiplier : Multiplier or str, optional
        The one whose error to stand for; each layer's own when not given. With statistics only.
    error_model : {'conditional', 'population', 'single'}
        See :meth:`LayerStatistics.error`.
    learned : bool
        Make each layer's deviation a parameter, ``layer.noise.relative``, which starts there. Its
        unit is the largest product of the layer's codes. How much noise a layer bears at what
        accuracy says which multipliers it can have: those whose predicted deviation is smaller.

    Raises
    ------
    ConversionError
        If the model has no approximate layer.
    InputError
        If a layer has no statistics, or the numbers are no mean and deviation.
    CalibrationError, MappingError, TableError
        As :meth:`LayerStatistics.error`. The model is unchanged then.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> x = torch.randn(64, 4)
    >>> _ = ah.calibrate(net, [x]).eval()
    >>> ah.set_noise(net, (0.0, 25.0))
    >>> with ah.mode(net, "noise"):
    ...     different = not torch.equal(net(x), net(x))
    >>> different
    True
    """
    layers = require_layers(model)
    made: dict[str, Noise | None] = {}
    for name, layer in layers.items():
        if source is None:
            made[name] = None
            continue
        if isinstance(source, Mapping):
            if name not in source:
                raise InputError(f"there are no statistics of layer {name!r}")
            chosen = layer.multiplier if multiplier is None else multiplier
            mean, deviation = source[name].error(chosen, model=error_model).per_product
        else:
            mean, deviation = source
        x, w = layer.input_quantizer, layer.weight_quantizer
        unit = float(x.code_range.largest * w.code_range.largest)
        noise = Noise(mean, deviation, unit=unit, learned=learned)
        made[name] = noise.to(x.scale.device)
    for name, layer in layers.items():
        layer.noise = made[name]
