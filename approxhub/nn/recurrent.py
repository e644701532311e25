"""Recurrent layers and cells that multiply through a multiplier.

The projections of the input and of the hidden state are products through the multiplier, each
with its own quantiser of activations and its own weight scales: one pair for each layer and
direction. Gates, cell state and everything between products stay in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from approxhub.errors import CalibrationError, InputError
from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer, guard_loading, require_real
from approxhub.nn.composite import CompositeLayer, Projection
from approxhub.nn.recomputation import recomputing
from approxhub.quantization import Datapath, OperandMapping

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]


class StateProjection(Projection):
    """A projection of a state, which meets one step of a sequence after the other.

    Its quantiser of activations sees the steps of a pass together, once the pass is over: one
    step after the other, a moving average would follow the state from zero in each sequence.
    """

    _seen: list[Tensor] | None = None
    _used: dict[str, Tensor] | None = None  # by the last pass in training

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Take the calls inside for the steps of one pass."""
        if self.training and recomputing():
            # This pass has moved the range that it used: it is computed again with the old one.
            now = _copies(self.input_quantizer)
            _restore(self.input_quantizer, self._used or now)
            try:
                yield
            finally:
                _restore(self.input_quantizer, now)
            return
        if self.training and self.mode != "float":
            self.observe_weight()
            self._used = _copies(self.input_quantizer)
        seen: list[Tensor] = []
        self._seen = seen
        try:
            yield
        finally:
            self._seen = None
        if seen:
            try:
                self.input_quantizer.observe(torch.cat(seen))
            except CalibrationError as error:
                raise self._located(error) from None

    def _observe(self, x: Tensor, *args: Any) -> None:
        if self._seen is None:
            super()._observe(x, *args)
        else:
            self._seen.append(x.detach())

    def _observe_operands(self, x: Tensor, w: Tensor) -> None:
        if self._seen is None:
            super()._observe_operands(x, w)
        else:
            self._seen.append(x.detach())


def _copies(quantizer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in quantizer.named_buffers()}


def _restore(quantizer: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in quantizer.named_buffers():
        buffer.copy_(buffers[name])


# --- one step of each kind: gates of the input, state before -> state after --------------


def _lstm_step(gates_x: Tensor, state: State, hidden: nn.Module, out: nn.Module | None) -> State:
    h, c = state
    i, f, g, o = (gates_x + hidden(h)).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if out is None else out(h)), c


def _gru_step(gates_x: Tensor, state: State, hidden: nn.Module) -> State:
    (h,) = state
    x_r, x_z, x_n = gates_x.chunk(3, dim=-1)
    h_r, h_z, h_n = hidden(h).chunk(3, dim=-1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * h,)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


def _rnn_step(gates_x: Tensor, state: State, hidden: nn.Module, nonlinearity: str) -> State:
    return (_ACTIVATIONS[nonlinearity](gates_x + hidden(state[0])),)


# --- layers -----------------------------------------------------------------------------


