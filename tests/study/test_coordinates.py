"""muP's and CompleteP's promises hold, and each rule that is left out fails the check that names it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.init.formulas import fixed
from isogloss.init.parametrisations import HIDDEN, CompletePConfig, MuPConfig, MuPDepthConfig, UnitMuPConfig
from isogloss.init.rules import Update
from isogloss.init.scheme import Axis, Scheme
from isogloss.init.verify import Status
from isogloss.nn.roles import Role
from isogloss.recipe import Recipe, load_recipe
from isogloss.study.coordinates import check_coordinates, coordinate_trial, fit_slopes
from isogloss.study.families import resize
from isogloss.study.slopes import Slope, worst
from isogloss.study.trials import Study, open_study
from isogloss.train.display import Display

SIZES: dict[Axis, tuple[int, ...]] = {"width": (64, 128, 256), "depth": (2, 4, 8)}
COMMON = ["model.d_model=64", "model.mixer.n_heads=4", "model.ffn.d_ff=null"]
BASE = {"base_width": 64, "base_head_dim": 16}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_factory) -> Study:
    root = tmp_path_factory.mktemp("study")
    recipe = load_recipe(str(tiny_factory(root)), COMMON)
    return open_study(recipe, root / "studies", 1, Display(Console(quiet=True)))


def slopes_of(study: Study, axis: Axis, scheme: Scheme, rate: float = 5e-4) -> dict[str, Slope]:
    """At a given rate, of a scheme that need not be one that recipes know."""

    def recipe_of(size: int, seed: int) -> Recipe:
        recipe = resize(study.recipe, axis, size)
        optim = recipe.optim.model_copy(update={"lr": rate})
        train = recipe.train.model_copy(update={"steps": 4})
        return recipe.model_copy(update={"init": scheme, "seed": seed, "optim": optim, "train": train})

    sizes = SIZES[axis]
    results = [coordinate_trial(recipe_of(size, seed), study.corpus) for seed in range(2) for size in sizes]
    return {found.name: found for found in fit_slopes(sizes, results, scheme.promises(axis))}


@pytest.mark.parametrize("axis", ["width", "depth"])
def test_completep_keeps_its_promises(study: Study, axis: Axis) -> None:
    scheme = CompletePConfig(type="completep", base_layers=2, **BASE)
    found = slopes_of(study, axis, scheme)
    assert {name.split()[0] for name, s in found.items() if s.promised is not None} >= {"learning", "epsilon", "decay"}
    assert {name: s.slope for name, s in found.items() if s.status == Status.FAIL} == {}


OTHERS: dict[str, tuple[Axis, Scheme, float]] = {
    "mup": ("width", MuPConfig(type="mup", **BASE), 5e-4),
    "mup_depth": ("depth", MuPDepthConfig(type="mup_depth", base_layers=2, **BASE), 5e-4),
    "u_mup, width": ("width", UnitMuPConfig(type="u_mup"), 0.3),
    "u_mup, depth": ("depth", UnitMuPConfig(type="u_mup"), 0.3),
}


@pytest.mark.parametrize(("axis", "scheme", "rate"), OTHERS.values(), ids=OTHERS.keys())
def test_others_keep_their_promises(study: Study, axis: Axis, scheme: Scheme, rate: float) -> None:
    found = slopes_of(study, axis, scheme, rate)
    assert sum(s.promised is not None for s in found.values()) > 10
    assert {name: s.slope for name, s in found.items() if s.status == Status.FAIL} == {}


class _UnscaledStd(CompletePConfig):
    def rules(self, model):
        found = dict(super().rules(model))
        return found | {role: fixed(self.base_std) for role in HIDDEN}


class _ScaledEmbedding(CompletePConfig):
    def rules(self, model):
        return dict(super().rules(model)) | {Role.EMBEDDING: fixed(self._width(model) ** -0.5)}


def _multiplier(**changes: float) -> type[CompletePConfig]:
    class Broken(CompletePConfig):
        def multipliers(self, model):
            return replace(super().multipliers(model), **changes)

    return Broken


def _update(role_in: frozenset[Role], change: Callable[[Update, float, float], Update]) -> type[CompletePConfig]:
    class Broken(CompletePConfig):
        def update(self, site, model):
            found = super().update(site, model)
            return change(found, self._width(model), self._depth(model)) if site.role in role_in else found

    return Broken


RULES_OF_WIDTH = {
    "hidden std m^-1/2": (_UnscaledStd, "initial scale query"),
    "embedding's std": (_ScaledEmbedding, "embedding's scale"),
    "hidden rate 1/m": (_update(HIDDEN, lambda u, m, n: replace(u, lr=u.lr * m)), "learning rate ffn_up"),
    "embedding's rate": (
        _update(frozenset({Role.EMBEDDING}), lambda u, m, n: replace(u, lr=u.lr / m)),
        "embedding's rate",
    ),
    "logits 1/m": (_multiplier(logits=1.0), "head's rate"),
    "attention 1/C": (_multiplier(attention=1.0), "attention scale"),
    "hidden decay m": (_update(HIDDEN, lambda u, m, n: replace(u, weight_decay=1.0)), "decay"),
    "epsilon 1/m": (_update(frozenset(Role), lambda u, m, n: replace(u, eps=u.eps * m)), "epsilon ffn_up"),
}
RULES_OF_DEPTH = {
    "branches n^-alpha": (_multiplier(branch=1.0), "branch"),
    "hidden rate n^(alpha-1)": (_update(HIDDEN, lambda u, m, n: replace(u, lr=u.lr * n**0.5)), "learning rate ffn_up"),
    "gains' rate n^(alpha-1)": (
        _update(frozenset({Role.NORM_GAIN}), lambda u, m, n: replace(u, lr=u.lr * n**0.5)),
        "gains' rate",
    ),
    "epsilon n^-alpha": (_update(HIDDEN, lambda u, m, n: replace(u, eps=u.eps * n**0.5)), "epsilon ffn_up"),
}


@pytest.mark.parametrize(("broken", "named"), RULES_OF_WIDTH.values(), ids=RULES_OF_WIDTH.keys())
def test_a_rule_of_width_left_out_fails_its_check(study: Study, broken: type[CompletePConfig], named: str) -> None:
    found = slopes_of(study, "width", broken(type="completep", base_layers=2, **BASE))
    assert found[named].status == Status.FAIL
    assert worst(list(found.values())) == Status.FAIL


@pytest.mark.parametrize(("broken", "named"), RULES_OF_DEPTH.values(), ids=RULES_OF_DEPTH.keys())
def test_a_rule_of_depth_left_out_fails_its_check(study: Study, broken: type[CompletePConfig], named: str) -> None:
    # At alpha = 1 two of the rules are 1.
    found = slopes_of(study, "depth", broken(type="completep", base_layers=2, alpha=0.5, **BASE))
    assert found[named].status == Status.FAIL


def test_half_alpha_keeps_its_promises_too(study: Study) -> None:
    found = slopes_of(study, "depth", CompletePConfig(type="completep", base_layers=2, alpha=0.5, **BASE))
    assert {name: s.slope for name, s in found.items() if s.status == Status.FAIL} == {}


def test_the_command_finds_a_low_rate_and_a_plain_scheme_promises_nothing(study: Study) -> None:
    found = {s.name: s for s in check_coordinates(study, "width", (32, 64, 128), steps=3, seeds=1)}
    assert all(s.promised is None for s in found.values())
    assert found["learning rate query"].slope.mean > 0.5  # the standard parametrisation does not transfer
    assert found["initial scale query"].slope.mean == pytest.approx(0.0, abs=0.1)


def test_sizes_of_families(study: Study) -> None:
    wide = resize(study.recipe, "width", 128).model
    assert wide.mixer.heads(128) == (4, 4, 32)
    assert resize(study.recipe, "depth", 7).model.n_layers == 7
    with pytest.raises(ValueError, match="d_model"):
        resize(study.recipe, "width", 30)


def test_what_cannot_be_fitted_is_no_pass() -> None:
    def slope(*values: tuple[float, ...]) -> Slope:
        return Slope("q", (2, 4, 8), values, 0.0)

    assert slope((1.0, 1.0, float("inf")), (1.0, 1.0, 1.0)).status == Status.FAIL
    assert slope((1.0, 1.0, 0.0), (1.0, 1.0, 1.0)).status == Status.FAIL
    assert slope((1.0, 1.0, 1.0)).status == Status.WARN  # one seed has no interval
    assert slope((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)).status is None
    assert slope((1.0, 1.0, 1.0), (1.0, 1.01, 1.0)).status == Status.PASS


def test_one_step_behind_zeros_changes_nothing(study: Study) -> None:
    recipe = with_overrides(study.recipe, ["init={type: mup, zero_head: true}"])
    with pytest.raises(UserError, match="--steps 2"):
        check_coordinates(replace(study, recipe=recipe), "width", (32, 64), steps=1, seeds=1)


def test_a_tied_head_has_no_row_that_starts_from_0(study: Study) -> None:
    recipe = with_overrides(study.recipe, ["model.tied_head=true", "optim.schedule={type: constant}", "train.steps=2"])
    assert "logits" not in coordinate_trial(recipe, study.corpus)


HEADS = [
    ({"head_dim": 8}, 64, (8, 8, 8)),
    ({"head_dim": 8, "n_kv_heads": 2}, 64, (8, 4, 8)),
    ({"head_dim": 8, "n_kv_heads": 1}, 64, (8, 1, 8)),
    ({"head_dim": 8, "n_heads": 4}, 16, (2, 2, 8)),
    ({"head_dim": 32, "n_heads": 2}, 64, (4, 4, 32)),  # more channels than the width
    ({"n_heads": 4, "n_kv_heads": 2}, 64, (4, 2, 16)),
]


@pytest.mark.parametrize(("mixer", "size", "expected"), HEADS)
def test_a_study_trains_the_heads_of_its_recipe(
    tiny, mixer: dict[str, int], size: int, expected: tuple[int, ...]
) -> None:
    changes = [f"model.mixer.{key}={value}" for key, value in mixer.items()]
    changes += [] if "n_heads" in mixer else ["model.mixer.n_heads=null"]
    recipe = load_recipe(str(tiny), ["model.d_model=32", *changes])
    model = resize(recipe, "width", size).model
    assert model.mixer.heads(model.d_model) == expected
    assert model.mixer.head_dim == mixer.get("head_dim")
    same = resize(recipe, "width", 32).model
    assert same.written_out() == recipe.model.written_out()
    deeper = resize(recipe, "depth", 5).model
    assert deeper.model_copy(update={"n_layers": recipe.model.n_layers}) == recipe.model


def test_heads_that_do_not_come_out_whole_are_refused(tiny) -> None:
    recipe = load_recipe(str(tiny), ["model.d_model=32", "model.mixer.head_dim=8", "model.mixer.n_heads=2"])
    with pytest.raises(UserError, match=r"the 2 n_heads of width 32 would be 1\.5"):
        resize(recipe, "width", 24)
