"""The plug-in as a package: harmless without kernels, installed and removed beside the core."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import emulated
import pytest
import torch

from approxhub.errors import BackendUnavailableError
from approxhub.plugins import host
from approxhub_cuda import approxhub_backends, approxhub_checks, native

CSRC = emulated.PACKAGE / "csrc"
HEADER = CSRC / "approxhub_cuda.h"
checkout = pytest.mark.skipif(not HEADER.is_file(), reason="needs a checkout: no approxhub_cuda")

REPORT = """
import json
from approxhub.cli import cli
from click.testing import CliRunner
said = {}
for command in ("plugins", "backends", "doctor"):
    done = CliRunner().invoke(cli, [command, "--json"])
    said[command] = [done.exit_code, json.loads(done.stdout)]
import approxhub as ah
said["sum"] = int(ah.matmul(__import__("torch").ones(1, 3, dtype=int) * 5,
                            __import__("torch").ones(3, 1, dtype=int) * 7, "exact:8s"))
print(json.dumps(said))
"""


def test_without_kernels_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its library the backend is there, unavailable, and the reason says what to do."""

    def missing() -> native.Library:
        raise BackendUnavailableError("approxhub_cuda was installed without its kernels")

    monkeypatch.setattr(native, "load_library", missing)
    [info] = approxhub_backends()
    assert (info.name, info.device_type) == ("cuda", "cuda")
    backend = info.load()
    assert backend is not None
    assert "without its kernels" in str(backend.unavailable_reason())
    [check] = approxhub_checks()
    monkeypatch.setattr("approxhub_cuda.health.load_library", missing)
    ok, said = check.run()
    assert ok
    assert "without its kernels" in said


@checkout
def test_structs_are_those_of_the_header() -> None:
    """Each struct of the header has the fields of its twin in ctypes, in order; so has the ABI."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    [abi] = re.findall(r"#define AH_CUDA_ABI (\d+)", text)
    assert int(abi) == native.ABI
    structs = re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL)
    assert structs
    for body, name in structs:
        fields = re.findall(r"(\w+)(?:\[\w+\])?\s*[,;]", body)
        twin = getattr(native, name.removeprefix("ah_").capitalize())
        assert [field[0] for field in twin._fields_] == fields, name


@checkout
def test_the_library_neither_allocates_nor_waits_nor_copies() -> None:
    """No call of the runtime in the sources does: what it may call is listed here."""
    allowed = {
        "cudaGetDevice", "cudaSetDevice", "cudaGetDeviceCount", "cudaDeviceGetAttribute",
        "cudaGetDeviceProperties", "cudaDriverGetVersion", "cudaRuntimeGetVersion",
        "cudaFuncGetAttributes", "cudaFuncSetAttribute", "cudaLaunchKernelEx", "cudaMemsetAsync",
        "cudaGetErrorName", "cudaGetErrorString",
    }  # fmt: skip
    sources = [p for p in CSRC.iterdir() if p.suffix in (".cu", ".cuh")]
    calls = {
        c for p in sources for c in re.findall(r"\b(cu[A-Z]\w+|cuda[A-Z]\w+)\(", p.read_text())
    }
    assert calls
    assert calls <= allowed, calls - allowed
    assert not re.search(r"<<<|\bnew\b|\bmalloc\(", "".join(p.read_text() for p in sources))


@checkout
def test_versions_agree() -> None:
    """The plug-in names one version in both places, and that of the core; so with the licence."""
    import approxhub_cuda

    licences = (p / "LICENSE" for p in (emulated.PACKAGE, emulated.ROOT))
    assert len({p.read_text(encoding="utf-8") for p in licences}) == 1

    text = (emulated.PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    [version] = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    assert version == approxhub_cuda.__version__ == metadata.version("approxhub")


def installed_report(site: Path, work: Path) -> dict[str, list[object]]:
    """What the commands say with the packages in `site`."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT], cwd=work, text=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(site), "APPROXHUB_HOME": str(work / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@checkout
@pytest.mark.slow
def test_installing_and_removing(tmp_path: Path) -> None:
    """Installed without kernels it takes part and says why it is unavailable; removed, it is gone.

    The core computes on, before, during and after.
    """
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    source = shutil.copytree(emulated.PACKAGE, tmp_path / "source")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--target", str(site),
            "--config-settings=cmake.define.APPROXHUB_CUDA_KERNELS=OFF", str(source),
        ],
        check=True, timeout=500,
    )  # fmt: skip
    with_it = installed_report(site, work)
    assert with_it["sum"] == 105
    rows = {row["name"]: row for row in with_it["plugins"][1]}
    assert (rows["cuda"]["state"], rows["cuda"]["error"]) == ("ok", None)
    assert with_it["plugins"][0] == with_it["backends"][0] == 0
    backends = {row["name"]: row for row in with_it["backends"][1]}
    assert not backends["cuda"]["available"]
    assert "without its kernels" in backends["cuda"]["reason"]
    assert "cuda-kernels" in json.dumps(with_it["doctor"][1])
    shutil.rmtree(site)
    site.mkdir()
    without = installed_report(site, work)
    assert without["sum"] == 105
    assert "cuda" not in {row["name"] for row in without["plugins"][1]}
    assert "cuda" not in {row["name"] for row in without["backends"][1]}
    assert without["doctor"][0] == with_it["doctor"][0]


def test_it_is_found_only_when_installed() -> None:
    """From a checkout, the folder approxhub_cuda/ is no plug-in."""
    names = {d.metadata["Name"] for d in metadata.distributions()}
    found = {row.name for row in host().status() if "cuda" in row.name}
    assert bool(found) == bool({"approxhub_cuda", "approxhub-cuda"} & names)


@pytest.mark.gpu
def test_it_is_available_on_a_card() -> None:
    """Where there is a card and the plug-in is installed with its kernels, it can be used."""
    from approxhub_cuda.backend import CudaBackend

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA card")
    assert CudaBackend().unavailable_reason() is None
