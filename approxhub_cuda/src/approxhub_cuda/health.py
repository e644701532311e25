"""What ``approxhub doctor`` says of kernels, driver and cards."""

from __future__ import annotations

from approxhub.errors import BackendUnavailableError, EngineError
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import load_library

__all__ = ["kernels"]


def kernels() -> tuple[bool, str]:
    """Whether the backend can run here, on what; false only for kernels that do not fit."""
    reason = CudaBackend().unavailable_reason()
    if reason is not None:
        try:
            fits = load_library().devices() == 0
        except (BackendUnavailableError, EngineError):
            fits = True  # nothing to run on, or nothing to run
        return fits, f"unavailable: {reason}"
    found = load_library()
    cards = [found.card(i) for i in range(found.devices())]
    told = "; ".join(
        f"{c.name.decode()} (sm_{c.major}{c.minor}, {c.processors} processors, "
        f"{c.shared_bytes // 1024} KiB of shared memory)"
        for c in cards
    )
    runtime, driver = (f"{v // 1000}.{v % 1000 // 10}" for v in (cards[0].runtime, cards[0].driver))
    return True, f"built with CUDA {runtime}, driver for {driver}: {told}"
