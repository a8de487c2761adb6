"""What this machine is good at. What ``auto`` means follows from the processor's features and the run's size alone.

A decision changes the last bits, or more, so it must be the same at each start on the same machine: no measurement has
a part in it. The matrix products' peak is measured too, but only to be shown and to estimate times.
"""

import platform
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field

from isogloss.config.base import UserError
from isogloss.config.stored import Count
from isogloss.nn.compiler import compiler_found
from isogloss.train.loop import TrainConfig

# Compiling a block takes 5 to 30 s and saves about a quarter of an eager step (benchmarks/train.py); below this many
# seconds of eager work it does not pay.
COMPILING_PAYS_AFTER = 240.0
CPUINFO = Path("/proc/cpuinfo")
# Units that multiply matrices of bfloat16: x86's and ARM's names for them in /proc/cpuinfo. Without them bfloat16 is
# emulated, and slower than float32.
BF16_FEATURES = frozenset({"amx_bf16", "avx512_bf16", "avx10_2", "bf16", "svebf16"})
# Operations a second of a thread, by the first of these that the processor has; to within a factor of two, as much as
# deciding whether compiling pays needs.
NOMINAL_PEAKS = {
    "bf16": {"amx_bf16": 5e11, "avx512_bf16": 2e11, "": 1e11},
    "fp32": {"avx512f": 1e11, "avx2": 5e10, "": 2e10},
}
# Of a GPU, in the same sense.
NOMINAL_GPU_PEAKS = {"bf16": 2e14, "fp32": 2e13}
# What eager training reaches of the measured peak, for estimates before the first step.
TYPICAL_SHARE_OF_PEAK = 0.4


@dataclass(frozen=True)
class Machine:
    """Decisions that belong to a machine; a run keeps those it began with, since they change the last bits.

    Args:
        device: ``cpu`` or ``cuda``.
        name: of the processor or GPU.
        precision: ``bf16`` or ``fp32``, for matrix products.
        compiled: whether blocks are compiled.
        threads: CPU threads PyTorch uses.
        torch: its version.
        ranks: how many processes share the run.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # where it is read back

    device: Annotated[str, Field(pattern="^(cpu|cuda)$")]
    name: str
    precision: Annotated[str, Field(pattern="^(bf16|fp32)$")]
    compiled: bool
    threads: Count
    torch: str
    ranks: Count = 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check_machine(config: TrainConfig) -> torch.device:
    """Where to train, without measuring anything.

    Raises:
        UserError: what the config asks for is not here.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise UserError("train.device is cuda, but PyTorch finds no CUDA device here; set train.device=cpu or auto")
    device = torch.device("cuda" if cuda and config.device != "cpu" else "cpu")
    if config.compile == "on" and not compiler_found(device.type):
        raise UserError(
            "train.compile is on, but no C++ compiler with Python's headers is found, nor on a GPU Triton with a C "
            "compiler; install g++ and python3-dev, or set train.compile=auto"
        )
    return device


def find_machine(config: TrainConfig, total_flops: float) -> Machine:
    """Decide what ``auto`` means here, for a run of ``total_flops`` operations.

    Raises:
        UserError: what the config asks for is not here.
    """
    device = check_machine(config)
    precision = config.precision
    if precision == "auto" and config.float8 != "off":
        precision = "bf16"
    elif precision == "auto":
        precision = "bf16" if multiplies_bf16(device.type) else "fp32"
    compilable = compiler_found(device.type)
    eager_seconds = total_flops / (TYPICAL_SHARE_OF_PEAK * nominal_peak(device.type, precision))
    compiled = config.compile == "on" or (
        config.compile == "auto" and compilable and eager_seconds > COMPILING_PAYS_AFTER
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return Machine(device.type, name, precision, compiled, torch.get_num_threads(), torch.__version__)


def multiplies_bf16(device: str) -> bool:
    """Whether ``cpu`` or ``cuda`` has units that multiply matrices of bfloat16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not BF16_FEATURES.isdisjoint(processor_features())


def nominal_peak(device: str, precision: str) -> float:
    """Operations a second of matrix products, roughly, by the processor's features and PyTorch's threads."""
    if device == "cuda":
        return NOMINAL_GPU_PEAKS[precision]
    features = processor_features() | {""}
    return torch.get_num_threads() * next(rate for name, rate in NOMINAL_PEAKS[precision].items() if name in features)


@cache
def processor_features() -> frozenset[str]:
    """The processor's features as Linux names them; elsewhere those that PyTorch reports."""
    try:
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, listed = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(listed.split())
    except OSError:
        pass
    report = getattr(torch.cpu, "get_capabilities", dict)
    return frozenset(name for name, has in report().items() if has is True)


def measure_peak(device: torch.device, precision: str) -> float:
    """The best rate of a square matrix product, in operations a second; takes a second at most, once a process."""
    return _measure_peak(device.type, precision)


@cache
def _measure_peak(device: str, precision: str) -> float:
    best, n = 0.0, 256
    # Larger until a product takes long enough to be timed: where a type has no fast kernel, a small one does already.
    while n <= (2048 if device == "cpu" else 8192):
        seconds = min(_time_product(device, precision, n) for _ in range(3))
        best = max(best, 2 * n**3 / seconds)
        n = n * 2 if seconds < 0.02 else 1 << 30
    return best


def _time_product(device: str, precision: str, n: int) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, n, generator=generator).to(device, dtype)
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    torch.mm(a, a)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def processor_name() -> str:
    """The processor as the system calls it."""
    try:
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
