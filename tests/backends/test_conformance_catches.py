"""The kit lets a right backend pass, and catches each way in which one can be wrong."""

# ruff: noqa: D102 - the methods of the made-up backends are those of the protocol
from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from approxhub.backends import Convolution, ConvRequest
from approxhub.testing import BackendConformance
from approxhub.testing.backend import CASES, LONGER_SUMS, _multiplier, conv_loop

Failed = pytest.fail.Exception
Skipped = pytest.skip.Exception


class Gather:
    """A right backend in a few lines: every product looked up at once."""

    def unavailable_reason(self):
        return None

    def supports(self, request):
        return request.multiplier.has_table and request.m * request.k * request.n < 2**24

    def cost(self, request):
        return 1e-5 + 1e-8 * request.m * request.k * request.n

    def prepare(self, multiplier, device, weight_codes=None):
        return multiplier.a.size - 1, multiplier.b.size - 1, self.table(multiplier).to(device)

    def table(self, multiplier):
        return torch.tensor(multiplier.table)

    def products(self, a, b, prepared):
        a_mask, b_mask, table = prepared
        return table[(a.long() & a_mask).unsqueeze(-1), b.long() & b_mask]

    def gemm(self, a, b, prepared, dtype):
        return self.products(a, b, prepared).sum(-2, dtype=dtype)


class Transposed(Gather):
    """Looks up T[weight, activation]."""

    def table(self, multiplier):
        return torch.tensor(multiplier.table.T.copy())


class PadsInner(Gather):
    """Pads K to four with code 0, which goes through the table."""

    def gemm(self, a, b, prepared, dtype):
        pad = -b.shape[0] % 4
        a = torch.nn.functional.pad(a, (0, pad))
        return super().gemm(a, torch.nn.functional.pad(b, (0, 0, 0, pad)), prepared, dtype)


class Float32(Gather):
    """Sums in float32."""

    def gemm(self, a, b, prepared, dtype):
        return self.products(a, b, prepared).float().sum(-2).to(dtype)


class Float64(Gather):
    """Sums in float64, in any order."""

    def gemm(self, a, b, prepared, dtype):
        return self.products(a, b, prepared).double().sum(-2).to(dtype)


class Wraps(Gather):
    """Sums in int32 whatever is asked for."""

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a, b, prepared, torch.int32).to(dtype)


class Saturates(Gather):
    """Stops at the ends of int32."""

    def gemm(self, a, b, prepared, dtype):
        info = torch.iinfo(torch.int32)
        return super().gemm(a, b, prepared, torch.int64).clamp(info.min, info.max).to(dtype)


class Narrow(Gather):
    """Keeps products in 16 bits."""

    def table(self, multiplier):
        return super().table(multiplier).to(torch.int16)


class Mutates(Gather):
    """Leaves patterns behind in its operand."""

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        a &= 7
        return out


class Flattens(Gather):
    """Forgets the leading dimensions."""

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a.reshape(-1, a.shape[-1]), b, prepared, dtype)


class Folds(Gather):
    """Uses the first of the leading dimensions for all."""

    def gemm(self, a, b, prepared, dtype):
        first = a.reshape(-1, *a.shape[-2:])[0]
        return super().gemm(first, b, prepared, dtype).expand(*a.shape[:-1], -1).clone()


class NoSigns(Gather):
    """Takes the magnitude of a value for its pattern."""

    def products(self, a, b, prepared):
        return super().products(a.long().abs(), b.long().abs(), prepared)


class IgnoresStrides(Gather):
    """Reads operands as if they lay row by row."""

    def gemm(self, a, b, prepared, dtype):
        flat = torch.as_strided(b, b.shape, (b.shape[1], 1))
        return super().gemm(a, flat, prepared, dtype)


class OnlyBytes(Gather):
    """Reads every operand as int8."""

    def products(self, a, b, prepared):
        return super().products(a.to(torch.int8), b, prepared)


class SharedResult(Gather):
    """Hands out one workspace again and again."""

    spaces: dict = {}  # noqa: RUF012

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        return self.spaces.setdefault((out.shape, dtype), torch.empty_like(out)).copy_(out)


class RemembersWeights(Gather):
    """Knows constant weights by their address."""

    def __init__(self):
        self.known = {}

    def gemm(self, a, b, prepared, dtype):
        b = self.known.setdefault((b.data_ptr(), b.shape), b.clone())
        return super().gemm(a, b, prepared, dtype)


