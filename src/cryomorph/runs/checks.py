"""What a finished training was asked before it is believed, and what the answers mean (METHODS 0 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

SCALES = (0.8, 1.2)
COLLAPSED = 0.05  # nats, by dimension
LEAK = 0.1  # held-out R^2


@dataclass(frozen=True)
class Checks:
    """`scale` of the maps that fits the images best; `sign`, the correlation of the map at the mean latent point with
    the consensus; `kl` by latent coordinate, in nats; `view_r2`, how well the latent point predicts the view."""

    scale: float
    sign: float
    kl: list[float]
    view_r2: float

    def warnings(self) -> list[str]:
        """What a user should know, a sentence each."""
        found = []
        if not SCALES[0] <= self.scale <= SCALES[1]:
            found.append(
                f"maps fit the images best when multiplied by {self.scale:.2f}, expected {SCALES[0]} to {SCALES[1]}: "
                "train for longer, or look at the contrast of the particles"
            )
        if not self.sign > 0:
            found.append(
                f"the map at the mean latent point correlates with the consensus by {self.sign:.2f}, expected above 0: "
                "do not believe this model"
            )
        if self.kl and max(self.kl) < COLLAPSED:
            found.append(
                "posterior collapse: no latent coordinate tells particles apart: lower --beta, or they are alike"
            )
        if self.view_r2 > LEAK:
            found.append(
                f"the latent space predicts the viewing direction (R^2 {self.view_r2:.2f}): a part of what it shows is "
                "the view, not the molecule"
            )
        return found
