"""Products of two activations, and attention, that multiply through a multiplier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.backends import real
from approxhub.errors import InputError
from approxhub.functional import batched_codes
from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer, guard_loading, require_real
from approxhub.nn.composite import CompositeLayer, Projection
from approxhub.nn.gradients import BatchedProduct
from approxhub.nn.linear import Linear
from approxhub.quantization import CodeRange, Datapath, OperandMapping, Quantizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Matmul", "MultiheadAttention", "ScaledDotProductAttention"]

_Fits = list[tuple[tuple[int, ...], tuple[int, ...]]]


class Matmul(ApproxLayer):
    """The matrix product of two activations, as :func:`torch.matmul`, through a multiplier.

    The left matrix is the operand ``a`` of the circuit, the right one ``b``: ``T[left, right]``.
    Both have one scale, found from data; that of the right one is ``weight_quantizer``.

    Parameters
    ----------
    device : torch.device, optional
        Where the quantisers are.
    multiplier, mapping, gradient, calibrator, mode, datapath
        As in :class:`approxhub.nn.Linear`; the calibrator is that of both operands.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> product = ah.nn.Matmul(multiplier=ah.exact(8, signed=True))
    >>> product(torch.randn(2, 5, 3), torch.randn(2, 3, 4)).shape  # training: sets the ranges
    torch.Size([2, 5, 4])
    """

    _channel_dim = 1  # of the sums, as they are laid out for the epilogue

    def __init__(
        self,
        device: torch.device | str | None = None,
        *,
        multiplier: Multiplier | str,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        mode: str = "approximate",
        datapath: Datapath | str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._setup(multiplier, mapping, gradient, calibrator, False, mode, datapath)
        self.to(device)

    def _make_quantizers(
        self, x_codes: CodeRange, w_codes: CodeRange, calibrator: str, per_channel: bool
    ) -> None:
        self.input_quantizer, self.weight_quantizer = (
            Quantizer(codes, calibrator=calibrator) for codes in (x_codes, w_codes)
        )

    def observe_weight(self) -> None:
        """Do nothing: there is no weight."""

    def data_quantizers(self) -> tuple[Quantizer, ...]:
        """Both quantisers."""
        return self.input_quantizer, self.weight_quantizer

    def _observe(self, x: Tensor, *args: Any) -> None:
        self.input_quantizer.observe(x)
        self.weight_quantizer.observe(args[0])

    def _observe_operands(self, x: Tensor, w: Tensor) -> None:
        self._observe(x, w)

    def _described(self) -> str:
        return type(self).__name__

    def _device(self) -> torch.device:
        device = self.input_quantizer.scale.device
        return torch.get_default_device() if device.type == "meta" else device

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiply two matrices, or batches of them.

        Parameters
        ----------
        left : Tensor of float, (..., M, K)
        right : Tensor of float, (..., K, N)
            With leading dimensions that broadcast with those of `left`.

        Returns
        -------
        Tensor of float, (..., M, N)

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one.
        InputError
            If an operand is not of real numbers, or the shapes do not fit.
        """
        return super().forward(left, right)

    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        return torch.matmul(x, args[0])

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        right = self._checked(args[0])
        if min(x.dim(), right.dim()) < 2 or x.shape[-1] != right.shape[-2]:
            raise InputError(
                f"Matmul takes (..., M, K) x (..., K, N), got {tuple(x.shape)} x "
                f"{tuple(right.shape)}"
            )
        try:
            leading = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
                x.shape[:-2], right.shape[:-2]
            )
        except RuntimeError:
            raise InputError(
                f"Matmul: {tuple(x.shape[:-2])} and {tuple(right.shape[:-2])} do not broadcast"
            ) from None
        pairs = math.prod(leading)
        a, b = (t.expand(*leading, *t.shape[-2:]).reshape(pairs, *t.shape[-2:]) for t in (x, right))
        y = self._run(a, BatchedProduct(), b, None)
        return y.reshape(*leading, *y.shape[1:])

    def _integer_forward(
        self, x_codes: Tensor, w_codes: Tensor, bias: Tensor | None, product: Any
    ) -> Tensor:
        (batch, k, n), rows = w_codes.shape, x_codes.shape[1]
        acc = batched_codes(x_codes, w_codes, self._handles[self._mode], self._accumulator(k))
        if not acc.numel():
            return acc.to(torch.float32)
        # One row for each pair: channels are the columns of all pairs, groups the pairs.
        flat = acc.transpose(1, 2).reshape(1, batch * n, rows)
        x_sums = w_sums = None
        by = self.multiplication()
        if by.w_zero is not None:
            x_sums = real.summed(x_codes, 2).unsqueeze(0)
        if by.x_zero is not None:
            w_sums = real.summed(w_codes, 1).flatten()
        y = self._dequantized(flat, k, x_sums, w_sums, bias)
        return y.reshape(batch, n, rows).transpose(1, 2)


