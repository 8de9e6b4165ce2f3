"""What a member is given of raw activations: scaled, and about their means. And the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmix.activations.stream import Pair
from unmix.config import SAEConfig
from unmix.dictionary.model import Dictionary, fold_centre, fold_scaling
from unmix.dictionary.per_token import PerToken
from unmix.kernels.task import wide
from unmix.training.measure import Facts


@dataclass
class View:
    """x and y as a member is trained on them, where raw ones lie:

        x -> s x - c        y -> s' y - c'

    For an SAE, y is x. With a scale per token, x -> T(x) - c (`dictionary/per_token.py`).
    """

    facts: Facts
    """s and s'; no s' where y is x."""
    per_token: PerToken | None
    """T."""
    centre_D: Tensor | None
    """c, in the scale that the SAE is trained in; fixed from the start. None: nothing is taken away."""
    target_centre_E: Tensor | None
    """c', where y is not x."""

    @classmethod
    def new(cls, sae: Dictionary, config: SAEConfig, facts: Facts, device: torch.device) -> View:
        """That of a member at its start; its means are 0 until they are known."""
        view = cls(facts, sae.per_token, None, None)
        if config.centre == "mean":
            view.centre_D = torch.zeros(sae.width, device=device)
            if view.has_targets:
                view.target_centre_E = torch.zeros(sae.W_dec.shape[1], device=device)
        return view

    @property
    def has_targets(self) -> bool:
        """Whether y is not x: then it is a transcoder, x and y each in a scale and about a mean of their own."""
        return self.facts.target_scale is not None

    @property
    def centre_E(self) -> Tensor | None:
        """What is taken away from y."""
        return self.target_centre_E if self.has_targets else self.centre_D

    def of(self, raw: Pair) -> Pair:
        """x as it is seen, and y as it is to be given."""
        return raw.of(self.x(raw.x_BD), lambda: self.y(raw.y_BE))

    def x(self, raw_BD: Tensor) -> Tensor:
        """s x - c."""
        scaled_BD = self.scaled_x(raw_BD)
        return scaled_BD if self.centre_D is None else scaled_BD - self.centre_D

    def y(self, raw_BE: Tensor) -> Tensor:
        """s' y - c', where y is not x."""
        scaled_BE = self.scaled_y(raw_BE)
        return scaled_BE if self.target_centre_E is None else scaled_BE - self.target_centre_E

    def scaled_x(self, raw_BD: Tensor) -> Tensor:
        """s x, or T(x)."""
        if self.per_token is not None:
            return raw_BD / self.per_token.take(raw_BD).scale
        return raw_BD if self.facts.scale == 1 else raw_BD * self.facts.scale

    def scaled_y(self, raw_BE: Tensor) -> Tensor:
        """s' y, where y is not x."""
        scale = self.facts.target_scale
        return raw_BE if scale is None or scale == 1 else raw_BE * scale

    def means(self, raw: Pair) -> Pair:
        """Of s x and s' y, (D,) and (E,), each in the dtype of `wide`."""
        mean_D = wide(self.scaled_x(raw.x_BD)).mean(0)
        return raw.of(mean_D, lambda: wide(self.scaled_y(raw.y_BE)).mean(0))

    def fold(self, sae: Dictionary) -> Dictionary:
        """The same dictionary for raw x and y, given one for what is seen of them; both are on the processor."""
        if self.centre_D is not None:
            sae = fold_centre(sae, self.centre_D.cpu(), None if self.centre_E is None else self.centre_E.cpu())
        return fold_scaling(sae, self.facts.scale, self.facts.target_scale)
