"""The CUDA backend of ApproxHub: approximate multipliers on NVIDIA cards, bit for bit.

Imports nothing heavy: the kernels, and torch with them, are loaded when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from approxhub import hookimpl
from approxhub.plugins import BackendInfo, HealthCheck

if TYPE_CHECKING:
    from approxhub_cuda.backend import CudaBackend

__all__ = ["__version__", "load_backend"]

__version__ = "0.1.0"


def load_backend() -> CudaBackend:
    """Make the backend; it says itself why it is unavailable, if it is."""
    from approxhub_cuda.backend import CudaBackend

    return CudaBackend()


def _check() -> tuple[bool, str]:
    from approxhub_cuda.health import kernels

    return kernels()


@hookimpl
def approxhub_backends() -> list[BackendInfo]:
    """Offer the backend, for tensors on CUDA devices."""
    return [BackendInfo("cuda", "cuda", load_backend)]


@hookimpl
def approxhub_checks() -> list[HealthCheck]:
    """Let ``approxhub doctor`` say what there is of kernels, driver and cards."""
    return [HealthCheck("cuda-kernels", _check)]
