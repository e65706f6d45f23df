"""How many decoded maps it takes to place particles in volume space: a spline, and the paper's network.

Maps of a run at random particles are reduced to their principal components; each regressor learns components from
latent points of so many of them, and predicts those of a quarter that is held out. The paper trains an MLP of unstated
size on 25,000 maps for 50 epochs in batches of 64 with Adam at 1e-3 (Zhong et al. 2022, A.2); here it has three layers
of 256. `analysis/landscape/embedding.py` cites this.

python benchmarks/landscape.py RUN [--maps 1024] [--box 32]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from cryomorph.analysis.landscape.embedding import Spline
from cryomorph.runs.folder import RunFolder

COMPONENTS = 10
HELD_OUT = 4  # one map in four
EPOCHS, BATCH, RATE, SIZE = 50, 64, 1e-3, (256, 256, 256)

Predict = Callable[[Float[np.ndarray, "n q"]], Float[np.ndarray, "n p"]]


def decoded(run: RunFolder, count: int, box: int) -> tuple[Float32[np.ndarray, "n q"], Float32[np.ndarray, "n voxels"]]:
    """Latent points of random particles, and their maps, flat."""
    latent = run.latent_mean()
    chosen = np.random.default_rng(0).permutation(len(latent))[:count]
    decode = run.representation().decoder(box)
    with torch.no_grad():
        maps = np.stack([decode(torch.from_numpy(point)).numpy().ravel() for point in latent[chosen]])
    return latent[chosen], maps


def network(z: Float[np.ndarray, "n q"], values: Float[np.ndarray, "n p"]) -> Predict:
    """The paper's regressor, on standardised numbers."""
    given, wanted = StandardScaler().fit(z), StandardScaler().fit(values)
    batch = min(BATCH, len(z))
    model = MLPRegressor(
        hidden_layer_sizes=SIZE, batch_size=batch, learning_rate_init=RATE, max_iter=EPOCHS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 50 epochs are the paper's, converged or not
        model.fit(given.transform(z), wanted.transform(values))
    return lambda points: wanted.inverse_transform(model.predict(given.transform(points)).reshape(len(points), -1))


def main() -> None:
    """Decode, learn from ever more maps, and print R^2 on those held out with the seconds of each fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--maps", type=int, default=1024)
    parser.add_argument("--box", type=int, default=32)
    asked = parser.parse_args()
    begin = time.perf_counter()
    z, maps = decoded(RunFolder.open(asked.run), asked.maps, asked.box)
    print(f"{len(maps)} maps of box {asked.box} decoded in {time.perf_counter() - begin:.1f} s")
    values = PCA(min(COMPONENTS, len(maps))).fit_transform(maps)
    held = np.arange(len(z)) % HELD_OUT == HELD_OUT - 1
    spread = np.square(values[held] - values[held].mean(axis=0)).sum()
    print("maps   spline: R^2, seconds   network: R^2, seconds")
    count = 64
    while True:
        count = min(count, int((~held).sum()))
        line = f"{count:5d}"
        for learn in (Spline.through, network):
            begin = time.perf_counter()
            predict = learn(z[~held][:count], values[~held][:count])
            r2 = 1 - np.square(predict(z[held]) - values[held]).sum() / spread
            line += f"   {r2:13.5f} {time.perf_counter() - begin:6.2f}"
        print(line)
        if count == int((~held).sum()):
            return
        count *= 2


if __name__ == "__main__":
    main()
