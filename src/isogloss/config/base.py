"""The base of every config model, and the error a user can mend.

A config is frozen (it is saved with the run and must not drift), forbids unknown keys (a misspelt key is an error, not
a default) and documents each field by the string below it (``isogloss config explain`` prints that string).
"""

from pydantic import BaseModel, ConfigDict


class UserError(ValueError):
    """What the user can mend: the message says what was wrong, where, and what to do. The CLI exits with code 2."""


class Config(BaseModel):
    """Base of every config: frozen, strict about unknown keys, fields documented by the docstring beneath them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
