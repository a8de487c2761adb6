"""What a scheme is: rules for initial scales, multipliers of the forward pass, factors of the optimizer's settings."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

from isogloss.config.base import Config
from isogloss.init.formulas import Rules
from isogloss.init.rules import Update
from isogloss.models.registry import ModelConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import Site

Axis = Literal["width", "depth"]


class Scheme(Config):
    """A map from roles to rules; a parametrisation says more."""

    @abstractmethod
    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule, for a model of this config.

        Raises:
            UserError: the scheme is for another kind of model.
        """

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """What the forward pass is multiplied by: nothing, where a scheme is scales alone."""
        return Multipliers()

    def update(self, site: Site, model: ModelConfig) -> Update:
        """How the optimizer's settings change for a parameter: not at all, where a scheme is scales alone."""
        return Update()

    def promises(self, axis: Axis) -> Mapping[str, float]:
        """How measured quantities go with the model's size: name -> exponent; see `isogloss.study.coordinates`.

        Nothing is promised where a scheme is scales alone.
        """
        return {}
