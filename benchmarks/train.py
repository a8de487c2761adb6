"""Training speed of this library beside its peers: same shapes, same machine, interleaved in one run.

    python benchmarks/train.py [--shape S|M] [--rounds N] [--steps N]

Each contender trains on the same random tokens: forward, backward, clipping, fused AdamW, products in bfloat16
(autocast), weights in float32. After each has compiled, they take turns of a few steps; the table shows medians over
all steps and the ratio of this library's median to each peer's, turn by turn. "Share of peak" counts the same
operations a token for the Llamas: what this library counts (6 a weight but the embedding's, 12 L D T for attention)
over a measured square product.

Peers: Hugging Face's ``LlamaForCausalLM``, compiled whole; nanoGPT's recipe (LayerNorm, GELU, learned positions, tied
head, no gate), written anew and compiled whole.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from isogloss.build import materialise, plan_model
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.models.protocol import Batch
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.train.machine import measure_peak, processor_name
from isogloss.train.step import train_step

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """D, layers, heads, F, T, B and V."""

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    seq_len: int
    batch_size: int
    vocab_size: int


SHAPES = {"S": Shape(384, 6, 6, 1024, 256, 16, 4096), "M": Shape(512, 12, 8, 1408, 512, 8, 32000)}
Step = Callable[[Tensor], None]


def isogloss(shape: Shape, compiled: bool, packed: bool = False) -> tuple[Step, int]:
    """This library's own step, and its operations a token; ``packed`` keeps attention within three documents a row."""
    config = DecoderConfig(
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        mixer=AttentionConfig(n_heads=shape.n_heads),
        ffn=SwiGLUConfig(d_ff=shape.d_ff),
        vocab_size=shape.vocab_size,
    )
    planned = plan_model(config, LinguaConfig())
    model = materialise(planned, seed=0, device=CPU, compiled=compiled)
    optimizer = create_optimizer(model, AdamWConfig(), planned.plan)

    def step(rows: Tensor) -> None:
        documents = torch.arange(shape.seq_len) // (shape.seq_len // 3) if packed else None
        documents = None if documents is None else documents.expand(len(rows), -1)
        batch = Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), documents)
        train_step(model, optimizer, batch, micro_batch_size=len(rows), clip=1.0, precision="bf16")

    return step, model.flops_per_token(shape.seq_len)


def plain_step(model: nn.Module, loss: Callable[[Tensor], Tensor]) -> Step:
    """The usual loop body round a model of someone else's."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(rows: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(rows)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value.item()

    return step


def hugging_face(shape: Shape) -> Step:
    """``LlamaForCausalLM``, compiled."""
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        max_position_embeddings=shape.seq_len,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    compiled = torch.compile(model)

    def loss(rows: Tensor) -> Tensor:
        inputs = rows[:, :-1].contiguous()
        return compiled(input_ids=inputs, labels=inputs, shift_labels=rows[:, 1:].contiguous()).loss

    return plain_step(model, loss)


class NanoBlock(nn.Module):
    """LayerNorm, causal attention, LayerNorm, GELU network."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.d_model
        self.n_heads = shape.n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Nano(nn.Module):
    """nanoGPT's model without dropout and biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.d_model)
        self.positions = nn.Embedding(shape.seq_len, shape.d_model)
        self.blocks = nn.Sequential(*(NanoBlock(shape) for _ in range(shape.n_layers)))
        self.norm = nn.LayerNorm(shape.d_model, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, rows: Tensor) -> Tensor:
        """The mean loss."""
        inputs = rows[:, :-1]
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def nano_gpt(shape: Shape) -> Step:
    """The recipe of nanoGPT, compiled."""
    model = Nano(shape)
    return plain_step(model, torch.compile(model))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    own, flops = isogloss(shape, compiled=True)
    contenders: dict[str, Step] = {
        "isogloss, compiled": own,
        "isogloss, within documents": isogloss(shape, compiled=True, packed=True)[0],
        "isogloss, eager": isogloss(shape, compiled=False)[0],
        "transformers Llama, compiled": hugging_face(shape),
        "nanoGPT recipe, compiled": nano_gpt(shape),
    }
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_len + 1), generator=generator)
    for name, step in contenders.items():
        start = time.perf_counter()
        step(rows)
        print(f"{name}: first step {time.perf_counter() - start:.1f} s", flush=True)
        step(rows)
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, step in contenders.items():
            seconds = []
            for _ in range(options.steps):
                start = time.perf_counter()
                step(rows)
                seconds.append(time.perf_counter() - start)
            turns[name].append(statistics.median(seconds))
    peak = measure_peak(CPU, "bf16")
    tokens = shape.batch_size * shape.seq_len
    first = turns["isogloss, compiled"]
    print(f"\n{processor_name()}, {torch.get_num_threads()} threads, bf16 peak {peak / 1e9:.0f} Gflop/s; shape {shape}")
    print(f"{'':30} {'ms/step':>9} {'tokens/s':>9} {'of peak':>8} {'isogloss/it':>12}   turn by turn")
    for name, seconds in turns.items():
        median = statistics.median(seconds)
        ratios = sorted(theirs / ours for theirs, ours in zip(seconds, first, strict=True))
        share = "" if "nano" in name else f"{tokens / median * flops / peak:.0%}"
        print(
            f"{name:30} {1000 * median:9.0f} {tokens / median:9,.0f} {share:>8} {statistics.median(ratios):12.2f}"
            f"   {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
