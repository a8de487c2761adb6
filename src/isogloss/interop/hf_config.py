"""A decoder's config as the ``config.json`` of Hugging Face's Llama, or with QK-norm of its Qwen 3, and back.

Rotary positions stand in the file twice: transformers 5 reads ``rope_parameters``, version 4 ``rope_theta`` and
``rope_scaling``. What one side has and the other lacks is refused, never left out. The file gives the same logits from
transformers 4.51 on; ``benchmarks/exports.py`` runs it in any version.
"""

from typing import Any

from pydantic import ValidationError

from isogloss.config.base import UserError
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.rotary import YarnScaling, frequencies

# Our name -> Hugging Face's, for what every scaling may hold.
SCALING_KEYS = {
    "type": "rope_type",
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "original_seq_len": "original_max_position_embeddings",
}


WHOLE_NUMBERS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def to_hf(config: DecoderConfig, multipliers: Multipliers, seq_len: int, end_of_text: int | None) -> dict[str, Any]:
    """The content of ``config.json``.

    The z-loss is not in it: it belongs to training and changes no output.

    Args:
        config: with its vocabulary resolved.
        multipliers: of the scheme that it was trained with.
        seq_len: the row length the model is meant for, in tokens.
        end_of_text: the token that opens and closes documents, where there is a tokenizer.

    Raises:
        UserError: the model has something that the layout has not; all of it is listed.
    """
    mixer = config.mixer
    heads = mixer.heads(config.d_model)
    layout = "Qwen3" if mixer.qk_norm else "Llama"
    refused = []
    if not multipliers.all_one:
        refused.append("its initialisation puts multipliers into the forward pass")
    if config.norm != "pre":
        refused.append(f"model.norm is {config.norm}")
    if mixer.window is not None:
        refused.append(f"model.mixer.window is {mixer.window}")
    if mixer.softcap is not None:
        refused.append(f"model.mixer.softcap is {mixer.softcap}")
    if config.logit_softcap is not None:
        refused.append(f"model.logit_softcap is {config.logit_softcap}")
    if not isinstance(config.ffn, SwiGLUConfig):
        refused.append(f"model.ffn.type is {config.ffn.type}, not swiglu")
    if config.d_model % heads.n_heads and layout == "Llama":
        refused.append(f"model.d_model ({config.d_model}) is not a multiple of model.mixer.n_heads ({heads.n_heads})")
    if refused:
        raise UserError(
            f"Hugging Face's {layout} cannot express this model: {'; '.join(refused)}. "
            "Only a model trained without it can be exported"
        )
    scaling = mixer.rotary.scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        rope = {SCALING_KEYS[key]: value for key, value in scaling.model_dump().items()}
    max_len = seq_len
    if isinstance(scaling, YarnScaling):
        # Transformers 4.51 to 4.55 take the ratio of the two lengths for the factor. Where it cannot be exact, all
        # versions take max_position_embeddings for an original length that is left out.
        max_len = round(scaling.factor * scaling.original_seq_len)
        if max_len / scaling.original_seq_len != scaling.factor:
            max_len = rope.pop(SCALING_KEYS["original_seq_len"])
    return {
        "architectures": [f"{layout}ForCausalLM"],
        "model_type": layout.lower(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ffn.width(config.d_model),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": heads.n_heads,
        "num_key_value_heads": heads.n_kv_heads,
        "head_dim": heads.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": max_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": mixer.rotary.theta,
        "rope_scaling": None if scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": mixer.rotary.theta},
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        # Qwen 3's defaults hold a window, which some versions apply to long rows although it is off.
        **({"use_sliding_window": False, "sliding_window": None} if layout == "Qwen3" else {}),
        "mlp_bias": False,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }


def from_hf(values: dict[str, Any], origin: str) -> DecoderConfig:
    """The decoder that a ``config.json`` describes.

    Args:
        values: its content.
        origin: where it was read, for messages.

    Raises:
        UserError: it is neither Llama nor Qwen 3, lacks something, or has what our decoder has not; all is listed.
    """
    if (kind := values.get("model_type")) not in ("llama", "qwen3"):
        raise UserError(f"{origin}: model_type is {kind!r}; only 'llama' and 'qwen3' can be imported")
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    sizes = {key: values.get(key) for key in WHOLE_NUMBERS}
    problems = [f"{key} must be a positive whole number" for key, n in sizes.items() if type(n) is not int or n < 1]
    problems += _unsupported(values, rope) if isinstance(rope, dict) else ["rope_parameters must be an object"]
    if problems:
        raise UserError(f"{origin}: {'; '.join(problems)}")
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    # What a file of Qwen 3 leaves out has its own defaults.
    head_dim = values.get("head_dim", 128 if kind == "qwen3" else None)
    n_kv_heads = values.get("num_key_value_heads", 32 if kind == "qwen3" else None)
    max_len = values.get("max_position_embeddings", 32_768 if kind == "qwen3" else 2048)
    theta = rope.get("rope_theta") or values.get("rope_theta") or 10_000.0
    try:
        config = DecoderConfig.model_validate(
            {
                "d_model": d_model,
                "n_layers": values["num_hidden_layers"],
                "vocab_size": values["vocab_size"],
                "tied_head": values.get("tie_word_embeddings", False),
                "norm_eps": values.get("rms_norm_eps", 1e-6),
                "mixer": {
                    "n_heads": n_heads,
                    "n_kv_heads": None if n_kv_heads == n_heads else n_kv_heads,
                    "head_dim": None if head_dim == d_model / n_heads else head_dim,
                    "qk_norm": kind == "qwen3",
                    "rotary": {
                        "theta": theta,
                        "scaling": _scaling(rope, max_len),
                    },
                },
                "ffn": {"type": "swiglu", "d_ff": values["intermediate_size"]},
            }
        )
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{origin} describes no decoder we can build: {found}") from error
    sharpening = frequencies(config.mixer.rotary, config.mixer.heads(d_model).head_dim)[1]
    if _rope_type(rope) == "yarn" and (asked := rope.get("attention_factor")) not in (None, sharpening):
        raise UserError(f"{origin}: YaRN's attention_factor is {asked}; only its default, {sharpening}, is supported")
    return config


def _rope_type(rope: dict[str, Any]) -> str:
    return rope.get("rope_type") or rope.get("type") or "default"


def _unsupported(values: dict[str, Any], rope: dict[str, Any]) -> list[str]:
    """What our decoder has not."""
    switches = ("attention_bias", "mlp_bias", "use_sliding_window")
    found = [f"{key} is set, which is not supported" for key in switches if values.get(key)]
    if (activation := values.get("hidden_act", "silu")) not in ("silu", "swish"):
        found.append(f"hidden_act is {activation}; only silu is supported")
    if values.get("quantization_config"):
        found.append("the weights are quantised (quantization_config); export them in a floating-point type first")
    for place in (values, rope):
        if place.get("partial_rotary_factor") not in (None, 1, 1.0):
            found.append(f"partial_rotary_factor is {place['partial_rotary_factor']}; only whole heads are turned here")
    kind = _rope_type(rope)
    if kind not in ("default", "linear", "llama3", "yarn"):
        found.append(f"rope_type is {kind}; supported are default, linear, llama3, yarn")
    if kind == "yarn":
        if rope.get("truncate") is False:
            found.append("YaRN's truncate is false; only true is supported")
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            found.append("YaRN's mscale and mscale_all_dim are not supported")
    return found


def _scaling(rope: dict[str, Any], max_len: int) -> dict[str, Any] | None:
    """The fields of our scaling; the original length is the whole length where it is not said."""
    kind = _rope_type(rope)
    if kind == "default":
        return None
    fields = {key: rope[name] for key, name in SCALING_KEYS.items() if rope.get(name) is not None}
    if kind in ("llama3", "yarn"):
        fields.setdefault("original_seq_len", max_len)
    return {**fields, "type": kind}
