import json
import os
import subprocess
import sys

import pytest

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bpe_training import train_bpe

PROGRAM = """
import json, sys
from isogloss.data.tokenizers.bpe_training import train_bpe
print(train_bpe(json.load(sys.stdin), 1000).fingerprint)
"""


def test_same_texts_give_the_same_vocabulary(library):
    """In any order, in another process (other hash seeds) and on one core."""
    expected = train_bpe(library, 1000).fingerprint
    assert train_bpe(library[::-1], 1000).fingerprint == expected
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(library),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_vocabulary_holds_every_byte_once(trained):
    singles = [trained.token_bytes(i) for i in range(trained.n_tokens) if len(trained.token_bytes(i)) == 1]
    assert sorted(singles) == [bytes([byte]) for byte in range(256)]
    assert trained.n_tokens == 2000
    assert trained.end_of_text == 0


def test_a_small_corpus_gives_fewer_tokens():
    assert train_bpe(["ab ab", "ab"], 5000).n_tokens == 257 + 2  # "ab" and " ab"
    assert train_bpe([], 300).n_tokens == 257


def test_lone_surrogates_do_not_stop_the_training():
    assert train_bpe(["a\ud800"], 300).n_tokens > 257


def test_errors_of_the_corpus_reach_the_caller():
    def texts():
        yield "a"
        raise UserError("the corpus ends here")

    with pytest.raises(UserError, match="the corpus ends here"):
        train_bpe(texts(), 300)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(UserError, match="need 257"):
        train_bpe(["a"], 256)
