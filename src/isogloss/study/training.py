"""One small training for a study: its losses, gradients, attention logits, and what it reaches."""

import math

import torch

from isogloss.build import materialise, plan_model
from isogloss.data.corpus import Corpus
from isogloss.data.loader import Loader, open_loader
from isogloss.evaluate.loss import evaluate_corpus
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.optim.groups import create_optimizer
from isogloss.recipe import Recipe
from isogloss.study.observe import observe
from isogloss.study.trials import Result
from isogloss.train.loop import DivergedError, Progress, training_steps

VALIDATION_ROWS = 256
PROBE_ROWS, PROBE_TOKENS = 2, 128


def training_trial(recipe: Recipe, corpus: Corpus) -> Result:
    """Train to the end; ``validation``, and the last loss and norm, are infinite where it diverged.

    Every step's ``loss`` (nats a target) and ``grad_norm``; at ``attention_steps``, each a quarter more than the last,
    the largest attention logit of a fixed batch.
    """
    planned = plan_model(recipe.model, recipe.init)
    compiled = recipe.train.compile == "on"
    model = materialise(
        planned, seed=recipe.seed, device=torch.device("cpu"), compiled=compiled, float8=recipe.train.float8
    )
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    loader = create_loader(recipe, corpus)
    probe = probe_batch(loader)
    losses, norms, steps, largest = [], [], [0], [_largest_logit(model, probe)]
    try:
        for info in training_steps(
            model, optimizer, loader, recipe.train, recipe.optim, Progress(), recipe.train.precision, compiled
        ):
            losses.append(info.loss)
            norms.append(info.grad_norm)
            if info.last or info.step >= 1.25 * steps[-1] + 1:
                steps.append(info.step)
                largest.append(_largest_logit(model, probe))
        validation = _validate(model, recipe, corpus)
    except DivergedError:
        validation = math.inf
        losses.append(math.inf)
        norms.append(math.inf)
    return {
        "loss": losses,
        "grad_norm": norms,
        "attention_steps": steps,
        "attention_logit": largest,
        "validation": validation,
        "n_parameters": sum(p.numel() for p in model.parameters()),
    }


def create_loader(recipe: Recipe, corpus: Corpus) -> Loader:
    """The recipe's training batches."""
    return open_loader(corpus, recipe.data.cut(), recipe.train.plan(), recipe.seed, recipe.train.steps)


def probe_batch(loader: Loader) -> Batch:
    """The beginnings of rows far from those that training begins with; a probe is measured again and again."""
    # What is endless may be used up so far on, or be found only by reading up to there.
    batch = loader.batch(0 if loader.source.n_rows is None else 10_000_000)
    documents = None if batch.documents is None else batch.documents[:PROBE_ROWS, :PROBE_TOKENS]
    return Batch(batch.tokens[:PROBE_ROWS, :PROBE_TOKENS], batch.targets[:PROBE_ROWS, :PROBE_TOKENS], documents)


def _largest_logit(model: Decoder, probe: Batch) -> float:
    return max(float(logits.abs().max()) for logits in observe(model, probe).attention_logits)


def _validate(model: Decoder, recipe: Recipe, corpus: Corpus) -> float:
    """Nats a target on the first rows of the validation split."""
    return evaluate_corpus(
        model,
        corpus,
        recipe.data.cut(),
        recipe.train.batch_size,
        precision=recipe.train.precision,
        n_rows=VALIDATION_ROWS,
    )[0].loss
