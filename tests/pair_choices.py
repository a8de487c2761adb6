"""The choices of a run that are taken together, in a tiny recipe, and how many ranks a case of them has."""

from pathlib import Path

from isogloss.config.base import UserError
from isogloss.recipe import Recipe, load_recipe

STEPS, LR, RANKS = 6, 1e-3, 4
BAD, SPIKE, SPIKE_FACTOR = 1, 4, 3.0
"""Batches, from 0, that are made to have a loss that is not finite on one rank, and one so many times as large."""

MESHES: dict[str, tuple[int, list[str]]] = {
    "alone": (1, []),
    "FSDP 2": (2, []),
    "FSDP 4": (4, []),
    "HSDP 2x2": (4, ["parallel.replicate=2"]),
    "copies 2": (2, ["parallel.replicate=2"]),
    "tensor 2": (2, ["parallel.tensor=2"]),
    "context 2": (2, ["parallel.context=2"]),
    "FSDP x tensor 2x2": (4, ["parallel.tensor=2"]),
    "FSDP x context 2x2": (4, ["parallel.context=2"]),
    "context x tensor 2x2": (4, ["parallel.context=2", "parallel.tensor=2"]),
}
"""Ranks and settings."""
MOVES = ("alone", "FSDP 4", "copies 2", "tensor 2", "context 2")

FILES = "{{type: files, train: ['ROOT/corpus/0[{0}]*.txt'], validation_bytes: 400, prepared_dir: ROOT/prepared}}"
SOURCES = f"{{a: {{weight: 1.0, data: {FILES.format('0-2')}}}, b: {{weight: 2.0, data: {FILES.format('3-5')}}}}}"
MIXED = f"data={{type: mixture, seq_len: 32, sources: {SOURCES}"
SETTINGS: dict[str, dict[str, list[str]]] = {
    "unit": {"block": ["parallel.unit=1"], "two": ["parallel.unit=15000"], "all": []},
    "reshard": {"always": [], "never": ["parallel.reshard=never"]},
    "recompute": {"none": [], "selective": ["train.recompute=selective"], "full": ["train.recompute=full"]},
    "micro": {"all": [], "one": ["train.micro_batch_size=1"], "two": ["train.micro_batch_size=2"]},
    "precision": {
        "fp32": [],
        "bf16": ["train.precision=bf16"],
        "bf16, reduced in bf16": ["train.precision=bf16", "parallel.reduce=bf16"],
        "float8 by tensor": ["train.precision=bf16", "train.float8=tensorwise"],
        "float8 by row": ["train.precision=bf16", "train.float8=rowwise"],
    },
    "moments": {"fp32": [], "bf16": ["optim.moments=bf16"]},
    "offload": {"no": [], "yes": ["parallel.offload=true"]},
    "z": {"no": [], "yes": ["model.z_loss=0.001"]},
    "clip": {"at 0.1": ["optim.clip=0.1"], "no": ["optim.clip=.inf"]},
    "head": {"own": [], "tied": ["model.tied_head=true"], "capped": ["model.logit_softcap=5.0"]},
    "heads": {"four": [], "grouped": ["model.mixer.n_kv_heads=2"]},
    "qk_norm": {"no": [], "yes": ["model.mixer.qk_norm=true"]},
    "norm": {name: [f"model.norm={name}"] for name in ("pre", "post", "output", "sandwich")},
    "attention": {"whole": [], "window": ["model.mixer.window=5"], "capped": ["model.mixer.softcap=5.0"]},
    "ffn": {"swiglu": [], "relu2": ["model.ffn.type=relu2"]},
    "data": {
        "concatenated": [],
        "across documents": ["data.within_document=false"],
        "documents": ["data.packing=document"],
        "best fit": ["data.packing=best_fit"],
        "mixture": [f"{MIXED}}}"],
        "mixture, best fit": [f"{MIXED}, packing: best_fit}}"],
    },
    "vocabulary": {"tokenizer's": [], "larger": ["model.vocab_size=301"]},
    "rows": {"same": [], "rising": ["train.batch_size_warmup=[{until: 2, batch_size: 4}]"]},
    "length": {"same": [], "rising": ["train.seq_len_warmup=[{until: 3, divisor: 2}]"]},
    "schedule": {
        name: [f"optim.schedule={{type: {name}, warmup: {warmup}}}"]
        for name, warmup in (("constant", 0), ("cosine", 2), ("wsd", 1), ("inverse_sqrt", 2))
    },
    "init": {"lingua": [], "mup": ["init={type: mup, base_width: 16}"]},
    "validation": {
        "each step": ["watch.validate_every=1", "watch.validation_rows=5"],
        "each second": ["watch.validate_every=2", "watch.validation_rows=8"],
        "at the end": ["watch.validate_every=100"],
    },
    "samples": {"none": ["watch.sample_tokens=0"], "each second": ["watch.sample_every=2", "watch.sample_tokens=4"]},
    "saving": {name: [f"checkpoint.every={every}"] for name, every in (("each step", 1), ("by 2", 2), ("by 3", 3))},
    "in background": {"yes": [], "no": ["checkpoint.asynchronous=false"]},
    "kept": {
        "one": ["checkpoint.keep_last=1"],
        "three": ["checkpoint.keep_last=3"],
        "every second": ["checkpoint.keep_last=1", "checkpoint.keep_every=2"],
    },
    "lines": {"each step": ["watch.log_every=1"], "by 4": ["watch.log_every=4"]},
    "spikes": {"passed": [], "gone back": ["train.spike={window: 2, deviations: 6.0}"]},
    "seed": {"3": [], "2**62": [f"seed={2**62}"]},
}
"""Choices that are settings of the recipe; the others are the meshes and what happens to the run."""
CHOICES: dict[str, list[str]] = {
    "mesh": [name for name in MESHES if name != "alone"],
    "moved to": list(MOVES),
    "stopped after": ["1", "2", "3", "4", "5"],
    "stopped by": ["signal", "kill"],
    "not finite": ["no", "on one rank"],
    "loss": ["in one chunk", "in many"],
    **{name: list(options) for name, options in SETTINGS.items()},
}
BASE = [
    "tokenizer.type=bytes",
    "init={type: lingua}",
    "data.seq_len=32",
    "model.d_model=32",
    "model.n_layers=3",
    "model.mixer.n_heads=4",
    "model.ffn.d_ff=64",
    f"optim.lr={LR}",
    f"train.steps={STEPS}",
    "train.batch_size=8",
    "parallel.timeout=2",
]

