"""Models to and from folders in the layout of Hugging Face's Llama and Qwen 3, without transformers.

Weights keep their values and, but for the names of the rooms around them, their names: ``layers.0.mixer.q_proj.weight``
is ``model.layers.0.self_attn.q_proj.weight`` there. Both sides turn channels ``(i, i + C/2)``, so nothing is permuted.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer as HuggingFaceTokenizer
from torch import Tensor

from isogloss.config.base import UserError
from isogloss.config.stored import inside, parse_json, read_bounded
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.durable import whole_folder
from isogloss.interop.hf_config import from_hf, to_hf
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.registry import create_model
from isogloss.models.weights import check_finite, model_tensors
from isogloss.nn.multipliers import Multipliers

OUTSIDE_LAYERS = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
IN_A_LAYER = {
    "mixer_norm": "input_layernorm",
    "mixer": "self_attn",
    "ffn_norm": "post_attention_layernorm",
    "ffn": "mlp",
}


def hf_name(name: str) -> str:
    """What Hugging Face calls a parameter of ours, in Llama and Qwen 3 alike."""
    if name in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[name]
    layers, index, part, rest = name.split(".", 3)
    return f"model.{layers}.{index}.{IN_A_LAYER[part]}.{rest}"


def export_hf(model: Decoder, tokenizer: Tokenizer | None, folder: str | Path, seq_len: int) -> list[Path]:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.

    The exported tokenizer puts ``end_of_text`` before every text, as in training.

    Args:
        model: the decoder, in any mode.
        tokenizer: the one it was trained with.
        folder: new, or empty.
        seq_len: the row length the model is meant for, in tokens.

    Returns:
        The files written. A tokenizer that does not save itself as ``tokenizer.json`` (SentencePiece) is not among
        them.

    Raises:
        UserError: the layout lacks something that the model has, or the folder holds something.
    """
    folder = Path(folder)
    values = to_hf(model.config, model.multipliers, seq_len, None if tokenizer is None else tokenizer.end_of_text)
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name a new one")
    if folder.is_mount() or folder == Path.cwd():
        raise UserError(f"{folder} cannot be replaced as a whole; name a new folder in it")
    check_finite(model, "export an earlier checkpoint, runs/NAME/checkpoints/step-...")
    tensors = {hf_name(name): t.detach().cpu().contiguous() for name, t in model_tensors(model).items()}
    with whole_folder(folder) as aside:
        written = [_write_json(aside / "config.json", values), aside / "model.safetensors"]
        written[-1].write_bytes(save(tensors, metadata={"format": "pt"}))
        if tokenizer is not None:
            written += _export_tokenizer(tokenizer, aside, seq_len)
    return [folder / file.name for file in written]


def import_hf(folder: str | Path) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """A decoder's config and weights from a folder of Hugging Face's; ``load_weights`` puts them into a model.

    Returns:
        The config, and the weights under our names, in the type they are stored in. A tensor that the layout does
        not know keeps its name, so that ``load_weights`` names it.

    Raises:
        UserError: a file is missing or damaged, or the model has something that our decoder has not.
    """
    folder = Path(folder)
    config = from_hf(_read_json(folder / "config.json"), str(folder / "config.json"))
    with torch.device("meta"):
        names = {hf_name(name): name for name in model_tensors(create_model(config, Multipliers()))}
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        try:
            tensors |= load_file(file)
        except FileNotFoundError:
            raise UserError(f"{file}: no such file; the download is not complete") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read: {error}; fetch it again") from error
    # Older exports kept this table, which follows from the config.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if odd := [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise UserError(f"{folder}: not floating-point: {', '.join(odd[:10])}; quantised weights cannot be imported")
    if config.tied_head and (head := tensors.pop("lm_head.weight", None)) is not None:
        embedding = tensors.get("model.embed_tokens.weight")
        if embedding is None or not torch.equal(head, embedding):
            raise UserError(
                f"{folder}: config.json ties the head to the embedding, but lm_head.weight differs from it; "
                "set tie_word_embeddings to false there if the head is its own"
            )
    return config, {names.get(name, name): tensor for name, tensor in tensors.items()}


def _weight_files(folder: Path) -> list[Path]:
    """One file, or the shards that an index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        raise UserError(f"{folder} holds neither model.safetensors nor {index.name}; other formats are not read")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map; fetch it again")
    names = sorted(set(map(str, weight_map.values())))
    if odd := [name for name in names if "/" in name or "\\" in name or not name.endswith(".safetensors")]:
        raise UserError(f"{index} names {odd[0]!r}, which is no file beside it; the folder is not to be trusted")
    return [inside(folder, name, links=True) for name in names]  # its caches are made of links


def _export_tokenizer(tokenizer: Tokenizer, folder: Path, seq_len: int) -> list[Path]:
    with tempfile.TemporaryDirectory() as aside:
        tokenizer.save(Path(aside))
        file = Path(aside, "tokenizer.json")
        if not file.exists():
            return []
        backend = HuggingFaceTokenizer.from_file(str(file))
    token = backend.id_to_token(tokenizer.end_of_text)
    assert token is not None
    spec = json.loads(backend.to_str())
    spec["post_processor"] = _opening(token, tokenizer.end_of_text)
    HuggingFaceTokenizer.from_str(json.dumps(spec)).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token,
        "eos_token": token,
        "model_max_length": seq_len,
        "clean_up_tokenization_spaces": False,
    }
    return [folder / "tokenizer.json", _write_json(folder / "tokenizer_config.json", settings)]


def _opening(token: str, id: int) -> dict[str, Any]:
    """The post-processor that puts a token before each text; templates would give `$A` and `:1` in it a meaning."""
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


def _write_json(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_bounded(path), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a folder in Hugging Face's layout has one") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold an object")
    return values
