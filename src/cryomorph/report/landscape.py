"""The report of a landscape: its figures, as in Zhong et al. 2022, each with how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cryomorph.analysis.landscape.build import Landscape, Trajectory
from cryomorph.analysis.landscape.embedding import ENOUGH
from cryomorph.analysis.landscape.states import state_maps
from cryomorph.analysis.latent import principal_components
from cryomorph.config.landscape import LandscapeConfig
from cryomorph.render.isosurface import common_level, draw_surface
from cryomorph.render.map_renderer import SIZE, Painter
from cryomorph.render.raycast import prepare_surface
from cryomorph.report import landscape_plots as draw
from cryomorph.report import plots
from cryomorph.report.page import Block, Figure, Gallery, Note, Report, Section, Table, Tile, write_report
from cryomorph.report.plots import save_plot
from cryomorph.runs.folder import RunFolder

RARE = 0.02  # share of the particles below which a state is called rare
LOOSE = 0.1  # share of variance that a curve may leave unexplained beside noise
Rgba = Float32[np.ndarray, "h w 4"]


def write_landscape_report(
    folder: Path,
    run: RunFolder,
    found: Landscape,
    *,
    along: Sequence[Trajectory],
    path: Trajectory,
    config: LandscapeConfig,
    pixel_A: float,
) -> None:
    """Draw everything, into `figures` and into report.html."""
    means = state_mean_maps(found)
    level = common_level([found.mean_map, *means])
    paint = Painter(level, [torch.cat([means, path.decoded])], found.sketch.box)
    sections = [space_section(found, paint, means.amax(0)), state_section(found, paint, means, asked=config.states)]
    sections.append(other_section(found))
    sections.append(curve_section(found, path, paint(path.decoded, "maps along the curve")))
    for number, one in enumerate(along):
        sections.append(component_section(found, number, one, paint=paint))
    sections.append(placement_section(found))
    (folder / "figures").mkdir()
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figure) and not isinstance(block.image, np.ndarray):
                save_plot(block.image, folder / "figures" / f"{file_name(block.alt)}.png")
    store = run.store()
    facts = {
        "Method": str(run.config()["method"]),
        "Particles": f"{len(found.z):,}",
        "Maps": f"{len(found.sketch.particles)} of {found.sketch.box} voxels of {pixel_A:.2f} Å",
        "Mask": f"{len(found.space.voxels):,} voxels" + ("" if config.mask is None else f" ({config.mask})"),
        "States": f"{found.states.count} by {config.linkage} linkage",
        "Held-out R²": f"{found.placement.r2:.4f}",
    }
    made = run.provenance()
    provenance = {"Trained by": " ".join(made["command"]), "Source": store.manifest.source}
    provenance["Seconds"] = ", ".join(f"{step} {value:.0f}" for step, value in found.seconds.items())
    report = Report(
        f"Landscape of {run.path.resolve().name}",
        tuple(sections),
        facts=facts,
        findings=findings(found),
        provenance=provenance,
    )
    write_report(folder / "report.html", report)


def file_name(description: str) -> str:
    """A figure's file name from what it shows."""
    return "-".join(description.lower().replace(",", "").split())


def state_mean_maps(found: Landscape) -> Float32[Tensor, "m z y x"]:
    """The mean map of each state."""
    maps = [state_maps(found.sketch.values, found.states.sketch, state)[0] for state in range(found.states.count)]
    return torch.stack([found.sketch.map(values) for values in maps])


