"""Pictures of a path: one level, one camera, nothing cut off; movies as other programs read them back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cryomorph.analysis.latent import principal_components
from cryomorph.config.errors import InputError
from cryomorph.io.mrc import write_map
from cryomorph.render import movie
from cryomorph.render.chimerax import movie_script
from cryomorph.render.isosurface import COLOUR, common_level
from cryomorph.render.map_renderer import most_informative_view
from cryomorph.render.movie import MapFiles, MapStatistics, Scene
from cryomorph.report.path_plot import path_figure

BOX = 32


def ball(x: float, y: float, z: float, *, width: float = 2.5) -> np.ndarray:
    """A Gaussian at a position in voxels from the origin."""
    axis = np.arange(BOX) - BOX // 2
    at_z, at_y, at_x = np.meshgrid(axis, axis, axis, indexing="ij")
    square = (at_x - x) ** 2 + (at_y - y) ** 2 + (at_z - z) ** 2
    return np.exp(-square / (2 * width**2)).astype(np.float32)


def centroid(frame: np.ndarray) -> np.ndarray:
    """The middle of what is not white, in pixels to the right and up."""
    row, column = np.nonzero((frame < 200).any(axis=2))
    return np.array([column.mean(), -row.mean()])


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    """Five pictures of a ball that goes to the right."""
    maps = [ball(2 * i - 4, 0, 0) for i in range(5)]
    return movie.write_frames(tmp_path / "frames", maps, scene=Scene.of(maps, view="front"), size=64)


def test_a_survey_is_what_numpy_finds():
    maps = [np.random.default_rng(i).normal(100, 1, (8, 8, 8)).astype(np.float32) for i in range(5)]
    found, stack = MapStatistics.of(maps), np.stack(maps).astype(float)
    np.testing.assert_allclose(found.mean, stack.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.spread, stack.std(0), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, stack.std((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.highest, stack.max((1, 2, 3)))


def test_a_ball_that_moves_does_so_in_the_pictures_by_as_much():
    """All three views, one camera: the centroid goes by the shift times pixels for each voxel."""
    start, shift = np.array([3.0, -2.0, 1.0]), np.array([-4.0, 5.0, 3.0])
    maps = [ball(*start), ball(*(start + shift))]
    for view, (right, up) in {"front": ((0, 1), (1, 1)), "side": ((2, -1), (1, 1)), "top": ((0, 1), (2, -1))}.items():
        scene = Scene.of(maps, view=view, level=(0.5, False))
        moved = centroid(scene.draw(maps[1], 200)) - centroid(scene.draw(maps[0], 200))
        expected = np.array([right[1] * shift[right[0]], up[1] * shift[up[0]]]) * 200 / scene.width
        np.testing.assert_allclose(moved, expected, atol=1.0)


def test_nothing_is_cut_off_and_the_middle_is_in_the_middle():
    maps = [ball(9, 8, -8), ball(9, 2, -8), ball(4, 8, 0)]
    for view in ("auto", "front", "side", "top"):
        scene = Scene.of(maps, view=view, level=(0.5, False))
        together = np.minimum.reduce([scene.draw(volume, 100) for volume in maps])
        row, column = np.nonzero((together < 250).any(axis=2))
        edges = np.array([column.min(), 99 - column.max(), row.min(), 99 - row.max()])
        assert edges.min() >= 2
        assert abs(edges[0] - edges[1]) <= 2
        assert abs(edges[2] - edges[3]) <= 2
        assert edges.min() < 12  # nor lost in the middle


def test_pictures_are_white_where_nothing_is():
    maps = [ball(0, 0, 0), ball(5, 0, 0)]
    frame = Scene.of(maps).draw(maps[0], 80)
    assert frame.shape == (80, 80, 3)
    assert (frame[0] == 255).all() and (frame[-1] == 255).all() and (frame[:, 0] == 255).all()
    assert (frame < 200).any()


def test_the_level_is_the_one_asked_for_or_the_one_that_suits():
    maps = [ball(0, 0, 0), ball(5, 0, 0), 2 * ball(0, 5, 0)]
    assert Scene.of(maps).level == pytest.approx(common_level(maps))
    assert Scene.of(maps, level=(0.4, False)).level == 0.4
    expected = np.median([m.astype(float).mean() + 3 * m.astype(float).std() for m in maps])
    assert Scene.of(maps, level=(3.0, True)).level == pytest.approx(expected)
    for level in ((1.5, False), (-1.0, False), (1e6, True)):
        with pytest.raises(InputError, match="the maps have a surface from"):
            Scene.of(maps, level=level)


def test_the_view_is_the_one_in_whose_plane_the_maps_differ():
    maps = [ball(0, 0, z) + ball(x, 0, 0) for z, x in ((-6, 3), (0, 1), (6, 2))]
    found = Scene.of(maps, level=(0.5, False)).rotation
    np.testing.assert_allclose(found, most_informative_view(torch.from_numpy(np.stack(maps))), atol=1e-3)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-6)
    assert abs(found[0, 2]) > 0.99  # what moves most, along z, goes to the right


def test_maps_are_read_from_disk_when_they_are_asked_for(tmp_path):
    for i in range(3):
        write_map(tmp_path / f"{i}.mrc", np.full((8, 8, 8), i, np.float32), 1.0)
    maps = MapFiles(tuple(tmp_path / f"{i}.mrc" for i in range(3)))
    assert len(maps) == 3
    assert [int(volume.max()) for volume in maps] == [0, 1, 2]
    assert maps[-1].max() == 2
    assert len(maps[1:]) == 2


def test_forth_and_back_shows_the_ends_once():
    assert movie.forth_and_back(4) == [0, 1, 2, 3, 2, 1]
    assert movie.forth_and_back(2) == [0, 1]


def test_a_gif_as_pillow_reads_it_back(tmp_path, frames):
    movie.write_movie(tmp_path / "movie.gif", frames, fps=12.5)
    with Image.open(tmp_path / "movie.gif") as found:
        assert found.n_frames == 8
        assert found.size == (64, 64)
        assert found.info["loop"] == 0
        for number, shown in enumerate((0, 1, 2, 3, 4, 3, 2, 1)):
            found.seek(number)
            assert found.info["duration"] == 80
            picture = np.asarray(found.convert("RGB")).astype(int)
            original = np.asarray(Image.open(frames[shown])).astype(int)
            assert (picture[0] == 255).all()
            assert np.abs(picture - original).mean() < 1.5
            assert np.abs(picture - original).max() < 40


def test_an_mp4_as_ffmpeg_reads_it_back(tmp_path, frames):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    movie.write_movie(tmp_path / "movie.mp4", frames, fps=10.0)
    reader = ffmpeg.read_frames(str(tmp_path / "movie.mp4"))
    facts = next(reader)
    pictures = [np.frombuffer(frame, np.uint8).reshape(64, 64, 3).astype(int) for frame in reader]
    assert facts["size"] == (64, 64)
    assert facts["fps"] == 10
    assert facts["codec"] == "h264"
    assert len(pictures) == 8
    for picture, shown in zip(pictures, (0, 1, 2, 3, 4, 3, 2, 1), strict=True):
        assert np.abs(picture - np.asarray(Image.open(frames[shown]))).mean() < 6


def test_without_ffmpeg_an_mp4_is_refused_and_a_gif_is_not(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(movie, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--movie mp4 needs the package imageio-ffmpeg.*or --movie gif"):
        movie.write_movie(tmp_path / "movie.mp4", frames, fps=10.0)
    assert not list(tmp_path.glob("*.mp4"))
    movie.check_movie("gif")
    movie.check_movie("none")


def test_the_chimerax_script_opens_every_map_and_sets_the_scene():
    maps = [ball(0, 0, 0), ball(5, 3, 2)]
    scene = Scene.of(maps)
    names = [f"{i:06d}.mrc" for i in range(30)]
    text = movie_script(names, scene, fps=12.0)
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    opened = next(line for line in commands if line.startswith("open "))
    assert opened.split()[1:-2] == names
    assert opened.endswith(" vseries true")
    assert "/" not in opened
    level = float(re.search(r"volume #1 .*level (\S+)", text)[1])
    assert level == pytest.approx(scene.level, rel=1e-5)
    colour = re.search(r"color #(\w{6})", text)[1]
    np.testing.assert_allclose([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)], COLOUR, atol=0.002)
    matrix = np.array(re.search(r"view matrix camera (\S+)", text)[1].split(","), float).reshape(3, 4)
    np.testing.assert_allclose(matrix[:, :3], scene.rotation.T, atol=1e-5)  # columns: right, up, to the viewer
    assert commands[-1] == "vseries play #1 direction oscillate loop true maxFrameRate 12"


def test_the_overview_shows_the_plane_along_which_the_path_goes():
    z = np.random.default_rng(0).normal(size=(500, 4)) * [4, 3, 2, 1]
    pca = principal_components(z)
    along = pca.mean + np.linspace(-2, 2, 6)[:, None] * pca.components[2]
    figure = path_figure(pca, along, along, title="a path")
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "a path"
    assert axes.get_xlabel().startswith("PC1") and axes.get_ylabel().startswith("PC3")
    drawn = axes.lines[-1].get_xydata()
    np.testing.assert_allclose(drawn[:, 1], np.linspace(-2, 2, 6), atol=1e-9)
    assert {text.get_text() for text in axes.texts} >= {"0", "5"}
    far = along + 100 * pca.components[0]
    limits = path_figure(pca, far, far, marks=[3], title="far").axes[0].get_xlim()
    assert limits[1] > 100


def test_the_overview_of_one_dimension():
    z = np.random.default_rng(0).normal(5, 2, size=(300, 1))
    figure = path_figure(principal_components(z), z[:4].copy(), z[:4].copy(), title="one")
    assert figure.axes[0].get_title(loc="left") == "one"


def test_a_map_without_a_surface_at_the_common_level_is_an_empty_picture():
    maps = [ball(0, 0, 0), ball(5, 0, 0), 0.01 * ball(0, 5, 0)]
    scene = Scene.of(maps, view="front")
    assert (scene.draw(maps[2], 64) == 255).all()
    assert (scene.draw(maps[0], 64) < 200).any()