class OneTable(Gather):
    """Uses the table that was prepared last."""

    def prepare(self, multiplier, device, weight_codes=None):
        self.last = super().prepare(multiplier, device)

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a, b, self.last, dtype)


class NotThreadSafe(Gather):
    """Keeps an operand in itself for a moment."""

    def gemm(self, a, b, prepared, dtype):
        self.a = a
        time.sleep(0.002)
        return super().gemm(self.a, b, prepared, dtype)


class ForgetsHint(Gather):
    """Goes wrong when it is told the weights beforehand."""

    def prepare(self, multiplier, device, weight_codes=None):
        mask_a, mask_b, table = super().prepare(multiplier, device)
        return mask_a, mask_b, table if weight_codes is None else table + 1


class SkipsRemainder(Gather):
    """Runs columns in fours, and leaves the rest."""

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        if b.shape[1] > 4 and b.shape[1] % 4:
            out[..., b.shape[1] // 4 * 4 :] = 0
        return out


class Sometimes(Gather):
    """Gives something else the second time."""

    count = 0

    def gemm(self, a, b, prepared, dtype):
        self.count += 1
        out = super().gemm(a, b, prepared, dtype)
        return out + (self.count > 1)


class WrongType(Gather):
    """Always returns int64."""

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a, b, prepared, torch.int64)


class Refuses(Gather):
    """Supports nothing, and so is never wrong."""

    def supports(self, request):
        return False


class Yes(Gather):
    """Answers with something that is not a bool."""

    def supports(self, request):
        return "yes"


class NoCost(Gather):
    """Has no idea."""

    def cost(self, request):
        return math.nan


class Free(Gather):
    """Costs less the more there is to do."""

    def cost(self, request):
        return 1 / (request.m * request.k * request.n)


class Lacking:
    """Has no gemm."""

    unavailable_reason = supports = cost = prepare = Gather.unavailable_reason


class Mute(Gather):
    """Is unavailable for an empty reason."""

    def unavailable_reason(self):
        return ""


class Absent(Gather):
    """Is unavailable for a reason."""

    def unavailable_reason(self):
        return "no such card"


class Convolves(Gather):
    """A right backend with a convolution of its own: every product of every patch at once."""

    def supports(self, request):
        work = request.gemm if isinstance(request, ConvRequest) else request
        return super().supports(work)

    def cost(self, request):
        return super().cost(request.gemm if isinstance(request, ConvRequest) else request)

    def pad(self, x, c):
        sides = [side for pair in reversed(c.padding) for side in pair]
        return F.pad(x.long(), sides, value=c.pad_value)

    def patches(self, x, w, c):
        """(N, groups, positions, channels x taps)."""
        x = self.pad(x, c).unflatten(1, (c.groups, -1))
        for d, (k, s, step) in enumerate(zip(w.shape[2:], c.stride, c.dilation, strict=True), 3):
            x = x.unfold(d, step * (k - 1) + 1, s)[..., ::step]
        dims = w.dim() - 2
        at = range(3, 3 + dims)
        return (
            x.permute(0, 1, *at, 2, *range(3 + dims, 3 + 2 * dims))
            .flatten(2 + dims)
            .flatten(2, 1 + dims)
        )

    def conv(self, x, w, prepared, dtype, c):
        patches = self.patches(x, w, c)
        weights = w.reshape(c.groups, -1, patches.shape[-1])
        sums = [
            self.products(patches[:, g], weights[g].t(), prepared).sum(-2, dtype=dtype).mT
            for g in range(c.groups)
        ]
        size = c.output_size(tuple(x.shape[2:]), tuple(w.shape[2:]))
        return torch.cat(sums, 1).reshape(x.shape[0], w.shape[0], *size)


class PadsWithZero(Convolves):
    """Puts code 0 around an image, not the value that it was given."""

    def conv(self, x, w, prepared, dtype, c):
        return super().conv(x, w, prepared, dtype, replace(c, pad_value=0))


