"""What a person reads of an estimate."""

from isogloss.config.quantity import size
from isogloss.run.estimate.estimate import UNSEEN, RunEstimate
from isogloss.run.estimate.gpus import Gpu
from isogloss.train.display import duration


def estimate_rows(found: RunEstimate, gpu: Gpu, share: float, network: float) -> list[tuple[str, str]]:
    """What a person reads of it.

    Args:
        found: the estimate.
        gpu: one of its ranks.
        share: of the peak that is reached.
        network: bytes a second that a rank sends to other machines.
    """
    axes, seconds = found.axes, found.step_seconds(gpu, share)
    lengths = {name: getattr(axes, name) for name in ("replicate", "shard", "context", "tensor")}
    layout = " x ".join(f"{name} {n}" for name, n in lengths.items() if n > 1) or "one process"
    rows = [("ranks", layout), ("parameters", f"{found.n_parameters:,}")]
    rows += [(f"  {part}", f"{n:,}") for part, n in found.parameters.items()]
    rows += [
        ("operations", f"{found.flops:.3g}"),
        ("tokens", f"{found.tokens:,} in {found.steps:,} steps of {found.tokens // found.steps:,}"),
        ("memory of a rank", f"{size(found.memory.total)}, at the worst in {found.memory.moment}"),
    ]
    rows += [(f"  {part}", size(n_bytes)) for part, n_bytes in found.memory.parts.items()]
    unseen = UNSEEN if gpu.is_gpu else 0.0
    if gpu.is_gpu:
        rows.append(("  CUDA, NCCL, gaps", f"about {size(UNSEEN)}"))
    left = gpu.memory - unseen - found.memory.total
    fits = f"yes, {size(left)} are left" if found.fits(gpu) else f"no, by {size(-left)}"
    peaks = f"{gpu.peak / 1e12:,.0f}" if gpu.peak >= 1e13 else f"{gpu.peak / 1e12:.2g}"
    peaks += f" (float8 {gpu.float8_peak / 1e12:,.0f})" if found.float8_flops else ""
    rows += [
        (f"fits into {gpu.memory / 1e9:.0f} GB", fits),
        (f"a step at {share:.0%} of {peaks} Tflop/s", _short(seconds)),
        ("the run", duration(seconds * found.steps)),
    ]
    for axis, n_bytes in found.traffic.items():
        speed = gpu.link if axis in ("tensor", "context") else network
        rows.append(
            (f"sent along {axis}", f"{n_bytes / 1e9:.3g} GB a step, {_short(n_bytes / speed)} at {speed / 1e9:g} GB/s")
        )
    rows.append(("a checkpoint's model", f"{found.model_bytes / 1e9:.3g} GB"))
    rows.append(("  and optimizer", f"{found.optimizer_bytes / 1e9:.3g} GB"))
    return rows


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
