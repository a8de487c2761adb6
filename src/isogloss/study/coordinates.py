"""The coordinate check: how what a model does, and how that changes in a few steps, goes with its width or depth.

A parametrisation promises that its learning rate transfers; that is so if these quantities do not depend on the size
(Yang et al. 2022, appendix D.1; Dey et al. 2025). For each a power law ``size^slope`` is fitted; each names the rule
that it would betray. W_0 are the first weights and W those after some steps, x is what a matrix reads, s is the branch
multiplier times n_layers:

================= ==================================== =================================================
quantity          measured                             betrays
================= ==================================== =================================================
initial scale     rms(W_0 x) / rms(x), in the blocks   std of hidden matrices
learning rate     s rms((W - W_0) x) / rms(x)          rate of hidden matrices, or the branch multiplier
gains' rate       s rms((g - g_0) x) / rms(x)          rate of gains in the blocks
embedding's scale rms of the first stream              std of the embedding, its multiplier
embedding's rate  rms of the change of rows            rate of the embedding
head's rate       c rms((W - W_0) x), c its multiplier rate of the head, multiplier of the logits
attention scale   logit of a query along its key       scale of attention's logits
branch            rms of what a layer adds at first    branch multiplier
decay             share of W taken in a step           weight decay of hidden matrices
epsilon           rms(gradient) / Adam's epsilon       epsilon (queries and keys left out, see below)
stream            rms of the last stream's change      all of them
logits            rms of the change, head from 0       all of them
================= ==================================== =================================================

Read from the top: a wrong scale shows in gradients, and so in the rows of epsilon, too; a wrong rate also in the decay.

One short row is trained on and measured: what all its tokens share in an update then stands out at small widths
already, while the rest of the update falls as width^-1/2 and would look like a slope. The logits' change is measured
with a head that starts at 0: with a random one it is dominated at first by what the head happens to read. Steps are
taken without clipping, which would scale gradients by their number, and without decay, which has a row of its own. At
first queries and keys point anywhere, so with a scale of 1/C their gradients are smaller than epsilon's rule says.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from isogloss.build import PlannedModel, materialise, plan_model
from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.data.corpus import Corpus
from isogloss.init.parametrisations import HIDDEN
from isogloss.init.plan import Entry
from isogloss.init.scheme import Axis
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.nn.roles import Role, declared_tensors
from isogloss.optim.groups import AdamWConfig, create_optimizer, set_learning_rate
from isogloss.optim.schedules import ConstantSchedule
from isogloss.recipe import Recipe
from isogloss.study.families import resize, rising
from isogloss.study.observe import observe, rms
from isogloss.study.slopes import Slope
from isogloss.study.training import create_loader
from isogloss.study.trials import Result, Study, Trial
from isogloss.train.loop import Progress, training_steps

TOKENS = 16
CHANGE = 0.15
"""Of matrices' outputs over their inputs, at the smallest size: small beside what is there already."""


class _OneBatch:
    """The same batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self.only = batch

    def batch(self, step: int) -> Batch:
        return self.only


def coordinate_trial(recipe: Recipe, corpus: Corpus) -> Result:
    """Train ``recipe.train.steps`` steps and measure the module's table, by role where there are several.

    Values are means over layers.
    """
    batch = create_loader(recipe, corpus).batch(0)
    documents = None if batch.documents is None else batch.documents[:1, :TOKENS]
    batch = Batch(batch.tokens[:1, :TOKENS], batch.targets[:1, :TOKENS], documents)
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in _measure(recipe, batch):
        found[name].append(value)
    if not recipe.model.tied_head:  # that cannot start from 0
        found["logits"] = [_logits_from_zero(recipe, batch)]
    return {name: sum(values) / len(values) for name, values in found.items()}


def _measure(recipe: Recipe, batch: Batch) -> Iterator[tuple[str, float]]:
    planned = plan_model(recipe.model, recipe.init)
    model, entries = _make(recipe, planned), planned.plan
    first = _copy(model)
    before = observe(model, batch)
    gradients = _train(recipe, model, entries, batch)
    after = observe(model, batch)
    change = {name: tensor - first[name] for name, tensor in _copy(model).items()}
    multipliers = model.multipliers
    share = multipliers.branch * recipe.model.n_layers
    for name, x in after.inputs.items():
        role = entries[name].site.role
        if role in HIDDEN:
            x_0 = before.inputs[name]
            yield f"initial scale {role}", _over(rms(x_0 @ first[name].T), rms(x_0))
            yield f"learning rate {role}", _over(share * rms(x @ change[name].T), rms(x))
        else:
            yield "head's rate", rms(x @ change[name].T)
    for name, x in after.normed.items():
        if entries[name].site.layer is not None:
            yield "gains' rate", _over(share * rms(change[name] * x), rms(x))
    yield "embedding's scale", rms(before.stream[0])
    yield "embedding's rate", multipliers.embedding * rms(change["embedding.weight"][batch.tokens])
    for value in before.aligned_logits:
        yield "attention scale", value
    for i in range(recipe.model.n_layers):
        yield "branch", rms(before.stream[i + 1] - multipliers.residual * before.stream[i])
    for name, value in gradients.items():
        if (role := entries[name].site.role) in (HIDDEN - {Role.QUERY, Role.KEY}) | {Role.EMBEDDING, Role.HEAD}:
            yield f"epsilon {role}", value
    for value in _decay(model, recipe.optim, entries):
        yield "decay", value
    yield "stream", rms(after.stream[-1] - before.stream[-1])


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _logits_from_zero(recipe: Recipe, batch: Batch) -> float:
    planned = plan_model(recipe.model, recipe.init)
    model = _make(recipe, planned)
    assert model.head is not None
    nn.init.zeros_(model.head.weight)
    before = observe(model, batch)
    _train(recipe, model, planned.plan, batch)
    return rms(observe(model, batch).logits - before.logits)


def _make(recipe: Recipe, planned: PlannedModel) -> Decoder:
    return materialise(planned, seed=recipe.seed, device=torch.device("cpu"), float8=recipe.train.float8)


def _train(recipe: Recipe, model: Decoder, plan: Mapping[str, Entry], batch: Batch) -> dict[str, float]:
    """Take the steps; each matrix's first gradient over its epsilon."""
    optim = recipe.optim.model_copy(update={"clip": math.inf, "weight_decay": 0.0, "schedule": ConstantSchedule()})
    optimizer = create_optimizer(model, optim, plan)
    eps = {p: group["eps"] for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, float] = {}

    def look(*_: object) -> None:
        for site, parameter in declared_tensors(model):
            if not found.get(site.name) and parameter.grad is not None:  # behind a matrix of 0 it begins later
                found[site.name] = rms(parameter.grad) / eps[parameter]

    handle = optimizer.register_step_pre_hook(look)
    for _ in training_steps(
        model, optimizer, _OneBatch(batch), recipe.train, optim, Progress(), recipe.train.precision
    ):
        pass
    handle.remove()
    return found


