"""Do the tests notice? Each mutation breaks one operator in a copy of the source, and its tests must fail.

    python benchmarks/mutations.py             # all of them; exit status 1 where one survives
    python benchmarks/mutations.py ctf pose    # those whose file names contain a word

Mutations are conventions that fail silently (sign, hand, centre, shift direction, scale), and bounds of claims.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """What is replaced in a file, and the tests that must notice."""

    file: str
    before: str
    after: str
    tests: str


MUTATIONS = [
    Mutation("physics/ctf.py", "torch.sin(chi) * ctf.scale", "-torch.sin(chi) * ctf.scale", "physics/test_ctf.py"),
    Mutation("physics/ctf.py", "-0.5 * torch.pi * lam**3", "0.5 * torch.pi * lam**3", "physics/test_ctf.py"),
    Mutation("physics/ctf.py", "torch.sin(angle)", "-torch.sin(angle)", "physics/test_ctf.py"),
    Mutation(
        "physics/ctf.py", "torch.asin(ctf.amplitude_contrast)", "ctf.amplitude_contrast * 0", "physics/test_ctf.py"
    ),
    Mutation("physics/ctf.py", "torch.exp(-0.25 *", "torch.exp(-0.5 *", "physics/test_ctf.py"),
    Mutation("physics/ctf.py", "0.978466e-6", "0.488e-6", "physics/test_ctf.py"),
    Mutation("physics/pose.py", "degrees=True).mT.contiguous()", "degrees=True).contiguous()", "physics/test_pose.py"),
    Mutation("physics/pose.py", '"ZYZ"', '"ZXZ"', "physics/test_pose.py"),
    Mutation("physics/pose.py", "(-2 * torch.pi) *", "(2 * torch.pi) *", "physics/test_pose.py"),
    Mutation("physics/slicing.py", "values.imag * sign)", "values.imag)", "physics/test_slicing.py"),
    Mutation("physics/slicing.py", "@ rotation[:, :2]", "@ rotation.mT[:, :2]", "physics/test_slicing.py"),
    Mutation("physics/slicing.py", "face[mate][:, mate].conj()", "face[mate][:, mate]", "physics/test_slicing.py"),
    Mutation("physics/slicing.py", "volume / attenuation", "volume", "physics/test_slicing.py"),
    Mutation("physics/noise.py", "power / window.square().mean()", "power / window.mean()", "physics/test_noise.py"),
    Mutation("physics/noise.py", "((radius - 1) / edge + 1)", "((1 - radius) / edge)", "physics/test_noise.py"),
    Mutation(
        "physics/rings.py",
        "image.real * model.real + image",
        "image.real * model.real - image",
        "physics/test_rings.py",
    ),
    Mutation("objectives/kl.py", "- 1 - log_ratio", "- 1 + log_ratio", "objectives/test_kl.py"),
    Mutation(
        "objectives/likelihood.py", "batch.ctf * slices).square()", "slices).square()", "objectives/test_likelihood.py"
    ),
    Mutation("latents/ppca.py", "gram = 2 * columns.mT", "gram = columns.mT", "latents/test_ppca.py"),
    Mutation("latents/ppca.py", "- factor.diagonal", "+ factor.diagonal", "latents/test_ppca.py"),
    Mutation("latents/ppca.py", "- a**2 * gram[:, 1:, 0]", "+ a**2 * gram[:, 1:, 0]", "latents/test_ppca.py"),
    Mutation(
        "latents/linear_fit.py",
        "agreement >= REPRODUCIBLE",
        "agreement >= 0",
        "diagnostics report commands/test_analyze.py",
    ),
    Mutation("volumes/fsc.py", "(ft_a * ft_b.conj()).real", "(ft_a * ft_b).real", "volumes/test_fsc.py"),
    Mutation("volumes/fsc.py", "values[1:] < threshold) + 1", "values[1:] < threshold)", "volumes/test_fsc.py"),
    Mutation("volumes/fsc.py", "(before - threshold) / (before - after)", "0.5", "volumes/test_fsc.py"),
    Mutation(
        "objectives/disentangle.py", "torch.log1p(1 / squared", "torch.log1p(squared", "objectives/test_disentangle.py"
    ),
    Mutation(
        "particles/from_cryosparc.py",
        "rotation_from_rotvec(-rotvec)",
        "rotation_from_rotvec(rotvec)",
        "particles/test_from_cryosparc.py",
    ),
]


def survives(mutation: Mutation) -> bool:
    """Whether a copy of the checkout with the mutation passes its tests."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "demo", "_build"))
        path = copy / "src" / "cryomorph" / mutation.file
        source = path.read_text()
        if mutation.before not in source:
            raise SystemExit(f"{mutation.file} does not hold '{mutation.before}': bring the list up to date")
        path.write_text(source.replace(mutation.before, mutation.after))
        return passes(copy, mutation.tests.split())


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether a checkout passes some of its tests."""
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not accept",
               "--jaxtyping-packages="]  # fmt: skip
    paths = [str(copy / "tests" / test) for test in tests]
    done = subprocess.run([*command, *paths], cwd=copy, env=environment, capture_output=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {done.returncode} for {tests}: {done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Run the mutations whose files match; returns the exit status."""
    chosen = [one for one in MUTATIONS if not words or any(word in one.file for word in words)]
    tests = sorted({test for one in chosen for test in one.tests.split()})
    if not passes(ROOT, tests):
        raise SystemExit(f"{' '.join(tests)}: expected to pass as they are")
    alive = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutation, survived in zip(chosen, pool.map(survives, chosen), strict=True):
            alive += survived
            print(
                f"{'SURVIVED' if survived else 'killed':9} {mutation.file}: {mutation.before} -> {mutation.after}",
                flush=True,
            )
    print(f"{len(chosen) - alive} of {len(chosen)} killed")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
