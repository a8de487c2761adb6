"""The tables of the docs, one function each; they stand in the pages between markers that bear their names.

    python benchmarks/tables.py [--check] [PAGE ...]

Writes them into the pages (all of docs/ if none is given), or, with --check, says which are stale and fails. Cheap
tables are computed each time; long experiments leave records (benchmarks/records.py) that their tables are made from.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import audit_models
import billion
import campaign
import coordinates
import equality
import estimate
import exit_table
import experiments
import numpy as np
import predict
import scaling
import torch
from pages import PageError, blocks, difference, joined
from pydantic import TypeAdapter
from records import StaleRecordError

from isogloss.build import plan_model
from isogloss.data.named.catalogue import CATALOGUE, Downloaded
from isogloss.data.synthetic.corpus import TASKS, SyntheticCorpus
from isogloss.init.plan import Entry
from isogloss.init.predict import predict_signals
from isogloss.init.rules import Constant, Normal
from isogloss.init.schemes import SchemeConfig
from isogloss.init.signals import Signals
from isogloss.models.decoder import DecoderConfig
from isogloss.models.ignored import IGNORED
from isogloss.nn.roles import Role
from isogloss.run.estimate.gpus import GPUS
from isogloss.run.plan import plan_recipe
from isogloss.run.plan_table import as_markdown, footer, plan_table

DOCS = Path(__file__).parent.parent / "docs"
REPAIR = "write them anew with: make docs (python benchmarks/tables.py)"
N_VOCAB, N_TOKENS = 128_256, 128
# Llama 3.2 1B, Llama 2 7B and Llama 3 70B, all with the vocabulary of the last.
SHAPES = {
    "1B": {"d_model": 2048, "n_layers": 16, "mixer": {"n_heads": 32, "n_kv_heads": 8}, "ffn": 8192},
    "7B": {"d_model": 4096, "n_layers": 32, "mixer": {"n_heads": 32}, "ffn": 11_008},
    "70B": {"d_model": 8192, "n_layers": 80, "mixer": {"n_heads": 64, "n_kv_heads": 8}, "ffn": 28_672},
}
PARAMETRISATIONS = ("mup", "mup_depth", "completep", "u_mup")


def schemes() -> str:
    """Every scheme's rules, on a small model: the last layer's, where layers differ."""
    rows = []
    for label, scheme, norm in _all_schemes():
        plan = plan_model(_small(norm), scheme).plan
        last = {entry.site.role: entry for entry in plan.values()}
        cells = ("embedding", "query", "value", "attention_out", "ffn_gate", "ffn_up", "ffn_down", "head")
        rows.append([f"`{label}`", *(_rule(last[Role(role)]) for role in cells)])
    return _markdown(["scheme", "embedding", "q, k", "v", "o", "gate", "up", "down", "head"], rows)


def parametrisations() -> str:
    """What a parametrisation multiplies, at four times its base width and depth: forward, and in the optimizer."""
    rows = []
    for label, scheme, norm in _all_schemes():
        if label not in PARAMETRISATIONS:
            continue
        planned = plan_model(_small(norm), scheme)
        multipliers = planned.model.multipliers
        last = {entry.site.role: entry.update for entry in planned.plan.values()}
        updates = [last[Role(role)] for role in ("embedding", "query", "ffn_down", "norm_gain", "head")]
        factors = [f"{u.lr:.4g}, {u.weight_decay:.4g}, {u.eps:.4g}" for u in updates]
        forward = [multipliers.logits, multipliers.attention, multipliers.branch]
        rows.append([f"`{label}`", *(f"{factor:.4g}" for factor in forward), *factors])
    heading = [
        "parametrisation",
        "logits",
        "attention",
        "branches",
        "embedding",
        "q, k, v, gate, up",
        "down",
        "gains",
        "head",
    ]
    return _markdown(heading, rows)


def signals() -> str:
    """Predicted signals of three sizes under the schemes that the literature's advice is about."""
    rows = []
    for size, shape in SHAPES.items():
        for label, section in _advised(shape["d_model"]).items():
            entry, s = _predicted(shape, section)
            rows.append(
                [
                    size,
                    label,
                    f"{entry.rule.effective_std * shape['d_model'] ** 0.5:.2f}",
                    f"{s.attention_logit_std[-1]:.2g}",
                    f"{s.stream[0]:.2g} -> {s.stream[-1]:.2g}",
                    f"{s.mixer_write[-1]:.2g} / {s.ffn_write[-1]:.2g}",
                    f"{100 * s.embedding_share:.2g} %",
                    f"{float(f'{s.gradient_ratio:.3g}'):,g}",
                ]
            )
    return _markdown(
        [
            "size",
            "scheme",
            "std sqrt(d)",
            "attention logits, last layer",
            "stream first -> last",
            "last writes, mixer / ffn",
            "embedding's share",
            "gradient embedding / last",
        ],
        rows,
    )