class SkipsPadding(Convolves):
    """Leaves products with padding out."""

    def conv(self, x, w, prepared, dtype, c):
        whole = super().conv(x, w, prepared, dtype, c)
        outside = self.pad(torch.zeros_like(x[:1, :1]), replace(c, pad_value=1))
        plain = replace(c, padding=tuple((0, 0) for _ in c.padding))
        mask_a, mask_b, table = prepared
        for tap in torch.ones(w.shape[2:]).nonzero():
            one = torch.zeros_like(w[:1, :1], dtype=torch.int64)
            one[(0, 0, *tap)] = 1
            beyond = super().conv(
                outside, one, (mask_a, mask_b, torch.outer(*[torch.arange(2)] * 2)), dtype,
                replace(plain, groups=1),
            )  # fmt: skip
            weights = w[(slice(None), slice(None), *tap)].long() & mask_b
            whole -= beyond * table[c.pad_value & mask_a, weights].sum(1).reshape(
                -1, *[1] * len(size_of(w))
            )
        return whole


def size_of(w):
    """The taps of a weight."""
    return w.shape[2:]


class FlipsKernel(Convolves):
    """Convolves as signal processing does."""

    def conv(self, x, w, prepared, dtype, c):
        return super().conv(x, w.flip(*range(2, w.dim())), prepared, dtype, c)


class SwapsTable(Convolves):
    """Has its operands in order in gemm, and exchanged in conv."""

    def conv(self, x, w, prepared, dtype, c):
        a, b, table = prepared
        return super().conv(x, w, (a, b, table.t() if a == b else table), dtype, c)


class SwapsSides(Convolves):
    """Takes padding before an image for that behind it."""

    def conv(self, x, w, prepared, dtype, c):
        turned = tuple((behind, before) for before, behind in c.padding)
        return super().conv(x, w, prepared, dtype, replace(c, padding=turned))


class SwapsStrides(Convolves):
    """Takes the stride of the last dimension for that of the first."""

    def conv(self, x, w, prepared, dtype, c):
        out = super().conv(x, w, prepared, dtype, c)
        c = replace(c, stride=c.stride[::-1])
        if tuple(out.shape[2:]) != c.output_size(tuple(x.shape[2:]), tuple(w.shape[2:])):
            return out
        return super().conv(x, w, prepared, dtype, c)


class OneGroup(Convolves):
    """Gives every group the channels of the first."""

    def patches(self, x, w, c):
        found = super().patches(x, w, c)
        return found[:, :1].expand_as(found)


class PadsChannels(Convolves):
    """Pads channels to four with code 0, which goes through the table."""

    def conv(self, x, w, prepared, dtype, c):
        if c.groups == 1:
            room = (*[0, 0] * len(size_of(w)), 0, -w.shape[1] % 4)
            x, w = F.pad(self.pad(x, c), room), F.pad(w.long(), room)
            c = replace(c, padding=tuple((0, 0) for _ in c.padding))
        return super().conv(x, w, prepared, dtype, c)


class OneImage(Convolves):
    """Uses the first image for all."""

    def patches(self, x, w, c):
        return super().patches(x[:1].expand_as(x), w, c)


class PatchesOf2d(Convolves):
    """Knows images of two dimensions only, and promises all."""

    def patches(self, x, w, c):
        if x.dim() == 5:
            x = x.flip(2)
        return super().patches(x, w, c)


class IgnoresImageStrides(Convolves):
    """Reads images as if they lay row by row."""

    def patches(self, x, w, c):
        flat = torch.empty(x.shape, device="meta").stride()
        whole = x.storage_offset() + x.numel() <= x.untyped_storage().nbytes() // x.element_size()
        return super().patches(x.as_strided(x.shape, flat) if whole else x, w, c)


class OnlyByteImages(Convolves):
    """Reads every image as int8."""

    def patches(self, x, w, c):
        return super().patches(x.to(torch.int8), w, c)


class WrapsConv(Convolves):
    """Sums convolutions in int32 whatever is asked for."""

    def conv(self, x, w, prepared, dtype, c):
        return super().conv(x, w, prepared, torch.int32, c).to(dtype)


class WrongConvType(Convolves):
    """Always convolves to int64."""

    def conv(self, x, w, prepared, dtype, c):
        return super().conv(x, w, prepared, torch.int64, c)


class WrongConvShape(Convolves):
    """Returns channels last."""

    def conv(self, x, w, prepared, dtype, c):
        return super().conv(x, w, prepared, dtype, c).movedim(1, -1)


