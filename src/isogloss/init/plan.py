"""The plan: which rule fills each parameter and how it will be updated, known before any memory is allotted."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from isogloss.config.base import UserError
from isogloss.init.rules import Constant, Normal, Rule, Update
from isogloss.init.scheme import Scheme
from isogloss.models.registry import ModelConfig
from isogloss.nn.roles import Site, declared_tensors

SMALLEST, LARGEST = 1e-18, 1e18
"""Standard deviations whose squares float32 holds."""


class MissingRuleError(ValueError):
    """A role of the model has no rule in the scheme."""


@dataclass(frozen=True)
class Entry:
    """One parameter, the rule that fills it, and the factors of its optimizer's settings."""

    site: Site
    rule: Rule
    update: Update = field(default_factory=Update)

    @property
    def spectral_norm(self) -> float | None:
        """A random matrix's expected one, ``std (sqrt(rows) + sqrt(columns))`` (Geman 1980); ``None`` of all else."""
        if isinstance(self.rule, Constant) or len(self.site.shape) != 2:
            return None
        return self.rule.effective_std * sum(math.sqrt(n) for n in self.site.shape)

    def row(self) -> dict[str, Any]:
        """What a table or JSON shows: std before the cut, effective_std after it, the cut in units of std."""
        site = asdict(self.site)
        return {key: site[key] for key in ("name", "role", "shape", "fan_in", "fan_out", "layer")} | {
            "rule": self.rule.text,
            "distribution": type(self.rule).__name__.lower(),
            "std": self.rule.std,
            "cut": self.rule.cut if isinstance(self.rule, Normal) else None,
            "effective_std": self.rule.effective_std,
            "kurtosis": None if isinstance(self.rule, Constant) else self.rule.kurtosis,
            "spectral_norm": self.spectral_norm,
            "value": self.rule.value if isinstance(self.rule, Constant) else None,
            "lr": self.update.lr,
            "weight_decay": self.update.weight_decay,
            "eps": self.update.eps,
            "why": self.rule.why,
        }


def plan_init(model: nn.Module, scheme: Scheme, config: ModelConfig) -> dict[str, Entry]:
    """The rule of every parameter and buffer, by canonical name; the model may live on the meta device.

    Raises:
        UndeclaredParameterError: a parameter or buffer has no role.
        MissingRuleError: a role has no rule in the scheme, or two parameters share a name.
        UserError: the scheme is for another kind of model, or its numbers are beyond float32.
    """
    rules = scheme.rules(config)
    sites = [site for site, _ in declared_tensors(model)]
    missing = Counter(site.role for site in sites if site.role not in rules)
    if missing:
        named = ", ".join(f"{role} ({next(s.name for s in sites if s.role == role)})" for role in missing)
        raise MissingRuleError(
            f"the scheme {type(scheme).__name__} has no rule for the role {named}; add one in init/schemes.py"
        )
    plan = {site.name: Entry(site, rules[site.role](site), scheme.update(site, config)) for site in sites}
    for name, entry in plan.items():
        if (std := entry.rule.effective_std) and not SMALLEST < std < LARGEST:
            raise UserError(
                f"init: {name} would get the std {std:.3g} ({entry.rule.text}), whose square float32 cannot hold; "
                f"choose 0 or a std between {SMALLEST:g} and {LARGEST:g}"
            )
    if len(plan) != len(sites):
        twice = [name for name, n in Counter(site.name for site in sites).items() if n > 1]
        raise MissingRuleError(f"two parameters share the canonical name {twice[0]}: they would get the same weights")
    return plan
