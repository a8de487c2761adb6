"""Public models of transformers: each assertion was checked by reading their ``_init_weights`` (version 5.24)."""

import json

import pytest
from pydantic import TypeAdapter

from isogloss.audit.audit import Audit, audit
from isogloss.audit.expectation import find_scheme
from isogloss.audit.findings import Severity
from isogloss.audit.target import find_target
from isogloss.config.base import UserError
from isogloss.init.schemes import SchemeConfig

pytest.importorskip("transformers")

SCHEMES = [
    part["properties"]["type"]["const"]
    for part in TypeAdapter(SchemeConfig).json_schema()["$defs"].values()
    if "const" in part.get("properties", {}).get("type", {})
]
SMALL = ("hidden_size=128", "vocab_size=512", "num_attention_heads=4", "intermediate_size=256")


def look(name: str, *settings: str, scheme: str | None = None) -> Audit:
    return audit(find_target(name, settings), find_scheme(scheme) if scheme else None)


def codes(found: Audit, severity: Severity = Severity.NOTE) -> set[tuple[str, str]]:
    return {(f.code, f.parameter) for f in found.findings if f.severity == severity}


def role_of(found: Audit) -> dict[str, str]:
    return {row.kind: row.role for row in found.rows}


def test_llama_has_writers_without_depth_and_nothing_graver() -> None:
    found = look("hf:llama", *SMALL, "num_hidden_layers=2")
    assert not found.failed
    assert {code for code, _ in codes(found)} == {"I02", "I13"}  # I13: 0.02 sqrt(128) = 0.23
    assert ("I02", "model.layers.*.self_attn.o_proj.weight") in codes(found)
    roles = role_of(found)
    assert roles["model.layers.*.mlp.gate_proj.weight"] == "ffn_gate"
    assert roles["model.layers.*.self_attn.v_proj.weight"] == "value"
    assert roles["lm_head.weight"] == "head"
    assert found.depths == (2, 4)


def test_llama_is_what_hf_default_says() -> None:
    settings = (*SMALL, "num_hidden_layers=2")
    assert "I00" not in {f.code for f in look("hf:llama", *settings, scheme="hf_default").findings}
    other = look("hf:llama", *settings, scheme="gpt2")
    assert codes(other, Severity.WARNING) == {
        ("I00", f"model.layers.*.{name}_proj.weight") for name in ("self_attn.o", "mlp.down")
    }


def test_gpt2_scales_its_writers_and_fills_them_twice() -> None:
    found = look("hf:gpt2", "n_embd=128", "n_head=4", "n_layer=2", "vocab_size=512", "n_positions=64")
    assert not found.failed
    (twice,) = [f for f in found.findings if f.code == "I08"]
    assert "c_proj" in twice.parameter
    assert twice.evidence == "2 times: normal_(mean=0, std=0.02), then normal_(mean=0, std=0.01)"  # 0.02/sqrt(4)
    assert "I02" not in {f.code for f in found.findings}
    epsilon = [f for f in found.findings if f.code == "I14"]
    assert "epsilon 1e-05 is 0.01" in epsilon[0].evidence  # of 2 * 0.02^2
    assert role_of(found)["transformer.h.*.attn.c_attn.weight"] == "query"


@pytest.mark.parametrize("name", SCHEMES)
def test_gpt2_beside_every_scheme(name: str) -> None:
    settings = ("n_embd=32", "n_head=2", "n_layer=1", "vocab_size=64", "n_positions=64")
    if name == "deepnorm":
        with pytest.raises(UserError, match="post-norm"):
            look("hf:gpt2", *settings, scheme=name)
    else:
        found = look("hf:gpt2", *settings, scheme=name)
        assert ("I00" in {f.code for f in found.findings}) == (name not in ("gpt2", "megatron"))


def test_the_decoder_of_a_pair_is_deepened_too() -> None:
    found = look("hf:t5", "d_model=64", "num_layers=2", "vocab_size=64", "d_ff=128", "num_heads=2", "d_kv=32")
    assert ("I02", "decoder.block.*.layer.2.DenseReluDense.wo.weight") in codes(found)
    assert not [limit for limit in found.limits if "dependence on depth" in limit]


def test_mamba_draws_with_a_std_of_a_tenth() -> None:
    found = look("hf:mamba", "hidden_size=128", "vocab_size=512", "num_hidden_layers=2", "state_size=4")
    assert not [f for f in found.findings if f.code in ("I04", "I10", "I11")]
    stds = {row.kind: row.std for row in found.rows}
    assert stds["backbone.embeddings.weight"] == pytest.approx(0.1, rel=0.02)  # state-spaces/mamba: 0.02
    assert ("I02", "backbone.layers.*.mixer.out_proj.weight") in codes(found)  # rescale_prenorm_residual is off
    wide = look("hf:mamba", "hidden_size=256", "vocab_size=512", "num_hidden_layers=2", "state_size=4")
    assert codes(wide, Severity.WARNING) == {("I12", "backbone.embeddings.weight")}  # 0.1 sqrt(256) = 1.6


def test_mamba_can_be_told_to_scale_its_writers() -> None:
    found = look("hf:mamba", "hidden_size=64", "vocab_size=256", "num_hidden_layers=2", "rescale_prenorm_residual=true")
    assert "I02" not in {f.code for f in found.findings}


def test_recurrent_gemma_leaves_its_mlp_out() -> None:
    """Its ``nn.Linear`` branch uses the convolution's std, sqrt(0.01 / conv1d_width), for the MLP at every depth."""
    settings = [s for s in SMALL if "intermediate" not in s]
    found = look("hf:recurrent_gemma", *settings, "lru_width=128", "intermediate_size=256", "num_hidden_layers=3")
    assert codes(found, Severity.WARNING) == {("I02", "model.layers.*.mlp_block.down_proj.weight")}
    stds = {row.kind: row.std for row in found.rows}
    for name in ("gate", "up", "down"):
        assert stds[f"model.layers.*.mlp_block.{name}_proj.weight"] == pytest.approx(0.05, rel=0.02)
    assert role_of(found)["model.layers.*.temporal_block.linear_out.weight"] == "recurrent_out"
    assert role_of(found)["model.layers.*.temporal_block.o_proj.weight"] == "attention_out"
    assert not [f for f in found.findings if f.code in ("I04", "I10", "I11")]


def test_bamba_forgets_within_a_token() -> None:
    """``dt_bias`` is 1: steps of softplus(1) = 1.3, where Mamba-2 draws 0.001 .. 0.1."""
    found = look("hf:bamba", *SMALL, "num_hidden_layers=2", "mamba_n_heads=8", "mamba_d_head=32", "mamba_d_state=8")
    (forgets,) = [f for f in found.findings if f.code == "I11"]
    assert forgets.parameter == "model.layers.*.mamba"
    assert "dt_bias" in forgets.evidence
    assert "its median step is 1.3" in forgets.evidence


def test_a_config_in_half_precision(tmp_path) -> None:
    fields = {"model_type": "llama", "dtype": "bfloat16", "num_hidden_layers": 1, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = look(str(tmp_path), *SMALL)
    assert {code for code, _ in codes(found, Severity.WARNING)} == {"I16"}
    assert "bfloat16" in found.remarks[0]


def test_gemma_scales_one_plus_weight() -> None:
    found = look("hf:gemma2", *SMALL, "num_hidden_layers=2", "head_dim=32", "num_key_value_heads=2")
    assert not found.failed
    assert "I09" not in {f.code for f in found.findings}  # weights of 0 are gains of 1
    assert "I02" not in {f.code for f in found.findings}  # branches are normed
