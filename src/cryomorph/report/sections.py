"""The sections that `cryomorph analyze` puts into its report, each figure with how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64

from cryomorph.analysis.latent import GmmResult, KMeansResult, Outliers, Pca
from cryomorph.config.errors import InputError
from cryomorph.report import plots
from cryomorph.report.page import Block, Figure, Gallery, Section, Table, Tile

Rgba = Float32[np.ndarray, "h w 4"]


def consensus_section(
    pictures: Mapping[str, Rgba],
    *,
    curves: Mapping[str, Float[np.ndarray, " shells"] | None],
    pixel_A: float,
    box: int,
    noise: Float[np.ndarray, " shells"] | None = None,
) -> Section:
    """The map of all particles from several sides, its FSC, and the images' noise where it is known."""
    blocks: list[Block] = [
        Gallery(
            tuple(Tile(f"Consensus, {name}", {"": picture}) for name, picture in pictures.items()),
            "One reconstruction of all particles, as if they were all alike. It is the reference for everything below: "
            "what is blurred or missing here is where the structures differ.",
        ),
        Figure(
            plots.fsc_curves(curves, pixel_A=pixel_A, box=box),
            "Agreement of two maps made from separate halves of the particles. Read the resolution where the curve "
            "falls below 0.143. A corrected curve has the correlation that the mask itself brings taken off; if it "
            "lies far below the masked one, the mask is too tight. A curve that does not come down by the right edge "
            "means that the pixel, not the data, limits the map.",
            "Fourier shell correlation of the half maps against resolution",
            vector=True,
        ),
    ]
    if noise is not None:
        blocks.append(
            Figure(
                plots.noise_spectrum(noise, pixel_A=pixel_A, box=box),
                "Noise power in the images at each resolution, measured outside the particle. Every image is divided "
                "by it, so that each coefficient counts by what it can tell. Sharp peaks would point to ice rings or "
                "to processing before cryomorph.",
                "Noise power of the images against resolution",
                vector=True,
            )
        )
    return Section("Consensus", tuple(blocks), "The starting point: one map for all particles, and how good it is.")


def latent_section(
    pca: Pca,
    *,
    embedding: Float[np.ndarray, "n 2"] | None = None,
    std: Float[np.ndarray, "n q"] | None = None,
    reproducibility: Float[np.ndarray, " q"] | None = None,
    objective: Float[np.ndarray, " steps"] | None = None,
    band_grew_at: Sequence[int] = (),
) -> Section:
    """Where the particles lie, in principal components and UMAP, and what there is to say for or against it."""
    blocks: list[Block] = [_plane_of(pca)]
    if embedding is not None:
        blocks.append(
            Figure(
                plots.density(embedding, ("UMAP 1", "UMAP 2"), title="The latent unfolded by UMAP", unit=False),
                "UMAP keeps neighbours together, so that islands hint at discrete states and bands at continuous "
                "motion. Distances between islands, their sizes and their shapes mean nothing, and noise alone can "
                "make islands: confirm what you see here in the maps.",
                "Density of the particles in the UMAP plane",
            )
        )
    if reproducibility is not None:
        blocks.append(
            Figure(
                plots.reproducibility(reproducibility),
                "The model was fitted to each half of the particles alone. A component that both halves find is at 1; "
                "one found in noise is near 0. Interpret those above the line, and only those.",
                "Agreement between half sets for each component",
                vector=True,
            )
        )
    if std is not None:
        blocks.append(
            Figure(
                plots.posterior_spread(std),
                "How precisely each particle's place is known, for each component, if the component itself is right: "
                "what half sets do not share may look precise here too. Near 0: the image decides. At 1: the image "
                "says nothing. Two particles closer than this width cannot be told apart, whatever the plots above "
                "suggest.",
                "Histograms of the posterior standard deviations",
                vector=True,
            )
        )
    if len(pca.components) > 1:
        blocks.append(
            Figure(
                plots.explained_variance(pca.explained_ratio),
                "How the spread of the particles divides among directions of the latent. A steep fall means that few "
                "numbers describe the motion; equal bars mean that no direction stands out.",
                "Share of the variance along each principal component",
                vector=True,
            )
        )
    if objective is not None:
        blocks.append(
            Figure(
                plots.convergence(objective, band_grew_at=band_grew_at),
                "The fit over the iterations. It should have become level; values on either side of a dotted line "
                "count different numbers of coefficients and do not compare.",
                "The objective over the iterations",
                vector=True,
            )
        )
    return Section(
        "Latent space",
        tuple(blocks),
        "Each particle is a point; particles close to each other have similar structures.",
    )


