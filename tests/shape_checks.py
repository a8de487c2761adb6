"""What checks signatures while tests run: beartype, an int passing for a float as in PEP 484, and jaxtyping's shapes.

jaxtyping binds the arguments of every call and has them checked twice, so that sizes agree among them. A signature that
names no shape has nothing to agree on: beartype alone checks it, once. `quick` decides for each function, and stands
for `jaxtyping.jaxtyped` from here on; so conftest.py imports this before the library.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ForwardRef, Literal, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
with_shapes = jaxtyping.jaxtyped


def quick(what: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """As ``jaxtyping.jaxtyped``: a function that checks its calls, or a dataclass that checks what it is made of."""
    if what is None:
        return functools.partial(quick, typechecker=typechecker)
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what):
            what.__init__ = quick(what.__init__, typechecker=typechecker)
        return what
    # What a generator yields and what names resolve to later are left to jaxtyping.
    later = inspect.isgeneratorfunction(what) or inspect.iscoroutinefunction(what)
    if later or any(map(_may_have_shapes, what.__annotations__.values())):
        return with_shapes(what, typechecker=typechecker)
    return typechecker(what)


def _may_have_shapes(hint: Any) -> bool:
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(_may_have_shapes, hint))
    if isinstance(hint, str | ForwardRef):
        return True
    if get_origin(hint) is Literal:
        return False
    if parts := get_args(hint):
        return any(map(_may_have_shapes, parts))
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


jaxtyping.jaxtyped = quick
