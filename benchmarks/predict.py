"""Measured signals at initialisation beside predicted ones, over widths, depths and schemes: a table of the docs.

    python benchmarks/predict.py [--seeds N] [--record]

Random tokens, the mean of the seeds with its standard error; "worst" is the largest error over the layers, with the
standard error at that layer. One seed says little: at width 128 and 32 loud layers the stream of one model is 4 % off
that of another. So a second table counts how often the mean of four seeds, not of all, stays within a bar. Only the
measured side is recorded; the prediction is made when the table is.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from records import load_record, save_record
from torch import Tensor

from isogloss.build import materialise, plan_model
from isogloss.init.measure import measure_signals
from isogloss.init.predict import predict_signals
from isogloss.init.schemes import SchemeConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.models.protocol import Batch
from isogloss.report.tables import markdown_table

N_VOCAB, N_TOKENS, N_ROWS = 4096, 64, 2
SIZES = [[128, 4], [128, 32], [256, 16], [512, 8], [512, 32]]
SCHEMES = {
    "before": {"type": "lingua_before"},
    "disabled": {"type": "lingua", "depth_factor": "disabled"},
    "global": {"type": "lingua"},
    "current": {"type": "lingua", "depth_factor": "current"},
    "gpt2": {"type": "gpt2"},
}
SETTINGS = {
    "schemes": SCHEMES,
    "sizes": SIZES,
    "vocabulary": N_VOCAB,
    "tokens": N_TOKENS,
    "rows": N_ROWS,
    "seeds": 32,
}
FEW = 4
BARS = {"stream": 0.05, "gradient": 0.15}
"""What the mean of FEW seeds is held to, at every layer."""
COMMAND = "python benchmarks/predict.py --record"
COLUMNS = ["d", "layers", "scheme", "stream", "worst", "gradient", "worst", "writes worst", "logits", "loss"]
HEADING = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
FEW_COLUMNS = (
    "d",
    "layers",
    "means of four",
    "stream within 5 %",
    "gradient within 15 %",
    "stream, median and farthest",
    "gradient, median and farthest",
    "seeds 0 to 3",
)
Row = Mapping[str, Any]


def measure(d_model: int, n_layers: int, label: str, seeds: int) -> Row:
    """A row of the record: of each signal the mean over the seeds and its standard error, a number a layer.

    Of those in BARS also the means of FEW seeds at a time.
    """
    config, scheme = _setting(d_model, n_layers, label)
    tokens, targets = _tokens()
    found = []
    for seed in range(seeds):
        model = materialise(plan_model(config, scheme), seed=seed, device=torch.device("cpu"))
        found.append(asdict(measure_signals(model, Batch(tokens, targets))))
    signals = {name: np.array([np.atleast_1d(one[name]) for one in found]) for name in found[0]}
    return {
        "d_model": d_model,
        "n_layers": n_layers,
        "scheme": label,
        "mean": {name: _rounded(x.mean(0)) for name, x in signals.items()},
        "error": {name: _rounded(x.std(0, ddof=1) / seeds**0.5) for name, x in signals.items()},
        "few": {
            name: [_rounded(signals[name][i : i + FEW].mean(0)) for i in range(0, seeds - FEW + 1, FEW)]
            for name in BARS
        },
    }


def table() -> str:
    """The table of the docs, from the record."""
    return "\n".join([*HEADING, *map(line, load_record("predict", SETTINGS))])


def few_table() -> str:
    """Means of FEW seeds against the bars: of each size's schemes and groups of seeds, and of all."""
    sizes: dict[tuple[int, int], list[Row]] = {}
    for row in load_record("predict", SETTINGS):
        sizes.setdefault((row["d_model"], row["n_layers"]), []).append(row)
    worst = {size: [_worst_of_few(row) for row in rows] for size, rows in sizes.items()}
    worst = {(str(d), str(n)): np.array(errors) for (d, n), errors in worst.items()}
    worst[("all", "")] = np.concatenate(list(worst.values()))
    return markdown_table(FEW_COLUMNS, [(*size, *_few_cells(errors)) for size, errors in worst.items()]).strip()


def _few_cells(errors: np.ndarray) -> list[str]:
    """Of the worst errors by pair, signal and group of seeds."""
    within = errors <= np.array(list(BARS.values()))[:, None]
    n = errors.shape[0] * errors.shape[2]
    kept = [f"{int(within[:, i].sum())}" for i in range(len(BARS))]
    spans = [f"{np.median(errors[:, i]):.1%}, {errors[:, i].max():.1%}" for i in range(len(BARS))]
    return [str(n), *kept, *spans, f"{int(within[:, :, 0].all(1).sum())} of {len(errors)} within both"]


def _worst_of_few(row: Row) -> list[list[float]]:
    """Of each signal in BARS, for each group of seeds, the largest relative error over the layers."""
    predicted = _prediction(row)
    return [
        [float(np.abs(np.array(predicted[name]) / np.array(group) - 1).max()) for group in row["few"][name]]
        for name in BARS
    ]


def _prediction(row: Row) -> dict[str, Any]:
    config, scheme = _setting(row["d_model"], row["n_layers"], row["scheme"])
    planned = plan_model(config, scheme)
    return asdict(predict_signals(config, planned.model.multipliers, planned.plan, _tokens()[0]))


def line(row: Row) -> str:
    """A row of the table: measured / predicted."""
    predicted = _prediction(row)

    def both(name: str, layer: int, form: str) -> str:
        return f"{row['mean'][name][layer]:{form}} / {np.atleast_1d(predicted[name])[layer]:{form}}"

    def worst(*names: str) -> str:
        errors = [
            (abs(p / m - 1), e / m)
            for name in names
            for m, e, p in zip(row["mean"][name], row["error"][name], predicted[name], strict=True)
            if m
        ]
        error, spread = max(errors)
        return f"{error:.1%} ± {spread:.1%}"

    cells = [
        str(row["d_model"]),
        str(row["n_layers"]),
        row["scheme"],
        both("stream", -1, ".4g"),
        worst("stream"),
        both("gradient", 0, ".4g"),
        worst("gradient"),
        worst("mixer_write", "ffn_write"),
        both("logit_std", 0, ".3f"),
        both("loss", 0, ".3f"),
    ]
    return "| " + " | ".join(cells) + " |"


def _setting(d_model: int, n_layers: int, label: str) -> tuple[DecoderConfig, Any]:
    fields = {"d_model": d_model, "n_layers": n_layers, "vocab_size": N_VOCAB, "mixer": {"head_dim": 32}}
    return DecoderConfig.model_validate(fields), TypeAdapter(SchemeConfig).validate_python(SCHEMES[label])


def _tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(N_VOCAB, (N_ROWS, N_TOKENS), generator=generator) for _ in range(2))
    return tokens, targets


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def main() -> None:
    """Print the table, row by row, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SETTINGS["seeds"])
    parser.add_argument("--record", action="store_true", help="write docs/results/predict.json")
    arguments = parser.parse_args()
    print("\n".join(HEADING))
    rows = []
    for d_model, n_layers in SIZES:
        for label in SCHEMES:
            rows.append(measure(d_model, n_layers, label, arguments.seeds))
            print(line(rows[-1]), flush=True)
    if arguments.record:
        print(save_record("predict", COMMAND, SETTINGS | {"seeds": arguments.seeds}, rows))


if __name__ == "__main__":
    main()