def cluster_section(
    pca: Pca,
    clusters: KMeansResult,
    *,
    decoded: Sequence[Rgba],
    reconstructed: Sequence[Rgba | None] | None = None,
    level: float | None = None,
    embedding: Float[np.ndarray, "n 2"] | None = None,
) -> Section:
    """Maps at the on-data centres of the clusters, decoded and reconstructed side by side.

    Raises:
        InputError: there are not as many pictures as clusters.
    """
    k = len(clusters.centres)
    _check_pictures(decoded, k, "decoded")
    blocks: list[Block] = []
    if len(pca.components) > 1:
        plane = plots.clusters(
            pca.projected[:, :2], clusters.labels, clusters.centre_index, title=f"{k} clusters in PC1 and PC2"
        )
        caption = (
            "k-means divides the cloud into regions of similar structure; the numbers stand at real particles. It "
            "always finds as many clusters as it is asked for: borders inside one cloud are cuts through a continuum "
            "and no states. Neighbouring numbers are neighbours in latent space; a number at the frame lies outside it."
        )
        blocks.append(Figure(plane, caption, "Particles in PC1 and PC2 coloured by cluster"))
    if embedding is not None:
        plane = plots.clusters(
            embedding,
            clusters.labels,
            clusters.centre_index,
            names=("UMAP 1", "UMAP 2"),
            title=f"The same {k} clusters in UMAP",
            unit=False,
        )
        caption = "The same colours and numbers in the UMAP plane. A cluster torn apart here may hold two structures."
        blocks.append(Figure(plane, caption, "Particles in the UMAP plane coloured by cluster"))
    caption = (
        "A map for each cluster, all at one density level" + (f" ({level:.3g})" if level is not None else "") + ". "
        "Decoded: what the model says at the particle nearest the centre. "
    )
    if reconstructed is None:
        caption += "These maps are the model's alone; back-project a cluster's particles before you rely on one."
    else:
        _check_pictures(reconstructed, k, "reconstructed")
        caption += (
            "Reconstructed: the particles of the cluster back-projected, without the model. Believe a difference "
            "between clusters that both show. A feature of the decoded map alone may be invented; small clusters have "
            "noisy reconstructions."
        )
    tiles = []
    for i, picture in enumerate(decoded):
        pictures = {"decoded" if reconstructed is not None else "": picture}
        if reconstructed is not None and (other := reconstructed[i]) is not None:
            pictures["reconstructed"] = other
        count = int(clusters.counts[i])
        note = f"{count:,} particles ({count / len(clusters.labels):.1%}), centre: particle {clusters.centre_index[i]}"
        tiles.append(Tile(f"Cluster {i}", pictures, note))
    blocks.append(Gallery(tuple(tiles), caption))
    return Section("Clusters", tuple(blocks), "Representative structures from all over the latent space.")


def component_section(
    pca: Pca,
    component: int,
    path: Float[np.ndarray, "points q"],
    *,
    pictures: Sequence[Rgba],
    nearest: Int64[np.ndarray, " points"] | None = None,
) -> Section:
    """Maps along a principal component (0-based; shown counted from 1), and how many particles there are along it.

    Args:
        path: the latent points of the maps, from `pc_trajectory`.
        nearest: the particle nearest each point.

    Raises:
        InputError: there are not as many pictures as points.
    """
    _check_pictures(pictures, len(path), "map")
    name = f"PC{component + 1}"
    along = pca.projected[:, component]
    place = (path - pca.mean) @ pca.components[component]
    edges = np.concatenate([[-np.inf], 0.5 * (place[1:] + place[:-1]), [np.inf]])
    count = np.histogram(along, bins=edges)[0]
    tiles = []
    for i, picture in enumerate(pictures):
        note = f"{count[i]:,} particles" + (f"; nearest is particle {nearest[i]}" if nearest is not None else "")
        tiles.append(Tile(f"{i} · {name} = {place[i]:.2f}".replace("-", "\N{MINUS SIGN}"), {"": picture}, note))
    share = f"{pca.explained_ratio[component]:.0%} of the variance"
    blocks: tuple[Block, ...] = (
        Figure(
            plots.histogram(along, name, marks=place.tolist(), title=f"{name}: {share}"),
            f"Particles along {name}; the numbered lines are where the maps below were made, from the 5th to the 95th "
            "percentile. Several peaks speak for states, one peak for a continuum or for noise.",
            f"Histogram of the particles along {name}",
            vector=True,
            wide=True,
        ),
        Gallery(
            tuple(tiles),
            f"The structure as {name} grows, everything else at its average. It is one direction of change and need "
            "not be a path that the molecule takes: a curved motion takes part in several components. Where there are "
            "few particles (each is counted at the map nearest along the component), a map is the model's guess.",
        ),
    )
    return Section(f"Along {name}", blocks, f"One direction of change, which holds {share} of the latent.")