class MutatesImages(Convolves):
    """Leaves patterns behind in the image."""

    def conv(self, x, w, prepared, dtype, c):
        out = super().conv(x, w, prepared, dtype, c)
        x &= 7
        return out


class KeepsPackedWeights(Convolves):
    """Knows constant weights by their address."""

    def __init__(self):
        self.known = {}

    def conv(self, x, w, prepared, dtype, c):
        w = self.known.setdefault((w.data_ptr(), w.shape), w.clone())
        return super().conv(x, w, prepared, dtype, c)


class SharesConvResult(Convolves):
    """Hands out one workspace again and again."""

    spaces: dict = {}  # noqa: RUF012

    def conv(self, x, w, prepared, dtype, c):
        out = super().conv(x, w, prepared, dtype, c)
        return self.spaces.setdefault((out.shape, dtype), torch.empty_like(out)).copy_(out)


class KeepsWeightsOfAnyTable(Convolves):
    """Knows the products of a weight by its content alone, whatever the table."""

    def __init__(self):
        self.known = {}

    def conv(self, x, w, prepared, dtype, c):
        prepared = self.known.setdefault(tuple(w.reshape(-1).tolist()), prepared)
        return super().conv(x, w, prepared, dtype, c)


class ConvNotThreadSafe(Convolves):
    """Keeps an image in itself for a moment."""

    def conv(self, x, w, prepared, dtype, c):
        self.x = x
        time.sleep(0.002)
        return super().conv(self.x, w, prepared, dtype, c)


class ConvCostsNothing(Convolves):
    """Has no idea what a convolution costs."""

    def cost(self, request):
        return 0.0 if isinstance(request, ConvRequest) else super().cost(request)


class MaybeConvolves(Convolves):
    """Answers with something that is not a bool when asked about a convolution."""

    def supports(self, request):
        return 1 if isinstance(request, ConvRequest) else super().supports(request)


class FewerRows(Gather):
    """Has no conv; its gemm is wrong for the many rows of patches."""

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        if b.shape[0] % 2:
            out[..., 1:, :] = out[..., :1, :]
        return out