def _decay(model: Decoder, config: AdamWConfig, plan: Mapping[str, Entry]) -> list[float]:
    """Of each hidden matrix, what a step at the peak rate with gradients of 0 takes away."""
    optimizer = create_optimizer(model, config, plan)
    set_learning_rate(optimizer, config.lr)
    before = {name: rms(tensor) for name, tensor in _copy(model).items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return [
        1 - rms(tensor) / before[site.name]
        for site, tensor in declared_tensors(model)
        if site.role in HIDDEN and before[site.name]
    ]


def _copy(model: Decoder) -> dict[str, Tensor]:
    return {site.name: tensor.detach().clone() for site, tensor in declared_tensors(model)}


def check_coordinates(study: Study, axis: Axis, sizes: Sequence[int], steps: int, seeds: int) -> list[Slope]:
    """The slope of every quantity along an axis.

    Args:
        study: its recipe's scheme is checked.
        axis: what grows.
        sizes: widths or depths.
        steps: of training before what has changed is measured.
        seeds: how many, from the recipe's on.

    Raises:
        UserError: a size is not possible.
    """
    sizes = rising(sizes)
    study = _at_low_rate(study, resize(study.recipe, axis, min(sizes)), steps)
    trials = [
        _trial(study.recipe, axis, size, seed)
        for seed in range(study.recipe.seed, study.recipe.seed + seeds)
        for size in sizes
    ]
    return fit_slopes(sizes, study.run(coordinate_trial, trials), study.recipe.init.promises(axis))


def fit_slopes(sizes: Sequence[int], results: Sequence[Result], promises: Mapping[str, float]) -> list[Slope]:
    """The slope of every quantity.

    Args:
        sizes: of the family.
        results: of each size in turn, for one seed after the other.
        promises: name, or the beginning of a name -> exponent.
    """
    found = []
    for name in results[0]:
        values = [result[name] for result in results]
        by_seed = tuple(tuple(values[i : i + len(sizes)]) for i in range(0, len(values), len(sizes)))
        promised = next((exponent for known, exponent in promises.items() if name.startswith(known)), None)
        found.append(Slope(name, tuple(sizes), by_seed, promised))
    return found


def _trial(recipe: Recipe, axis: Axis, size: int, seed: int) -> Trial:
    sized = resize(recipe, axis, size)
    return Trial(f"{axis} {size}, seed {seed}", sized.model_copy(update={"seed": seed}))


def _at_low_rate(study: Study, smallest: Recipe, steps: int) -> Study:
    """The study at the rate that changes what the smallest model's matrices write by ``CHANGE`` of what they read.

    Adam's steps are as long as the rate, so one trial at a lower one tells.
    """
    tried = study.recipe.optim.lr / 64
    short = ["optim.schedule={type: constant}", f"train.steps={steps}"]
    (result,) = study.run(
        coordinate_trial,
        [Trial("finding a low learning rate", with_overrides(smallest, [*short, f"optim.lr={tried!r}"]))],
    )
    share = smallest.init.multipliers(smallest.model).branch * smallest.model.n_layers
    changes = [value / share for name, value in result.items() if name.startswith("learning rate")]
    if not sum(changes):
        raise UserError(f"in {steps} step nothing changed, behind matrices that start at 0: pass --steps 2 or more")
    rate = float(f"{tried * CHANGE * len(changes) / sum(changes):.2g}")
    study.display.say(f"learning rate {rate:g}: matrices change by {CHANGE:.0%} of what they read in {steps} steps")
    return replace(study, recipe=with_overrides(study.recipe, [*short, f"optim.lr={rate!r}"]))
