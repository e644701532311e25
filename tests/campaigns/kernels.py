"""The whole contract of backends on the CUDA kernels, emulated, under sanitizers: as a campaign.

    python tests/campaigns/kernels.py                                # all of it
    python tests/campaigns/kernels.py -k 'Factored and convolutions'  # options of pytest

It builds the kernels for the host with the address and undefined-behaviour sanitizers, and runs the
conformance classes of tests/cuda/ on them, with the clause that tests leave out. The build is kept
where ``APPROXHUB_TEST_SANITIZED`` says, and used again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1] / "cuda"
sys.path.insert(0, str(HERE))

import emulated  # noqa: E402


def main(options: list[str]) -> int:
    """Build, and run pytest; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ.get("APPROXHUB_TEST_SANITIZED")
        library = Path(kept or Path(folder) / "kernels.so")
        if not library.is_file():
            emulated.build(library, *emulated.SANITIZED)
        return subprocess.run(
            [
                sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-m", "",
                str(HERE / "test_conformance.py"), "-k", "Emulated", *options,
            ],
            env={**os.environ, **emulated.sanitizers(), "APPROXHUB_TEST_EMULATED": str(library),
                 "APPROXHUB_TEST_LONG": "1"},
        ).returncode  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
