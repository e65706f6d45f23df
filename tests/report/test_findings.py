"""The report's summary in words: what is said of numbers that are known."""

from __future__ import annotations

import numpy as np

from cryomorph.analysis.latent import outliers
from cryomorph.report.findings import components, findings


def test_findings_name_what_to_believe_and_put_warnings_first():
    z = np.random.default_rng(3).normal(size=(300, 3)) * [0.5, 0.4, 0.1]
    z[7] = [60, 0, 0]
    notes = findings(
        reproducibility=np.array([0.9, 0.8, 0.1, 0.2]),
        std=np.array([[0.1, 0.2, 0.3, 1.0]] * 5),
        resolution_A=7.84,
        outlying=outliers(z, 8.0),
        contrast="Images were inverted.",
        warnings=["Beam tilt is ignored."],
    )
    texts = [note.text for note in notes]
    assert texts[0] == "Beam tilt is ignored."
    assert "component 4: the posterior" in texts[1]
    assert "Do not interpret components 3 and 4" in texts[2]
    assert [note.level for note in notes] == ["warning"] * 3 + ["good"] + ["info"] * 3
    assert texts[3] == "2 of 4 components are reproducible between half sets of the particles."
    assert (
        "7.8 Å" in texts[4]
        and texts[5] == "Images were inverted."
        and texts[6].startswith("1 particle lies far outside")
    )
    whole = findings(reproducibility=np.array([0.9, 0.8]))
    assert [(n.level, n.text[:6]) for n in whole] == [("good", "2 of 2")]
    assert findings() == ()


def test_components_are_listed_as_one_speaks():
    assert components(np.array([2])) == "component 2"
    assert components(np.array([1, 2, 5])) == "components 1, 2 and 5"
