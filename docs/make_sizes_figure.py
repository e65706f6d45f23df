"""Draw how the resolution of a homogeneous field rises with its size: python docs/make_sizes_figure.py FOLDER.

As Fig. 2B of Zhong et al. 2021, on 1IGY. FOLDER holds what these commands leave, the second one for every width:

    cryomorph simulate model -o FOLDER/set --model 1igy.pdb --conformations 1 -n 2000 --box 64 --pixel-A 3 --snr 1
    cryomorph train neural-field FOLDER/set/particles.star -o FOLDER/width128 --zdim 0 --width 128
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cryomorph.io.mrc import read_map
from cryomorph.volumes.fsc import fsc, resolution_A

PICTURE = Path(__file__).parent / "figures" / "sizes.png"
WIDTHS = (128, 256, 512)


def main(folder: Path) -> None:
    """Print the resolution of every size against the truth and draw the curves."""
    true, pixel_A = read_map(next((folder / "set" / "maps").glob("*.mrc")))
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for width in WIDTHS:
        found, _ = read_map(folder / f"width{width}" / "map.mrc")
        curve = fsc(torch.tensor(found), torch.tensor(true)).float()
        resolution = resolution_A(curve, pixel_A, threshold=0.5)
        print(f"{width} x 3: {resolution:.2f} A at FSC 0.5, mean FSC {curve[1:].mean():.4f}")
        frequency = np.arange(len(curve)) / (len(true) * pixel_A)
        axes.plot(frequency[1:], curve[1:], label=f"{width} x 3: {resolution:.2f} Å")
    axes.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC against the true map", ylim=(0, 1.02), xlim=(0, None))
    axes.legend(frameon=False, title="field, at FSC 0.5")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
