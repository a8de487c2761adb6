"""A model's way through a GPU, without one: tensors that only say that they are on it, and know where others are.

PyTorch's fake tensors refuse operations whose operands are on two devices. They also show what makes the program wait
for a GPU: numbers read back, and copies to it from memory that is not page-locked. There is no backward pass: PyTorch's
engine asks for a real device.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from isogloss.build import plan_model
from isogloss.init.apply import initialise
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.protocol import Batch
from isogloss.nn.rotary import RotaryConfig, rotations
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.parallel.gradients import clip_gradients, gradient_norm

CUDA = torch.device("cuda", 0)
MODELS: dict[str, dict[str, Any]] = {
    "sdpa, documents": {"mixer": {"n_kv_heads": 2, "qk_norm": True, "backend": "sdpa"}},
    "plain, window, caps, tied": {
        "mixer": {
            "backend": "plain",
            "window": 4,
            "softcap": 3.0,
            "rotary": {"scaling": {"type": "yarn", "factor": 4.0, "original_seq_len": 64}},
        },
        "logit_softcap": 5.0,
        "tied_head": True,
        "norm": "sandwich",
    },
}
ALLOWED = "aten._to_copy from cpu, not waited for"


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    """Fake tensors that may be on ``cuda``, in a PyTorch that was built without it too.

    Such a one has no guard for that device, which indexing and autograd ask for; that of the meta device does nothing.
    It is lent by its address: not in the default suite, whose other tests would end too if PyTorch kept it elsewhere.
    """
    cuda, meta = 1, 14  # of c10::DeviceType
    library = Path(torch.__file__).parent / "lib/libc10.so"
    if "ISOGLOSS_FAULTS" not in os.environ or not library.exists():
        pytest.skip("only where ISOGLOSS_FAULTS is set, on Linux")
    symbol = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (ctypes.c_void_p * (meta + 1)).in_dll(ctypes.CDLL(str(library)), symbol)
    former = guards[cuda]
    guards[cuda] = former or guards[meta]
    yield FakeTensorMode()
    guards[cuda] = former


class Waits(TorchDispatchMode):
    """Remembers what makes the program wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            self.found.append(func.name())
        crosses = isinstance(result, torch.Tensor) and args and isinstance(args[0], torch.Tensor)
        if crosses and {result.device.type, args[0].device.type} == {"cpu", "cuda"}:
            waits = not (kwargs or {}).get("non_blocking", False)
            self.found.append(f"{func.name()} {args[0].device.type} to {result.device.type}" if waits else ALLOWED)
        return result


def make(fields: dict[str, Any]) -> tuple[Decoder, torch.optim.Optimizer]:
    """Filled and with its optimizer, as ``isogloss.build`` does it; ``to_empty`` cannot swap fake tensors."""
    defaults = {"d_model": 32, "n_layers": 1, "vocab_size": 50, "ffn": {"type": "swiglu", "d_ff": 48}}
    mixer = {"n_heads": 4, **fields["mixer"]}
    config = DecoderConfig.model_validate({**defaults, **fields, "mixer": mixer})
    planned = plan_model(config, LinguaConfig())
    for module in planned.model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape, device=CUDA)))
    if config.tied_head:
        assert planned.model.head is None
    initialise(planned.model, planned.plan, 0)
    return planned.model, create_optimizer(planned.model, AdamWConfig(), planned.plan)


@pytest.mark.parametrize("name", MODELS)
def test_all_is_on_the_gpu_and_nothing_waits_for_it(fake: FakeTensorMode, name: str) -> None:
    with fake:
        model, optimizer = make(MODELS[name])
        tokens = torch.zeros(2, 12, dtype=torch.int64)
        with Waits() as waits:
            output = model.loss(Batch(tokens, tokens, tokens).to(CUDA))
        for parameter in model.parameters():
            assert parameter.device == CUDA
            parameter.grad = torch.empty_like(parameter)
        with waits:
            parameters = list(model.parameters())
            norm = gradient_norm(parameters)
            clip_gradients(parameters, 1.0, norm)
            optimizer.step()
        assert (output.total.device, output.nll.device, norm.device) == (CUDA,) * 3
        assert all(t.device == CUDA for state in optimizer.state.values() for t in state.values())
        assert waits.found == [ALLOWED] * 3, "tokens, targets and documents alone come from the CPU"
        with torch.no_grad():
            state = model.new_state(2, 14)
            there = tokens.to(CUDA)
            for part in (there, there[:, :1], there[:, :1]):
                assert model(part, state).device == CUDA


def test_the_control_a_table_made_on_the_cpu_is_seen(fake: FakeTensorMode) -> None:
    with fake, Waits() as waits:
        positions = torch.arange(4, device=CUDA)
        rotations(RotaryConfig(), 8, positions)
        assert waits.found == []
        positions * torch.arange(4).to(CUDA)
        assert waits.found == ["aten::_to_copy cpu to cuda"]
        with pytest.raises(RuntimeError, match="at least two devices"):
            positions * torch.arange(4)
