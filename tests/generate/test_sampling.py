"""Laws of the filters, of the draw, and of stop strings however the text is cut."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.generate.sampling import SamplingConfig, StopScanner, choose, kept_weights

logit_rows = st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=12)


def support(logits: list[float], **settings) -> set[int]:
    """Which ids can be chosen, by the definitions, one after the other."""
    config = SamplingConfig(**settings)
    weights = [math.exp((x - max(logits)) / config.temperature) for x in logits]
    ranking = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    if config.top_k is not None:
        ranking = ranking[: config.top_k]
    if config.top_p is not None:
        total, reached, nucleus = sum(weights[i] for i in ranking), 0.0, []
        for i in ranking:
            if reached >= config.top_p * total:
                break
            nucleus.append(i)
            reached += weights[i]
        ranking = nucleus
    if config.min_p is not None:
        ranking = [i for i in ranking if weights[i] >= config.min_p * weights[ranking[0]]]
    return set(ranking)


def chosen(logits: list[float], n: int, **settings) -> list[int]:
    rows = torch.tensor(logits).expand(n, -1)
    return choose(rows, SamplingConfig(**settings), torch.Generator().manual_seed(0)).tolist()


@given(
    logit_rows,
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sampled_from([None, 1, 3, 100]),
    st.sampled_from([None, 0.123, 0.777, 0.9999]),
    st.sampled_from([None, 0.0, 0.17, 0.83]),
)
def test_only_and_all_of_the_support_is_drawn(logits, temperature, top_k, top_p, min_p):
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    allowed = support(logits, **settings)
    assert set(chosen(logits, 200, **settings)) <= allowed
    weights = torch.tensor([logits]).double().sub(max(logits)).div(temperature).exp()
    ranked = weights.sort(dim=-1, descending=True, stable=True)[0]
    assert int((kept_weights(ranked, SamplingConfig(**settings)) > 0).sum()) == len(allowed)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.75}, [0.5 / 0.8, 0.3 / 0.8, 0, 0]),
        ({"top_p": 0.81}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        ({"min_p": 0.2}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        # Of what top-k left, 0.625 + 0.375, the first reaches 0.6; of the whole it would not.
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [x**2 / 0.365 for x in (0.5, 0.3, 0.15, 0.05)]),
    ],
)
def test_frequencies(settings, expected):
    n = 20_000
    drawn = chosen([math.log(p) for p in (0.5, 0.3, 0.15, 0.05)], n, **settings)
    for i, p in enumerate(expected):
        # 4.5 standard errors
        assert abs(drawn.count(i) / n - p) <= 4.5 * math.sqrt(p * (1 - p) / n) + 1e-12


@given(logit_rows)
def test_greedy_takes_the_first_of_the_likeliest(logits):
    assert chosen(logits, 3, temperature=0.0) == [logits.index(max(logits))] * 3


@given(logit_rows, st.sampled_from([1e-300, 1e-30, 1e-3]))
def test_a_low_temperature_is_nearly_greedy(logits, temperature):
    best = {i for i, x in enumerate(logits) if x == max(logits)}
    assert set(chosen(logits, 20, temperature=temperature)) <= best


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e6])
def test_minus_infinity_is_never_chosen(temperature):
    logits = [-math.inf, 1.0, -math.inf, 0.0, -math.inf]
    assert set(chosen(logits, 500, temperature=temperature)) <= {1, 3}


def test_rows_draw_each_for_itself():
    logits = torch.tensor([[0.0, -math.inf, -math.inf], [-math.inf, -math.inf, 0.0]])
    assert choose(logits, SamplingConfig(), torch.Generator().manual_seed(0)).tolist() == [0, 2]
    assert len(set(chosen([0.0] * 50, 50))) > 20


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1 - 2**-53, 3)])
def test_the_cumulative_distribution_is_inverted_edges_included(monkeypatch, uniform, expected):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    assert chosen([0.0, 0.0, 0.0, 0.0, -math.inf], 2) == [expected] * 2


def test_equally_likely_tokens_rank_by_their_id():
    assert set(chosen([0.0] * 1000, 200, top_k=3)) == {0, 1, 2}


def test_the_seed_decides():
    logits = torch.zeros(64, 100)
    first, again, other = (choose(logits, SamplingConfig(), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.campaign(22)
@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad, temperature):
    with pytest.raises(UserError, match="not finite"):
        chosen(bad, 1, temperature=temperature)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"max_tokens": 0},
        {"stop": [""]},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SamplingConfig(**settings)


short_texts = st.text("ab", max_size=12)


@example(["abb"], ["abb", "b"])  # begins first, but is completed last
@example(["a", "bb"], ["abb", "b"])
@given(st.lists(short_texts, max_size=6), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(pieces, stop):
    text = "".join(pieces)
    ends = [(text.index(s) + len(s), text.index(s)) for s in stop if s in text]
    expected = text[: min(ends)[1]] if ends else text
    scanner, out = StopScanner(stop), ""
    for piece in pieces:
        out += scanner.push(piece)
        assert expected.startswith(out)
        if scanner.stopped:
            break
    assert scanner.stopped == bool(ends)
    assert out + scanner.close() == expected


def test_what_cannot_begin_a_stop_string_is_not_held_back():
    scanner = StopScanner(["\n\n", "END"])
    assert [scanner.push(piece) for piece in ("one E", "Nd two\n", "x")] == ["one ", "ENd two", "\nx"]
