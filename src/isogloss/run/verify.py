"""A recipe's initialisation, carried out and checked: weights against the plan, a real step against the prediction.

Instead of weights that are made, those of a file or of a checkpoint. A checkpoint of step 0 is held to the plan; a
trained one cannot be: how far it has moved is reported. It fails where numbers are not finite, or where the recipe's
initial weights are not those of the fingerprint that the checkpoint keeps.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from isogloss.build import materialise, plan_model
from isogloss.config.base import UserError
from isogloss.data.batches import BatchPlan
from isogloss.data.corpus import Corpus
from isogloss.data.loader import open_loader
from isogloss.data.opening import open_corpus
from isogloss.init.drift import Drift, drift
from isogloss.init.measure import measure_signals
from isogloss.init.plan import Entry
from isogloss.init.predict import predict_signals
from isogloss.init.signals import Signals
from isogloss.init.start import start_warnings
from isogloss.init.verify import Finding, SignalCheck, Status, compare_signals, verify_weights
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.models.weights import load_weights
from isogloss.recipe import Recipe
from isogloss.run.fingerprint import compare_beginning
from isogloss.run.load import load_run
from isogloss.terminal import Table
from isogloss.train.display import Display
from isogloss.train.metrics import finite

MAX_ROWS, MAX_TOKENS = 4, 512
"""Of the batch that is measured and predicted: the prediction's cost grows with the square of the row."""


