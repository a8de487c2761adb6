"""Products in 8 bits: the blocks' projections, both operands scaled and rounded on the way into each product.

``y = (q(s_x x) q(s_W W)^T) / (s_x s_W)``, s the largest number of the format over the largest magnitude, and likewise
for both products of the backward pass (Micikevicius et al. 2022, FP8 formats for deep learning):

tensorwise  one s for an operand; activations and weights in e4m3, gradients in e5m2
rowwise     one for each row of the left operand and column of the right, rounded down to a power of 2; all in e4m3

torchao multiplies. Weights, their names, initial values and checkpoints are those of a model in bf16: only what a
projection calls for its product changes, and only where gradients are wanted. What is evaluated, observed or generated
is so in bf16, wherever and with whatever the model is loaded.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isogloss.config.base import UserError
from isogloss.models.decoder import Decoder
from isogloss.nn.linear import Linear
from isogloss.nn.roles import READERS, WRITERS, Role, declared_by
from isogloss.parallel.torchao import quiet_torchao

Float8 = Literal["off", "tensorwise", "rowwise"]

PROJECTIONS = (READERS | WRITERS) - {Role.ROUTER, Role.HEAD}
"""Roles of the weights whose products are in float8: between the stream and what is inside a block."""
MULTIPLE = 16
"""Of which each size of a product must be a multiple, on GPUs."""
CAPABILITY = {"tensorwise": (8, 9), "rowwise": (9, 0)}
"""The compute capability that NVIDIA's kernels begin with."""
CAPABILITY_OF_ROCM = (9, 4)


def projections(model: Decoder) -> Iterator[tuple[str, Linear]]:
    """Name in its block and module of each projection whose product may be in float8."""
    for block in model.blocks():
        for name, module in block.named_modules():
            if isinstance(module, Linear) and _role(module) in PROJECTIONS:
                yield name, module


def _role(linear: Linear) -> Role:
    return declared_by(linear)["weight"].role


def multiply_in_float8(model: Decoder, scaling: Float8, device: torch.device) -> None:
    """Let the projections of a model multiply in float8 where gradients are wanted, in place.

    Args:
        model: on the meta device or not, not yet split or compiled.
        scaling: what a scale belongs to; nothing is done for ``off``.
        device: where it will compute; on a CPU float8 is emulated: rounded, and multiplied in float32.
    """
    if scaling == "off":
        return
    product = _product(scaling, device.type)
    for _, projection in projections(model):
        projection.product = product


def check_float8(
    scaling: Float8,
    model: Decoder,
    *,
    precision: str,
    n_positions: int,
    n_tensor: int = 1,
    device: str | None = None,
) -> None:
    """Refuse float8 where it cannot be had.

    Args:
        scaling: as the recipe has it.
        model: planned, on the meta device.
        precision: as the recipe has it: ``auto``, ``bf16`` or ``fp32``.
        n_positions: of a row, on one rank; gradients of weights are sums over positions.
        n_tensor: ranks that share each projection.
        device: where it is to run here, ``cpu`` or ``cuda``; ``None`` if not here.

    Raises:
        UserError: it cannot; every reason is listed.
    """
    if scaling == "off":
        return
    problems = [] if device is None else _missing_here(scaling, device)
    if precision == "fp32":
        problems.append("train.precision is fp32, and float8 goes with bf16: set train.precision to bf16 or auto")
    problems += _uneven_sizes(model, n_tensor)
    if n_positions % MULTIPLE:
        problems.append(f"a rank has {n_positions} positions of a row, not a multiple of {MULTIPLE}: see data.seq_len")
    if problems:
        raise UserError(f"train.float8 is {scaling}, but {'; '.join(problems)}; or set train.float8='off'")


def _missing_here(scaling: str, device: str) -> list[str]:
    problems = []
    if importlib.util.find_spec("torchao") is None:
        problems.append("torchao is not installed: pip install 'isogloss[float8]'")
    if device == "cuda":
        needed = CAPABILITY_OF_ROCM if torch.version.hip else CAPABILITY[scaling]
        has = torch.cuda.get_device_capability()
        if has < needed:
            problems.append(
                f"{torch.cuda.get_device_name()} has compute capability {'.'.join(map(str, has))}, and {scaling} "
                f"scales need {'.'.join(map(str, needed))}"
            )
    return problems


def _uneven_sizes(model: Decoder, n_tensor: int) -> list[str]:
    """Of what one rank multiplies: readers are split by output, writers by input."""
    sizes = {}
    for name, projection in projections(model):
        d_in, d_out = projection.in_features, projection.out_features
        if _role(projection) in WRITERS:
            d_in //= n_tensor
        else:
            d_out //= n_tensor
        if d_in % MULTIPLE or d_out % MULTIPLE:
            sizes[name] = f"{name} maps {d_in} numbers to {d_out}"  # layers alike are named once
    if not sizes:
        return []
    split = f" on each of {n_tensor} ranks" if n_tensor > 1 else ""
    return [f"{', '.join(sizes.values())}{split}, where all sizes must be multiples of {MULTIPLE}"]


def _product(scaling: Float8, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """``x W^T`` in float8 with its gradients, for (…, d_in) and (d_out, d_in), in bf16."""
    with quiet_torchao():
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    config = replace(Float8LinearConfig.from_recipe_name(scaling), emulate=device == "cpu")
    # torchao offers a module; one without weights of its own serves for all projections.
    linear = convert_to_float8_training(nn.Linear(MULTIPLE, MULTIPLE, bias=False, device="meta"), config=config)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        # Both to bf16 first, whatever they were gathered in: the same bits are rounded on one rank and on many.
        with torch.autocast(device, enabled=False):
            return functional_call(linear, {"weight": weight.to(torch.bfloat16)}, (x.to(torch.bfloat16),))

    return product
