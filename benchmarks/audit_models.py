"""What `isogloss init audit` finds in the models that transformers ships: the tables of docs/audit.md.

    python benchmarks/audit_models.py [MODEL ...] [--record]

Widths are kept near real ones, because gates, logits and epsilons depend on them; depths and vocabularies are cut, so
that each model fits into a few hundred megabytes.
"""

import argparse
import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from records import load_record, save_record

import isogloss.audit as audit_room
from isogloss.audit.audit import audit
from isogloss.audit.findings import Severity
from isogloss.audit.huggingface import version
from isogloss.audit.target import find_target
from isogloss.report.tables import markdown_table

SIZE = "hidden_size=768 num_hidden_layers=4 vocab_size=8192"
HEADS = f"{SIZE} num_attention_heads=12 num_key_value_heads=4 intermediate_size=2048"
MAMBA_HEADS = "mamba_n_heads=12 mamba_d_head=128 mamba_d_state=64"
MODELS = {
    "gpt2": "",
    "gpt_neox": f"{SIZE} num_attention_heads=12 intermediate_size=3072",
    "opt": f"{SIZE} word_embed_proj_dim=768 ffn_dim=3072 num_attention_heads=12",
    "llama": HEADS,
    "qwen3": f"{HEADS} head_dim=128",
    "gemma": f"{HEADS} head_dim=128",
    "gemma2": f"{HEADS} head_dim=128",
    "gemma3_text": f"{HEADS} head_dim=128",
    "olmo2": f"{HEADS} pad_token_id=null",
    "nanochat": HEADS,
    "mixtral": f"{HEADS} num_local_experts=2",
    "gpt_oss": f"{HEADS} num_local_experts=4 head_dim=64",
    "t5": "d_model=512 num_layers=4 vocab_size=8192",
    "t5 untied": "d_model=512 num_layers=4 vocab_size=8192 tie_word_embeddings=false",
    "mamba": "vocab_size=8192 num_hidden_layers=4",
    "mamba2": "hidden_size=768 num_heads=24 vocab_size=8192 num_hidden_layers=4 n_groups=1",
    "recurrent_gemma": f"{HEADS} lru_width=768 num_hidden_layers=6",
    "jamba": f"{HEADS} num_experts=2 pad_token_id=0",
    "bamba": f"{HEADS} {MAMBA_HEADS}",
    "falcon_h1": f"{HEADS} mamba_d_ssm=768 mamba_n_heads=12 mamba_d_head=64 mamba_d_state=64",
    "granitemoehybrid": f"{HEADS} {MAMBA_HEADS} layer_types=[mamba,mamba,mamba,mamba] num_local_experts=0",
    "qwen3_next": f"{HEADS} num_experts=16 head_dim=64 moe_intermediate_size=256 shared_expert_intermediate_size=256",
}


ROOM = Path(audit_room.__file__).parent
CODE = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(ROOM.glob("*.py")))).hexdigest()[:16]
SETTINGS = {"models": MODELS, "code": CODE, "schemes": {}}


def look(name: str) -> dict[str, Any]:
    """Audit one of ``MODELS``."""
    found = audit(find_target(f"hf:{name.split()[0]}", MODELS[name].split()))
    findings = [{key: asdict(f)[key] for key in ("code", "severity", "parameter", "evidence")} for f in found.findings]
    facts = {"parameters": found.n_parameters, "remarks": found.remarks, "transformers": version()}
    return {"model": name, "findings": findings} | facts


def summary_table() -> str:
    """One row a model: the codes of what was found."""
    rows, record = [], load_record("audit", SETTINGS)
    for one in record:
        grave, notes = (
            ", ".join(sorted({f["code"] for f in one["findings"] if (f["severity"] == Severity.NOTE) == note}))
            or "none"
            for note in (False, True)
        )
        rows.append((one["model"], f"{one['parameters'] / 1e6:.0f} M", grave, notes))
    return markdown_table(
        (f"transformers {record[0]['transformers']}", "parameters", "graver than a note", "notes"), rows
    ).strip()


def findings_table() -> str:
    """Every finding that is graver than a note."""
    rows = [
        (one["model"], f["code"], f["severity"], f"`{f['parameter']}`", f["evidence"])
        for one in load_record("audit", SETTINGS)
        for f in one["findings"]
        if f["severity"] != Severity.NOTE
    ]
    return markdown_table(("model", "code", "", "parameter", "found"), rows).strip()


def main() -> None:
    """Audit models and, if asked, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of transformers' types; all if none is given")
    parser.add_argument("--record", action="store_true", help="write docs/results/audit.json")
    arguments = parser.parse_args()
    if arguments.record and arguments.models:
        parser.error("a record is of all models: name none with --record")
    rows = []
    for name in arguments.models or MODELS:
        start = time.perf_counter()
        rows.append(look(name))
        codes = sorted({f["code"] for f in rows[-1]["findings"]})
        print(f"{name}: {time.perf_counter() - start:.1f} s; {' '.join(codes)}", flush=True)
    if arguments.record:
        save_record("audit", "python benchmarks/audit_models.py --record", SETTINGS, rows)


if __name__ == "__main__":
    main()
