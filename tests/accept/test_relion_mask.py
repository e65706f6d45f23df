"""Masks resampled to another box, beside those that RELION resamples."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from cryomorph.io.mrc import read_map, write_map
from cryomorph.volumes.masks import read_mask

pytestmark = [
    pytest.mark.accept,
    pytest.mark.skipif(shutil.which("relion_image_handler") is None, reason="RELION is not installed"),
]


@pytest.mark.parametrize(
    ("given", "needed"),
    [((128, 1.5), (64, 3.0)), ((64, 3.0), (128, 1.5)), ((96, 1.5), (40, 3.0)), ((48, 2.0), (64, 2.0))],
)
def test_a_mask_lies_where_relion_puts_it(given, needed, tmp_path):
    """A soft box off the origin, different along each axis; a voxel off would be a difference of 0.1 and more."""
    (box, pixel_A), (other_box, other_A) = given, needed
    axis = (np.arange(box) - box // 2) * pixel_A
    edges = [0.5 + 0.5 * np.cos(np.pi * ((abs(axis - at) - 8) / 20).clip(0, 1)) for at in (10.0, -12.0, 4.0)]
    write_map(tmp_path / "mask.mrc", np.einsum("z,y,x->zyx", *edges), pixel_A)
    words = f"--i mask.mrc --o relion.mrc --angpix {pixel_A} --rescale_angpix {other_A} --new_box {other_box}"
    subprocess.run(["relion_image_handler", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    theirs, found_A = read_map(tmp_path / "relion.mrc")
    ours = read_mask(tmp_path / "mask.mrc", other_box, other_A).numpy()
    assert found_A == pytest.approx(other_A, rel=1e-4)
    np.testing.assert_allclose(ours, theirs, atol=0.045)  # linear interpolation of three cosine edges
    assert abs(ours - np.roll(theirs, 1, 2)).max() > 0.1
