"""How far trained weights have moved from where their plan began them, by role."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from isogloss.init.apply import fill
from isogloss.init.plan import Entry
from isogloss.init.rules import Constant, Rule
from isogloss.nn.roles import Role, declared_tensors


@dataclass(frozen=True)
class Drift:
    """Root mean squares over all parameters of a role.

    Args:
        role: theirs.
        n_parameters: how many there are.
        planned: of the plan.
        now: of the weights.
        moved: of the difference from the initial weights.
        farthest: the parameter whose size has changed most,
        farthest_ratio: and by which factor; ``None`` where the plan begins with zeros.
    """

    role: Role
    n_parameters: int
    planned: float
    now: float
    moved: float
    farthest: str
    farthest_ratio: float | None


@dataclass(frozen=True)
class _Moved:
    name: str
    n: int
    planned: float
    now: float
    moved: float

    @property
    def ratio(self) -> float | None:
        return self.now / self.planned if self.planned else None

    @property
    def off(self) -> float:
        """On a scale on which halving and doubling are equally far, and zeros farthest."""
        if self.planned == self.now:
            return 0.0
        return abs(math.log(self.now / self.planned)) if self.planned and self.now else math.inf


@torch.no_grad()
def drift(model: nn.Module, plan: Mapping[str, Entry], seed: int) -> list[Drift]:
    """Per role, in the order of the model. Initial weights are made again, one parameter at a time."""
    roles: dict[Role, list[_Moved]] = {}
    for site, tensor in declared_tensors(model):
        initial = torch.empty_like(tensor)
        fill(initial, plan[site.name], seed)
        now, moved = (float(x.double().square().mean().sqrt()) for x in (tensor, tensor - initial))
        planned = _planned_rms(plan[site.name].rule)
        roles.setdefault(site.role, []).append(_Moved(site.name, tensor.numel(), planned, now, moved))
    return [_summary(role, of_role) for role, of_role in roles.items()]


def _planned_rms(rule: Rule) -> float:
    return abs(rule.value) if isinstance(rule, Constant) else rule.effective_std


def _summary(role: Role, of_role: list[_Moved]) -> Drift:
    n = sum(one.n for one in of_role)

    def pooled(what: str) -> float:
        return math.sqrt(sum(one.n * getattr(one, what) ** 2 for one in of_role) / n)

    farthest = max(of_role, key=lambda one: one.off)
    return Drift(role, len(of_role), pooled("planned"), pooled("now"), pooled("moved"), farthest.name, farthest.ratio)
