"""Training a byte-level BPE on a corpus (Sennrich et al. 2016, arXiv 1508.07909; over bytes: Radford et al. 2019)."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import well_formed
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.patterns import ISOGLOSS


def train_bpe(texts: str | Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learn a vocabulary; the same texts give the same one, whatever their order and the number of cores.

    Args:
        texts: the corpus, read once; one text alone too.
        vocab_size: ids to fill, the end-of-text token (id 0) and the 256 bytes (ids 1 to 256) included. A corpus with
            fewer distinct pairs to merge gives fewer; ``n_tokens`` of the result says how many.

    Raises:
        UserError: for a ``vocab_size`` that cannot hold every byte.
    """
    if vocab_size < 257:
        raise UserError(f"vocab_size {vocab_size} is too small: 256 bytes and the end-of-text token need 257")
    texts = [texts] if isinstance(texts, str) else texts
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(ISOGLOSS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((well_formed(text) for text in texts), trainer)
    return BPETokenizer(tokenizer.to_str(), origin="the trained tokenizer")
