"""How large a run is, known before its first step: parameters by part, and operations."""

from collections.abc import Iterable
from dataclasses import dataclass

from isogloss.nn.roles import Role, Site

_PARTS = {
    "embedding": {Role.EMBEDDING, Role.POSITION},
    "attention": {Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUT},
    "feed-forward": {Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN, Role.ROUTER},
    "recurrent": {Role.RECURRENT_IN, Role.RECURRENT_GATE, Role.RECURRENT_OUT, Role.CONV, Role.DECAY, Role.STEP_SIZE},
    "head": {Role.HEAD},
    "norms and vectors": {Role.NORM_GAIN, Role.BIAS, Role.SKIP, Role.SCALAR},
}


@dataclass(frozen=True)
class RunSize:
    """Parameters by part, and operations of the whole run."""

    parameters: dict[str, int]
    flops: float

    @property
    def n_parameters(self) -> int:
        """All of them, tied ones once."""
        return sum(self.parameters.values())


def parameters_by_part(sites: Iterable[Site]) -> dict[str, int]:
    """Numbers of parameters by what they serve; parts that a model lacks are left out."""
    counts = dict.fromkeys(_PARTS, 0)
    for site in sites:
        size = 1
        for n in site.shape:
            size *= n
        counts[next(part for part, roles in _PARTS.items() if site.role in roles)] += size
    return {part: n for part, n in counts.items() if n}
