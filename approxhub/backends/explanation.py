"""Why a product runs where it runs: what every backend would take, and what the chosen one does."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from approxhub.backends.protocol import Backend, ConvRequest, GemmRequest
from approxhub.backends.routing import available_backends, choose, estimate, prepared_for

__all__ = ["Explanation", "explain_request"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What runs a request, and why.

    Parameters
    ----------
    request : str
        The request in words.
    accumulator : str
        Type of the sums, with its proof.
    backend : str
        The one that is taken.
    way : str
        What that backend says about how it does it.
    others : tuple of (str, str)
        Every other backend, with its estimate or the reason why it is out.
    """

    request: str
    accumulator: str
    backend: str
    way: str
    others: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [self.request, f"  sums: {self.accumulator}", f"  {self.backend}: {self.way}"]
        return "\n".join([*lines, *(f"  not {name}: {why}" for name, why in self.others)])


def explain_request(request: GemmRequest | ConvRequest) -> Explanation:
    """Explain the choice for a request.

    Raises
    ------
    BackendUnavailableError
        If nothing can do it, or the forced backend cannot.
    """
    name, backend = choose(request)
    others = tuple(
        (info.name, _why(info.name, reason, request))
        for info, reason in available_backends()
        if info.name != name
    )
    r = request.gemm if isinstance(request, ConvRequest) else request
    largest = r.k * r.multiplier.max_abs
    sign = "<=" if request.dtype == torch.int32 else ">"
    accumulator = (
        f"{str(request.dtype).removeprefix('torch.')}, for {r.k} products of up to "
        f"{r.multiplier.max_abs} make {largest} {sign} {2**31 - 1}"
    )
    way = _way(name, backend, request)
    return Explanation(_words(request), accumulator, name, way, others)


def _words(request: GemmRequest | ConvRequest) -> str:
    if isinstance(request, GemmRequest):
        size = f"({request.m}, {request.k}) x ({request.k}, {request.n})"
    else:
        size = f"convolution of {request.x_shape} with {request.w_shape}"
    return f"{request.multiplier.id}, {size} on {request.device}"


def _why(name: str, reason: str | None, request: GemmRequest | ConvRequest) -> str:
    if reason is not None:
        return reason
    seconds = estimate(name, request)
    return "does not support it" if seconds is None else f"estimated at {1e3 * seconds:.3g} ms"


def _way(name: str, backend: Backend, request: GemmRequest | ConvRequest) -> str:
    told = getattr(backend, "explain", None)
    if callable(told):
        return str(told(request, prepared_for(name, backend, request.multiplier, request.device)))
    seconds = estimate(name, request)
    return "taken" if seconds is None else f"estimated at {1e3 * seconds:.3g} ms"
