"""Signals at initialisation at 1 B parameters, measured beside predicted, before and after Meta Lingua's correction.

    python benchmarks/billion.py [--record]

Two minutes and 12 GiB: one forward and one backward pass in float32 on a row of 128 random tokens, one seed.
"""

import argparse
from dataclasses import asdict
from typing import Any

import torch
from pydantic import TypeAdapter
from records import load_record, save_record

from isogloss.build import materialise, plan_model
from isogloss.init.measure import measure_signals
from isogloss.init.predict import predict_signals
from isogloss.init.schemes import SchemeConfig
from isogloss.init.signals import Signals
from isogloss.models.decoder import DecoderConfig
from isogloss.models.protocol import Batch
from isogloss.report.tables import markdown_table

N_VOCAB, N_TOKENS = 32_000, 128
SHAPE = {
    "d_model": 2048,
    "n_layers": 16,
    "mixer": {"n_heads": 32, "n_kv_heads": 8},
    "ffn": {"type": "swiglu", "d_ff": 8192},
    "vocab_size": N_VOCAB,
}
SCHEMES = {
    "lingua": {"type": "lingua"},
    "lingua_before": {"type": "lingua_before"},
    "lingua, embedding 1": {"type": "lingua", "embedding_std": 1.0},
    "lingua_before, embedding 1": {"type": "lingua_before", "embedding_std": 1.0},
}
SETTINGS = {"shape": SHAPE, "tokens": N_TOKENS, "schemes": SCHEMES}


def look(label: str) -> dict[str, Any]:
    """Measured and predicted signals of one scheme."""
    config = DecoderConfig.model_validate(SHAPE)
    planned = plan_model(config, TypeAdapter(SchemeConfig).validate_python(SCHEMES[label]))
    generator = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(N_VOCAB, (1, N_TOKENS), generator=generator) for _ in range(2))
    predicted = predict_signals(config, planned.model.multipliers, planned.plan, tokens, targets=targets)
    model = materialise(planned, seed=0, device=torch.device("cpu"))
    n_parameters = sum(p.numel() for p in model.parameters())
    measured = measure_signals(model, Batch(tokens, targets))
    signals = {"measured": asdict(measured), "predicted": asdict(predicted)}
    return {"scheme": label, "parameters": n_parameters, **signals}


def table() -> str:
    """Measured / predicted."""
    rows = []
    for row in load_record("billion", SETTINGS):
        m, p = (Signals(**row[kind]) for kind in ("measured", "predicted"))
        pairs = (
            (m.stream[-1], p.stream[-1]),
            (m.mixer_write[-1], p.mixer_write[-1]),
            (m.ffn_write[-1], p.ffn_write[-1]),
            (m.attention_logit_std[-1], p.attention_logit_std[-1]),
            (m.gradient_ratio, p.gradient_ratio),
            (m.loss, p.loss),
        )
        worst = max(abs(a / b - 1) for a, b in zip(m.stream, p.stream, strict=True))
        rows.append((row["scheme"], *(f"{a:.3g} / {b:.3g}" for a, b in pairs), f"{worst:.1%}"))
    columns = (
        "scheme",
        "last stream",
        "last mixer write",
        "last ffn write",
        "attention logits",
        "gradient embedding / last",
        "loss",
        "stream, worst layer",
    )
    return markdown_table(columns, rows).strip()


def main() -> None:
    """Measure and, if asked, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write docs/results/billion.json")
    arguments = parser.parse_args()
    rows = []
    for label in SCHEMES:
        rows.append(look(label))
        print(f"{label}: {rows[-1]['parameters'] / 1e9:.2f} B parameters", flush=True)
    if arguments.record:
        save_record("billion", "python benchmarks/billion.py --record", SETTINGS, rows)


if __name__ == "__main__":
    main()
