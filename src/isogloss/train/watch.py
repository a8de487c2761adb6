"""What is shown and measured while a run trains."""

from pydantic import Field

from isogloss.config.base import Config
from isogloss.config.lists import Texts


class WatchConfig(Config):
    """Logging, validation and samples on the way; the end of a run always has all three."""

    log_every: int = Field(default=10, gt=0)
    """Steps between lines of metrics: the mean loss and the largest gradient norm of the steps since the last line."""
    validate_every: int = Field(default=200, gt=0)
    """Steps between validations."""
    validation_rows: int = Field(default=128, gt=0)
    """Rows of the validation split read on the way; the end reads all of it."""
    sample_every: int = Field(default=500, gt=0)
    """Steps between samples."""
    prompts: Texts | None = None
    """What samples begin with; beginnings of validation text if not given."""
    sample_tokens: int = Field(default=120, ge=0)
    """Length of a sample, in tokens."""
    temperature: float = Field(default=0.8, ge=0)
    """Of samples; 0 takes the likeliest token."""