class Real(Convolves):
    """A right backend that also quantises, dequantises, and reads the padding off the device."""

    reads_pad = True
    codes = staticmethod(torch.round)

    def pad(self, x, c):
        return super().pad(x, c if c.pad is None else replace(c, pad_value=int(c.pad)))

    def quantize(self, x, shape, scale, zero, limits, codes, real, inside):
        free = self.codes(x / scale[:, None]) + zero[:, None]
        clamped = free.clamp(*limits)
        codes.copy_(clamped)
        if real is not None:
            real.copy_((clamped - zero[:, None]) * scale[:, None])
            inside.copy_(clamped == free)
        return torch.isfinite(x).all()

    def dequantize(self, acc, shape, term, zero, sums, groups, scale, bias, out):
        total = acc.long() + term[:, None]
        if sums is not None:
            total = total - zero[:, None] * sums.repeat_interleave(shape[1] // groups, 1)
        out.copy_(self.scaled(total, scale[:, None], 0 if bias is None else bias[:, None]))

    def recode(self, x, shape, scale, zero, mask, table, whole, out):
        out.copy_(scale[:, None] * table[:, self.patterns(x, scale, zero, mask)])
        if whole:
            out[0] += x

    def combine(self, total, x, shape, scale, zero, mask, table, products):
        at = self.patterns(x, scale, zero, mask)
        for row, product in zip(table, products, strict=True):
            total += row[at] * product

    def patterns(self, x, scale, zero, mask):
        return (torch.round(x / scale[:, None]) + zero[:, None]).long() & mask

    def scaled(self, total, scale, bias):
        y = total.float() * scale
        return y if isinstance(bias, int) else y + bias


class IgnoresPad(Real):
    """Takes the padding for 0 where it is a tensor."""

    def pad(self, x, c):
        return Convolves.pad(self, x, c)


class RoundsUp(Real):
    """Rounds halves up."""

    codes = staticmethod(lambda x: torch.floor(x + 0.5))


class NeverMindsNan(Real):
    """Says that all is finite."""

    def quantize(self, *arguments):
        super().quantize(*arguments)
        return True


class KeepsZeroPoints(Real):
    """Looks gradients up without the zero points."""

    def patterns(self, x, scale, zero, mask):
        return super().patterns(x, scale, zero * 0, mask)


class OneTerm(Real):
    """Sums up the first product alone."""

    def combine(self, total, x, shape, scale, zero, mask, table, products):
        super().combine(total, x, shape, scale, zero, mask, table[:1], products[:1])


class Fuses(Real):
    """Rounds a product and a sum once."""

    def scaled(self, total, scale, bias):
        return (total.float().double() * scale + bias).float()


class LosesSigns(Real):
    """Adds a bias of 0.0 where there is none, which makes a zero of -0.0."""

    def scaled(self, total, scale, bias):
        return total.float() * scale + bias


def kit(backend: type) -> BackendConformance:
    """The kit for one backend."""
    return type("Kit", (BackendConformance,), {"make_backend": lambda self: backend()})()


Check = Callable[[BackendConformance], None]

CATCHES: dict[type, tuple[Check, str]] = {
    Transposed: (lambda k: k.test_the_activation_comes_first(), r"read as T\[b, a\]"),
    PadsInner: (lambda k: k.test_padding_never_reaches_the_table(), r"x T\[0\]\[0\]: elements"),
    Float32: (
        lambda k: k.test_sums_beyond_float32(_case("8ux8u-near")),
        "rounded, as floating point does",
    ),
    Float64: (lambda k: k.test_sums_beyond_float64(_case("4ux4u-any")), "rounded"),
    Wraps: (lambda k: k.test_sums_beyond_int32(_case("8sx8s-any")), "wrap at int32"),
    Saturates: (lambda k: k.test_sums_beyond_int32(_case("8ux8u-near")), "saturate at int32"),
    Narrow: (lambda k: k.test_every_entry_of_the_table(_case("8ux8u-near")), "sums are wrong"),
    Mutates: (lambda k: k.test_sums_are_exact(_case("8ux8u-near")), "changed operand a"),
    Flattens: (lambda k: k.test_leading_dimensions((2, 3)), r"shape \(30, 4\)"),
    Folds: (lambda k: k.test_leading_dimensions((2,)), "sums are wrong"),
    NoSigns: (
        lambda k: k.test_every_entry_of_the_table(_case("8sx8s-near")),
        "two's-complement bit patterns",
    ),
    IgnoresStrides: (lambda k: k.test_layouts("plain", "transposed"), r"strides .* \(1, 9\)"),
    OnlyBytes: (lambda k: k.test_sums_are_exact(_case("12ux4s-near")), "12u x 4s"),
    SharedResult: (lambda k: k.test_results_are_the_callers_own(), "changed an earlier result"),
    RemembersWeights: (lambda k: k.test_new_values_in_the_same_memory(), "nothing is kept"),
    OneTable: (lambda k: k.test_several_prepared_multipliers(), "sums are wrong"),
    NotThreadSafe: (lambda k: k.test_several_threads(), "from any thread"),
    ForgetsHint: (lambda k: k.test_constant_weights_are_a_hint(), "sums are wrong"),
    SkipsRemainder: (lambda k: k.test_outer_sizes(3, 17), "column 16 is 0"),
    Sometimes: (lambda k: k.test_it_is_deterministic(), "gave different ones"),
    WrongType: (lambda k: k.test_sums_are_exact(_case("4ux4u-near")), "returned torch.int64"),
    Refuses: (lambda k: k.test_it_supports_something(), "refused all of 8ux8u-near"),
    Yes: (lambda k: k.test_supports_and_cost_answer(_case("8ux8u-near")), "returned 'yes'"),
    NoCost: (lambda k: k.test_supports_and_cost_answer(_case("8ux8u-near")), "returned nan"),
    Lacking: (lambda k: k.test_it_has_the_five_methods(), r"lacks \['gemm'\]"),
    PadsWithZero: (lambda k: k.test_convolutions("padding"), "padding was code 0"),
    SkipsPadding: (lambda k: k.test_convolutions("padding"), "only sums that meet padding"),
    FlipsKernel: (lambda k: k.test_convolutions("2d"), "kernel was turned round"),
    SwapsTable: (lambda k: k.test_convolutions("2d"), r"read as T\[w, x\]"),
    SwapsSides: (lambda k: k.test_convolutions("1d, all options"), "before and behind"),
    SwapsStrides: (
        lambda k: k.test_convolutions("strides that give one size"),
        "stride was read from the last dimension",
    ),
    OneGroup: (lambda k: k.test_convolutions("depthwise"), "only the first group is right"),
    PadsChannels: (lambda k: k.test_convolutions("2d"), r"6 x T\[0\]\[0\]: elements"),
    OneImage: (lambda k: k.test_convolutions("1x1"), "only the first image is right"),
    PatchesOf2d: (lambda k: k.test_convolutions("3d"), "are wrong"),
    IgnoresImageStrides: (
        lambda k: k.test_layouts_of_images("channels-last", "plain"),
        r"strides \(270, 1, 54, 9\)",
    ),
    OnlyByteImages: (lambda k: k.test_convolutions_of_every_kind(_case("12ux4s-near")), "12u x 4s"),
    WrapsConv: (
        lambda k: k.test_convolutions_beyond_int32(_case("8sx8s-any")),
        "wrap at int32",
    ),
    WrongConvType: (lambda k: k.test_convolutions("1d"), "conv returns .* returned torch.int64"),
    WrongConvShape: (lambda k: k.test_convolutions("1x1"), r"shape \(3, 4, 6, 7\)"),
    MutatesImages: (lambda k: k.test_convolutions("1d"), "changed operand x"),
    KeepsPackedWeights: (lambda k: k.test_new_values_in_the_same_images(), "nothing is kept"),
    SharesConvResult: (lambda k: k.test_new_values_in_the_same_images(), "an earlier result"),
    KeepsWeightsOfAnyTable: (
        lambda k: k.test_convolutions_of_several_multipliers(),
        "are wrong",
    ),
    ConvNotThreadSafe: (lambda k: k.test_convolutions_from_several_threads(), "from any thread"),
    ConvCostsNothing: (lambda k: k.test_convolutions_answer(), "returned 0.0"),
    MaybeConvolves: (lambda k: k.test_convolutions_answer(), "for a ConvRequest too.*returned 1"),
    FewerRows: (lambda k: k.test_convolutions("1x1, stride"), "are wrong"),
    IgnoresPad: (lambda k: k.test_padding_that_the_device_knows(), "padding"),
    RoundsUp: (lambda k: k.test_quantising(torch.int8), "round_half_even.*are wrong"),
    NeverMindsNan: (lambda k: k.test_quantising(torch.uint8), "said finite=True .* nan"),
    KeepsZeroPoints: (lambda k: k.test_sums_of_gradient_tables(1), "recode gives .* are wrong"),
    OneTerm: (lambda k: k.test_sums_of_gradient_tables(4), "combine adds .* are wrong"),
    Fuses: (lambda k: k.test_dequantising(torch.int32), "one rounding.*are wrong"),
    LosesSigns: (lambda k: k.test_dequantising(torch.int64), "is 0.0, not -0.0"),
    Mute: (lambda k: k.test_it_says_why_it_is_unavailable(), "returned ''"),
}


def _case(name: str):
    return next(c for c in (*CASES, *LONGER_SUMS) if str(c) == name)


@pytest.mark.parametrize("fault", CATCHES, ids=lambda f: f.__name__)
def test_a_fault_is_caught(fault: type) -> None:
    """A wrong backend fails the test of that clause, with a message that names the fault."""
    check, message = CATCHES[fault]
    with pytest.raises(Failed, match=f"(?s)^The contract says: .*{message}"):
        check(kit(fault))


@pytest.mark.parametrize("fault", CATCHES, ids=lambda f: f.__name__)
def test_the_same_check_passes_a_right_backend(fault: type) -> None:
    """What catches a fault does not catch a right backend."""
    rights = (right for right in (Real, Convolves) if issubclass(fault, right))
    CATCHES[fault][0](kit(next(rights, Gather)))


def test_a_wrong_order_of_costs_is_caught() -> None:
    """A backend that costs less the more there is to do fails where it supports the sizes."""

    class Any(Free):
        def supports(self, request):
            return True

    with pytest.raises(Failed, match="cheapest backend is taken"):
        kit(Any).test_more_work_does_not_cost_less()


def test_an_unavailable_backend_is_skipped_with_its_reason() -> None:
    """Where a backend cannot run, its sums are skipped, and the skip says why."""
    absent = kit(Absent)
    absent.test_it_says_why_it_is_unavailable()
    with pytest.raises(Skipped, match="no such card"):
        absent.test_it_supports_something()


def test_what_is_not_supported_is_skipped() -> None:
    """A multiplier that supports() refuses is skipped, not run."""
    with pytest.raises(Skipped, match="refuses 16u x 16u"):
        kit(Gather).test_sums_are_exact(_case("16ux16u-circuit"))


def test_a_kit_without_make_backend_says_so() -> None:
    """Forgetting make_backend is an error that says what to write."""

    class TestNothing(BackendConformance):
        pass

    with pytest.raises(NotImplementedError, match=r"TestNothing .* def make_backend"):
        TestNothing().test_it_supports_something()


def test_a_backend_is_made_once() -> None:
    """All tests of a class share one backend, as the core does."""
    made = []

    class TestMine(BackendConformance):
        def make_backend(self):
            made.append(threading.get_ident())
            return Gather()

    TestMine().test_it_supports_something()
    TestMine().test_the_activation_comes_first()
    assert len(made) == 1


# Each clause once: the reference, which has no conv, and the engine, which has one, pass all cases.
@pytest.mark.cover(0)
class TestRightBackend(BackendConformance):
    """The whole kit passes a right backend that is not our own, and has no conv."""

    def make_backend(self):
        return Gather()


@pytest.mark.cover(0)
class TestRightConvolution(BackendConformance):
    """The whole kit passes a right backend with a conv of its own."""

    def make_backend(self):
        return Convolves()


def test_the_oracle_is_the_sum_product_by_product() -> None:
    """What convolutions are held against is the loop over every product, one at a time."""
    m = _multiplier(_case("8ux8s-any"))
    rng = np.random.default_rng(1)
    x, w = rng.integers(0, 256, (2, 4, 6, 5)), rng.integers(-128, 128, (6, 2, 2, 3))
    c = Convolution((2, 1), ((1, 0), (2, 1)), (3, 2), groups=2, pad_value=77)
    want = np.zeros((2, 6, *c.output_size((6, 5), (2, 3))), dtype=np.int64)
    for n, o, i, j, ch, dy, dx in np.ndindex(*want.shape, 2, 2, 3):
        y, z = 2 * i + 3 * dy - 1, j + 2 * dx - 2
        inside = 0 <= y < 6 and 0 <= z < 5
        code = x[n, 2 * (o // 3) + ch, y, z] if inside else 77
        want[n, o, i, j] += m.table[code, w[o, ch, dy, dx] & 255]
    assert want.shape[2:] == (2, 4)
    assert (conv_loop(m, x, w, c) == want).all()


def test_run_by_pytest(tmp_path: Path) -> None:
    """In a test module of one's own, a right backend passes and a wrong one fails."""
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(f"""\
            import runpy

            from approxhub.testing import BackendConformance

            found = runpy.run_path({__file__!r})


            class TestRight(BackendConformance):
                def make_backend(self):
                    return found["Gather"]()


            class TestWrong(BackendConformance):
                def make_backend(self):
                    return found["Transposed"]()
            """)
    )
    # The module above has a mark of this project's, which nobody else's settings know.
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cover(strength)\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-rf",
         "-W", "error", "-k", "supports_something or every_entry or comes_first", "test_mine.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "T[b, a]" in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) > 5
    assert all("TestWrong" in line for line in failed)


def test_what_the_core_does_without() -> None:
    """It imports no other tool, nor what imports models of theirs; nor pytest, as the kit does.

    A forward pass does without torch's compiler, whose import takes a second.
    Without pytest the kit raises an error that says how to get it.
    """
    code = """\
        import sys

        sys.modules["pytest"] = None
        import torch
        import approxhub as ah, approxhub.backends, approxhub.cli, approxhub.model, approxhub.nn

        [getattr(ah, name) for name in ah.__all__]
        tools = ("torchao", "brevitas", "onnx", "onnxruntime", "approxhub.interop")
        print([m for m in sys.modules if m.startswith(tools)])
        layer, x = ah.nn.Linear(3, 2, multiplier="exact:8s"), torch.ones(1, 3)
        ah.calibrate(layer, [x])
        print(tuple(layer.eval()(x).shape), "torch._dynamo" in sys.modules)
        try:
            import approxhub.testing
        except ah.ApproxHubError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    imported, passed, error = done.stdout.splitlines()
    assert imported == "[]"
    assert passed == "(1, 2) False"
    assert "pip install 'approxhub[test]'" in error