def findings(found: Landscape) -> tuple[Note, ...]:
    """The summary in words, warnings first."""
    states, placement, curve = found.states, found.placement, found.curve
    good = placement.r2 >= ENOUGH
    notes = [
        Note(
            f"The coordinates of all particles predict {placement.r2:.2%} of the variance of {len(placement.truth)} "
            "maps that were held out" + ("." if good else ": too little to place single particles."),
            "good" if good else "warning",
        )
    ]
    suggestion = states.suggestion
    if suggestion.clear:
        text = (
            f"The maps themselves fall into {suggestion.states} states: merging steps up {suggestion.gap:.1f}-fold, "
            f"and between them lie at most {suggestion.valley:.0%} as many particles as in the smaller one"
        )
        same = suggestion.states == states.count
        notes.append(Note(f"{text}{'' if same else f'; {states.count} were asked for'}.", "good" if same else "info"))
    else:
        notes.append(
            Note("No number of states stands out: states are pieces of a continuum, and their borders are arbitrary.")
        )
    rare = [
        f"state {i} ({count:,} particles)"
        for i, count in enumerate(states.particle_counts)
        if count < RARE * len(found.z)
    ]
    if rare:
        notes.append(Note(f"Rare: {', '.join(rare)}. Look at their maps: junk, outliers, or a rare conformation."))
    if not suggestion.clear and curve.explained + curve.noise > 1 - LOOSE:
        notes.append(
            Note(
                f"One curve holds {curve.explained:.0%} of the spread in volume space, uncertainty {curve.noise:.0%}: "
                "the motion has one degree of freedom as far as these maps show."
            )
        )
    return tuple(sorted(notes, key=lambda note: note.level != "warning"))


def space_section(found: Landscape, paint: Painter, canvas: Float32[Tensor, "z y x"]) -> Section:
    """Where the particles lie in volume space, and what its directions mean, painted on a map."""
    space, coordinates = found.space, found.placement.coordinates
    blocks: list[Block] = []
    for first in range(min(2, len(space.ratio) - 1)):
        names = (f"volume PC{first + 1}", f"volume PC{first + 2}")
        title = f"PC{first + 1} and PC{first + 2} hold {space.ratio[first : first + 2].sum():.0%} of the variance"
        blocks.append(
            Figure(
                draw.density_plot(coordinates[:, first : first + 2], names, title=title),
                "All particles. Distances here are those between maps, unlike those of a latent space: crowded places "
                "are structures that many particles have. Lines hold 50 % and 90 % of the particles. Uncertain latent "
                "points blur what is sharp.",
                f"Particles in {names[0]} and {names[1]}",
            )
        )
    blocks.append(
        Figure(
            plots.explained_variance(space.ratio),
            "Share of the variance of the sketch's maps along each volume component. A motion that carries density "
            "farther than its own width takes several components: their number is not the number of motions.",
            "Explained variance",
            vector=True,
        )
    )
    surface = prepare_surface(canvas, paint.level)
    tiles = []
    for component in range(min(4, len(space.ratio))):
        painted = draw_surface(
            surface, view=paint.view, size=SIZE, extent=paint.extent, colour_map=space.eigenvolume(component)
        )
        tiles.append(Tile(f"PC{component + 1}", {"": painted}, f"{space.ratio[component]:.1%} of the variance"))
    blocks.append(
        Gallery(
            tuple(tiles),
            "All that any state has, coloured by where each component adds density (red) and where it takes it away "
            "(blue) as its coordinate grows: the eigen-volumes, pca/pc1.mrc and so on.",
        )
    )
    return Section(
        "Volume space",
        tuple(blocks),
        "Principal components of the maps: coordinates with a physical meaning, whatever the latent space looks like.",
    )


