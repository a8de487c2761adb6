"""What `isogloss init audit` finds in the models that transformers ships: the tables of docs/audit.md.

``python benchmarks/audit.py`` prints them; with ``--write`` they replace those of docs/audit.md. Widths are kept near
real ones, because gates, logits and epsilons depend on them; depths and vocabularies are cut, so that each model fits
into a few hundred megabytes.
"""

import argparse
import re
import time
from pathlib import Path

from isogloss.audit.audit import Audit, audit
from isogloss.audit.findings import Severity
from isogloss.audit.huggingface import version
from isogloss.audit.target import find_target

PAGE = Path(__file__).parent.parent / "docs/audit.md"
BEGIN, END = "<!-- generated: python benchmarks/audit.py --write -->", "<!-- end of what is generated -->"
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
    "gpt_oss": f"{HEADS} num_local_experts=2 head_dim=64",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="of transformers' types; all if not given")
    parser.add_argument("--write", action="store_true", help=f"replace the tables of {PAGE.name}")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.models or MODELS:
        start = time.perf_counter()
        found[name] = audit(find_target(f"hf:{name.split()[0]}", MODELS[name].split()))
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
    tables = "\n".join([f"transformers {version()}.", "", *summary(found), "", *graver(found)])
    print(tables)
    if arguments.write:
        page = PAGE.read_text()
        inside = f"{BEGIN}\n{tables}\n{END}"
        PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: inside, page, flags=re.DOTALL))


def summary(found: dict[str, Audit]) -> list[str]:
    lines = ["| model | parameters | graver than a note | notes |", "|---|---|---|---|"]
    for name, one in found.items():
        grave, notes = (
            ", ".join(sorted({f.code for f in one.findings if (f.severity == Severity.NOTE) == note})) or "none"
            for note in (False, True)
        )
        lines.append(f"| {name} | {one.n_parameters / 1e6:.0f} M | {grave} | {notes} |")
    return lines


def graver(found: dict[str, Audit]) -> list[str]:
    lines = ["| model | code | | parameter | found |", "|---|---|---|---|---|"]
    for name, one in found.items():
        for f in one.findings:
            if f.severity != Severity.NOTE:
                lines.append(f"| {name} | {f.code} | {f.severity} | `{f.parameter}` | {f.evidence} |")
    remarks = [f"{name}: {remark}" for name, one in found.items() for remark in one.remarks]
    return [*lines, "", *(f"- {remark}" for remark in remarks)]


if __name__ == "__main__":
    main()
