"""The section on how well the coordinates of all particles are known."""

from __future__ import annotations

from cryomorph.analysis.landscape.landscape import Landscape
from cryomorph.report.landscape.plots import regression_plot
from cryomorph.report.page import Figure, Section, Table


def placement_section(found: Landscape) -> Section:
    """Predicted against decoded coordinates of held-out maps, and R^2 of each component."""
    embedding = found.embedding
    rows = tuple(
        (f"PC{i + 1}", f"{ratio:.2%}", f"{r2:.4f}")
        for i, (ratio, r2) in enumerate(zip(found.space.ratio, embedding.r2_each, strict=True))
    )
    rounds = "; ".join(f"{pairs} maps: {r2:.4f}" for pairs, r2 in embedding.rounds)
    blocks = (
        Figure(
            regression_plot(embedding),
            "Held-out maps of random particles: predicted coordinates against those of the decoded maps.",
            "Predicted and decoded coordinates",
            vector=True,
            wide=True,
        ),
        Table(
            ("component", "variance", "held-out R²"),
            rows,
            f"All components together: {embedding.r2:.4f}. By round, a quarter of the maps of each held out: {rounds}. "
            "This measures how well the model's own maps are predicted, not whether the model is right.",
        ),
    )
    return Section(
        "Placing all particles",
        blocks,
        "Only some maps are decoded; the coordinates of all other particles are predicted from their latent points.",
    )
