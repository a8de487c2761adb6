"""Compiled models give the loss and the gradients of eager ones.

This file is also the program that compares them, in a process of its own: while tests run, the shapes in signatures are
checked, and those checks cannot be traced.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from isogloss.build import build_model
from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.protocol import IGNORED, Batch
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.schedules import ConstantSchedule
from isogloss.train.loop import Progress, TrainConfig, training_steps

T, V = 16, 50
# Few, since compiling each takes seconds: together they have both kernels, masks of documents and none, a window, a
# cap, shared keys, norms of queries and keys, a capped and tied head, and the z-loss.
VARIANTS = {
    "sdpa, causal": ({"mixer": {"backend": "sdpa"}}, False),
    "sdpa, grouped, window, norms": (
        {"mixer": {"backend": "sdpa", "n_kv_heads": 2, "window": 4, "qk_norm": True}},
        True,
    ),
    "plain, chosen": ({}, True),
    "plain, grouped, window, caps": (
        {
            "mixer": {"backend": "plain", "n_kv_heads": 1, "window": 4, "softcap": 2.0},
            "logit_softcap": 3.0,
            "tied_head": True,
            "z_loss": 1e-2,
        },
        True,
    ),
}


def make(fields: dict, compiled: bool) -> Decoder:
    """Two layers, so that what they share is shared; gains away from 1."""
    defaults = {"d_model": 32, "n_layers": 2, "vocab_size": V, "ffn": {"type": "swiglu", "d_ff": 48}}
    mixer = {"n_heads": 4, **fields.get("mixer", {})}
    config = DecoderConfig.model_validate({**defaults, **fields, "mixer": mixer})
    model = build_model(config, LinguaConfig(), seed=0, device=torch.device("cpu"), compiled=compiled)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def make_batch(with_documents: bool) -> Batch:
    """Two rows, a few targets not counted."""
    tokens, targets = torch.randint(0, V, (2, 2, T), generator=torch.Generator().manual_seed(0))
    targets[0, :3] = IGNORED
    documents = torch.arange(T).div(6, rounding_mode="floor").expand(2, T) if with_documents else None
    return Batch(tokens, targets, documents)


def compare(fields: dict, with_documents: bool) -> None:
    """One forward and backward pass of each."""
    torch.compiler.reset()  # otherwise each would count towards the limit of recompilations of the one before
    counters.clear()
    batch = make_batch(with_documents)
    eager, compiled = make(fields, False), make(fields, True)
    expected, found = eager.loss(batch), compiled.loss(batch)
    expected.total.backward()
    found.total.backward()
    assert counters["stats"]["unique_graphs"] == 2, "one graph that the blocks share, and one of the loss"
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-5, atol=0)
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


class Rows:
    """The same batch at every step."""

    def batch(self, step: int) -> Batch:
        return make_batch(False)


def check_first_step() -> None:
    """Step 1 of a compiled model compiles nothing, step 2 does."""
    torch.compiler.reset()
    counters.clear()
    model = make({}, True)
    optim = AdamWConfig(schedule=ConstantSchedule())
    optimizer = create_optimizer(model, optim, plan_init(model, LinguaConfig(), model.config))
    config = TrainConfig(steps=2, batch_size=2)
    graphs = [
        counters["stats"]["unique_graphs"]
        for _ in training_steps(model, optimizer, Rows(), config, optim, Progress(), "fp32", compiled=True)
    ]
    assert graphs == [0, 2], graphs


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*VARIANTS, "first step"]


if __name__ == "__main__":
    for name, (fields, with_documents) in VARIANTS.items():
        print(name, flush=True)
        compare(fields, with_documents)
    print("first step", flush=True)
    check_first_step()