class ScaledDotProductAttention(CompositeLayer):
    """:func:`torch.nn.functional.scaled_dot_product_attention` through a multiplier.

    Parts: ``scores``, the product of queries (operand ``a``) and keys (``b``), and ``context``,
    that of attention weights (``a``) and values (``b``). The scale is applied to the scores.

    Parameters
    ----------
    device : torch.device, optional
        Where the quantisers are.
    multiplier, mapping, gradient, calibrator, mode, datapath
        As in :class:`Matmul`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> attend = ah.nn.ScaledDotProductAttention(multiplier=ah.exact(8, signed=True))
    >>> q, k, v = torch.randn(3, 2, 4, 5, 8).unbind()
    >>> attend(q, k, v, is_causal=True).shape  # training: the first pass sets the ranges
    torch.Size([2, 4, 5, 8])
    """

    def __init__(
        self,
        device: torch.device | str | None = None,
        *,
        multiplier: Multiplier | str,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        mode: str = "approximate",
        datapath: Datapath | str | None = None,
    ) -> None:
        super().__init__()
        self.scores, self.context = (
            Matmul(
                device, multiplier=multiplier, mapping=mapping, gradient=gradient,
                calibrator=calibrator, mode=mode, datapath=datapath,
            )
            for _ in range(2)
        )  # fmt: skip
        guard_loading(self)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As torch's function, in the modes of the parts.

        Parameters
        ----------
        query : Tensor of float, (..., L, E)
        key : Tensor of float, (..., S, E)
        value : Tensor of float, (..., S, Ev)
        attn_mask : Tensor, optional
            Of bool (True takes part) or float (added), broadcastable to (..., L, S).
        dropout_p, is_causal, scale, enable_gqa
            As in :func:`torch.nn.functional.scaled_dot_product_attention`.

        Returns
        -------
        Tensor of float, (..., L, Ev)

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one: so if a row is masked whole.
        InputError
            If a mask is given and `is_causal` too, or the shapes do not fit.
        """
        for operand in (query, key, value):
            require_real(operand, self)
        if is_causal:
            if attn_mask is not None:
                raise InputError("scaled dot-product attention: a mask or is_causal, not both")
            shape = (query.shape[-2], key.shape[-2])
            attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = _added(~attn_mask, query.dtype)
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3)
                          for t in (key, value))  # fmt: skip
        weights = self.weights(query, key, attn_mask, scale)
        dropped: Tensor = self.context(F.dropout(weights, dropout_p), value)
        return dropped

    def weights(
        self, query: Tensor, key: Tensor, mask: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """Attention weights, (..., L, S); `mask` is added to the scores."""
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = self.scores(query, key.transpose(-2, -1)) * scale
        return torch.softmax(scores if mask is None else scores + mask, -1)


class MultiheadAttention(CompositeLayer, nn.MultiheadAttention):
    """:class:`torch.nn.MultiheadAttention` whose products come from a multiplier.

    Parts: the projections ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``, and with
    `approximate_products` the inner products ``attention.scores`` and ``attention.context`` of
    :class:`ScaledDotProductAttention`. Softmax and masks stay in floating point.

    Parameters
    ----------
    embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, \
