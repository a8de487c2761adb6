"""The plan: which rule fills each parameter, known before any memory is allotted."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from isogloss.init.rules import Rule
from isogloss.init.schemes import Scheme
from isogloss.nn.roles import Site, declared_tensors


class MissingRuleError(ValueError):
    """A role of the model has no rule in the scheme."""


@dataclass(frozen=True)
class Entry:
    """One parameter and the rule that fills it."""

    site: Site
    rule: Rule

    def row(self) -> dict[str, Any]:
        """What a table or JSON shows of the entry; std and cut as nominal numbers, cut in units of std."""
        site = asdict(self.site)
        return {key: site[key] for key in ("name", "role", "shape", "fan_in", "fan_out", "layer")} | {
            "rule": self.rule.text,
            "std": self.rule.std,
            "cut": self.rule.cut,
            "effective_std": self.rule.effective_std,
            "why": self.rule.why,
        }


def plan_init(model: nn.Module, scheme: Scheme) -> dict[str, Entry]:
    """The rule of every parameter and buffer, by canonical name; the model may live on the meta device.

    Raises:
        UndeclaredParameterError: a parameter or buffer has no role.
        MissingRuleError: a role has no rule in the scheme, or two parameters share a name.
    """
    rules = scheme.rules()
    sites = [site for site, _ in declared_tensors(model)]
    missing = Counter(site.role for site in sites if site.role not in rules)
    if missing:
        named = ", ".join(f"{role} ({next(s.name for s in sites if s.role == role)})" for role in missing)
        raise MissingRuleError(f"the scheme {scheme.type} has no rule for the role {named}; add one in init/schemes.py")
    plan = {site.name: Entry(site, rules[site.role](site)) for site in sites}
    if len(plan) != len(sites):
        twice = [name for name, n in Counter(site.name for site in sites).items() if n > 1]
        raise MissingRuleError(f"two parameters share the canonical name {twice[0]}: they would get the same weights")
    return plan
