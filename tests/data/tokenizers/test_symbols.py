import numpy as np
import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer

from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.config import SymbolsConfig
from isogloss.data.tokenizers.loading import build_tokenizer, load_tokenizer
from isogloss.data.tokenizers.symbols import SymbolsTokenizer


def test_ids_are_numbers(tmp_path) -> None:
    tokenizer = SymbolsTokenizer(40)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode(" 17 3\n39").tolist() == [17, 3, 39]
    assert tokenizer.decode([0, 17, 3, 0]) == "17 3 "
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, SymbolsTokenizer)
    assert again.fingerprint == tokenizer.fingerprint != SymbolsTokenizer(41).fingerprint
    foreign = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(foreign.encode("17 3 39").ids, [17, 3, 39])


@pytest.mark.parametrize("text", ["0", "40", "-1", "a", "3,4", "²"])
def test_what_is_no_id(text) -> None:
    with pytest.raises(UserError, match="numbers from 1 to 39"):
        SymbolsTokenizer(40).encode(text)
    with pytest.raises(UserError, match="does not exist"):
        SymbolsTokenizer(40).decode([40])


def test_text_has_no_symbols() -> None:
    with pytest.raises(UserError, match="generated corpora"):
        build_tokenizer(SymbolsConfig(), tuple)
