"""Gradients of an approximate product, and the shapes of products they work on."""

from __future__ import annotations

from approxhub.nn.gradients.approximate_backward import ApproximateBackward
from approxhub.nn.gradients.estimators import (
    ApproximateProduct,
    Arithmetic,
    Gradient,
    Grid,
    StraightThrough,
    without_autocast,
)
from approxhub.nn.gradients.names import make_gradient
from approxhub.nn.gradients.products import (
    BatchedProduct,
    ConvProduct,
    ConvTransposeProduct,
    LinearProduct,
    Product,
)
from approxhub.nn.gradients.tables import (
    GivenTables,
    LinearRegression,
    OneDimensionalTables,
    TableFile,
    TableGradient,
    TwoDimensionalTables,
)

__all__ = [
    "ApproximateBackward",
    "ApproximateProduct",
    "Arithmetic",
    "BatchedProduct",
    "ConvProduct",
    "ConvTransposeProduct",
    "GivenTables",
    "Gradient",
    "Grid",
    "LinearProduct",
    "LinearRegression",
    "OneDimensionalTables",
    "Product",
    "StraightThrough",
    "TableFile",
    "TableGradient",
    "TwoDimensionalTables",
    "make_gradient",
    "without_autocast",
]