class _Recurrent(CompositeLayer):
    """Layers of one kind of cell, one or two directions each."""

    _float_type: ClassVar[type[nn.RNNBase]]
    _states: ClassVar[tuple[str, ...]] = ("h_0",)

    input_size: int
    hidden_size: int
    proj_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    def __init__(
        self,
        *args: Any,
        multiplier: Multiplier | str,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        per_channel: bool = True,
        mode: str = "approximate",
        datapath: Datapath | str | None = None,
        **kwargs: Any,
    ) -> None:
        make: Any = self._float_type.__init__
        make(self, *args, **kwargs)
        self._make_parts(
            multiplier=multiplier, mapping=mapping, gradient=gradient, calibrator=calibrator,
            per_channel=per_channel, mode=mode, datapath=datapath,
        )  # fmt: skip

    def _make_parts(self, **options: Any) -> None:
        kinds = ("ih", "hh", "hr") if self.proj_size else ("ih", "hh")
        for end in self._ends():
            for kind in kinds:
                biased = self.bias and kind != "hr"
                make = Projection if kind == "ih" else StateProjection
                part = make(
                    self, f"weight_{kind}_{end}", f"bias_{kind}_{end}" if biased else None,
                    **options,
                )  # fmt: skip
                self.add_module(f"{kind}_{end}", part)
        guard_loading(self)

    def _ends(self) -> Iterator[str]:
        """How the names of each layer and direction end, in torch's order."""
        for layer in range(self.num_layers):
            yield f"l{layer}"
            if self.bidirectional:
                yield f"l{layer}_reverse"

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        return {
            "num_layers": layer.num_layers,
            "bias": layer.bias,
            "batch_first": layer.batch_first,
            "dropout": layer.dropout,
            "bidirectional": layer.bidirectional,
        }

    @classmethod
    def from_float(cls, layer: nn.RNNBase, multiplier: Multiplier | str, **options: Any) -> Self:
        """Make one of a float layer, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.LSTM, torch.nn.GRU or torch.nn.RNN
            A layer of this kind.
        multiplier : Multiplier or str
        **options
            Keywords of :class:`approxhub.nn.Linear`.
        """
        make: Any = cls
        new: Self = make(
            layer.input_size, layer.hidden_size, **cls._arguments(layer), device="meta",
            multiplier=multiplier, **options,
        )  # fmt: skip
        new._adopt_parameters(layer)
        return new

    def flatten_parameters(self) -> None:
        """Do nothing: the weights are used one by one."""

    def _step(self, end: str) -> Step:
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's layer, in the modes of its parts.

        Parameters
        ----------
        input : Tensor of float or PackedSequence
            ``(T, N, input_size)``, ``(N, T, input_size)`` with `batch_first`, or
            ``(T, input_size)``.
        hx : Tensor, or pair of them for an LSTM, optional
            Initial state(s), ``(layers * directions, N, size)``; zeros when not given.

        Returns
        -------
        output : Tensor or PackedSequence
        state : Tensor, or pair of them for an LSTM

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one.
        InputError
            If the shapes do not fit.
        """
        packed = isinstance(input, PackedSequence)
        given = input.data if packed else input
        require_real(given, self)
        if packed:
            data, sizes = given, input.batch_sizes.tolist()
            unbatched = False
        else:
            if given.dim() not in (2, 3):
                raise InputError(
                    f"{type(self).__name__} takes (T, N, {self.input_size}) or "
                    f"(T, {self.input_size}) activations, got {tuple(given.shape)}"
                )
            unbatched = given.dim() == 2
            steps = given.unsqueeze(1) if unbatched else given
            if self.batch_first and not unbatched:
                steps = steps.transpose(0, 1)
            if not len(steps):
                raise InputError(f"{type(self).__name__}: the sequence has no steps")
            sizes = [steps.shape[1]] * len(steps)
            data = steps.flatten(0, 1)
        if data.shape[-1] != self.input_size:
            raise InputError(
                f"{type(self).__name__} takes (..., {self.input_size}) activations, "
                f"got {tuple(given.shape)}"
            )
        states = self._initial(hx, data, sizes[0], unbatched)
        if packed and input.sorted_indices is not None and hx is not None:
            states = tuple(s.index_select(1, input.sorted_indices) for s in states)
        data, last = self._layers(data, sizes, states)
        if packed and input.unsorted_indices is not None:
            last = tuple(s.index_select(1, input.unsorted_indices) for s in last)
        if unbatched:
            last = tuple(s.squeeze(1) for s in last)
        final = last if len(last) > 1 else last[0]
        if packed:
            kept = (input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return PackedSequence(data, *kept), final
        output = data.reshape(len(sizes), sizes[0], data.shape[-1])
        if unbatched:
            return output.squeeze(1), final
        return (output.transpose(0, 1) if self.batch_first else output), final

    def _initial(self, hx: Any, data: Tensor, batch: int, unbatched: bool) -> State:
        rows = self.num_layers * (2 if self.bidirectional else 1)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: len(self._states)]
        if hx is None:
            return tuple(data.new_zeros(rows, batch, width) for width in widths)
        given = hx if len(self._states) > 1 else (hx,)
        if not isinstance(given, (tuple, list)) or len(given) != len(self._states):
            raise InputError(
                f"{type(self).__name__} takes the states {', '.join(self._states)} as a tuple"
            )
        states = []
        for name, state, width in zip(self._states, given, widths, strict=True):
            shape = (rows, width) if unbatched else (rows, batch, width)
            if not isinstance(state, Tensor) or state.shape != shape:
                got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
                raise InputError(f"{type(self).__name__}: {name} must be {shape}, got {got}")
            states.append(state.unsqueeze(1) if unbatched else state)
        return tuple(states)

    def _layers(self, data: Tensor, sizes: list[int], states: State) -> tuple[Tensor, State]:
        """Run all layers on steps that lie one behind the other, step `t` of `sizes[t]` rows."""
        last: list[State] = []
        ends = list(self._ends())
        directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                row = layer * directions + direction
                output, state = self._direction(
                    ends[row], data, sizes, tuple(s[row] for s in states), bool(direction)
                )
                outputs.append(output)
                last.append(state)
            data = torch.cat(outputs, -1) if directions > 1 else outputs[0]
            if layer < self.num_layers - 1:
                data = F.dropout(data, self.dropout, self.training)
        return data, tuple(torch.stack(s) for s in zip(*last, strict=True))

    def _direction(
        self, end: str, data: Tensor, sizes: list[int], state: State, reverse: bool
    ) -> tuple[Tensor, State]:
        gates = self.get_submodule(f"ih_{end}")(data).split(sizes)
        state = tuple(s.to(gates[0].dtype) for s in state)
        parts = [p for n, p in self.parts().items() if n in (f"hh_{end}", f"hr_{end}")]
        new = [p for p in parts if p.training and not p.input_quantizer.calibrated]
        if new and any(p.mode != "float" for p in new):
            self._find_ranges(new, end, gates, state, reverse)
        with ExitStack() as passes:
            for part in parts:
                assert isinstance(part, StateProjection)
                passes.enter_context(part.one_pass())
            return self._steps(end, gates, state, reverse)

    def _find_ranges(
        self, parts: list[ApproxLayer], end: str, gates: State, state: State, reverse: bool
    ) -> None:
        """First ranges, in training: those of the states that the float layer would have."""
        before = [(p, p.mode, p._observing) for p in parts]
        try:
            with ExitStack() as passes, torch.no_grad():
                for part in parts:
                    assert isinstance(part, StateProjection)
                    part.mode, part._observing = "float", True
                    passes.enter_context(part.one_pass())
                self._steps(end, gates, state, reverse)
        finally:
            for part, mode, observing in before:
                part.mode, part._observing = mode, observing

    def _steps(self, end: str, gates: State, state: State, reverse: bool) -> tuple[Tensor, State]:
        step, outputs = self._step(end), list(gates)
        order = range(len(gates))
        for t in reversed(order) if reverse else order:
            rows = gates[t].shape[0]  # not len: a compiler would take it for a constant
            after = step(gates[t], tuple(s[:rows] for s in state))
            outputs[t] = after[0]
            # Sequences that have ended, or have not begun, keep their state.
            state = tuple(
                a if rows == s.shape[0] else torch.cat([a, s[rows:]])
                for a, s in zip(after, state, strict=True)
            )
        return torch.cat(outputs), state


class LSTM(_Recurrent, nn.LSTM):  # type: ignore[misc]  # of torch's, `mode` is the kind of cell
    """:class:`torch.nn.LSTM` whose products come from a multiplier.

    Parts: ``ih_l0`` and ``hh_l0`` (projections of input and hidden state), ``hr_l0`` with
    `proj_size`, and so on for each layer, with ``_reverse`` for the other direction.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`torch.nn.LSTM`: several layers, both directions, `batch_first`, `dropout`,
        `proj_size` and packed sequences included.
    multiplier : Multiplier or str
        A multiplier or its id.
    mapping, gradient, calibrator, per_channel, mode, datapath
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
    >>> layer = ah.nn.LSTM(3, 4, num_layers=2, multiplier=ah.exact(8, signed=True))
    >>> output, (h, c) = layer(torch.randn(5, 2, 3))  # training: the first pass sets the ranges
    >>> output.shape, c.shape
    (torch.Size([5, 2, 4]), torch.Size([2, 2, 4]))
    >>> list(layer.parts())
    ['ih_l0', 'hh_l0', 'ih_l1', 'hh_l1']
    """

    _float_type = nn.LSTM
    _states = ("h_0", "c_0")

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        return {**super()._arguments(layer), "proj_size": layer.proj_size}

    def _step(self, end: str) -> Step:
        hidden = self.get_submodule(f"hh_{end}")
        out = self.get_submodule(f"hr_{end}") if self.proj_size else None
        return lambda gates, state: _lstm_step(gates, state, hidden, out)


class GRU(_Recurrent, nn.GRU):  # type: ignore[misc]  # of torch's, `mode` is the kind of cell
    """:class:`torch.nn.GRU` whose products come from a multiplier; parts as in :class:`LSTM`.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`torch.nn.GRU`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`LSTM`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.GRU(3, 4, bidirectional=True, multiplier=ah.exact(8, signed=True))
    >>> layer(torch.randn(5, 2, 3))[0].shape  # training: the first pass sets the ranges
    torch.Size([5, 2, 8])
    """

    _float_type = nn.GRU

    def _step(self, end: str) -> Step:
        hidden = self.get_submodule(f"hh_{end}")
        return lambda gates, state: _gru_step(gates, state, hidden)


class RNN(_Recurrent, nn.RNN):  # type: ignore[misc]  # of torch's, `mode` is the kind of cell
    """:class:`torch.nn.RNN` whose products come from a multiplier; parts as in :class:`LSTM`.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`torch.nn.RNN`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`LSTM`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.RNN(3, 4, nonlinearity="relu", multiplier=ah.exact(8, signed=True))
    >>> layer(torch.randn(5, 2, 3))[0].shape  # training: the first pass sets the ranges
    torch.Size([5, 2, 4])
    """

    _float_type = nn.RNN

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        return {**super()._arguments(layer), "nonlinearity": layer.nonlinearity}

    def _step(self, end: str) -> Step:
        hidden, nonlinearity = self.get_submodule(f"hh_{end}"), self.nonlinearity
        return lambda gates, state: _rnn_step(gates, state, hidden, nonlinearity)


# --- cells --------------------------------------------------------------------------------


class _Cell(CompositeLayer):
    """One step of a recurrent layer."""

    _float_type: ClassVar[type[nn.RNNCellBase]]
    _states: ClassVar[int] = 1

    input_size: int
    hidden_size: int
    bias: bool
    ih: Projection
    hh: Projection

    def __init__(
        self,
        *args: Any,
        multiplier: Multiplier | str,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        per_channel: bool = True,
        mode: str = "approximate",
        datapath: Datapath | str | None = None,
        **kwargs: Any,
    ) -> None:
        make: Any = self._float_type.__init__
        make(self, *args, **kwargs)
        self._make_parts(
            multiplier=multiplier, mapping=mapping, gradient=gradient, calibrator=calibrator,
            per_channel=per_channel, mode=mode, datapath=datapath,
        )  # fmt: skip

    def _make_parts(self, **options: Any) -> None:
        for kind in ("ih", "hh"):
            bias = f"bias_{kind}" if self.bias else None
            part = Projection(self, f"weight_{kind}", bias, **options)
            self.add_module(kind, part)
        guard_loading(self)

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        return {"bias": layer.bias}

    @classmethod
    def from_float(
        cls, layer: nn.RNNCellBase, multiplier: Multiplier | str, **options: Any
    ) -> Self:
        """Make one of a float cell, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.LSTMCell, torch.nn.GRUCell or torch.nn.RNNCell
            A cell of this kind.
        multiplier : Multiplier or str
        **options
            Keywords of :class:`approxhub.nn.Linear`.
        """
        make: Any = cls
        new: Self = make(
            layer.input_size, layer.hidden_size, **cls._arguments(layer), device="meta",
            multiplier=multiplier, **options,
        )  # fmt: skip
        new._adopt_parameters(layer)
        return new

    def _after(self, gates_x: Tensor, state: State) -> State:
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's cell, in the modes of its parts.

        Parameters
        ----------
        input : Tensor of float, (N, input_size) or (input_size,)
        hx : Tensor, or pair of them for an LSTM, optional
            State(s) before, (N, hidden_size) or (hidden_size,); zeros when not given.

        Returns
        -------
        Tensor, or pair of them for an LSTM

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one.
        InputError
            If the shapes do not fit.
        """
        require_real(input, self)
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise InputError(
                f"{type(self).__name__} takes (N, {self.input_size}) or ({self.input_size},) "
                f"activations, got {tuple(input.shape)}"
            )
        shape = (*input.shape[:-1], self.hidden_size)
        given = hx if self._states > 1 else (hx,)
        if hx is None:
            given = (input.new_zeros(shape),) * self._states
        if (
            not isinstance(given, (tuple, list))
            or len(given) != self._states
            or any(not isinstance(s, Tensor) or s.shape != shape for s in given)
        ):
            raise InputError(
                f"{type(self).__name__}: the state must be {self._states} of shape {shape}"
            )
        gates_x = self.ih(input)
        after = self._after(gates_x, tuple(s.to(gates_x.dtype) for s in given))
        return after if self._states > 1 else after[0]


