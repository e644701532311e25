"""What can go wrong when a table is factorised.

Imports the root errors only.
"""

from __future__ import annotations

from approxhub.errors import ApproxHubError

__all__ = ["FactorizationError", "NoFactorizableTableError", "TooCostlyError"]


class FactorizationError(ApproxHubError):
    """A multiplier cannot be written as integer factors, or not here."""


class NoFactorizableTableError(FactorizationError):
    """The multiplier has no table, and sampling its circuit would prove nothing."""


class TooCostlyError(FactorizationError):
    """The factors would cost more than what was asked for, or than any use is known for.

    Attributes
    ----------
    cost : int
        A lower bound of the cost, in int8 products per product.
    """

    def __init__(self, message: str, cost: int) -> None:
        super().__init__(message)
        self.cost = cost
