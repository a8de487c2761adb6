"""Records: what a long experiment measured, kept in ``docs/results/NAME.json`` for the tables of the docs.

The experiment writes its record itself, and the table reads it back with the settings it would be run with now:

    save_record("predict", "python benchmarks/predict.py --record", SETTINGS, rows)    # the experiment
    rows = load_record("predict", SETTINGS)                                            # the table

A record is stale, and so is every table made from it, when the settings are not those of the code any more, or when the
weights are not: a record bears a hash of weights that the generator and the record's schemes give a tiny model.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from isogloss.build import build_model
from isogloss.durable import write_whole
from isogloss.init.schemes import SchemeConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.roles import declared_tensors
from isogloss.recipe import Recipe
from isogloss.train.machine import processor_name

RESULTS = Path(__file__).parent.parent / "docs/results"
# Post-norm, because DeepNorm takes no other; where the norms stand changes no weight.
TINY = DecoderConfig.model_validate(
    {"d_model": 32, "n_layers": 2, "vocab_size": 64, "norm": "post", "mixer": {"n_heads": 2}}
)

Row = Mapping[str, Any]


class StaleRecordError(ValueError):
    """A record is missing, or was made by other code than today's; says how to make it anew."""


def save_record(name: str, command: str, settings: Mapping[str, Any], rows: Sequence[Row]) -> Path:
    """Write what was measured.

    Args:
        name: of the file, without its ending.
        command: how it is made anew, from the top of the repository.
        settings: all that decides the figures (sizes, seeds, lengths), in JSON's types. ``settings["schemes"]`` maps a
            label to an init section such as ``{"type": "lingua"}``: the schemes whose weights the record depends on.
        rows: the figures, in JSON's types, not rounded: the table rounds.
    """
    record = {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{processor_name()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "weights": stamp(settings["schemes"]),
        "settings": settings,
    }
    # One row a line, so that a changed figure is a changed line.
    head = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, ("{\n" + ",\n".join([*head, f' "rows": [\n{body}\n ]']) + "\n}\n").encode())
    return path


def load_record(name: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a record.

    Args:
        name: of the file, without its ending.
        settings: those the experiment would have now.

    Raises:
        StaleRecordError: there is none, or today's settings or weights are others.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise StaleRecordError(f"docs/results/{name}.json is missing; the experiment writes it")
    record = json.loads(path.read_text())
    former, today = _filled(record["settings"]), json.loads(json.dumps(settings))
    why = list(_changes(former, today, "settings"))
    if record["weights"] != stamp(today["schemes"]):
        why.append("the same seed gives other weights: the generator or a scheme has changed")
    if why:
        raise StaleRecordError(
            f"docs/results/{name}.json is stale: {'; '.join(why)}\nmake it anew: {record['command']}"
        )
    return record["rows"]


def _changes(former: Any, today: Any, path: str) -> Iterator[str]:
    if isinstance(former, dict) and isinstance(today, dict):
        for key in sorted(former.keys() | today.keys()):
            yield from _changes(former.get(key), today.get(key), f"{path}.{key}")
    elif former != today:
        yield f"{path} was {former} and is {today}"


def _filled(settings: Any) -> Any:
    """Former settings, with the fields that recipes have got since at their defaults, which change nothing."""
    if not isinstance(settings, dict):
        return settings
    filled = {key: _filled(value) for key, value in settings.items()}
    if isinstance(recipe := settings.get("recipe"), dict):
        try:
            known = Recipe.model_validate({"name": "former", **recipe}).model_dump(mode="json")
        except ValidationError:  # a field is gone, or means something else: stale
            return filled
        absent = Recipe.model_fields.keys() - recipe.keys() - {"parallel"}
        filled["recipe"] = {section: value for section, value in known.items() if section not in absent}
    return filled


def stamp(schemes: Mapping[str, Mapping[str, Any]]) -> str:
    """A hash of the weights of a tiny model under each scheme, seed 0; float32, so equal on every kind of CPU."""
    digest = hashlib.sha256()
    for label, section in sorted(schemes.items()):
        scheme = TypeAdapter(SchemeConfig).validate_python(section)
        model = build_model(TINY, scheme, seed=0, device=torch.device("cpu"))
        digest.update(label.encode())
        for _, tensor in declared_tensors(model):
            digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()[:16]
