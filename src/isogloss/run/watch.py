"""The hooks of a run: lines of metrics, validation and samples on the way."""

import math
import re
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int

from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.config import SymbolsConfig
from isogloss.evaluate.loss import Evaluation, evaluate_corpus
from isogloss.generate.engine import generate
from isogloss.generate.sampling import SamplingConfig
from isogloss.models.decoder import Decoder
from isogloss.models.weights import load_weights
from isogloss.parallel.first_rank import rank_0_first
from isogloss.parallel.whole import whole_tensors
from isogloss.recipe import Recipe
from isogloss.run.session import Session
from isogloss.streams import visible
from isogloss.train.display import Display, duration
from isogloss.train.loop import StepInfo
from isogloss.train.machine import measure_peak
from isogloss.train.metrics import Metrics

PROMPT_TOKENS, PROMPT_CHARACTERS = 64, 40
"""What a prompt is taken from, and its length at most."""


class Watch:
    """Measures a session, records what it finds and shows it."""

    def __init__(self, session: Session, metrics: Metrics, display: Display) -> None:
        self._session, self._metrics, self._display = session, metrics, display
        self._bytes_per_token = _bytes_per_token(session.corpus)
        self._of_parts = {part.name: _bytes_per_token(part.corpus) or 0.0 for part in session.corpus.parts}
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
        train, seq_len = self._session.recipe.train, self._session.recipe.data.seq_len
        progress, plan = self._session.progress, train.plan()
        batch = progress.passed_over + info.step - 1
        # Of all tokens read: where few targets count, theirs would say nothing of the work.
        rate = plan.size(batch) * seq_len / values["seconds_per_step"]
        share = rate * self._session.model.flops_per_token(seq_len // plan.divisor(batch)) / self._peak
        shares = self._session.loader.shares(batch + 1)
        per_token = self._bytes_per_token
        if shares:  # of what has been read of a mixture so far
            per_token = sum(share * self._of_parts.get(name, per_token or 0.0) for name, share in shares.items())
        bits = None if per_token is None else values["loss"] / math.log(2) / per_token
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
            **{f"share_{name}": value for name, value in shares.items()},
        )
        last = progress.passed_over + train.steps
        left = (plan.rows_before(last) - plan.rows_before(batch + 1)) * seq_len / rate
        # What matters least comes last: a narrow terminal cuts it off. A warming step's time says nothing.
        speed = "" if info.warming else f"{duration(left)} left  {rate:,.0f} tok/s  {share:.0%} of peak  "
        loss = loss_in_words(self._session, values["loss"], bits)
        self._display.step(info.step, f"{loss}  {speed}lr {info.lr:.2e}  grad {values['grad_norm']:.2f}")
        if info.step == 1 and self._session.machine.compiled and not info.last:
            self._display.wait("compiling the blocks, once for each shape: up to half a minute, minutes in float8")

    def validate(self, info: StepInfo) -> None:
        """Read the first rows of the validation split."""
        found, by_source = validate(self._session, self._session.recipe.watch.validation_rows)
        record_validation(self._session, self._metrics, self._display, found, by_source)

    def sample(self, info: StepInfo) -> None:
        """Let the model write."""
        record_samples(self._session, self._metrics, self._display, info.step)


def _bytes_per_token(corpus: Corpus) -> float | None:
    facts = corpus.facts("train")
    return facts.n_bytes / facts.n_tokens if facts.n_bytes and facts.n_tokens else None


def loss_in_words(session: Session, loss: float, bits: float | None) -> str:
    """A loss, in bits a byte where bytes are known, and beside it the lowest there is, where that is known."""
    floor = session.corpus.floor
    known = ([] if bits is None else [f"{bits:.3f} bits/byte"]) + ([] if floor is None else [f"floor {floor:.3f}"])
    return "  ".join([f"loss {loss:.3f}", *known])


def validate(session: Session, n_rows: int | None = None) -> tuple[Evaluation, dict[str, Evaluation]]:
    """The loss on the validation split, or on its first rows; and by source, where several are mixed."""
    recipe = session.recipe
    layout = session.layout
    n_data = 1 if layout is None else layout.axes.data
    size = n_data * (recipe.train.micro_batch_size or max(1, recipe.train.batch_size // n_data))
    with session.watchdog.phase(f"validating after step {session.progress.step}", "validation"):
        return evaluate_corpus(
            session.model,
            session.corpus,
            recipe.data.cut(),
            size,
            precision=session.machine.precision,
            n_rows=n_rows,
            layout=layout,
        )


def record_validation(
    session: Session, metrics: Metrics, display: Display, found: Evaluation, by_source: Mapping[str, Evaluation]
) -> None:
    """Write and show a validation."""
    step, tokens = session.progress.step, session.progress.tokens
    values = {"loss": found.loss, "bits_per_byte": found.bits_per_byte, "targets": found.n_targets}
    values |= {f"loss_{name}": one.loss for name, one in by_source.items()}
    metrics.write("validation", step, tokens=tokens, **values)
    display.say(f"step {step:>6}  validation {loss_in_words(session, found.loss, found.bits_per_byte)}")
    for name, one in by_source.items():
        display.say(f"             of {name}: {loss_in_words(session, one.loss, one.bits_per_byte)}")


def record_samples(session: Session, metrics: Metrics, display: Display, step: int) -> None:
    """Write and show a sample for each prompt. Collective: the others wait for rank 0, but not within a step."""
    if session.recipe.watch.sample_tokens == 0:
        return
    with session.watchdog.phase(f"putting the model together for samples of step {step}"):
        model = _writer(session)

    def write() -> None:
        if model is not None:
            _write_samples(session, model, metrics, display, step)

    with session.watchdog.alone(f"writing samples of step {step}"):
        rank_0_first(session.ranks, f"samples of step {step} after {session.progress.rewinds} rewinds", write)


def find_prompts(recipe: Recipe, corpus: Corpus) -> tuple[str, ...]:
    """What samples begin with: as the recipe says, or the beginnings of two texts of the validation split.

    Python's own library has prompts of its own; what is generated has no words, and begins with nothing.
    """
    if (prompts := recipe.with_prompts().watch.prompts) is not None:
        return prompts
    if corpus.floor is not None or isinstance(recipe.tokenizer, SymbolsConfig):
        return ("",)
    rows = corpus.parts[0].corpus.rows("validation", *recipe.data.cut()) if corpus.parts else None
    rows = rows or corpus.rows("validation", *recipe.data.cut())
    assert rows.n_rows is not None
    found = rows.rows(np.array(sorted({0, rows.n_rows // 2})))
    return tuple(dict.fromkeys(_beginning(corpus.tokenizer, row) for row in found.tokens))


def _beginning(tokenizer: Tokenizer, row: Int[np.ndarray, " T"]) -> str:
    """The first words of the first document that begins in a row, or of the row."""
    (starts,) = np.nonzero(row[:-1] == tokenizer.end_of_text)
    first = int(starts[0]) + 1 if len(starts) else 0
    text = tokenizer.decode(row[first : first + PROMPT_TOKENS].tolist()).partition("\ufffd")[0]
    words = re.match(r"\s*(?:\S+[ \t]+){0,2}\S+", text[:PROMPT_CHARACTERS])
    return words[0] if words else text[:PROMPT_CHARACTERS]


def _write_samples(session: Session, model: Decoder, metrics: Metrics, display: Display, step: int) -> None:
    watch = session.recipe.watch
    for number, prompt in enumerate(find_prompts(session.recipe, session.corpus)):
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
        display.say(f"step {step:>6}  sample:\n" + "\n".join(f"    {line}" for line in visible(text).splitlines()))


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
