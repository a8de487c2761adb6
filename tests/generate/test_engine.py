"""Generated text: the same as without a cache, whole characters, ended where it should, the model left as it was."""

import pytest
import torch

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.generate import engine
from isogloss.generate.engine import generate, generate_ids
from isogloss.generate.sampling import SamplingConfig

VARIANTS = [
    {},
    {"n_kv_heads": 2, "window": 5, "qk_norm": True},
    {"n_kv_heads": 1, "softcap": 2.0},
    {"backend": "plain", "window": 3},
]


class ScriptedModel(torch.nn.Module):
    """Writes given ids one after the other, whatever it reads, and keeps what it was given to read."""

    def __init__(self, ids: list[int], vocab_size: int = 300) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))
        self.ids, self.vocab_size, self.read = list(ids), vocab_size, []

    def blocks(self):
        return []

    def loss(self, batch):
        raise AssertionError("writing text needs no loss")

    def flops_per_token(self, seq_len):
        raise AssertionError("writing text counts nothing")

    def new_state(self, batch_size, max_len):
        self.max_len = max_len
        return object()

    def forward(self, tokens, state=None):
        self.read += tokens[0].tolist()
        logits = torch.zeros(1, tokens.shape[1], self.vocab_size)
        # Rows that only fill the vocabulary are the likeliest.
        logits[..., 257:] = 100.0
        logits[..., self.ids[0]] = 50.0
        del self.ids[0]
        return logits


def write(text: bytes | list[int], sampling: SamplingConfig | None = None) -> list[str]:
    sampling = sampling or SamplingConfig(temperature=0, max_tokens=len(text))
    return list(generate(ScriptedModel([*text]), BytesTokenizer(), "", sampling))


@pytest.mark.parametrize("mixer", VARIANTS, ids=str)
@pytest.mark.parametrize("chunk", [3, 512])
def test_greedy_decoding_equals_the_whole_row_read_anew(make_decoder, monkeypatch, mixer, chunk):
    monkeypatch.setattr(engine, "PREFILL_TOKENS", chunk)
    model = make_decoder(mixer=mixer)
    row = torch.tensor([[4, 8, 15, 16, 23, 42, 3], [1, 2, 3, 4, 5, 6, 7]])
    sampling = SamplingConfig(temperature=0, max_tokens=20)
    found = torch.stack(list(generate_ids(model, row, sampling, 50)), 1)
    with torch.no_grad():
        for _ in range(20):
            row = torch.cat((row, model(row)[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(found, row[:, 7:])


def test_the_seed_decides(make_decoder):
    model = make_decoder(vocab_size=257)
    texts = [
        "".join(generate(model, BytesTokenizer(), "a", SamplingConfig(seed=seed, max_tokens=30))) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_rows_that_only_fill_the_vocabulary_are_never_chosen(make_decoder):
    model = make_decoder(vocab_size=320)
    with torch.no_grad():
        model.head.weight[257:] *= 1000
    for ids in generate_ids(model, torch.tensor([[256]] * 8), SamplingConfig(max_tokens=20), 257):
        assert int(ids.max()) < 257


def test_prompt_is_read_as_a_document_and_not_repeated():
    model = ScriptedModel([*b"yes"])
    out = generate(model, BytesTokenizer(), "no", SamplingConfig(temperature=0, max_tokens=3))
    assert "".join(out) == "yes"
    assert model.read == [256, *b"noye"]


def test_pieces_are_whole_characters():
    text = "aé→𝄞z"
    assert write(text.encode()) == ["a", "é", "→", "𝄞", "z"]


def test_broken_characters_become_replacement_characters():
    assert "".join(write(b"a\xe2\x86")) == "a\ufffd"


def test_end_of_text_ends():
    assert "".join(write([*b"ab", 256, *b"cd"])) == "ab"


@pytest.mark.parametrize(
    ("stop", "expected"), [(["lo"], "hel"), (["l", "lo"], "he"), (["lox"], "hello"), (["o"], "hell")]
)
def test_stop_strings_straddle_tokens(stop, expected):
    assert "".join(write(b"hello", SamplingConfig(temperature=0, max_tokens=5, stop=tuple(stop)))) == expected


def test_max_tokens():
    model = ScriptedModel([97] * 9)
    assert list(generate(model, BytesTokenizer(), "", SamplingConfig(temperature=0, max_tokens=4))) == ["a"] * 4
    assert model.max_len == 4  # end of text and three of the four


def test_the_model_and_its_caller_are_left_as_they_were(make_decoder):
    model = make_decoder(vocab_size=257).train()
    model.layers[0].eval()
    pieces = generate(model, BytesTokenizer(), "x", SamplingConfig(max_tokens=5))
    next(pieces)  # suspended in the middle
    assert model.training
    assert not model.layers[0].training
    assert model.layers[1].training
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
def test_bfloat16(make_decoder, backend):
    model = make_decoder(vocab_size=257, mixer={"backend": backend, "n_kv_heads": 2})
    sampling = SamplingConfig(temperature=0, max_tokens=5)
    ids = list(generate_ids(model, torch.tensor([[256, 5, 6]]), sampling, 257, precision="bf16"))
    assert len(ids) == 5


@pytest.mark.campaign(17)
def test_a_smaller_vocabulary_than_the_tokenizers_is_refused(make_decoder):
    with pytest.raises(UserError, match="257 tokens, but the model knows only 250"):
        list(generate(make_decoder(vocab_size=250), BytesTokenizer(), "", SamplingConfig()))


@pytest.mark.campaign(22)
def test_damaged_weights_are_refused(make_decoder):
    model = make_decoder(vocab_size=257)
    with torch.no_grad():
        model.norm.weight[3] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        list(generate(model, BytesTokenizer(), "", SamplingConfig()))


@pytest.mark.slow
def test_compiled_models_write_the_same(make_decoder):
    from isogloss.build import compile_model

    sampling = SamplingConfig(temperature=0, max_tokens=40)
    model = make_decoder(vocab_size=257)
    expected = "".join(generate(model, BytesTokenizer(), "x", sampling))
    compile_model(model)
    assert "".join(generate(model, BytesTokenizer(), "x", sampling)) == expected