def state_section(found: Landscape, paint: Painter, means: Float32[Tensor, "m z y x"], *, asked: int) -> Section:
    """The states: where they lie, how many maps and particles they have, and what they look like."""
    states, coordinates = found.states, found.sketch_coordinates
    blocks: list[Block] = []
    for first in range(min(2, coordinates.shape[1] - 1)):
        names = (f"volume PC{first + 1}", f"volume PC{first + 2}")
        plot = draw.by_state(
            coordinates[:, first : first + 2], states.sketch, names, title=f"{len(coordinates)} maps by state"
        )
        caption = (
            "The maps of the sketch. Rare states are often clear in one plane and hidden in another."
            if first
            else "The maps of the sketch, coloured by state. Agglomerative clustering joins the nearest maps first, so "
            "that maps unlike all others, rare states or junk, stay apart to the end."
        )
        blocks.append(Figure(plot, caption, f"Maps by state in {names[0]} and {names[1]}"))
    counts = (states.volume_counts, states.particle_counts)
    blocks.append(
        Figure(
            draw.counts_plot(*counts),
            "A state with few maps and few particles is an outlier, junk, or a rare conformation: look at its map. The "
            "particles of each are listed in states/state_0.txt and so on.",
            "Counts of maps and particles",
            vector=True,
        )
    )
    blocks.append(
        Figure(
            draw.merging_plot(states.suggestion, asked),
            "The distance between the two states that merge next. Where it steps up, merging begins to join what lies "
            "apart: the number before that step is what the maps suggest. A smooth rise means a continuum.",
            "Merging distances",
            vector=True,
        )
    )
    pictures = paint(means, "states")
    titles = [f"state {i}: {count:,} ({percent(count, len(found.z))})" for i, count in enumerate(counts[1])]
    blocks.append(
        Figure(
            draw.pictures_plot(pictures, titles),
            f"The mean map of each state at one density level ({paint.level:.3g}) and from one side.",
            "States side by side",
            wide=True,
        )
    )
    blocks.append(_state_gallery(found, paint))
    rows = tuple(
        (str(state), maps, particles, percent(particles, len(found.z)), str(found.sketch.particles[middle]))
        for state, (maps, particles, middle) in enumerate(zip(*counts, states.middle, strict=True))
    )
    blocks.append(
        Table(
            ("state", "maps", "particles", "share", "middle particle"),
            rows,
            "Every particle has the state of the map nearest to its own. The middle particle is the one of the sketch "
            "whose map is nearest the state's mean. Numbers are 0-based.",
        )
    )
    return Section("States", tuple(blocks), "Groups of like maps, and the particles that belong to them.")


def percent(count: int, of: int) -> str:
    """A share in percent that is never rounded to nothing."""
    return f"{count / of:.1%}" if count == 0 or count / of >= 0.0005 else "<0.1%"


def _state_gallery(found: Landscape, paint: Painter) -> Gallery:
    """Each state's mean map coloured by its standard deviation, on one scale."""
    moments = [state_maps(found.sketch.values, found.states.sketch, state) for state in range(found.states.count)]
    spreads = [found.sketch.map(std) for _, std in moments]
    limit = float(np.percentile(torch.stack(spreads)[:, found.mask > 0.5].numpy(), 99))
    tiles = []
    for state, ((mean, _), spread) in enumerate(zip(moments, spreads, strict=True)):
        surface = prepare_surface(found.sketch.map(mean), paint.level)
        picture = draw_surface(
            surface, view=paint.view, size=SIZE, extent=paint.extent, colour_map=spread, colour_limit=max(limit, 1e-20)
        )
        tiles.append(Tile(f"State {state}", {"": picture}, f"{found.states.volume_counts[state]} maps"))
    return Gallery(
        tuple(tiles),
        "The same maps, coloured by the standard deviation within the state: red where its maps still differ, on one "
        "scale for all. A state that is red all over holds more than one structure, or much noise.",
    )


def other_section(found: Landscape) -> Section:
    """The same maps in other embeddings, and the states in latent space."""
    blocks: list[Block] = []
    views = [("MDS", found.mds, "keeps the distances between maps as well as a plane can")]
    if found.umap is not None:
        views.append(("UMAP", found.umap, "keeps neighbours; distances between islands and their sizes mean nothing"))
    for name, points, what in views:
        plot = draw.by_state(
            points, found.states.sketch, (f"{name} 1", f"{name} 2"), title=f"The maps in {name}", numbers=name == "MDS"
        )
        blocks.append(Figure(plot, f"{name} of the maps: it {what}.", f"Maps by state in {name}"))
    pca = principal_components(found.z)
    if len(pca.components) > 1:
        plot = draw.by_state(
            pca.projected[:, :2],
            found.states.particles,
            ("latent PC1", "latent PC2"),
            title="The states in latent space",
            what="particles",
        )
        blocks.append(
            Figure(
                plot,
                "All particles in the first two principal components of the latent space, coloured by the state of "
                "their maps: whether the latent space shows the states depends on the model, not on the molecule.",
                "Particles by state in latent space",
            )
        )
    return Section("Other views", tuple(blocks), "Where components do not show what there is, these may.")


