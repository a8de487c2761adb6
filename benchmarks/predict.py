"""Predicted signals at initialisation beside measured ones, over widths, depths and schemes: the table of the docs.

    python benchmarks/predict.py [--seeds N]

Random tokens, vocabulary 4,096, rows of 64; the mean of the seeds. "worst" is the largest error over the layers.
"""

import argparse
import statistics

import torch
from pydantic import TypeAdapter

from isogloss.build import materialise, plan_model
from isogloss.init.measure import measure_signals
from isogloss.init.predict import predict_signals
from isogloss.init.schemes import SchemeConfig
from isogloss.init.signals import Signals
from isogloss.models.decoder import DecoderConfig
from isogloss.models.protocol import Batch

N_VOCAB, N_TOKENS, N_ROWS = 4096, 64, 2
SIZES = [(128, 4), (128, 32), (256, 16), (512, 8), (512, 32)]
SCHEMES = {
    "before": {"type": "lingua_before"},
    "disabled": {"type": "lingua", "depth_factor": "disabled"},
    "global": {"type": "lingua"},
    "current": {"type": "lingua", "depth_factor": "current"},
    "gpt2": {"type": "gpt2"},
}
COLUMNS = ["d", "layers", "scheme", "stream", "worst", "gradient", "worst", "writes worst", "logits", "loss"]


def compare(d_model: int, n_layers: int, scheme: dict[str, str], seeds: int) -> list[str]:
    """One row of the table: measured / predicted."""
    config = DecoderConfig.model_validate(
        {"d_model": d_model, "n_layers": n_layers, "vocab_size": N_VOCAB, "mixer": {"head_dim": 32}}
    )
    chosen = TypeAdapter(SchemeConfig).validate_python(scheme)
    planned = plan_model(config, chosen)
    generator = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(N_VOCAB, (N_ROWS, N_TOKENS), generator=generator) for _ in range(2))
    predicted = predict_signals(config, planned.model.multipliers, planned.plan, tokens)
    found = [
        measure_signals(
            materialise(plan_model(config, chosen), seed=seed, device=torch.device("cpu")), Batch(tokens, targets)
        )
        for seed in range(seeds)
    ]
    measured = _mean(found)

    def worst(name: str) -> float:
        pairs = zip(getattr(measured, name), getattr(predicted, name), strict=True)
        return max(abs(p / m - 1) for m, p in pairs if m)

    return [
        str(d_model),
        str(n_layers),
        "",
        f"{measured.stream[-1]:.4g} / {predicted.stream[-1]:.4g}",
        f"{worst('stream'):.1%}",
        f"{measured.gradient_ratio:.4g} / {predicted.gradient_ratio:.4g}",
        f"{worst('gradient'):.1%}",
        f"{max(worst('mixer_write'), worst('ffn_write')):.1%}",
        f"{measured.logit_std:.3f} / {predicted.logit_std:.3f}",
        f"{measured.loss:.3f} / {predicted.loss:.3f}",
    ]


def _mean(found: list[Signals]) -> Signals:
    def layers(name: str) -> tuple[float, ...]:
        return tuple(statistics.fmean(layer) for layer in zip(*(getattr(s, name) for s in found), strict=True))

    return Signals(
        stream=layers("stream"),
        mixer_write=layers("mixer_write"),
        ffn_write=layers("ffn_write"),
        gradient=layers("gradient"),
        attention_logit_std=layers("attention_logit_std"),
        logit_std=statistics.fmean(s.logit_std for s in found),
        loss=statistics.fmean(s.loss for s in found),
    )


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for d_model, n_layers in SIZES:
        for name, scheme in SCHEMES.items():
            row = compare(d_model, n_layers, scheme, arguments.seeds)
            row[2] = name
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
