"""Measured signals at initialisation beside predicted ones, over widths, depths and schemes: a table of the docs.

    python benchmarks/predict.py [--seeds N] [--record] [--loud]

Random tokens, the mean of the seeds with its standard error; "worst" is the largest error over the layers, with the
standard error at that layer. One seed says little: at width 128 and 32 loud layers the stream of one model is 4 % off
that of another. So a second table counts how often the mean of four seeds, not of all, stays within a bar. Only the
measured side is recorded; the prediction is made when the table is.

``--loud``: the cases of another table instead, attention logits of std 0.1 to 8, by loud weights and with QK-norm.

Each row is recorded as it is measured, and a command that was interrupted goes on where it was.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from records import StaleRecordError, load_record, save_record
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
LOUD_STDS = (0.02, 0.0354, 0.0625, 0.0884, 0.125, 0.177)
"""At width 256: attention logits of std 0.1, 0.32, 1, 2, 4 and 8."""
LOUD_CASES = [
    *([256, 8, f"lingua, base {std:g}", 64, False] for std in LOUD_STDS),
    *([256, 8, "t5, qk_norm", head_dim, True] for head_dim in (16, 32, 64)),
    [512, 4, "t5, qk_norm", 64, True],
]
"""Width, layers, scheme, head_dim, and whether with QK-norm, where t5 gives logits of std sqrt(head_dim)."""
SETTINGS = {
    "schemes": SCHEMES,
    "sizes": SIZES,
    "vocabulary": N_VOCAB,
    "tokens": N_TOKENS,
    "rows": N_ROWS,
    "seeds": 32,
}
LOUD_SCHEMES = {
    **{f"lingua, base {std:g}": {"type": "lingua", "base_std": std, "embedding_std": 1.0} for std in LOUD_STDS},
    "t5, qk_norm": {"type": "t5"},
}
LOUD_SETTINGS = {
    "schemes": LOUD_SCHEMES,
    "cases": LOUD_CASES,
    "vocabulary": N_VOCAB,
    "tokens": N_TOKENS,
    "rows": N_ROWS,
    "seeds": 8,
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
LOUD_COLUMNS = (
    "d",
    "layers",
    "scheme",
    "attention logits",
    "stream",
    "gradient",
    "stream of four, farthest",
    "gradient of four, farthest",
    "within both",
)
Row = Mapping[str, Any]


def measure(setting: tuple[DecoderConfig, Any], seeds: int) -> Row:
    """What a row of the record has: of each signal the mean over the seeds and its standard error, a number a layer.

    Of those in BARS also the means of FEW seeds at a time.
    """
    config, scheme = setting
    tokens, targets = _tokens()
    found = []
    for seed in range(seeds):
        model = materialise(plan_model(config, scheme), seed=seed, device=torch.device("cpu"))
        found.append(asdict(measure_signals(model, Batch(tokens, targets))))
    signals = {name: np.array([np.atleast_1d(one[name]) for one in found]) for name in found[0]}
    return {
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


def loud_table() -> str:
    """Attention logits from quiet to near one-hot: measured and predicted, and means of FEW seeds."""
    rows = []
    for row in load_record("predict_loud", LOUD_SETTINGS):
        predicted, setting = _prediction(row), _setting_of(row)
        worst = np.array([_worst_of_few(row)])
        rows.append(
            (
                str(row["d_model"]),
                str(row["n_layers"]),
                row["scheme"] + (f", head_dim {row['head_dim']}" if setting[0].mixer.qk_norm else ""),
                f"{row['mean']['attention_logit_std'][-1]:.3g} / {predicted['attention_logit_std'][-1]:.3g}",
                f"{row['mean']['stream'][-1]:.4g} / {predicted['stream'][-1]:.4g}",
                f"{row['mean']['gradient'][0]:.4g} / {predicted['gradient'][0]:.4g}",
                *(f"{worst[:, i].max():.1%}" for i in range(len(BARS))),
                f"{int((worst <= np.array(list(BARS.values()))[:, None]).all(1).sum())} of {worst.shape[2]}",
            )
        )
    return markdown_table(LOUD_COLUMNS, rows).strip()


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
    config, scheme = _setting_of(row)
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


def _setting_of(row: Row) -> tuple[DecoderConfig, Any]:
    mixer = {"head_dim": row.get("head_dim", 32), "qk_norm": row.get("qk_norm", False)}
    fields = {"d_model": row["d_model"], "n_layers": row["n_layers"], "vocab_size": N_VOCAB, "mixer": mixer}
    scheme = {**SCHEMES, **LOUD_SCHEMES}[row["scheme"]]
    return DecoderConfig.model_validate(fields), TypeAdapter(SchemeConfig).validate_python(scheme)


def _tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(N_VOCAB, (N_ROWS, N_TOKENS), generator=generator) for _ in range(2))
    return tokens, targets


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def main() -> None:
    """Print the table, row by row, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="another number than the record's")
    parser.add_argument("--loud", action="store_true", help="attention logits of std 0.1 to 8")
    parser.add_argument("--record", action="store_true", help="write docs/results/predict.json, or predict_loud.json")
    arguments = parser.parse_args()
    name, settings = ("predict_loud", LOUD_SETTINGS) if arguments.loud else ("predict", SETTINGS)
    settings = settings | {"seeds": arguments.seeds or settings["seeds"]}
    command = COMMAND + (" --loud" if arguments.loud else "")
    labels = ("d_model", "n_layers", "scheme", "head_dim", "qk_norm")
    cases = LOUD_CASES if arguments.loud else [[*size, label] for size in SIZES for label in SCHEMES]
    rows = _recorded(name, settings) if arguments.record else []
    if not arguments.loud:
        print("\n".join(HEADING))
    for case in cases[len(rows) :]:
        head: dict[str, Any] = dict(zip(labels, case, strict=False))
        rows.append(head | dict(measure(_setting_of(head), settings["seeds"])))
        print(line(rows[-1]), flush=True)
        if arguments.record:
            save_record(name, command, settings, rows)


def _recorded(name: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an interrupted run of the same settings; none of a finished one, which is to be made anew."""
    try:
        rows = load_record(name, settings)
    except StaleRecordError:
        return []
    n_cases = len(settings.get("cases", ())) or len(settings["sizes"]) * len(settings["schemes"])
    return rows if len(rows) < n_cases else []


if __name__ == "__main__":
    main()
