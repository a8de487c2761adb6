"""Exported models give our logits in any version of transformers: the oldest and the newest that exports are made for.

    python benchmarks/exports.py [VERSION ...]

Each version is installed by pip into a folder of its own, with what it requires, and runs in a process of its own
beside this environment's PyTorch. Exit code 1 where a logit differs by more than the tolerance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

OLDEST = "4.51"
TOLERANCE = 1e-5
"""Largest difference of a logit. Logits are of order 1, the models small and in float32."""
N_TOKENS = 96

ROPE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"theta": 500.0, "scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"scaling": {"type": "llama3", "original_seq_len": 32, "low_freq_factor": 1.5}},
    "yarn": {"scaling": {"type": "yarn", "factor": 4.0, "original_seq_len": 16, "beta_fast": 4.0}},
    "yarn, factor 2.7": {"scaling": {"type": "yarn", "factor": 2.7, "original_seq_len": 16, "beta_fast": 4.0}},
    "yarn, as trained": {"scaling": {"type": "yarn", "factor": 2.0, "original_seq_len": 128}},
}
MODELS: dict[str, dict[str, Any]] = {
    f"{layout}, {name}": {"mixer": {**mixer, "rotary": rope, "head_dim": 16}, "tied_head": layout == "tied"}
    for layout, mixer in (("llama", {"n_kv_heads": 2}), ("tied", {}), ("qwen3", {"qk_norm": True}))
    for name, rope in ROPE.items()
}


def export(folder: Path, variant: dict[str, Any]) -> None:
    """Write a small model with weights far from the start's, some tokens, and the logits of all but the first few."""
    from isogloss.build import build_model
    from isogloss.data.tokenizers.bytes import BytesTokenizer
    from isogloss.init.schemes import LinguaConfig
    from isogloss.interop.hf import export_hf
    from isogloss.models.decoder import DecoderConfig

    config = DecoderConfig.model_validate(
        {"d_model": 64, "n_layers": 2, "vocab_size": 257, "ffn": {"type": "swiglu", "d_ff": 96}}
        | variant
        | {"mixer": {"n_heads": 4, **variant["mixer"]}}
    )
    model = build_model(config, LinguaConfig(), seed=0, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
        tokens = torch.randint(0, 257, (2, N_TOKENS), generator=generator)
        logits = model(tokens)
    export_hf(model, BytesTokenizer(), folder, seq_len=N_TOKENS)
    save_file({"tokens": tokens, "logits": logits}, folder / "expected.st")


def check(folder: Path) -> dict[str, float]:
    """The largest difference of a logit in each exported model, by the transformers that is imported here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {}
    for path in sorted(folder.iterdir()):
        expected = load_file(path / "expected.st")
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        assert AutoTokenizer.from_pretrained(path)("ab").input_ids == [256, 97, 98]
        with torch.no_grad():
            # Short rows, rows beyond the original length, and a short one again: some scalings remember.
            for n_tokens in (8, N_TOKENS, 8):
                difference = (model(expected["tokens"][:, :n_tokens]).logits - expected["logits"][:, :n_tokens]).abs()
                found[path.name] = max(found.get(path.name, 0.0), difference.max().item())
    return found


def run(version: str | None, exported: Path) -> dict[str, Any]:
    """What a version finds: its full number, and the differences; ``None``: the one that is installed here."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as packages:
        if version is not None:
            wanted = "transformers" if version == "newest" else f"transformers=={version}.*"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", packages, wanted]
            subprocess.run(command, check=True)
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, environment.get("PYTHONPATH")]))
        command = [sys.executable, __file__, "--check", str(exported)]
        return json.loads(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", help="such as 4.53; 'newest'; the oldest and newest if none is given")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        import transformers

        print(json.dumps({"version": transformers.__version__, "differences": check(arguments.check)}))
        return
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, variant in MODELS.items():
            export(Path(folder, name), variant)
        for version in arguments.versions or (OLDEST, "newest"):
            found = run(version, Path(folder))
            worst = max(found["differences"], key=found["differences"].__getitem__)
            bad = {name: value for name, value in found["differences"].items() if not value <= TOLERANCE}
            print(f"transformers {found['version']}: {len(found['differences'])} models, largest difference of a logit")
            print(f"  {found['differences'][worst]:.1e} ({worst}){''.join(f'; {n}: {v:.1e}' for n, v in bad.items())}")
            failed |= bool(bad)
    sys.exit(failed)


if __name__ == "__main__":
    main()
