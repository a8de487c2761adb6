"""A recipe's initialisation, carried out and checked: weights against the plan, a real step against the prediction."""

from dataclasses import dataclass

import torch
from rich.table import Table

from isogloss.build import materialise, plan_model
from isogloss.data.loader import Loader
from isogloss.data.prepare import prepare
from isogloss.init.measure import measure_signals
from isogloss.init.predict import predict_signals
from isogloss.init.verify import Finding, SignalCheck, Status, compare_signals, verify_weights
from isogloss.models.protocol import Batch
from isogloss.recipe import Recipe
from isogloss.train.display import Display

MAX_ROWS, MAX_TOKENS = 4, 512
"""Of the batch that is measured and predicted: the prediction's cost grows with the square of the row."""


@dataclass(frozen=True)
class Verification:
    """What was found."""

    n_parameters: int
    findings: list[Finding]
    checks: list[SignalCheck]

    @property
    def status(self) -> Status:
        """The worst of all."""
        if self.findings:
            return Status.FAIL
        return max((check.status for check in self.checks), key=list(Status).index)


def verify_recipe(recipe: Recipe, display: Display) -> Verification:
    """Prepare the recipe's text, make its model, and check its weights and its first batch, in float32 on the CPU."""
    corpus = prepare(recipe.data, recipe.tokenizer, display.say)
    recipe = recipe.with_vocabulary(corpus.tokenizer.n_tokens)
    planned = plan_model(recipe.model, recipe.init)
    model = materialise(planned, seed=recipe.seed, device=torch.device("cpu"))
    findings = verify_weights(model, planned.plan)
    loader = Loader(
        corpus.split("train"),
        min(recipe.data.seq_len, MAX_TOKENS),
        min(recipe.train.batch_size, MAX_ROWS),
        recipe.seed,
        with_documents=recipe.data.within_document,
        pad_token=corpus.tokenizer.end_of_text,
    )
    batch: Batch = loader.batch(0)
    predicted = predict_signals(
        recipe.model, model.multipliers, planned.plan, batch.tokens, batch.documents, batch.targets
    )
    checks = compare_signals(measure_signals(model, batch), predicted, recipe.model.d_model)
    return Verification(len(planned.plan), findings, checks)


def show_verification(found: Verification, display: Display) -> None:
    """Findings, then the signals that are not as predicted or, of each kind, the one farthest off."""
    if found.findings:
        table = Table(title="weights that are not as planned", title_justify="left")
        for column in ("parameter", "test", "found"):
            table.add_column(column, overflow="fold")
        for finding in found.findings:
            table.add_row(finding.parameter, finding.test, finding.what)
        display.show(table)
    else:
        display.say(f"weights: {found.n_parameters} parameters are as planned")
    table = Table(title="signals on a real batch", title_justify="left", caption="of each kind the layer farthest off")
    for column in ("signal", "layer", "measured", "predicted", "ratio", "allowed", ""):
        table.add_column(column, justify="left" if column in ("signal", "") else "right")
    kinds: dict[str, list[SignalCheck]] = {}
    for check in found.checks:
        kinds.setdefault(check.what, []).append(check)
    for same in kinds.values():
        worst = max(same, key=lambda check: (list(Status).index(check.status), abs(check.ratio - 1)))
        for check in [c for c in same if c.status != Status.PASS] or [worst]:
            table.add_row(
                check.what,
                "" if check.layer is None else str(check.layer),
                f"{check.measured:.4g}",
                f"{check.predicted:.4g}",
                f"{check.ratio:.3f}",
                f"+-{check.tolerance:.0%}",
                check.status.upper(),
            )
    display.show(table)
    display.say(f"{found.status.upper()}")