def curve_section(found: Landscape, path: Trajectory, pictures: Sequence[Rgba]) -> Section:
    """Particles and maps along the curve through volume space."""
    curve = found.curve
    share = f"{curve.explained:.0%} of the spread in volume space"
    plot = draw.histogram_plot(
        curve.position, "length along the curve", marks=path.position.tolist(), title=f"The curve holds {share}"
    )
    blocks = (
        Figure(
            plot,
            "Particles along the one curve that fits all of them best (curve.npy). For a single motion it is the "
            "coordinate to use: a large motion bends through the components, and the first of them turns back before "
            f"the motion ends. Here {share} lies along it and {curve.noise:.0%} is uncertainty of the latent points; "
            "where much is left, there is more than one motion, or there are separate states.",
            "Particles along the curve",
            vector=True,
            wide=True,
        ),
        _gallery(path, pictures, "along the curve, from its 5th to its 95th percentile"),
    )
    return Section("Along the curve", blocks, "The landscape as one path, if it is one.")


def component_section(found: Landscape, number: int, one: Trajectory, *, paint: Painter) -> Section:
    """Particles and maps along a volume component (0-based), decoded and as a straight line."""
    name = f"volume PC{number + 1}"
    share = f"{found.space.ratio[number]:.0%} of the variance"
    along = found.placement.coordinates[:, number]
    blocks: list[Block] = [
        Figure(
            draw.histogram_plot(along, name, marks=one.position.tolist(), title=f"{name}: {share}"),
            f"Particles along {name}; the numbered lines are where the maps below were made.",
            f"Particles along {name}",
            vector=True,
            wide=True,
        ),
        _gallery(one, paint(one.decoded, f"maps along {name}"), "at the particles nearest to these places"),
    ]
    if one.linear is not None:
        note = (
            "the mean map plus so much of the component: what the component alone means. Where density appears in one "
            "place and fades in another, a part moves farther than a straight line can follow"
        )
        blocks.append(_gallery(one, paint(one.linear, f"straight along {name}"), note))
    return Section(f"Along {name}", tuple(blocks), f"One direction of volume space, which holds {share} of the maps.")


def placement_section(found: Landscape) -> Section:
    """How well the coordinates of all particles are known."""
    placement = found.placement
    rows = tuple(
        (f"PC{i + 1}", f"{ratio:.2%}", f"{r2:.4f}")
        for i, (ratio, r2) in enumerate(zip(found.space.ratio, placement.r2_each, strict=True))
    )
    rounds = "; ".join(f"{pairs} maps: {r2:.4f}" for pairs, r2 in placement.rounds)
    blocks = (
        Figure(
            draw.regression_plot(placement),
            "Maps of random particles that the prediction had not seen: where they lie, and where it put them.",
            "Predicted and decoded coordinates",
            vector=True,
            wide=True,
        ),
        Table(
            ("component", "variance", "held-out R²"),
            rows,
            f"All together: {placement.r2:.4f}. Decoded in rounds, a quarter of each held out: {rounds}. This is about "
            "predicting the model's own maps; whether the model is right, it does not say.",
        ),
    )
    return Section(
        "Placing all particles",
        blocks,
        "Only some maps are decoded; a smooth function of the latent point says where the others lie.",
    )


def _gallery(one: Trajectory, pictures: Sequence[Rgba], what: str) -> Gallery:
    places = [f"{place:.2f}".replace("-", "\N{MINUS SIGN}") for place in one.position]
    tiles = [
        Tile(f"{i} · {place}", {"": picture}, f"particle {particle}")
        for i, (place, picture, particle) in enumerate(zip(places, pictures, one.particles, strict=True))
    ]
    return Gallery(tuple(tiles), f"Maps {what}.")
