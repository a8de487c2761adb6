"""What a run will take, said before its first step: parameters by part, operations, memory, time."""

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
class Estimate:
    """Parameters by part, operations of the whole run, bytes at the peak."""

    parameters: dict[str, int]
    flops: float
    memory: float

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


def estimate(sites: Iterable[Site], flops: float, micro_rows: int, seq_len: int) -> Estimate:
    """Estimate a run of ``flops`` operations in all that has ``micro_rows`` rows of ``seq_len`` tokens at a time.

    Memory: 16 bytes a parameter (weight, gradient, two moments, float32) and, for each matrix that a token passes, its
    input and output kept for the backward pass (about 6 bytes a number under bfloat16 autocast). An estimate:
    attention's inner tensors, the allocator and the program itself (about 0.4 GB) are not in it.
    """
    sites = list(sites)
    parameters = parameters_by_part(sites)
    kept = sum(site.fan_in + site.fan_out for site in sites if len(site.shape) == 2 and site.layer is not None)
    memory = 16.0 * sum(parameters.values()) + 6.0 * kept * micro_rows * seq_len
    return Estimate(parameters, flops, memory)
