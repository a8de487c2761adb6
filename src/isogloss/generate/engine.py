"""Writing text: the prompt is read in one go, then tokens are chosen one at a time from the logits of the last one."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.stream import StreamDecoder
from isogloss.generate.sampling import SamplingConfig, StopScanner, choose
from isogloss.models.inference import check_vocabulary, inference
from isogloss.models.protocol import LanguageModel
from isogloss.nn.precision import Precision

PREFILL_TOKENS = 512
"""How much of a prompt is read at a time: as a model gives logits for all it reads, they would else fill the memory."""


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, sampling: SamplingConfig, *, precision: Precision = "fp32"
) -> Iterator[str]:
    """Go on with a prompt, as a document that begins with it; without one, write a document.

    The text ends where the model ends the document, at a stop string, or after ``sampling.max_tokens``. It may grow
    longer than the rows the model was trained on, up to ``sampling.max_context``: rotary positions simply go on.

    Args:
        model: in any mode; it is left in the same.
        tokenizer: the one it was trained with.
        prompt: may be empty; not repeated in what is given out.
        sampling: how to choose tokens, and when to stop.
        precision: ``bf16`` or ``fp32``.

    Yields:
        Pieces of text, none of them empty; characters are whole (U+FFFD for bytes that are none).

    Raises:
        UserError: the prompt is too long, the model's logits are not finite, or its vocabulary is smaller than the
            tokenizer's.
    """
    prompt_ids = [tokenizer.end_of_text, *tokenizer.encode(prompt).tolist()]
    chosen = generate_ids(model, torch.tensor([prompt_ids]), sampling, tokenizer.n_tokens, precision=precision)
    text = StreamDecoder(tokenizer)
    for token in prompt_ids:  # so that a space which begins the continuation is not taken for one that begins a text
        text.push(token)
    scanner = StopScanner(sampling.stop)
    for ids in chosen:
        token = int(ids)
        if token == tokenizer.end_of_text:
            break
        if piece := scanner.push(text.push(token)):
            yield piece
        if scanner.stopped:
            return
    if piece := scanner.push(text.close()) + scanner.close():
        yield piece


def generate_ids(
    model: LanguageModel,
    prompt: Int[Tensor, "B T"],
    sampling: SamplingConfig,
    n_tokens: int,
    *,
    precision: Precision = "fp32",
) -> Iterator[Int[Tensor, " B"]]:
    """Choose ``sampling.max_tokens`` ids for each row, one after the other; what ends a text is the caller's affair.

    What is wrong with the prompt is said by the call, before any of it is read; the logits are seen as it goes on.

    Args:
        model: in any mode; it is left in the same.
        prompt: at least one token a row, all rows equally long.
        sampling: how to choose; its ``stop`` is not looked at.
        n_tokens: ids from this on are rows of the vocabulary that only fill it, and never chosen.
        precision: ``bf16`` or ``fp32``.

    Raises:
        UserError: the rows would grow too long, the model's logits are not finite, or its vocabulary is smaller than
            ``n_tokens``.
    """
    check_vocabulary(model, n_tokens)
    check_length(prompt.shape[1], sampling)
    return _go_on(model, prompt, sampling, n_tokens, precision)


def _go_on(
    model: LanguageModel, prompt: Int[Tensor, "B T"], sampling: SamplingConfig, n_tokens: int, precision: Precision
) -> Iterator[Int[Tensor, " B"]]:
    generator = torch.Generator().manual_seed(sampling.seed)
    rows, length = prompt.shape
    with inference(model, precision):
        # The last token chosen is never read.
        state = model.new_state(rows, length + sampling.max_tokens - 1)
    unread = prompt
    for _ in range(sampling.max_tokens):
        logits = _read(model, unread, state, precision)
        ids = choose(logits[:, :n_tokens], sampling, generator)
        yield ids
        unread = ids[:, None]


def check_length(length: int, sampling: SamplingConfig) -> None:
    """Refuse a prompt of so many tokens, if it and what is to follow are too long.

    Raises:
        UserError: they are.
    """
    if length + sampling.max_tokens > sampling.max_context:
        raise UserError(
            f"a prompt of {length:,} tokens and max_tokens = {sampling.max_tokens:,} more are above max_context = "
            f"{sampling.max_context:,}; give less of the prompt, lower max_tokens, or raise max_context "
            "(memory grows with it)"
        )


def _read(model: LanguageModel, tokens: Int[Tensor, "B T"], state: object, precision: Precision) -> Tensor:
    """Advance the state by some tokens; the logits of what follows the last, (B, V)."""
    # The contexts end with the call: a generator must not leave its caller in them.
    with inference(model, precision) as device:
        parts = [model(part, state)[:, -1] for part in tokens.to(device).split(PREFILL_TOKENS, 1)]
    return parts[-1]
