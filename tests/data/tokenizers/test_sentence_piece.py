import io
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.tokenizers import sentence_piece
from isogloss.data.tokenizers.base import lossy_characters
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.data.tokenizers.sentence_piece import SentencePieceTokenizer

sentencepiece = pytest.importorskip("sentencepiece")


def train(**options) -> bytes:
    model = io.BytesIO()
    texts = ["the cat sat on the mat", "a cat and a hat", "hats and cats and mats"] * 20
    defaults = {"vocab_size": 300, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2}
    defaults |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "model_type": "bpe"}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **(defaults | options))
    return model.getvalue()


@pytest.fixture(scope="module", params=[True, False])
def tokenizer(request) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train(add_dummy_prefix=request.param))


# U+2581 is how the format writes a space; NUL ends a text in it.
@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁\x00")))
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.tolist() == tokenizer._processor.encode(text)


def test_batch_special_tokens_and_ids(tokenizer):
    texts = ["a cat</s>", "", "\ud800"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [
        tokenizer.encode(text).tolist() for text in texts
    ]
    assert tokenizer.end_of_text == 2 not in tokenizer.encode("a</s>")
    assert tokenizer.token_bytes(2) == b""
    assert max(tokenizer.encode("é😀 cats")) < tokenizer.n_tokens


def test_saved_equals_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint


def test_models_that_lose_text_are_refused():
    for options in [{"normalization_rule_name": "nfkc"}, {"byte_fallback": False, "vocab_size": 40}]:
        with pytest.raises(UserError, match="does not keep text as it is"):
            SentencePieceTokenizer(train(**options))


def test_a_model_without_sequence_tokens_is_refused():
    with pytest.raises(UserError, match="neither an end-of-sequence nor"):
        SentencePieceTokenizer(train(bos_id=-1, eos_id=-1))
    assert SentencePieceTokenizer(train(eos_id=-1)).end_of_text == 1


@pytest.mark.parametrize("given", ["<end>", 3])
def test_a_setting_names_the_piece_that_opens_documents(tmp_path, given):
    model = train(bos_id=-1, eos_id=-1, control_symbols=["<end>"])
    number = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id("<end>")
    given = number if isinstance(given, int) else given
    tokenizer = SentencePieceTokenizer(model, end_of_text=given)
    assert tokenizer.end_of_text == number
    assert tokenizer.decode(tokenizer.encode("a <end> cat")) == "a <end> cat"
    tokenizer.save(tmp_path)
    saved = load_tokenizer(tmp_path)
    assert (saved.end_of_text, saved.fingerprint) == (number, tokenizer.fingerprint)
    for wrong, message in {
        "<nope>": "none of its pieces",
        9999: "none of its pieces",
        "\u2581a": "ordinary text",
    }.items():
        with pytest.raises(UserError, match=message):
            SentencePieceTokenizer(model, end_of_text=wrong)


def test_characters_that_do_not_come_back_are_told(tokenizer):
    for character in ("▁", "\0"):
        is_lost = tokenizer.decode(tokenizer.encode(f"a{character}b")) != f"a{character}b"
        assert (character in lossy_characters(tokenizer)) == is_lost


def test_broken_files_and_a_missing_library_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.model").write_bytes(b"\x00garbage" * 5)
    with pytest.raises(UserError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(sentence_piece, "sentencepiece", None)
    with pytest.raises(UserError, match=r"pip install 'isogloss\[sentencepiece\]'"):
        load_tokenizer(tmp_path)
