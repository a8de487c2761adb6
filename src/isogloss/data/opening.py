"""From a recipe's ``data`` to an open corpus, whatever its type."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.mixture import MixtureConfig, open_mixture
from isogloss.data.on_the_fly import OnTheFlyConfig, OnTheFlyCorpus
from isogloss.data.prepare import FilesConfig, PythonStdlibConfig, prepare
from isogloss.data.synthetic.corpus import AnySyntheticConfig, SyntheticCorpus
from isogloss.data.synthetic.task import SyntheticConfig
from isogloss.data.tokenizers.config import BPEConfig, TokenizerConfig

DataConfig = Annotated[
    PythonStdlibConfig | FilesConfig | MixtureConfig | OnTheFlyConfig | AnySyntheticConfig, Field(discriminator="type")
]
"""Any data, told apart by ``type``."""


def open_corpus(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    progress: Callable[[str], None] = lambda message: None,
) -> Corpus:
    """The data of a config, ready to be read. What is prepared already is hashed only where it has changed.

    Args:
        config: the data.
        tokenizer_config: the tokenizer of text.
        progress: told in a short sentence what is being done.

    Raises:
        UserError: inputs that cannot be read or are empty, or a folder that cannot be written.
    """
    match config:
        case MixtureConfig():
            return open_mixture(config, tokenizer_config, progress)
        case OnTheFlyConfig():
            if isinstance(tokenizer_config, BPEConfig):
                raise UserError(
                    "data.type on_the_fly reads no text before training begins, so there is none to train a bpe on; "
                    "set tokenizer.type to bytes or file (isogloss tokenizer train makes one)"
                )
            corpus = OnTheFlyCorpus(config, tokenizer_config)
            for line in corpus.account.sentences():
                progress(line)
            return corpus
        case SyntheticConfig():
            return SyntheticCorpus(config)
        case _:
            return prepare(config, tokenizer_config, progress)
