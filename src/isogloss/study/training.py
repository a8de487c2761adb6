"""One small training for a study: its losses, gradients, attention logits, and what it reaches."""

import math
from pathlib import Path

import torch

from isogloss.build import materialise, plan_model
from isogloss.data.loader import Loader, sequential_batches
from isogloss.data.prepared import PreparedCorpus, open_prepared
from isogloss.evaluate.loss import evaluate_batches
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.optim.groups import create_optimizer
from isogloss.recipe import Recipe
from isogloss.study.observe import observe
from isogloss.study.trials import Result
from isogloss.train.loop import DivergedError, Progress, training_steps

VALIDATION_ROWS = 256
PROBE_ROWS, PROBE_TOKENS = 2, 128


def training_trial(recipe: Recipe, corpus: Path) -> Result:
    """Train to the end; ``validation``, and the last loss and norm, are infinite where it diverged.

    Every step's ``loss`` (nats a target) and ``grad_norm``; at ``attention_steps``, each a quarter more than the last,
    the largest attention logit of a fixed batch.
    """
    opened = open_prepared(corpus)
    planned = plan_model(recipe.model, recipe.init)
    compiled = recipe.train.compile == "on"
    model = materialise(planned, seed=recipe.seed, device=torch.device("cpu"), compiled=compiled)
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    loader = create_loader(recipe, opened)
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
        validation = _validate(model, recipe, opened)
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


def create_loader(recipe: Recipe, corpus: PreparedCorpus) -> Loader:
    """The recipe's training batches."""
    return Loader(
        corpus.split("train"),
        recipe.data.seq_len,
        recipe.train.batch_size,
        recipe.seed,
        with_documents=recipe.data.within_document,
        pad_token=corpus.tokenizer.end_of_text,
    )


def probe_batch(loader: Loader) -> Batch:
    """The beginnings of rows far from those that training begins with; a probe is measured again and again."""
    batch = loader.batch(10_000_000)
    documents = None if batch.documents is None else batch.documents[:PROBE_ROWS, :PROBE_TOKENS]
    return Batch(batch.tokens[:PROBE_ROWS, :PROBE_TOKENS], batch.targets[:PROBE_ROWS, :PROBE_TOKENS], documents)


def _largest_logit(model: Decoder, probe: Batch) -> float:
    return max(float(logits.abs().max()) for logits in observe(model, probe).attention_logits)


def _validate(model: Decoder, recipe: Recipe, corpus: PreparedCorpus) -> float:
    """Nats a target on the first rows of the validation split."""
    batches = sequential_batches(
        corpus.split("validation"),
        recipe.data.seq_len,
        recipe.train.batch_size,
        recipe.data.within_document,
        corpus.tokenizer.end_of_text,
    )
    first = (batch for _, batch in zip(range(-(-VALIDATION_ROWS // recipe.train.batch_size)), batches, strict=False))
    return evaluate_batches(model, first, precision=recipe.train.precision, bytes_per_token=1.0).loss
