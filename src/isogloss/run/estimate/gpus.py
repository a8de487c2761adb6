"""What GPUs promise: peaks of products (dense), memory, and bandwidths. From their makers' data sheets.

Those that multiply in float8 do so at twice the rate of bfloat16, to a part in a thousand, by the same sheets.

Sources, as of 2026 (figures with sparsity halved):

a100   nvidia.com, A100 Tensor Core GPU datasheet (SXM4, 80 GB): 312 Tflop/s, 2039 GB/s, NVLink 600 GB/s
h100   nvidia.com, H100 Tensor Core GPU datasheet (SXM5): 989 Tflop/s, 3.35 TB/s, NVLink 900 GB/s
h200   nvidia.com, H200 Tensor Core GPU datasheet (SXM): 989 Tflop/s, 141 GB, 4.8 TB/s, NVLink 900 GB/s
b200   nvidia.com, DGX B200 datasheet (8 GPUs: 36 Pflop/s in bf16 with sparsity, 1440 GB, 64 TB/s, NVLink 14.4 TB/s)
l40s   nvidia.com, L40S datasheet: 362 Tflop/s, 48 GB, 864 GB/s, PCIe 4.0 x16
4090   nvidia.com, Ada GPU architecture whitepaper, appendix A: 165.2 Tflop/s (float32 accumulation), 24 GB, 1008 GB/s
mi300x amd.com, Instinct MI300X data sheet: 1307 Tflop/s, 192 GB, 5.3 TB/s, 7 links of 128 GB/s
"""

import os
from dataclasses import dataclass

import torch

from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.train.machine import measure_peak


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Args:
        peak: bfloat16 products, dense, operations a second.
        memory: bytes; makers count in powers of ten.
        bandwidth: of its memory, bytes a second.
        link: to the others in its machine, bytes a second in one direction.
        float8: the scales with which it multiplies in float8 (`isogloss.parallel.float8`).
        is_gpu: false for this machine's CPU, measured.
    """

    peak: float
    memory: float
    bandwidth: float
    link: float
    float8: tuple[str, ...] = ("tensorwise", "rowwise")
    is_gpu: bool = True

    @property
    def float8_peak(self) -> float:
        """Float8 products, dense, operations a second; 0 where it has none."""
        return 2 * self.peak if self.float8 else 0.0


GPUS = {
    "a100": Gpu(312e12, 80e9, 2.039e12, 300e9, float8=()),
    "h100": Gpu(989e12, 80e9, 3.35e12, 450e9),
    "h200": Gpu(989e12, 141e9, 4.8e12, 450e9),
    "b200": Gpu(2250e12, 180e9, 8.0e12, 900e9),
    "l40s": Gpu(362e12, 48e9, 0.864e12, 32e9, float8=("tensorwise",)),
    "4090": Gpu(165.2e12, 24e9, 1.008e12, 32e9, float8=("tensorwise",)),
    "mi300x": Gpu(1307e12, 192e9, 5.3e12, 448e9),
}


CPU = "cpu"
_MEMORY_BANDWIDTH = 20e9
"""Of two channels of DDR4, about; bytes a second."""


def find_gpu(name: str) -> Gpu:
    """By name, in any case; ``cpu`` is the machine this runs on, its peak measured.

    Raises:
        UserError: it is not in the table.
    """
    if name.lower() == CPU:
        return _this_cpu()
    if name.lower() not in GPUS:
        hint = did_you_mean(name.lower(), [*GPUS, CPU]) or f"; known: {', '.join(GPUS)}, and cpu for this machine"
        raise UserError(f"--gpu {name}: not in the table of GPUs{hint}")
    return GPUS[name.lower()]


def _this_cpu() -> Gpu:
    """In the faster of both precisions; ranks here share the memory and its bandwidth."""
    peak = max(measure_peak(torch.device("cpu"), precision) for precision in ("bf16", "fp32"))
    memory = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    return Gpu(peak, memory, _MEMORY_BANDWIDTH, _MEMORY_BANDWIDTH / 2, float8=(), is_gpu=False)