def mixture_section(pca: Pca, gmm: GmmResult, *, pictures: Sequence[Rgba] | None = None) -> Section:
    """The Gaussian mixture: its ellipses, its components as a table, and maps at their centres where given.

    Raises:
        InputError: there are not as many pictures as components.
    """
    k = len(gmm.means)
    count = np.bincount(gmm.labels, minlength=k)
    sure = gmm.probability.max(axis=1) > 0.9
    blocks: list[Block] = []
    if len(pca.components) > 1:
        blocks.append(
            Figure(
                plots.mixture(pca, gmm),
                "Each Gaussian may have its own size and direction. Solid: one standard deviation; dashed: two; the "
                "label gives its number and its share of particles. Ellipses that overlap widely are parts of one "
                "cloud and no separate states.",
                "Particles in PC1 and PC2 with the ellipses of the mixture",
                wide=True,
            )
        )
    rows = tuple(
        (str(i), int(count[i]), f"{gmm.weights[i]:.1%}", f"{sure[gmm.labels == i].mean() if count[i] else 0:.0%}",
         str(gmm.centre_index[i]))
        for i in range(k)
    )  # fmt: skip
    blocks.append(
        Table(
            ("component", "particles", "weight", "surely assigned", "centre particle"),
            rows,
            "Surely assigned: the share of a component's particles that belong to it with a probability above 0.9. "
            "States that are truly discrete come close to 100 %. Numbers are 0-based.",
        )
    )
    if pictures is not None:
        _check_pictures(pictures, k, "mixture")
        tiles = (Tile(f"Component {i}", {"": p}, f"{count[i]:,} particles") for i, p in enumerate(pictures))
        blocks.append(Gallery(tuple(tiles), "Maps decoded at the particle nearest each component's mean."))
    return Section("Gaussian mixture", tuple(blocks), "Clusters that may differ in size, shape and weight.")


def outlier_section(
    found: Outliers, *, names: Sequence[str] | None = None, limit: int = 20, listed_in: str = ""
) -> Section:
    """The histogram of `|z|` and the particles farthest out.

    Args:
        names: of every particle, such as `000012@stack.mrcs`.
        listed_in: the file that lists all of them.
    """
    columns = ("particle (0-based)", *(("image",) if names is not None else ()), "|z|", "Mahalanobis", "score")
    rows = []
    for i in found.index[:limit].tolist():
        name = (names[i],) if names is not None else ()
        rows.append((str(i), *name, float(found.norm[i]), float(found.mahalanobis[i]), float(found.score[i])))
    shown = f"The {len(rows)} farthest of {len(found.index):,}." if rows else "There are none."
    more = f" All are listed in {listed_in}." if listed_in and rows else ""
    table = Table(
        columns,
        tuple(rows),
        f"{shown}{more} Score: how many robust standard deviations beyond the median. Mahalanobis: the distance from "
        "the mean in units of the latent's own spread.",
    )
    plot = Figure(
        plots.norm_histogram(found),
        "Particles far from the rest are often no particles: ice, edges of the carbon, aggregates, or two particles in "
        "one box. They may also be a rare state: look at a class average of them before you leave them out.",
        "Histogram of the distance from the latent's origin",
        vector=True,
        wide=True,
    )
    return Section("Outliers", (plot, table), "Particles that the model found hard to place among the others.")


def _plane_of(pca: Pca) -> Figure:
    """The density of the first two principal components, or of the only one."""
    if len(pca.components) == 1:
        return Figure(
            plots.histogram(pca.projected[:, 0], "PC1", title="The latent's one dimension"),
            "Particles along the only dimension of the latent. Several peaks speak for states, one peak for a "
            "continuum or for noise.",
            "Histogram of the latent coordinate",
            vector=True,
            wide=True,
        )
    title = f"PC1 and PC2 hold {pca.explained_ratio[:2].sum():.0%} of the variance"
    return Figure(
        plots.density(pca.projected[:, :2], title=title),
        "Each cell's colour counts its particles on a logarithmic scale; the lines hold 50 % and 90 % of them. "
        "Separate peaks speak for states, a ridge for a continuous motion, one round cloud for either no motion or too "
        "much noise. Distances here are true distances of the latent.",
        "Density of the particles in PC1 and PC2",
    )


def _check_pictures(pictures: Sequence[Rgba | None], count: int, what: str) -> None:
    if len(pictures) != count:
        raise InputError(f"{len(pictures)} {what} pictures for {count} places: expected one for each")
