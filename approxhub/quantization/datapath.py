"""The datapath: what hardware does around its multipliers.

Accelerators differ in where zero points are taken out, in what they do with padding, in the bias
and in how they rescale. The choice changes what reaches the multiplier, so it has a name, is
stored in the ``state_dict`` and stands in a model's summary. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from approxhub.errors import MappingError
from approxhub.quantization.mapping import CodeRange

__all__ = ["Datapath"]

_CHOICES = {
    "zero_point": ("after", "before"),
    "padding": ("code", "skip"),
    "bias": ("float", "int32"),
    "scales": ("any", "power-of-two"),
}


@dataclass(frozen=True, slots=True)
class Datapath:
    """What hardware does with zero points, padding, bias and scales.

    Parameters
    ----------
    zero_point : {'after', 'before'}
        ``'after'``: raw codes enter the multiplier, and zero points are corrected in its sums.
        ``'before'``: the difference ``q - z`` enters, and nothing is corrected. It has a sign, so
        the operand must be signed, and codes with a zero point have one bit less than it.
    padding : {'code', 'skip'}
        ``'code'``: the padding of a convolution is the code of real zero, and goes through the
        multiplier. ``'skip'``: there are no products with padding.
    bias : {'float', 'int32'}
        ``'float'``: added to the real result. ``'int32'``: rounded to the unit of the sums,
        ``s_x * s_w``, and added to them; see :func:`approxhub.quantization.integer_bias`.
    scales : {'any', 'power-of-two'}
        ``'power-of-two'``: all scales are, so that hardware rescales by shifts; see
        :func:`approxhub.quantization.scale_and_zero_point`.

    Raises
    ------
    MappingError
        If a choice is none of these.

    Examples
    --------
    >>> str(Datapath(padding="skip"))
    'padding=skip'
    >>> Datapath.parse("zero_point=before,bias=int32")
    Datapath(zero_point='before', padding='code', bias='int32', scales='any')
    >>> Datapath.parse(str(Datapath())) == Datapath()
    True
    """

    zero_point: str = "after"
    padding: str = "code"
    bias: str = "float"
    scales: str = "any"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise MappingError(
                    f"a datapath's {name} is one of {', '.join(known)}, got {value!r}"
                )

    @classmethod
    def parse(cls, text: str) -> Datapath:
        """Read ``'zero_point=before,padding=skip'``; what is not named has its default.

        Raises
        ------
        MappingError
            If `text` is not of that form.
        """
        chosen: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, value = (p.strip() for p in part.partition("="))
            if not equals or name not in _CHOICES or name in chosen:
                what = "is given twice" if name in chosen else "is not a choice of a datapath"
                raise MappingError(
                    f"datapath {text!r}: {part!r} {what}; write for example "
                    "'zero_point=before,padding=skip,bias=int32'"
                )
            chosen[name] = value
        return cls(**chosen)

    def codes(self, of_operand: CodeRange, role: str) -> CodeRange:
        """The codes that a quantiser may produce for an operand on this datapath.

        Parameters
        ----------
        of_operand : CodeRange
            Those of the mapping, which enter the multiplier as they are.
        role : str
            Whose they are, for the message.

        Returns
        -------
        CodeRange
            With one bit less, if their difference to a zero point enters instead: for any code
            and any zero point among them it then fits the operand, whatever the data.

        Raises
        ------
        MappingError
            If that difference has a sign and the operand has none.

        Examples
        --------
        >>> from approxhub import OperandFormat
        >>> codes = CodeRange.full(OperandFormat(8, signed=True))
        >>> before = Datapath(zero_point="before").codes(codes, "activations")
        >>> before.qmin, before.qmax
        (-64, 63)
        """
        if self.zero_point == "after" or not of_operand.affine:
            return of_operand
        f = of_operand.format
        if not f.signed:
            raise MappingError(
                f"datapath {str(self)!r}: the {role} of {f.bits} bits less their zero point are "
                f"signed numbers of {f.bits + 1} bits, but the operand is unsigned ({f}); use a "
                f"signed circuit of {f.bits + 1} bits for codes of {f.bits}, or a signed one of "
                f"{f.bits} bits, with the mapping 'affine-signed', for codes of {f.bits - 1}"
            )
        half = (f.max + 1) // 2
        return CodeRange(f, -half, half - 1, affine=True)

    def __str__(self) -> str:
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return ",".join(f"{n}={v}" for n, v in chosen.items() if v != _CHOICES[n][0])
