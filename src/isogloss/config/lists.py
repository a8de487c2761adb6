"""Lists as people write them: one text or path stands for a list of it."""

from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BeforeValidator


def listed(value: Any) -> Any:
    """A text or a path alone as a list of it, paths as text; anything else that is no list as it is."""
    if isinstance(value, str | PurePath):
        value = (value,)
    if isinstance(value, list | tuple):
        return tuple(str(item) if isinstance(item, PurePath) else item for item in value)
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]
"""Some texts or paths; one alone stands for a list of it."""
