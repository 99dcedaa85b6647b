"""The bits of a record do not depend on what the user's shell or the CPU would choose."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.core import determinism
from tests.helpers import tiny

LABELS = ("simclr-resnet-bn-s0", "simclr-resnet-none-plain-s0")
"""The first has BN, which sums over much; the second is all convolutions."""

AVX512 = "AVX512F,AVX512VL,AVX512DQ,AVX512BW,AVX512CD"

x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="these settings are of x86 CPUs"
)


def records(root: Path, **variables: str) -> list[bytes]:
    """The records of two cells that a process with these variables trains."""
    home = root / f"home-{'-'.join(variables) or 'plain'}"
    cells = [word for label in LABELS for word in ("--cell", label)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "train", *cells],
        cwd=root, capture_output=True, text=True, check=False,
        env=tiny.environment() | variables | {"BENCHMARK_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Path(line).read_bytes() for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.project(tmp_path_factory.mktemp("bits"))


@pytest.fixture(scope="module")
def plain(root: Path) -> list[bytes]:
    found = records(root)
    assert len(found) == len(LABELS)
    return found


@x86
@pytest.mark.slow
def test_a_process_limited_to_avx2_makes_the_same(root: Path, plain: list[bytes]) -> None:
    """The C library chooses among its own functions by what it is told that the CPU can do."""
    masked = ",".join(f"-{name}" for name in AVX512.split(","))
    assert records(root, GLIBC_TUNABLES=f"glibc.cpu.hwcaps={masked}") == plain


@x86
def test_what_a_shell_asks_of_the_libraries_is_overruled(root: Path, plain: list[bytes]) -> None:
    asked = {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "ALL",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "SkylakeX",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    }
    assert set(asked) <= set(determinism.settings())
    assert records(root, **asked) == plain


def changed(root: Path, name: str, change: str, shell: dict[str, str]) -> bytes:
    """The record of the second cell by a program of which something is changed, its worker too."""
    script = root / f"{name}.py"
    script.write_text(
        "import sys; from benchmark.cli import parser; from benchmark.core import determinism\n"
        f"{change}\n"
        "if __name__ == '__main__': sys.exit(parser.main(sys.argv[1:]))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script), "train", "--cell", LABELS[1]],
        cwd=root, capture_output=True, text=True, check=False,
        env=shell | {"BENCHMARK_HOME": str(root / f"home-{name}"), "PYTHONPATH": str(tiny.PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()).read_bytes()


@x86
def test_without_these_settings_another_cpu_would_make_other_bits(
    root: Path, plain: list[bytes]
) -> None:
    """So the two tests above can fail."""
    if "avx512f" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this CPU has nothing beyond AVX2")
    # A program that fixes nothing, in a shell that has none of the variables either.
    shell = {k: v for k, v in tiny.environment().items() if k not in determinism.settings()}
    found = changed(root, "unfixed", "determinism.settings = lambda: {}", shell)
    assert b"AVX512" in found
    assert found.replace(b"AVX512", b"AVX2") != plain[1]


@pytest.mark.slow
def test_nothing_reads_memory_before_it_is_written(root: Path, plain: list[bytes]) -> None:
    """With all new memory filled with NaN, which `determinism` spares, the bits are the same."""
    filling = (
        "import torch\n"
        "start = determinism.start\n"
        "def filled(*arguments):\n"
        "    device = start(*arguments)\n"
        "    torch.utils.deterministic.fill_uninitialized_memory = True\n"
        "    return device\n"
        "determinism.start = filled"
    )
    assert changed(root, "filled", filling, tiny.environment()) == plain[1]
