"""The hooks of a run: lines of metrics, validation and samples on the way."""

import itertools
import math

import torch

from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.data.loader import sequential_batches
from isogloss.evaluate.loss import Evaluation, evaluate_batches
from isogloss.generate.engine import generate
from isogloss.generate.sampling import SamplingConfig
from isogloss.models.decoder import Decoder
from isogloss.models.weights import load_weights
from isogloss.parallel.whole import whole_tensors
from isogloss.run.session import Session
from isogloss.train.display import Display, duration
from isogloss.train.loop import StepInfo
from isogloss.train.machine import measure_peak
from isogloss.train.metrics import Metrics


class Watch:
    """Measures a session, records what it finds and shows it."""

    def __init__(self, session: Session, metrics: Metrics, display: Display) -> None:
        self._session, self._metrics, self._display = session, metrics, display
        split = session.corpus.manifest.train
        self._bytes_per_token = split.n_bytes / split.n_tokens
        self._flops_per_token = session.model.flops_per_token(session.recipe.data.seq_len)
        peak = measure_peak(torch.device(session.machine.device), session.machine.precision)
        self._peak = peak * session.ranks.world_size

    def log(self, info: StepInfo) -> None:
        """Every step is counted; the first and every ``log_every`` of them make a line."""
        self._session.window.add(info)
        if info.nonfinite:
            self._display.say(f"step {info.step}: {info.nonfinite} is not finite; the step is skipped")
        if info.step != 1 and info.step % self._session.recipe.watch.log_every and not info.last:
            return
        values = self._session.window.empty()
        rate = values["tokens_per_second"]
        share = rate * self._flops_per_token / self._peak
        bits = values["loss"] / math.log(2) / self._bytes_per_token
        progress = self._session.progress
        self._metrics.write(
            "train",
            info.step,
            loss=values["loss"],
            bits_per_byte=bits,
            lr=info.lr,
            grad_norm=values["grad_norm"],
            tokens=progress.tokens,
            skipped=progress.skipped,
            tokens_per_second=rate,
            share_of_peak=share,
            seconds=progress.seconds,
        )
        train, seq_len = self._session.recipe.train, self._session.recipe.data.seq_len
        left = (train.steps - info.step) * train.batch_size * seq_len / rate
        # What matters least comes last: a narrow terminal cuts it off. A warming step's time says nothing.
        speed = "" if info.warming else f"{duration(left)} left  {rate:,.0f} tok/s  {share:.0%} of peak  "
        self._display.step(
            info.step,
            f"loss {values['loss']:.3f}  {bits:.3f} bits/byte  {speed}lr {info.lr:.2e}  grad {values['grad_norm']:.2f}",
        )
        if info.step == 1 and self._session.machine.compiled and not info.last:
            self._display.wait("compiling the blocks, once for each shape: up to half a minute")

    def validate(self, info: StepInfo) -> None:
        """Read the first rows of the validation split."""
        found = validate(self._session, self._session.recipe.watch.validation_rows)
        record_validation(self._session, self._metrics, self._display, found)

    def sample(self, info: StepInfo) -> None:
        """Let the model write."""
        record_samples(self._session, self._metrics, self._display, info.step)


def validate(session: Session, n_rows: int | None = None) -> Evaluation:
    """The loss on the validation split, or on its first rows."""
    recipe = session.recipe
    layout = session.layout
    n_data, rank = (1, 0) if layout is None else (layout.axes.data, layout.data_rank)
    size = n_data * (recipe.train.micro_batch_size or recipe.train.batch_size // n_data)
    batches = sequential_batches(
        session.corpus.split("validation"),
        recipe.data.seq_len,
        size,
        recipe.data.within_document,
        session.corpus.tokenizer.end_of_text,
        rank,
        n_data,
    )
    split = session.corpus.manifest.validation
    batches = batches if n_rows is None else itertools.islice(batches, -(-n_rows // size))
    # All targets (every token but the first) stand for all bytes, a part of them for its share.
    return evaluate_batches(
        session.model,
        batches,
        precision=session.machine.precision,
        bytes_per_token=split.n_bytes / (split.n_tokens - 1),
        layout=layout,
    )


def record_validation(session: Session, metrics: Metrics, display: Display, found: Evaluation) -> None:
    """Write and show a validation."""
    step, tokens = session.progress.step, session.progress.tokens
    values = {"loss": found.loss, "bits_per_byte": found.bits_per_byte, "targets": found.n_targets}
    metrics.write("validation", step, tokens=tokens, **values)
    display.say(f"step {step:>6}  validation loss {found.loss:.3f}  {found.bits_per_byte:.3f} bits/byte")


def record_samples(session: Session, metrics: Metrics, display: Display, step: int) -> None:
    """Write and show a sample for each prompt."""
    watch = session.recipe.watch
    if watch.sample_tokens == 0:
        return
    model = _writer(session)
    if model is None:
        return
    for number, prompt in enumerate(watch.prompts):
        sampling = SamplingConfig(
            temperature=watch.temperature, max_tokens=watch.sample_tokens, seed=session.recipe.seed + number
        )
        tokenizer, precision = session.corpus.tokenizer, session.machine.precision
        try:
            text = prompt + "".join(generate(model, tokenizer, prompt, sampling, precision=precision))
        except UserError as error:  # a model that has diverged: its run is still to be finished
            display.say(f"step {step:>6}  no sample: {error}")
            return
        metrics.write("sample", step, prompt=prompt, text=text)
        display.say(f"step {step:>6}  sample:\n" + "\n".join(f"    {line}" for line in text.splitlines()))


def _writer(session: Session) -> Decoder | None:
    """The model that writes samples: the session's own, or one that rank 0 puts together from all ranks' parts.

    Every token would have all weights gathered again otherwise. It stands in the CPU's memory, for a while.
    """
    if session.layout is None:
        return session.model
    weights = whole_tensors(session.model, keep=session.ranks.first)
    if not session.ranks.first:
        return None
    model = plan_model(session.recipe.model, session.recipe.init).model.to_empty(device="cpu")
    load_weights(model, weights)
    return model
