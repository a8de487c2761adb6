"""The roles of a foreign model's parameters, from what a forward pass shows of each."""

from isogloss.audit.trace import Product, Trace
from isogloss.nn.roles import Role


def infer_roles(trace: Trace) -> dict[str, Role]:
    """The role of every parameter that takes part in a product or a lookup.

    A writer that attention leads to is attention_out, one that a recurrence or a convolution leads to recurrent_out,
    any other ffn_down; a reader has the role of the branch that it opens. A fused q, k and v has the role query, a
    fused gate and up the role ffn_gate.
    """
    roles = {name: _writer(trace.products[name]) for name in trace.writers}
    for name in trace.writers:
        product = trace.products[name]
        for other in product.branch - trace.writers:
            roles.setdefault(other, _inside(other, trace, roles[name]))
    roles |= dict.fromkeys(trace.routers, Role.ROUTER)
    for name, product in trace.products.items():
        roles.setdefault(name, Role.ROUTER if product.reads_stream else Role.RECURRENT_GATE)
    for i, name in enumerate(trace.embeddings):
        if trace.products.get(name) is None or name == trace.head:
            roles[name] = Role.EMBEDDING if i == 0 else Role.POSITION
    if trace.head is not None and trace.head not in trace.embeddings:
        roles[trace.head] = Role.HEAD
    return roles


def _writer(product: Product) -> Role:
    if "attention" in product.marks:
        return Role.ATTENTION_OUT
    return Role.RECURRENT_OUT if "time" in product.marks else Role.FFN_DOWN


def _inside(name: str, trace: Trace, writer: Role) -> Role:
    for names, role in ((trace.queries, Role.QUERY), (trace.keys, Role.KEY), (trace.values, Role.VALUE)):
        if name in names:
            return role
    reads = trace.products[name].reads_stream
    if writer == Role.RECURRENT_OUT:
        return Role.RECURRENT_IN if reads else Role.RECURRENT_GATE
    if writer == Role.ATTENTION_OUT:
        return Role.QUERY if reads else Role.VALUE
    return Role.FFN_GATE if name in trace.gates else Role.FFN_UP