Case = dict[str, str]


def settings(case: Case, mesh: str, name: str, root: Path) -> list[str]:
    """What the recipe of a case is given for a run."""
    given = [setting for choice, options in SETTINGS.items() for setting in options[case[choice]]]
    given += [*MESHES[mesh][1], f"name={name}", f"train.compile={'on' if case.get('compiled') else 'off'}"]
    # data= comes first: it replaces all of it.
    return sorted((s.replace("ROOT", str(root)) for s in [*BASE, *given]), key=lambda s: not s.startswith("data="))


def recipe(case: Case, mesh: str, name: str, root: Path) -> Recipe:
    """Of a case, for a run; refused if the ranks cannot share it."""
    chosen = settings(case, mesh, name, root)
    mixed = chosen[0].startswith("data={type: mixture")
    found = load_recipe(str(root / "tiny.yaml"), [s for s in chosen if not (mixed and s.startswith("data.seq_len"))])
    assert found.init.type == case["init"]
    found.check_float8(found.axes(MESHES[mesh][0]), "cpu")
    return found


def can_be_had(case: Case, root: Path) -> bool:
    """Whether nothing in it is refused, and its end does not depend on where it is stopped."""
    # The tolerances of bf16 are for logits of order 1 (docs/parallel.md): a tied head has them under one scheme only.
    if case["head"] == "tied" and case["init"] != "lingua" and case["precision"] != "fp32":
        return False
    # A spike goes back to the newest checkpoint: one that a signal asks for would be another.
    if (case["spikes"], case["stopped by"]) == ("gone back", "signal") and case["saving"] != "each step":
        return False
    try:
        for mesh in ("alone", case["mesh"], case["moved to"]):
            recipe(case, mesh, "any", root)
    except UserError:
        return False
    return True
