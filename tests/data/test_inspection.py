import numpy as np
import pytest

from isogloss.config.base import UserError
from isogloss.data import inspection
from isogloss.data.inspection import gather_statistics, peek_document, peek_row
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.tokenizers.config import BytesConfig


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    (root / "texts").mkdir()
    for number in range(100):
        (root / f"texts/{number}.txt").write_text("é" + "x" * number)
    config = FilesConfig(train=(str(root / "texts"),), prepared_dir=root, validation_bytes=300)
    return prepare(config, BytesConfig())


def texts(corpus) -> list[str]:
    return [peek_document(corpus, "train", i).text for i in range(corpus.manifest.train.n_documents)]


def test_statistics_are_those_of_the_texts(corpus, monkeypatch):
    monkeypatch.setattr(inspection, "TOKENS_AT_A_TIME", 100)
    found = gather_statistics(corpus, "train", n_top=2)
    lengths = sorted(len(text.encode()) for text in texts(corpus))
    assert found.n_bytes == found.n_tokens == sum(lengths)
    assert found.bytes_per_token == 1
    assert (found.quantiles[0], found.quantiles[3], found.quantiles[-1]) == (
        lengths[0],
        lengths[round(0.5 * (len(lengths) - 1))],
        lengths[-1],
    )
    assert found.top == ((ord("x"), "".join(texts(corpus)).count("x")), (0xA9, len(lengths)))
    assert found.n_unused == 257 - 3


def test_a_row_is_cut_where_documents_begin(corpus):
    stream = corpus.split("train")
    pieces = [piece for row in range(-(-len(stream) // 64)) for piece in peek_row(corpus, "train", row, 64)]
    assert sum(piece.n_tokens for piece in pieces) == len(stream)
    joined: dict[int, int] = {}
    for piece in pieces:
        assert piece.first == joined.get(piece.document, 0)
        joined[piece.document] = piece.first + piece.n_tokens
    np.testing.assert_array_equal(list(joined.values()), np.diff(np.append(stream.document_starts, len(stream))))


def test_what_is_not_there_is_refused(corpus):
    with pytest.raises(UserError, match="has documents 0 to"):
        peek_document(corpus, "train", 10**6)
    n_tokens = len(corpus.split("train"))
    for seq_len in (64, n_tokens - 1):  # in the latter the last token is no row's first
        n_rows = corpus.rows("train", seq_len).n_rows
        assert peek_row(corpus, "train", n_rows - 1, seq_len)
        with pytest.raises(UserError, match="has rows 0 to"):
            peek_row(corpus, "train", n_rows, seq_len)