device, dtype
        As in :class:`torch.nn.MultiheadAttention`.
    approximate_products : bool
        Whether the inner products go through the multiplier too, or stay in floating point.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`approxhub.nn.Linear`.

    Raises
    ------
    MappingError
        If the multiplier does not fit the mapping.
    NotFoundError
        If the multiplier, gradient or calibrator is not known.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.MultiheadAttention(
    ...     8, 2, batch_first=True, multiplier=ah.exact(8, signed=True), approximate_products=True
    ... )
    >>> x = torch.randn(3, 5, 8)
    >>> y, weights = layer(x, x, x)  # training: the first pass sets the ranges
    >>> y.shape, weights.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 5, 5]))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        multiplier: Multiplier | str,
        approximate_products: bool = False,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        per_channel: bool = True,
        mode: str = "approximate",
        datapath: Datapath | str | None = None,
    ) -> None:
        nn.MultiheadAttention.__init__(
            self, embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim,
            batch_first, device, dtype,
        )  # fmt: skip
        shared: dict[str, Any] = {
            "multiplier": multiplier, "mapping": mapping, "gradient": gradient,
            "calibrator": calibrator, "mode": mode, "datapath": datapath,
        }  # fmt: skip
        has_bias = "in_proj_bias" if bias else None
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(i * embed_dim, (i + 1) * embed_dim)
            together = self._qkv_same_embed_dim
            part = Projection(
                self, "in_proj_weight" if together else f"{name}_weight", has_bias,
                weight_rows=rows if together else None, bias_rows=rows,
                per_channel=per_channel, **shared,
            )  # fmt: skip
            self.add_module(name, part)
        out = Linear.from_float(self.out_proj, per_channel=per_channel, **shared)
        del self.out_proj  # so that it comes after the others
        self.add_module("out_proj", out)
        self.attention = (
            ScaledDotProductAttention(device, **shared) if approximate_products else None
        )
        guard_loading(self)

    @classmethod
    def from_float(
        cls, layer: nn.MultiheadAttention, multiplier: Multiplier | str, **options: Any
    ) -> Self:
        """Make one of a float layer, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.MultiheadAttention
        multiplier : Multiplier or str
        **options
            Keywords of this class.
        """
        new = cls(
            layer.embed_dim, layer.num_heads, layer.dropout, layer.in_proj_bias is not None,
            layer.bias_k is not None, layer.add_zero_attn, layer.kdim, layer.vdim,
            layer.batch_first, device="meta", multiplier=multiplier, **options,
        )  # fmt: skip
        for name in ("weight", "bias"):
            setattr(new.out_proj, name, getattr(layer.out_proj, name))
        new._adopt_parameters(layer)
        return new

    def exact_products(self) -> list[tuple[str, str]]:
        """The inner products, where they stay in floating point."""
        if self.attention is not None:
            return []
        return [("inner products of attention", "ask for them with attention_products=True")]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's layer, in the modes of the parts.

        Parameters
        ----------
        query : Tensor of float, (L, N, embed_dim), (N, L, embed_dim) or (L, embed_dim)
        key : Tensor of float, (S, N, kdim), (N, S, kdim) or (S, kdim)
        value : Tensor of float, (S, N, vdim), (N, S, vdim) or (S, vdim)
        key_padding_mask : Tensor, optional
            Of bool (True is left out) or float (added), (N, S) or (S,).
        need_weights, average_attn_weights
            Whether attention weights are returned, and as the mean over heads.
        attn_mask : Tensor, optional
            Of bool (True is left out) or float (added), (L, S) or (N * heads, L, S).
        is_causal : bool
            A hint that `attn_mask` is causal; the mask has to be given.

        Returns
        -------
        output : Tensor of float
            Of the shape of `query`.
        weights : Tensor of float or None
            (N, L, S), or (N, heads, L, S); without N for an input without it.

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one: so if a row is masked whole.
        InputError
            If the shapes do not fit, or `is_causal` is given without a mask.
        """
        for t in (query, key, value):
            require_real(t, self)
        if is_causal and attn_mask is None:
            raise InputError("MultiheadAttention: is_causal needs attn_mask")
        unbatched = query.dim() == 2
        if query.dim() not in (2, 3) or key.dim() != query.dim() or value.dim() != query.dim():
            raise InputError(
                "MultiheadAttention takes query, key and value of two or of three dimensions, got "
                f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
            )
        if unbatched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        if key.shape[:2] != value.shape[:2] or key.shape[0] != query.shape[0]:
            raise InputError(
                f"MultiheadAttention: {query.shape[0]} queries do not fit keys of "
                f"{tuple(key.shape[:2])} and values of {tuple(value.shape[:2])}"
            )
        output, weights = self._attend(query, key, value, attn_mask, key_padding_mask)
        if unbatched:
            output = output.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        if average_attn_weights:
            weights = weights.mean(1)
        return output, weights.squeeze(0) if unbatched else weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        batch = query.shape[0]  # not len: a compiler would take it for a constant
        q, k, v = (
            self.get_submodule(name)(t)
            for name, t in (("q_proj", query), ("k_proj", key), ("v_proj", value))
        )
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([t, extra.to(t.dtype).expand(batch, 1, -1)], 1)
                for t, extra in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        shape = (batch, self.num_heads, q.shape[1], k.shape[1])
        mask = self._mask(attn_mask, key_padding_mask, shape, q.dtype)
        q, k, v = (
            t.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for t in (q, k, v)
        )
        if self.attention is not None:
            weights = self.attention.weights(q, k, mask)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, self.dropout, self.training)
        context = weights @ v if self.attention is None else self.attention.context(weights, v)
        return self.out_proj(context.transpose(1, 2).flatten(2)), weights

    def _mask(
        self,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Tensor | None:
        """Both masks as one that is added to scores of a shape; keys put in are never masked."""
        batch, heads, queries, keys = shape
        put_in = (self.bias_k is not None) + bool(self.add_zero_attn)
        total = None
        # For each mask the shapes that fit, and how it is seen then. In pairs: a size that is a
        # symbol, in an export, cannot be a key.
        checks: tuple[tuple[str, Tensor | None, _Fits], ...] = (
            ("attn_mask", attn_mask,
             [((queries, keys - put_in), (queries, -1)),
              ((batch * heads, queries, keys - put_in), (batch, heads, queries, -1))]),
            ("key_padding_mask", key_padding_mask,
             [((batch, keys - put_in), (batch, 1, 1, -1))]),
        )  # fmt: skip
        for name, mask, fits in checks:
            if mask is None:
                continue
            wanted = next((seen for shape, seen in fits if tuple(mask.shape) == shape), None)
            if wanted is None:
                raise InputError(
                    f"MultiheadAttention: {name} must be "
                    f"{' or '.join(str(shape) for shape, _ in fits)}, got {tuple(mask.shape)}"
                )
            mask = _added(mask, dtype) if mask.dtype == torch.bool else mask.to(dtype)
            mask = F.pad(mask, (0, put_in)).reshape(wanted)
            total = mask if total is None else total + mask
        return total


def _added(left_out: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of bool, True being left out, as one that is added to scores."""
    zero = torch.zeros(left_out.shape, dtype=dtype, device=left_out.device)
    return zero.masked_fill(left_out, -math.inf)
