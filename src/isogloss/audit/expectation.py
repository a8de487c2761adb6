"""``--expect``: the scales of a foreign model beside those that one of our schemes would give it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from isogloss.audit.findings import Finding, Severity, layer_of
from isogloss.audit.roles import infer_roles
from isogloss.audit.spread import Spread
from isogloss.audit.trace import Trace
from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.init.repetition import sidak
from isogloss.init.rules import Constant
from isogloss.init.scheme import Scheme
from isogloss.init.schemes import SchemeConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.roles import Role, Site


def find_scheme(name: str) -> Scheme:
    """A scheme with its defaults.

    Raises:
        UserError: there is none of that name.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(SchemeConfig)
    try:
        return adapter.validate_python({"type": name})
    except ValidationError:
        known = [
            part["properties"]["type"]["const"] for part in adapter.json_schema()["$defs"].values() if _named(part)
        ]
        raise UserError(f"no scheme {name}{did_you_mean(name, known)}; there are {', '.join(known)}") from None


def mismatches(
    trace: Trace, spreads: Mapping[str, Spread], shapes: Mapping[str, tuple[int, ...]], scheme: Scheme, n_layers: int
) -> Iterator[Finding]:
    """I00, for every matrix whose std differs from its role's rule by more than sampling explains.

    Raises:
        UserError: the scheme does not fit the model.
    """
    roles = infer_roles(trace)
    rules = scheme.rules(_config(trace, roles, shapes, n_layers))
    names = [name for name, role in roles.items() if role in rules and name in spreads]
    threshold = sidak(len(names))
    for name in names:
        role, found = roles[name], spreads[name]
        fan_in, fan_out = (1, shapes[name][-1]) if role in (Role.EMBEDDING, Role.POSITION) else _fans(trace, name)
        layer = layer_of(name) if role != Role.HEAD else None
        rule = rules[role](Site(name, role, shapes[name], fan_in, fan_out, layer, n_layers))
        if isinstance(rule, Constant):
            agrees = found.std == 0
        elif found.std == 0:
            agrees = rule.effective_std == 0
        else:
            error = math.sqrt((rule.kurtosis - 1) / (4 * found.n))
            agrees = abs(found.std / rule.effective_std - 1) <= threshold * error
        if not agrees:
            expected = rule.value if isinstance(rule, Constant) else rule.effective_std
            ratio = f", {found.std / expected:.4g} of it" if expected else ""
            yield Finding(
                "I00",
                Severity.WARNING,
                name,
                f"std {found.std:.4g} as {role}{ratio}",
                f"{expected:.4g} ({rule.text})",
                "compare the rules",
            )


def _fans(trace: Trace, name: str) -> tuple[int, int]:
    product = trace.products[name]
    return product.n_in, product.n_out


def _config(
    trace: Trace, roles: Mapping[str, Role], shapes: Mapping[str, tuple[int, ...]], n_layers: int
) -> DecoderConfig:
    """A decoder of the model's shape, post-norm where the model is."""
    embedding = next(iter(trace.embeddings), None)
    if embedding is None:
        raise UserError("--expect needs a model that reads tokens through an embedding")
    d_model = shapes[embedding][-1]
    downs = [trace.products[name].n_in for name, role in roles.items() if role == Role.FFN_DOWN]
    gated = Role.FFN_GATE in roles.values()
    fields = {
        "d_model": d_model,
        "n_layers": n_layers,
        "vocab_size": trace.n_vocab,
        "norm": "post" if trace.is_post_norm else "pre",
        "mixer": {"n_heads": trace.n_heads} if d_model % (2 * trace.n_heads) == 0 else {"n_heads": 1},
        "ffn": {"type": "swiglu" if gated else "gelu", "d_ff": max(downs, default=4 * d_model)},
    }
    try:
        return DecoderConfig.model_validate(fields)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"--expect: no decoder of this library has the model's shape ({said})") from error


def _named(part: Mapping[str, Any]) -> bool:
    return "const" in part.get("properties", {}).get("type", {})
