"""The experiments of docs/experiments/: schemes trained side by side; their records, tables and pictures.

    python benchmarks/experiments.py [NAME ...] [--studies FOLDER] [--record]

About an hour and a half on two cores for all of them. Trials are kept as they end: the same command goes on.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records import load_record, save_record
from rich.console import Console

from isogloss.recipe import load_recipe
from isogloss.report.panels import Line, Panel, draw
from isogloss.report.tables import markdown_table
from isogloss.study.compare import Comparison, compare_schemes, with_scheme
from isogloss.study.results import show_comparison
from isogloss.study.statistics import interval
from isogloss.study.trials import open_study
from isogloss.train.display import Display

IMAGES = Path(__file__).parent.parent / "docs/images"
SHORT = ("data.seq_len=128", "train.steps=200", "optim.schedule.warmup=20")
# As in Meta Lingua, queries and keys are not normed: QK-norm would hide the scale of their matrices.
PLAIN = ("model.mixer.qk_norm=false",)
ORIGIN = ("lingua", "lingua_before")
BEST = ("lingua:embedding_std=1", "spike_no_more", "completep")
RATES = (3e-3, 6e-3, 1.2e-2)


@dataclass(frozen=True)
class Cell:
    """One comparison: the default recipe with some changes, its schemes, rates and seeds."""

    schemes: tuple[str, ...]
    settings: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: int

    def as_settings(self) -> dict[str, Any]:
        """For a record."""
        return {"schemes": self.schemes, "settings": self.settings, "rates": self.rates, "seeds": self.seeds}


def _shape(width: int, depth: int) -> tuple[str, str]:
    return f"model.d_model={width}", f"model.n_layers={depth}"


EXPERIMENTS: dict[str, dict[str, Cell]] = {
    "origin": {
        f"width {width}, {depth} layers": Cell(ORIGIN, (*SHORT, *PLAIN, *_shape(width, depth)), (4e-3,), 4)
        for width, depth in ((64, 4), (64, 12), (64, 32), (128, 4), (128, 12))
    }
    | {
        f"width 64, 12 layers, rate {rate:g}": Cell(ORIGIN, (*SHORT, *PLAIN, *_shape(64, 12)), (rate,), 4)
        for rate in (1e-3, 1.6e-2)
    },
    "default": {
        "many": Cell(
            (
                "lingua",
                "lingua:embedding_std=1",
                "lingua:depth_factor=disabled,embedding_std=1",
                "gpt2",
                "olmo_mitchell",
                "spike_no_more",
                "torchtitan_llama3",
                "nanochat",
                "completep",
            ),
            SHORT,
            RATES,
            1,
        ),
        "5 layers": Cell((*BEST, "lingua"), SHORT, RATES, 3),
        "12 layers": Cell((*BEST, "lingua"), (*SHORT, "model.n_layers=12"), RATES[:2], 3),
    },
}


def run(name: str, studies: Path) -> list[dict[str, Any]]:
    """Carry out an experiment; one row a scheme in each cell."""
    rows = []
    for label, cell in EXPERIMENTS[name].items():
        display = Display(Console())
        display.say(f"{name}: {label}")
        study = open_study(load_recipe(overrides=cell.settings), studies / name, None, display)
        found = compare_schemes(study, cell.schemes, cell.rates, cell.seeds)
        show_comparison(study, found)
        rows += _rows(label, found)
    return rows


def _rows(label: str, found: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "cell": label,
            "scheme": arm.label,
            "rate": arm.rate,
            "rates": {f"{rate:g}": loss for rate, loss in arm.rates.items()},
            "validation": arm.validation,
            "train": arm.train.mean,
            "spikes": arm.spikes,
            "gradient": arm.largest_gradient,
            "attention_logit": arm.largest_attention_logit,
            "parameters": arm.results[0]["n_parameters"],
            "verdict": found.verdict,
            "curve": [statistics.fmean(losses) for losses in zip(*(r["loss"] for r in arm.results), strict=False)][
                9::10
            ],
        }
        for arm in found.arms
    ]


def settings_of(name: str) -> dict[str, Any]:
    """All that decides an experiment's figures."""
    cells = {label: cell.as_settings() for label, cell in EXPERIMENTS[name].items()}
    for label, cell in EXPERIMENTS[name].items():
        # Schemes are the cell's own; names and places decide nothing.
        irrelevant = {"init", "name", "runs_dir", "watch", "checkpoint", "trackers"}
        cells[label]["recipe"] = load_recipe(overrides=cell.settings).model_dump(mode="json", exclude=irrelevant)
    labels = sorted({scheme for cell in EXPERIMENTS[name].values() for scheme in cell.schemes})
    sections = {label: with_scheme(load_recipe(), label).init.model_dump(mode="json") for label in labels}
    return {"cells": cells, "schemes": sections}


