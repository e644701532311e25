"""Layers of several products: each product is an approximate layer inside, with its own name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer
from approxhub.nn.linear import Linear
from approxhub.quantization import Datapath, OperandMapping

__all__ = ["CompositeLayer", "Projection"]


class CompositeLayer(nn.Module):
    """Base of the layers that make more than one kind of product.

    Each kind is an :class:`ApproxLayer` inside, a *part*, with its own quantisers; by its name a
    part can be given its own multiplier and mode. What is set here is set for all parts.
    """

    def parts(self) -> dict[str, ApproxLayer]:
        """The approximate layers inside, by their names."""
        return {n: m for n, m in self.named_modules() if isinstance(m, ApproxLayer)}

    @property
    def multiplier(self) -> Multiplier | None:
        """The circuit of all parts; None where they differ."""
        found = {part.multiplier for part in self.parts().values()}
        return found.pop() if len(found) == 1 else None

    @property
    def mapping(self) -> OperandMapping | None:
        """The operand mapping of all parts; None where they differ."""
        found = {part.mapping for part in self.parts().values()}
        return found.pop() if len(found) == 1 else None

    @property
    def datapath(self) -> Datapath | None:
        """What hardware does around the multipliers of all parts; None where they differ."""
        found = {part.datapath for part in self.parts().values()}
        return found.pop() if len(found) == 1 else None

    @property
    def mode(self) -> str | None:
        """The mode of all parts; None where they differ."""
        found = {part.mode for part in self.parts().values()}
        return found.pop() if len(found) == 1 else None

    @mode.setter
    def mode(self, value: str) -> None:
        for part in self.parts().values():
            part.mode = value

    def set_multiplier(
        self, multiplier: Multiplier | str, mapping: OperandMapping | str | None = None
    ) -> None:
        """Use another multiplier in all parts; see :meth:`ApproxLayer.set_multiplier`.

        Raises
        ------
        MappingError
            If the multiplier does not fit; the layer is unchanged then.
        """
        before = [(part, part.multiplier, part.mapping) for part in self.parts().values()]
        try:
            for part, _, _ in before:
                part.set_multiplier(multiplier, mapping)
        except Exception:
            for part, m, old in before:
                part.set_multiplier(m, old)
            raise

    def set_datapath(self, datapath: Datapath | str) -> None:
        """Use another datapath in all parts; see :meth:`ApproxLayer.set_datapath`.

        Raises
        ------
        MappingError
            If it does not fit; the layer is unchanged then.
        """
        before = [(part, part.datapath) for part in self.parts().values()]
        try:
            for part, _ in before:
                part.set_datapath(datapath)
        except Exception:
            for part, old in before:
                part.set_datapath(old)
            raise

    def exact_products(self) -> list[tuple[str, str]]:
        """Products of this layer that no multiplier makes, and why, in words."""
        return []

    def _adopt_parameters(self, layer: nn.Module) -> None:
        """Take over a float layer's own parameters (not copies) and its place in the world."""
        for name, parameter in layer._parameters.items():
            setattr(self, name, parameter)
        device = next(layer.parameters()).device
        for part in self.parts().values():
            part._settle(device)
        self.train(layer.training)

    def extra_repr(self) -> str:
        """The torch layer's, and the mode where its parts share one."""
        return f"{super().extra_repr()}, {self.mode or 'several modes'}"


class Projection(Linear):
    """A linear layer whose weight and bias are parameters of the layer that it is a part of.

    Parameters
    ----------
    owner : torch.nn.Module
        The layer around.
    weight_name : str
        Its parameter, (outputs, inputs).
    bias_name : str, optional
        Its bias.
    weight_rows, bias_rows : slice, optional
        Which rows of them are meant; all when not given.
    multiplier, **options
        As in :class:`approxhub.nn.Linear`.
    """

    def __init__(
        self,
        owner: nn.Module,
        weight_name: str,
        bias_name: str | None = None,
        *,
        weight_rows: slice | None = None,
        bias_rows: slice | None = None,
        multiplier: Multiplier | str,
        **options: Any,
    ) -> None:
        nn.Module.__init__(self)
        # Not a submodule: that would be a cycle of modules.
        self.__dict__["_owner"] = owner
        self._weight_name, self._bias_name = weight_name, bias_name
        self._weight_rows, self._bias_rows = weight_rows, bias_rows
        self._setup(multiplier, **options)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The owner's, as it is now."""
        weight: Tensor = getattr(self._owner, self._weight_name)
        return weight if self._weight_rows is None else weight[self._weight_rows]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The owner's, as it is now."""
        bias: Tensor | None = getattr(self._owner, self._bias_name) if self._bias_name else None
        return bias if bias is None or self._bias_rows is None else bias[self._bias_rows]

    @property
    def in_features(self) -> int:  # type: ignore[override]
        """Inputs of the weight."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:  # type: ignore[override]
        """Outputs of the weight."""
        return self.weight.shape[0]
