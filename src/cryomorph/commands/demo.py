"""`cryomorph demo`: from simulated particles to a scored landscape, and where to look."""

from __future__ import annotations

from time import perf_counter

from cryomorph.config.console import say
from cryomorph.config.demo import DemoConfig
from cryomorph.io.output_folder import Contents, OutputFolder

DEMO = Contents("demo", marker="particles/truth.npz", whole=True)


def demo(config: DemoConfig) -> None:
    """Run every step on a simulated hinge protein."""
    with OutputFolder(config.output, DEMO, overwrite=config.overwrite) as output:
        output.set_aside()
        output.commit()
        _run_all(config)


def _run_all(config: DemoConfig) -> None:
    from cryomorph.commands.analyze import analyze
    from cryomorph.commands.benchmark import benchmark
    from cryomorph.commands.simulate import simulate
    from cryomorph.commands.train import train
    from cryomorph.config.analyze import AnalyzeConfig
    from cryomorph.config.benchmark import BenchmarkConfig
    from cryomorph.config.linear import LinearConfig
    from cryomorph.config.simulate import SimulateConfig

    folder = config.output
    begin = perf_counter()
    particles, model = folder / "particles", folder / "run"
    say(f"1/4  simulating {config.n} particles of a hinge protein whose arm swings through 86 degrees")
    simulate(SimulateConfig("uniform", particles, n=config.n, box=config.box, pixel_A=config.pixel_A, seed=config.seed))
    say("2/4  preparing, reconstructing and fitting: cryomorph train linear")
    train(LinearConfig(particles / "particles.star", model, zdim=config.zdim, seed=config.seed))
    say("3/4  analysing: cryomorph analyze")
    analyze(AnalyzeConfig(model, clusters=12, pcs=1, seed=config.seed))
    say("4/4  scoring against the truth: cryomorph benchmark")
    benchmark(BenchmarkConfig(particles, (model,), output=folder / "benchmark.json", pick=40))
    say(f"done in {perf_counter() - begin:.0f} s")
    print(f"report       {model / 'analysis' / 'report.html'}")
    print(f"maps         {model / 'analysis' / 'kmeans'}")
    print(f"latent       {model / 'latent_mean.npy'}")
    print(f"consensus    {model / 'consensus' / 'map.mrc'}")
    print(f"scores       {folder / 'benchmark.json'}")
    print("your turn    cryomorph train linear YOUR.star -o run; cryomorph analyze run")
