"""Coordinate checks of every parametrisation, and of a plain scheme beside them: the table of the docs.

    python benchmarks/coordinates.py [--studies FOLDER] [--record]

Five minutes on two cores: the default recipe at widths 64 to 512 and depths 4 to 32, four steps, three seeds.
"""

import argparse
from pathlib import Path
from typing import Any

from records import load_record, save_record
from rich.console import Console

from isogloss.init.scheme import Axis
from isogloss.recipe import load_recipe
from isogloss.report.tables import markdown_table
from isogloss.study.compare import with_scheme
from isogloss.study.coordinates import check_coordinates
from isogloss.study.families import DEFAULT_SIZES
from isogloss.study.slopes import TOLERANCE, two_digits
from isogloss.study.trials import open_study
from isogloss.train.display import Display

AXES: tuple[Axis, ...] = ("width", "depth")
SCHEMES = ("lingua", "mup", "mup_depth", "completep", "u_mup")
STEPS, SEEDS = 4, 3


def settings() -> dict[str, Any]:
    """All that decides the figures."""
    sections = {label: with_scheme(load_recipe(), label).init.model_dump(mode="json") for label in SCHEMES}
    irrelevant = {"init", "name", "runs_dir", "watch", "checkpoint", "trackers"}
    recipe = load_recipe().in_steps().model_dump(mode="json", exclude=irrelevant)
    sizes = {axis: list(DEFAULT_SIZES[axis]) for axis in AXES}
    return {"schemes": sections, "recipe": recipe, "sizes": sizes, "steps": STEPS, "seeds": SEEDS}


def check(scheme: str, axis: Axis, studies: Path) -> dict[str, Any]:
    """The slopes of one scheme along one axis."""
    study = open_study(with_scheme(load_recipe(), scheme), studies / "coordinates", None, Display(Console()))
    found = check_coordinates(study, axis, DEFAULT_SIZES[axis], STEPS, SEEDS)
    slopes = [
        {
            "name": s.name,
            "slope": s.slope.mean,
            "half": s.slope.half,
            "promised": s.promised,
            "text": two_digits(s.slope),
        }
        for s in found
    ]
    return {"scheme": scheme, "axis": axis, "slopes": slopes}


def table() -> str:
    """The slopes that name the main rules, and the worst of all that is promised."""
    rows = []
    for one in load_record("coordinates", settings()):
        by_name = {s["name"]: s for s in one["slopes"]}
        promised = [s for s in one["slopes"] if s["promised"] is not None and s["slope"] is not None]
        off = max(promised, key=lambda s: abs(s["slope"] - s["promised"]), default=None)
        worst = "promises nothing"
        if off is not None:
            kept = all(abs(s["slope"] - s["promised"]) <= TOLERANCE for s in promised)
            worst = f"{off['name']} {off['text']}, promised {off['promised']:g}; {'kept' if kept else '**not kept**'}"
        shown = (by_name[name]["text"] for name in ("learning rate ffn_up", "head's rate", "stream", "logits"))
        rows.append((f"`{one['scheme']}`", one["axis"], *shown, f"{len(promised)}", worst))
    columns = ("scheme", "axis", "learning rate, up", "head's rate", "stream", "logits", "promises", "farthest off")
    return markdown_table(columns, rows).strip()


def main() -> None:
    """Check and, if asked, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="where trials are kept")
    parser.add_argument("--record", action="store_true", help="write docs/results/coordinates.json")
    arguments = parser.parse_args()
    rows = [check(scheme, axis, arguments.studies) for scheme in SCHEMES for axis in AXES]
    if arguments.record:
        save_record("coordinates", "python benchmarks/coordinates.py --record", settings(), rows)


if __name__ == "__main__":  # trials run in processes that import this file
    main()