class LSTMCell(_Cell, nn.LSTMCell):
    """:class:`torch.nn.LSTMCell` whose products come from a multiplier; parts ``ih``, ``hh``.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`torch.nn.LSTMCell`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`LSTM`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> h, c = ah.nn.LSTMCell(3, 4, multiplier=ah.exact(8, signed=True))(torch.randn(2, 3))
    >>> h.shape
    torch.Size([2, 4])
    """

    _float_type = nn.LSTMCell
    _states = 2

    def _after(self, gates_x: Tensor, state: State) -> State:
        return _lstm_step(gates_x, state, self.hh, None)


class GRUCell(_Cell, nn.GRUCell):
    """:class:`torch.nn.GRUCell` whose products come from a multiplier; parts ``ih``, ``hh``.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`torch.nn.GRUCell`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`LSTM`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> ah.nn.GRUCell(3, 4, multiplier=ah.exact(8, signed=True))(torch.randn(2, 3)).shape
    torch.Size([2, 4])
    """

    _float_type = nn.GRUCell

    def _after(self, gates_x: Tensor, state: State) -> State:
        return _gru_step(gates_x, state, self.hh)


class RNNCell(_Cell, nn.RNNCell):
    """:class:`torch.nn.RNNCell` whose products come from a multiplier; parts ``ih``, ``hh``.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`torch.nn.RNNCell`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`LSTM`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> ah.nn.RNNCell(3, 4, multiplier=ah.exact(8, signed=True))(torch.randn(2, 3)).shape
    torch.Size([2, 4])
    """

    _float_type = nn.RNNCell

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        return {**super()._arguments(layer), "nonlinearity": layer.nonlinearity}

    def _after(self, gates_x: Tensor, state: State) -> State:
        return _rnn_step(gates_x, state, self.hh, self.nonlinearity)
