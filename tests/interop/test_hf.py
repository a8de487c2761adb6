"""Models go to Hugging Face's Llama or Qwen 3 and back with the same logits; what cannot go is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.interop.hf import export_hf, hf_name, import_hf
from isogloss.interop.hf_config import from_hf, to_hf
from isogloss.models.weights import load_weights
from isogloss.nn.multipliers import Multipliers

transformers = pytest.importorskip("transformers")

VARIANTS = {
    "plain": {},
    "grouped": {"mixer": {"n_kv_heads": 2}},
    "tied": {"tied_head": True, "norm_eps": 1e-3},
    "wide heads": {"mixer": {"head_dim": 24, "n_kv_heads": 1}},
    "linear": {"mixer": {"rotary": {"theta": 500.0, "scaling": {"type": "linear", "factor": 4.0}}}},
    "llama3": {
        "mixer": {"rotary": {"scaling": {"type": "llama3", "original_seq_len": 16, "low_freq_factor": 1.5}}},
    },
    "yarn": {
        "mixer": {
            "rotary": {"scaling": {"type": "yarn", "factor": 4.0, "original_seq_len": 16, "beta_fast": 4.0}},
            "head_dim": 16,
        },
    },
    "qk_norm": {"mixer": {"qk_norm": True}, "norm_eps": 1e-3},
    "qk_norm, three wide heads": {"mixer": {"qk_norm": True, "n_heads": 3, "head_dim": 24, "n_kv_heads": 1}},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
TOKENS = torch.randint(0, 50, (2, 60), generator=torch.Generator().manual_seed(0))


def logits_of(model):
    with torch.no_grad():
        return model(TOKENS)


@variants
def test_exported_logits_are_the_same(make_decoder, tmp_path, variant):
    model = make_decoder(**variant)
    export_hf(model, None, tmp_path / "out", seq_len=64)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = transformers.Qwen3ForCausalLM if model.config.mixer.qk_norm else transformers.LlamaForCausalLM
    assert type(theirs) is expected
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(logits_of(theirs).logits, logits_of(model), rtol=1e-4, atol=1e-4)


@variants
def test_imported_logits_are_the_same(make_decoder, tmp_path, variant):
    ours = make_decoder(**variant)
    values = to_hf(ours.config, Multipliers(), 64, None)
    torch.manual_seed(0)
    their_config = transformers.AutoConfig.for_model(**values, initializer_range=0.2)
    theirs = transformers.AutoModelForCausalLM.from_config(their_config, dtype=torch.float32).eval()
    theirs.save_pretrained(tmp_path)
    config, tensors = import_hf(tmp_path)
    assert config == ours.config
    model = make_decoder(**config.model_dump(), seed=5)
    load_weights(model, tensors)
    torch.testing.assert_close(logits_of(model), logits_of(theirs).logits, rtol=1e-4, atol=1e-4)


@variants
def test_round_trip_is_exact(make_decoder, tmp_path, variant):
    model = make_decoder(**variant)
    export_hf(model, None, tmp_path / "out", seq_len=64)
    config, tensors = import_hf(tmp_path / "out")
    assert config == model.config
    again = make_decoder(**config.model_dump(), seed=9)
    load_weights(again, tensors)
    assert torch.equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize("old", [True, False])
@variants
def test_config_files_of_transformers_4_and_5(make_decoder, variant, old):
    """Version 4 writes rope_theta and rope_scaling, version 5 rope_parameters."""
    config = make_decoder(**variant).config
    values = to_hf(config, Multipliers(), 64, None)
    for key in ("rope_parameters",) if old else ("rope_theta", "rope_scaling"):
        del values[key]
    if old and values["rope_scaling"]:
        values["rope_scaling"]["type"] = values["rope_scaling"].pop("rope_type")
    assert from_hf(values, "config.json") == config


def test_tokenizer(make_decoder, tmp_path):
    model = make_decoder(vocab_size=257)
    written = export_hf(model, BytesTokenizer(), tmp_path / "out", seq_len=64)
    assert sorted(path.name for path in written) == sorted(path.name for path in (tmp_path / "out").iterdir())
    for kind in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = kind.from_pretrained(tmp_path / "out")
        text = "héllo  <|endoftext|> world"
        assert theirs("héllo  ").input_ids == [256, *"héllo  ".encode()]
        assert theirs.eos_token_id == theirs.bos_token_id == 256
        assert theirs.decode(theirs("héllo  ,").input_ids, skip_special_tokens=True) == "héllo  ,"
        assert theirs.model_max_length == 64
        assert theirs(text).input_ids[0] == 256
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.eos_token_id == 256


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (
            {"mixer": {"qk_norm": True, "window": 4}, "logit_softcap": 2.0},
            "Qwen3 cannot.*window is 4; model.logit_softcap",
        ),
        ({"mixer": {"softcap": 2.0}}, "model.mixer.softcap is 2.0"),
        ({"logit_softcap": 3.0}, "model.logit_softcap is 3.0"),
        ({"ffn": {"type": "gelu", "d_ff": 8}}, "model.ffn.type is gelu"),
        ({"ffn": {"type": "relu2", "d_ff": 8}}, "model.ffn.type is relu2"),
        ({"mixer": {"n_heads": 3, "head_dim": 8}}, "not a multiple"),
    ],
)
def test_what_llama_lacks_is_named(make_decoder, tmp_path, variant, words):
    model = make_decoder(**variant)
    with pytest.raises(UserError, match=words):
        export_hf(model, None, tmp_path / "out", seq_len=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"attention_bias": True, "mlp_bias": True}, "attention_bias is set.*mlp_bias is set"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5}}, "mscale"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1.5}}, "attention_factor is 1.5"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": [1]}, "must be an object"),
        ({"hidden_size": None}, "hidden_size must be a positive whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_attention_heads": "4"}, "num_attention_heads must be"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"rms_norm_eps": "small"}, "norm_eps"),
        ({"head_dim": "x"}, "head_dim"),
    ],
    ids=str,
)
def test_configs_we_cannot_build_are_refused(make_decoder, change, words):
    values = to_hf(make_decoder().config, Multipliers(), 64, None)
    with pytest.raises(UserError, match=words):
        from_hf({**values, **change}, "config.json")


def exported(make_decoder, folder, **variant):
    model = make_decoder(**variant)
    export_hf(model, None, folder, seq_len=64)
    return model


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return files


def test_shards(make_decoder, tmp_path):
    model = exported(make_decoder, tmp_path)
    shard(tmp_path)
    config, tensors = import_hf(tmp_path)
    again = make_decoder(**config.model_dump(), seed=9)
    load_weights(again, tensors)
    assert torch.equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "..", 5])
def test_an_index_cannot_reach_out_of_its_folder(make_decoder, tmp_path, name):
    exported(make_decoder, tmp_path / "in")
    shutil.copy(tmp_path / "in/model.safetensors", tmp_path / "x.safetensors")
    files = shard(tmp_path / "in")
    (tmp_path / "in/model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {**files, "model.norm.weight": name}})
    )
    with pytest.raises(UserError, match="no file beside it"):
        import_hf(tmp_path / "in")


def damage_config(folder):
    (folder / "config.json").write_text("{")


def damage_index(folder):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')


def lose_a_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_config, "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold an object"),
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (lambda f: (f / "model.safetensors").unlink(), "holds neither"),
        (lambda f: (f / "model.safetensors").write_bytes(b"broken"), "cannot be read"),
        (damage_index, "no weight_map"),
        (lose_a_shard, "00002-of-00002.safetensors: no such file"),
    ],
)
def test_damaged_folders(make_decoder, tmp_path, damage, words):
    exported(make_decoder, tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words):
        import_hf(tmp_path)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_unexpected_and_misshapen_weights_are_listed(make_decoder, tmp_path):
    model = exported(make_decoder, tmp_path)

    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(3)
        tensors["model.norm.weight"] = torch.zeros(5)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # old files have it; no weight

    rewrite(tmp_path, change)
    before = logits_of(model)
    with pytest.raises(UserError) as error:
        load_weights(model, import_hf(tmp_path)[1])
    for words in ("layers.1.ffn.up_proj.weight is missing", "up_proj.bias is unexpected", "norm.weight has shape (5,)"):
        assert words in str(error.value)
    assert "inv_freq" not in str(error.value)
    assert torch.equal(logits_of(model), before)


def test_quantised_weights(make_decoder, tmp_path):
    exported(make_decoder, tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(50, 32, dtype=torch.int8)}))
    with pytest.raises(UserError, match=r"lm_head.weight \(torch.int8\)"):
        import_hf(tmp_path)


def test_a_tied_head_may_be_stored_but_not_differ(make_decoder, tmp_path):
    exported(make_decoder, tmp_path, tied_head=True)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    config, tensors = import_hf(tmp_path)
    load_weights(make_decoder(**config.model_dump()), tensors)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(UserError, match="differs"):
        import_hf(tmp_path)


def test_folders_in_use_are_not_written_to(make_decoder, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not an empty folder"):
        exported(make_decoder, tmp_path)
    with pytest.raises(UserError, match="not an empty folder"):
        exported(make_decoder, tmp_path / "mine.txt")


def test_every_name_is_llamas(make_decoder):
    model = make_decoder()
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**to_hf(model.config, Multipliers(), 64, None)))
    assert {hf_name(name) for name, _ in model.named_parameters()} == set(theirs.state_dict())