def plan() -> str:
    """The plan of the default recipe, as the command prints it."""
    found = plan_recipe("stdlib-small")
    return as_markdown(plan_table(found), footer(found)).strip()


def named_corpora() -> str:
    """What ``isogloss data fetch`` knows."""
    rows = []
    for corpus in CATALOGUE.values():
        source = "installed"
        if isinstance(corpus.source, Downloaded):
            source = f"{corpus.source.package}, SHA-256 {corpus.source.package.sha256[:12]}…"
        rows.append([f"`{corpus.name}`", corpus.what, corpus.licence, source])
    return _markdown(["name", "what", "licence", "from"], rows)


def floors() -> str:
    """Every generated corpus with its default settings: its size, and the lowest loss there is."""
    rows = []
    for kind in TASKS:
        config = kind()
        corpus = SyntheticCorpus(config)
        rows_of_it = corpus.rows("validation", config.seq_len)
        share = (rows_of_it.rows(np.arange(200)).targets != IGNORED).mean()
        floor = f"{corpus.floor:.4f}" if corpus.floor else "0"
        settings = {k: v for k, v in config.model_dump().items() if k not in ("type", "validation_rows", "seed")}
        words = ", ".join(f"{k} {', '.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in settings.items())
        cells = [
            f"`{config.model_dump()['type']}`",
            words,
            str(corpus.tokenizer.n_tokens),
            str(corpus.task.min_seq_len),
        ]
        rows.append([*cells, f"{share:.0%}", f"{math.log(corpus.tokenizer.n_tokens):.2f}", floor])
    heading = ["`data.type`", "default settings", "ids", "shortest row", "targets that count", "ln of ids", "floor"]
    return _markdown(heading, rows)


def gpus() -> str:
    """The GPUs that estimates know."""
    rows = [
        [
            f"`{name}`",
            f"{gpu.peak / 1e12:g}",
            f"{gpu.float8_peak / 1e12:g}, {' and '.join(gpu.float8)}" if gpu.float8 else "none",
            f"{gpu.memory / 1e9:g}",
            f"{gpu.bandwidth / 1e9:,g}",
            f"{gpu.link / 1e9:g}",
        ]
        for name, gpu in GPUS.items()
    ]
    heading = [
        "GPU",
        "bf16 peak, dense, Tflop/s",
        "float8, scales",
        "memory, GB",
        "its bandwidth, GB/s",
        "link, one way, GB/s",
    ]
    return _markdown(heading, rows)


TABLES: dict[str, Callable[[], str]] = {
    "audit": audit_models.summary_table,
    "audit-findings": audit_models.findings_table,
    "billion": billion.table,
    "campaign": campaign.table,
    "coordinates": coordinates.table,
    "default": experiments.default_table,
    "default-seeds": experiments.default_seeds_table,
    "estimate": estimate.table,
    "exit-codes": exit_table.table,
    "equality": equality.table,
    "scaling": scaling.table,
    "gpus": gpus,
    "origin": experiments.origin_table,
    "floors": floors,
    "named-corpora": named_corpora,
    "parametrisations": parametrisations,
    "plan": plan,
    "prediction": predict.table,
    "prediction-few": predict.few_table,
    "prediction-loud": predict.loud_table,
    "schemes": schemes,
    "signals": signals,
}


def _advised(d_model: int) -> dict[str, dict[str, Any]]:
    return {
        "`lingua_before`": {"type": "lingua_before"},
        "`lingua`": {"type": "lingua"},
        "`lingua`, current": {"type": "lingua", "depth_factor": "current"},
        "`lingua`, disabled (Lingua's default)": {"type": "lingua", "depth_factor": "disabled"},
        "`lingua`, base 0.02": {"type": "lingua", "base_std": 0.02, "embedding_std": d_model**-0.5},
        "`lingua`, base 0.005": {"type": "lingua", "base_std": 0.005, "embedding_std": d_model**-0.5},
        "`lingua`, base 0.02, embedding 1": {"type": "lingua", "base_std": 0.02, "embedding_std": 1.0},
        "`torchtitan_llama3`": {"type": "torchtitan_llama3"},
    }


def _predicted(shape: dict[str, Any], section: dict[str, Any]) -> tuple[Entry, Signals]:
    """A query's matrix in the plan, and the signals on a row of random tokens."""
    ffn = {"type": "swiglu", "d_ff": shape["ffn"]}
    config = DecoderConfig.model_validate({**shape, "ffn": ffn, "vocab_size": N_VOCAB})
    planned = plan_model(config, TypeAdapter(SchemeConfig).validate_python(section))
    tokens = torch.randint(N_VOCAB, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    found = predict_signals(config, planned.model.multipliers, planned.plan, tokens)
    return next(entry for entry in planned.plan.values() if entry.site.role == Role.QUERY), found


def _all_schemes() -> Iterable[tuple[str, Any, str]]:
    """Label, scheme and the placement of norms it is for; parametrisations based at a quarter of the small model."""
    adapter = TypeAdapter(SchemeConfig)
    for label in adapter.json_schema()["discriminator"]["mapping"]:
        fields = {"base_width": 64, "base_head_dim": 32} if label in ("mup", "mup_depth", "completep") else {}
        fields |= {"base_layers": 2} if label in ("mup_depth", "completep") else {}
        yield label, adapter.validate_python({"type": label, **fields}), "post" if label == "deepnorm" else "pre"


def _small(norm: str) -> DecoderConfig:
    mixer, ffn = {"head_dim": 32}, {"type": "swiglu", "d_ff": 1024}
    return DecoderConfig.model_validate(
        {"d_model": 256, "n_layers": 8, "vocab_size": N_VOCAB, "norm": norm, "mixer": mixer, "ffn": ffn}
    )


def _rule(entry: Entry) -> str:
    rule = entry.rule
    if isinstance(rule, Constant):
        return rule.text
    cut = f", cut {rule.cut:g}" if isinstance(rule, Normal) and rule.cut is not None else ""
    return rule.text.replace("*", r"\*") + cut


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def renew(page: Path, check: bool) -> list[str]:
    """Write a page's tables anew, or only look.

    Returns:
        What is wrong, in words: stale tables if only looking, and what writing cannot mend.
    """
    text, problems, pieces = page.read_text(), [], []
    try:
        for name, body in blocks(text):
            made = body
            if name is not None:
                try:
                    made = _made(name)
                except StaleRecordError as error:
                    problems.append(f"the table {name}: {error}")
            if name is not None and check and made != body:
                problems.append(f"{difference(name, body, made)}\n{REPAIR}")
            pieces.append((name, made))
    except PageError as error:
        return [*problems, str(error)]
    if not check and (renewed := joined(pieces)) != text:
        page.write_text(renewed)
    return problems


def _made(name: str) -> list[str]:
    if name not in TABLES:
        raise PageError(f"there is no table {name}; there are: {', '.join(TABLES)}")
    return TABLES[name]().split("\n")


def main() -> None:
    """Write or check; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="pages; all of docs/ if none is given")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table is stale")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # predictions are of small matrices, which a second thread slows down
    problems = [
        f"{page.name}: {problem}"
        for page in arguments.pages or sorted(DOCS.rglob("*.md"))
        for problem in renew(page, arguments.check)
    ]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
