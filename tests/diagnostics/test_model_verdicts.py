"""Verdicts on the measurements of a model, at their bounds and on either side."""

from __future__ import annotations

import pytest

from cryomorph.diagnostics.model import divergence_check, model_checks
from cryomorph.runs.measurements import ModelMeasurements


@pytest.mark.parametrize(
    ("given", "failed"),
    [
        ((1.0, 0.9, [1.0, 0.01], 0.0), None),
        ((0.8, 0.01, [0.05], 0.1), None),
        ((1.2, 0.9, [], 0.0), None),
        ((0.79, 0.9, [1.0], 0.0), "Scale of the maps"),
        ((1.21, 0.9, [1.0], 0.0), "Scale of the maps"),
        ((float("nan"), 0.9, [1.0], 0.0), "Scale of the maps"),
        ((1.0, -0.1, [1.0], 0.0), "Correlation with the consensus"),
        ((1.0, float("nan"), [1.0], 0.0), "Correlation with the consensus"),
        ((1.0, 0.9, [0.01, 0.02], 0.0), "KL divergence from the prior"),
        ((1.0, 0.9, [1.0], 0.11), "Viewing direction predicted from the latent space"),
        ((1.0, 0.9, [1.0], float("nan")), "Viewing direction predicted from the latent space"),
    ],
)
def test_a_number_out_of_bounds_is_the_one_that_is_named(given, failed):
    checks = model_checks(ModelMeasurements(*given))
    assert [check.name for check in checks if check.verdict == "warning"] == ([] if failed is None else [failed])
    assert all(check.verdict == "good" for check in checks if check.name != failed)


def test_coordinates_that_are_unused_are_named():
    divergence = divergence_check([1.0, 0.01, 0.3, 0.02])
    assert divergence.value == "0.01 to 1.00 nats; unused: 2, 4"
    assert divergence.verdict == "good"