def origin_table() -> str:
    """Before and after the correction: losses, and the difference within seeds."""
    rows = []
    for label, by_scheme in _cells(load_record("origin", settings_of("origin"))).items():
        after, before = by_scheme["lingua"], by_scheme["lingua_before"]
        difference = interval([b - a for a, b in zip(after["validation"], before["validation"], strict=True)])
        reading = "no difference shown" if difference.low <= 0 <= difference.high else ""
        rows.append(
            (
                label,
                f"{after['parameters'] / 1e6:.1f} M",
                str(interval(after["validation"])),
                str(interval(before["validation"])),
                f"{difference.mean:+.3f} +- {difference.half:.3f}",
                reading or ("corrected is lower" if difference.mean > 0 else "former is lower"),
                f"{after['attention_logit']:.0f} / {before['attention_logit']:.0f}",
            )
        )
    columns = ("model", "parameters", "corrected", "former", "former - corrected", "", "largest attention logit")
    return markdown_table(columns, rows).strip()


def default_table() -> str:
    """Every scheme at every rate, by the best."""
    by_scheme = _cells(load_record("default", settings_of("default")))["many"]
    rates = list(next(iter(by_scheme.values()))["rates"])
    ranked = sorted(by_scheme.values(), key=lambda row: statistics.fmean(row["validation"]))
    rows = [
        (f"`{row['scheme']}`", *(f"{row['rates'][rate]:.3f}" for rate in rates), f"{row['gradient']:.2g}")
        for row in ranked
    ]
    return markdown_table(("scheme", *(f"rate {rate}" for rate in rates), "largest gradient"), rows).strip()


def default_seeds_table() -> str:
    """The best of them with three seeds, at two depths: differences from the lowest are within seeds."""
    rows = []
    for label, by_scheme in _cells(load_record("default", settings_of("default"))).items():
        if label == "many":
            continue
        ranked = sorted(by_scheme.values(), key=lambda row: statistics.fmean(row["validation"]))
        lowest, confidence = ranked[0]["validation"], 1 - 0.05 / (len(ranked) - 1)
        for row in ranked:
            differences = [a - b for a, b in zip(row["validation"], lowest, strict=True)]
            behind = "-" if row is ranked[0] else str(interval(differences, confidence))
            rows.append((label, f"`{row['scheme']}`", f"{row['rate']:g}", str(interval(row["validation"])), behind))
    return markdown_table(("depth", "scheme", "best rate", "validation loss", "behind the lowest"), rows).strip()


def _cells(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    cells: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(row["cell"], {})[row["scheme"]] = row
    return cells


def draw_origin(rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss curves of each cell, means over seeds."""
    panels = []
    for label, by_scheme in _cells(rows).items():
        lines = [Line(name, range(10, 10 * len(r["curve"]) + 1, 10), [r["curve"]]) for name, r in by_scheme.items()]
        panels.append(Panel(label, "step", "training loss, nats", lines, top=1.5))
    draw(panels, IMAGES / "origin.png", "Meta Lingua's rule, corrected and before, means of four seeds")


def main() -> None:
    """Run experiments and, if asked, write their records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}; all if none is given")
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="where trials are kept")
    parser.add_argument("--record", action="store_true", help="write docs/results and the pictures")
    arguments = parser.parse_args()
    for name in arguments.names or EXPERIMENTS:
        rows = run(name, arguments.studies)
        if arguments.record:
            save_record(name, f"python benchmarks/experiments.py {name} --record", settings_of(name), rows)
            if name == "origin":
                draw_origin(rows)


if __name__ == "__main__":  # trials run in processes that import this file
    main()
