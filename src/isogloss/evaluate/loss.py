"""How well a model predicts text: nats a target, perplexity, and bits per byte, which compares across tokenizers.

``bits per byte = nll / ln 2 / n_bytes``: what an arithmetic coder driven by the model would need for the text.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus, Cut
from isogloss.data.loader import sequential_batches
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream
from isogloss.data.tokenizers.base import Tokenizer, well_formed
from isogloss.headway import advance
from isogloss.models.inference import check_vocabulary, inference
from isogloss.models.protocol import Batch, LanguageModel, as_batch
from isogloss.nn.precision import Precision
from isogloss.parallel.context import share_of
from isogloss.parallel.fsdp import let_go
from isogloss.parallel.mesh import Layout


@dataclass(frozen=True)
class Evaluation:
    """Sums over some text, and what follows from them.

    Args:
        nll: negative log-likelihood of all targets, nats.
        n_targets: how many targets.
        n_bytes: UTF-8 bytes of the text they stand for; ``None`` where they do not stand for text.
    """

    nll: float
    n_targets: int
    n_bytes: float | None

    @property
    def loss(self) -> float:
        """Nats a target."""
        return self.nll / self.n_targets

    @property
    def perplexity(self) -> float:
        """``exp(loss)``; infinite beyond the largest float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits that the model needs for a byte of the text."""
        return None if self.n_bytes is None else self.nll / math.log(2) / self.n_bytes


def evaluate_batches(
    model: LanguageModel,
    batches: Iterable[Batch | tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]],
    *,
    precision: Precision,
    bytes_per_token: float | None,
    layout: Layout | None = None,
) -> Evaluation:
    """The negative log-likelihood of every target of some batches, without the z-loss.

    Args:
        model: in any mode; it is left in the same.
        batches: on any device; pairs of tokens and targets too.
        precision: ``bf16`` or ``fp32``.
        bytes_per_token: UTF-8 bytes of text that a target stands for, on the average; ``None`` if it is no text.
        layout: the ranks that share the model and the batches, each with rows of its own; all return the same.

    Raises:
        UserError: there is no target.
    """
    n_targets = 0
    with inference(model, precision) as device:
        nll = torch.zeros((), dtype=torch.float64, device=device)
        for batch in batches:
            mine = share_of(as_batch(batch), layout)
            n_targets += mine.n_targets()
            nll += model.loss(mine.to(device)).nll
            advance()
        if layout is not None:
            assert isinstance(model, nn.Module)
            let_go(model)
            layout.sum_over_targets(nll)
            n_targets = int(layout.sum_over_targets(torch.tensor(n_targets, device=device)))
    if n_targets == 0:
        raise UserError("there is nothing to predict in this text: it must have at least one token")
    return Evaluation(float(nll), n_targets, None if bytes_per_token is None else n_targets * bytes_per_token)


def evaluate_corpus(
    model: LanguageModel,
    corpus: Corpus,
    cut: Cut,
    batch_size: int,
    *,
    precision: Precision,
    n_rows: int | None = None,
    layout: Layout | None = None,
) -> tuple[Evaluation, dict[str, Evaluation]]:
    """The loss on the validation split; on that of a mixture's sources one by one, and their mean by final weights.

    Args:
        model: in any mode; it is left in the same.
        corpus: any.
        cut: how rows are cut.
        batch_size: rows at a time, over all ranks.
        precision: ``bf16`` or ``fp32``.
        n_rows: only so many of the first rows of the split, or of each source's; the same on any number of ranks.
        layout: the ranks that share the model and the rows; all return the same.

    Returns:
        Of all, and by source (empty where nothing is mixed).
    """
    if corpus.parts:
        of = {
            part.name: evaluate_corpus(
                model, part.corpus, cut, batch_size, precision=precision, n_rows=n_rows, layout=layout
            )[0]
            for part in corpus.parts
        }
        return _weighted([(part.weight, of[part.name]) for part in corpus.parts]), of
    rank, n_data = (0, 1) if layout is None else (layout.data_rank, layout.axes.data)
    batches = sequential_batches(corpus.rows("validation", *cut), batch_size, rank, n_data, n_rows)
    # All targets (every token but the first) stand for all bytes, a part of them for its share.
    bytes_per_target = corpus.facts("validation").bytes_per_target
    found = evaluate_batches(model, batches, precision=precision, bytes_per_token=bytes_per_target, layout=layout)
    return found, {}


def _weighted(parts: Sequence[tuple[float, Evaluation]]) -> Evaluation:
    """As if the targets were spread over the parts by weight."""
    n_targets = sum(found.n_targets for _, found in parts)
    share = [weight * n_targets / found.n_targets for weight, found in parts]
    nll = sum(s * found.nll for s, (_, found) in zip(share, parts, strict=True))
    n_bytes = [found.n_bytes for _, found in parts]
    known = [s * n for s, n in zip(share, n_bytes, strict=True) if n is not None]
    return Evaluation(nll, n_targets, sum(known) if len(known) == len(parts) else None)


def evaluate_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: str | Iterable[str],
    seq_len: int,
    *,
    batch_size: int = 8,
    precision: Precision = "fp32",
    within_document: bool = True,
) -> Evaluation:
    """The negative log-likelihood of any texts, cut into rows as for training, every target counted once.

    Each text is a document: ``end_of_text`` and its tokens. All are laid end to end, so the end of each but the last is
    predicted too. The first targets of a row have little context: a longer ``seq_len`` gives lower losses.

    Args:
        model: in any mode; it is left in the same.
        tokenizer: the one it was trained with.
        texts: one string a document; one alone is a document.
        seq_len: tokens in a row.
        batch_size: rows at a time.
        precision: ``bf16`` or ``fp32``.
        within_document: whether attention stays within a document; as the model was trained.

    Raises:
        UserError: the texts are empty, or the model's vocabulary is smaller than the tokenizer's.
    """
    check_vocabulary(model, tokenizer.n_tokens)
    texts = [texts] if isinstance(texts, str) else list(texts)
    documents = [np.append(np.uint32(tokenizer.end_of_text), ids) for ids in tokenizer.encode_batch(texts)]
    n_bytes = sum(len(well_formed(text).encode()) for text in texts)
    if n_bytes == 0:
        raise UserError("there is nothing to predict: the text is empty")
    lengths = np.array([len(document) for document in documents])
    stream = TokenStream([np.concatenate(documents)], np.cumsum(lengths) - lengths, fingerprint="texts")
    batches = sequential_batches(PackedRows(stream, seq_len, tokenizer.end_of_text, within_document), batch_size)
    found = evaluate_batches(model, batches, precision=precision, bytes_per_token=n_bytes / (len(stream) - 1))
    return replace(found, n_bytes=n_bytes)