@dataclass(frozen=True)
class Verification:
    """What was found.

    Args:
        n_parameters: how many were looked at.
        findings: what is wrong with the weights.
        measured: the signals of a real batch,
        predicted: those that the plan predicts for it,
        checks: and both side by side.
        step: how long the weights have been trained.
        drift: how far they have moved, where ``step`` is not 0.
        warnings: where the start is not what a start should be.
    """

    n_parameters: int
    findings: list[Finding]
    measured: Signals
    predicted: Signals
    checks: list[SignalCheck]
    step: int = 0
    drift: tuple[Drift, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst of all; signals of trained weights are not judged."""
        if self.findings:
            return Status.FAIL
        judged = [check.status for check in self.checks if self.step == 0] + [Status.WARN] * bool(self.warnings)
        return max(judged, key=list(Status).index, default=Status.PASS)


def verify_recipe(recipe: Recipe, display: Display, weights: Path | None = None) -> Verification:
    """Prepare the recipe's text, make its model, and check its weights and its first batch, in float32 on the CPU.

    Args:
        recipe: as loaded.
        display: told what is being done.
        weights: a safetensors file of initial weights, under this library's names, to be checked instead.

    Raises:
        UserError: the file cannot be read or does not fit the model.
    """
    corpus = open_corpus(recipe.data, recipe.tokenizer, display.say)
    recipe = recipe.with_vocabulary(corpus.tokenizer.n_tokens)
    planned = plan_model(recipe.model, recipe.init)
    model = materialise(planned, seed=recipe.seed, device=torch.device("cpu"))
    if weights is not None:
        try:
            load_weights(model, safetensors.torch.load_file(weights))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{weights} cannot be read as safetensors: {error}") from None
    measured, predicted, checks = _signals(recipe, model, planned.plan, corpus)
    findings = verify_weights(model, planned.plan)
    warnings = start_warnings(measured, recipe.model, recipe.init, planned.plan)
    return Verification(len(planned.plan), findings, measured, predicted, checks, warnings=warnings)


def verify_checkpoint(path: Path, display: Display, warn: Callable[[str], None]) -> Verification:
    """Check the weights of a checkpoint against the plan of its run's recipe.

    Args:
        path: ``runs/NAME/checkpoints/step-...``.
        display: told what is being done.
        warn: hears of what is odd with the run.

    Raises:
        UserError: it is no checkpoint, or a damaged one.
    """
    run = load_run(path, "cpu", warn)
    plan = plan_model(run.recipe.model, run.recipe.init).plan
    findings = verify_weights(run.model, plan)
    moved: tuple[Drift, ...] = ()
    if run.step:
        began = compare_beginning(path, run.recipe, run.initial_weights, display, warn)
        findings = began + [finding for finding in findings if finding.test == "finite"]
        moved = tuple(drift(run.model, plan, run.recipe.seed))
    corpus = open_corpus(run.recipe.data, run.recipe.tokenizer, display.say)
    measured, predicted, checks = _signals(run.recipe, run.model, plan, corpus, run.step)
    warnings = () if run.step else start_warnings(measured, run.recipe.model, run.recipe.init, plan)
    return Verification(len(plan), findings, measured, predicted, checks, run.step, moved, warnings)


def _signals(
    recipe: Recipe, model: Decoder, plan: dict[str, Entry], corpus: Corpus, step: int = 0
) -> tuple[Signals, Signals, list[SignalCheck]]:
    """Measured, predicted, compared: of a model on its recipe's first rows."""
    cut = recipe.data.cut()._replace(seq_len=min(recipe.data.seq_len, MAX_TOKENS))
    loader = open_loader(corpus, cut, BatchPlan(min(recipe.train.batch_size, MAX_ROWS)), recipe.seed, steps=1)
    batch: Batch = loader.batch(0)
    predicted = predict_signals(recipe.model, model.multipliers, plan, batch.tokens, batch.documents, batch.targets)
    measured = measure_signals(model, batch, trained=step > 0)
    width = min(recipe.model.d_model, recipe.model.ffn.width(recipe.model.d_model))
    spread = _own_logit_spread(recipe, predicted, batch)
    return measured, predicted, compare_signals(measured, predicted, width, spread)


def _own_logit_spread(recipe: Recipe, predicted: Signals, batch: Batch) -> float:
    """Of the loss, relative: with a tied head tokens' own logits go as the lengths of the few rows that a batch reads.

    A row's length has the relative standard deviation ``(2 d_model)^-1/2``, and the logit its square at most.
    """
    if not recipe.model.tied_head or predicted.loss <= 0:
        return 0.0
    counts = batch.tokens.unique(return_counts=True)[1].double()
    n_rows = float(counts.sum() ** 2 / counts.square().sum())
    excess = max(0.0, 1 - math.log(recipe.model.vocab_size or 1) / predicted.loss)
    return excess * math.sqrt(2 / recipe.model.d_model / n_rows)


def show_verification(found: Verification, display: Display) -> None:
    """Findings, then the signals that are not as predicted or, of each kind, the one farthest off."""
    if found.findings:
        table = Table(title="weights that are not as planned", title_justify="left")
        for column in ("parameter", "test", "found"):
            table.add_column(column, overflow="fold")
        for finding in found.findings:
            table.add_row(finding.parameter, finding.test, finding.what)
        display.show(table)
    elif found.step == 0:
        display.say(f"weights: {found.n_parameters} parameters are as planned")
    if found.step:
        display.show(_drift_table(found))
    display.show(_signal_table(found))
    if found.step == 0 or found.findings:
        display.say(f"{found.status.upper()}")


def _drift_table(found: Verification) -> Table:
    table = Table(
        title=f"weights after {found.step:,} steps: how far they are from their plan",
        title_justify="left",
        caption="root mean squares; moved: of the difference from the initial weights, over their planned size",
    )
    for column in ("role", "parameters", "planned", "now", "ratio", "moved", "farthest", "its ratio"):
        table.add_column(column, justify="left" if column in ("role", "farthest") else "right", overflow="fold")
    for row in found.drift:
        relative = [f"{x / row.planned:.3f}" if row.planned else "" for x in (row.now, row.moved)]
        own = "" if row.farthest_ratio is None else f"{row.farthest_ratio:.3f}"
        sizes = f"{row.planned:.4g}", f"{row.now:.4g}"
        table.add_row(row.role, str(row.n_parameters), *sizes, *relative, row.farthest, own)
    return table


def _signal_table(found: Verification) -> Table:
    judged = ["allowed", ""] if found.step == 0 else []
    caption = "of each kind the layer farthest off" + ("" if judged else "; predicted for the initial weights")
    table = Table(title="signals on a real batch", title_justify="left", caption=caption)
    for column in ("signal", "layer", "measured", "predicted", "ratio", *judged):
        table.add_column(column, justify="left" if column in ("signal", "") else "right")
    kinds: dict[str, list[SignalCheck]] = {}
    for check in found.checks:
        kinds.setdefault(check.what, []).append(check)
    for same in kinds.values():
        worst = max(same, key=lambda check: (list(Status).index(check.status), abs(check.ratio - 1)))
        for check in [c for c in same if judged and c.status != Status.PASS] or [worst]:
            table.add_row(
                check.what,
                "" if check.layer is None else str(check.layer),
                f"{check.measured:.4g}",
                f"{check.predicted:.4g}",
                f"{check.ratio:.3f}",
                *([f"+-{check.tolerance:.0%}", check.status.upper()] if judged else []),
            )
    return table


def as_json(found: Verification) -> str:
    """All that was found, each layer's signals too; numbers that are not finite are null."""
    judged = found.step == 0
    values = {
        "status": found.status,
        "step": found.step,
        "findings": [asdict(finding) for finding in found.findings],
        "warnings": list(found.warnings),
        "drift": [asdict(row) for row in found.drift],
        "signals": [
            asdict(check) | {"ratio": check.ratio} | ({"status": check.status} if judged else {})
            for check in found.checks
        ],
    }
    return json.dumps(finite(values), indent=1)
