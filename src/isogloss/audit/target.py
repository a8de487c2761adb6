"""What a user's words mean: a factory, or a Hugging Face model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isogloss.audit.built import Target
from isogloss.audit.factory import Factory, find_function
from isogloss.audit.huggingface import HuggingFaceModel, read_config
from isogloss.config.base import UserError
from isogloss.config.paths import expand
from isogloss.config.yaml import YamlError, read_value


def find_target(name: str, overrides: Sequence[str] = ()) -> Target:
    """What ``name`` means: ``package.module:function``, ``hf:TYPE``, a config.json or a folder that has one.

    Args:
        name: the target; modules are looked for in the working folder as well.
        overrides: ``key=value``, keywords of the factory or fields of the config.

    Raises:
        UserError: there is no such thing.
    """
    settings = dict(_setting(override) for override in overrides)
    if name.startswith("~"):
        name = str(expand(name))
    path = Path(name)
    if name.startswith("hf:") or path.exists():
        return HuggingFaceModel(name, read_config(name), settings)
    module_name, colon, function_name = name.partition(":")
    if module_name.endswith(".py") and "/" not in module_name:
        module_name = module_name.removesuffix(".py")
    if not colon or not module_name or not function_name:
        raise UserError(
            f"{name}: no such file; a target is package.module:function, hf:TYPE (such as hf:llama), or a Hugging "
            "Face config.json or a folder that has one"
        )
    return Factory(name, find_function(module_name, function_name), settings)


def _setting(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is no setting; write KEY=VALUE")
    try:
        return key, read_value(text).data
    except YamlError:
        return key, text
