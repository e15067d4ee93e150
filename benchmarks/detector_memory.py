"""What every detector holds on the device: XLA's own figures for images of 16,384 coordinates, nothing is run."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.table import Row
from benchmarks.topic import publish
from plap_jax import detectors
from plap_jax.detectors import Detector, Query
from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.memory import points_at_once
from plap_jax.typing import Array

DIM, SIGMA, N_REFERENCE = 2**14, 0.1, 256
MOST = 4.0  # times the flux
FLUX = detectors.FluxDensity(SIGMA)
DETECTORS: dict[str, Detector] = {
    "FluxDensity": FLUX,
    "FluxGap": detectors.FluxGap(SIGMA),
    "FLIPD": detectors.FLIPD(SIGMA),
    "FLIPD, 8 probes": detectors.FLIPD(SIGMA, n_probes=8),
    "NormalBundle": detectors.NormalBundle(SIGMA),
    "PLaplacianAt": detectors.PLaplacianAt(SIGMA),
    "BallAverage": detectors.BallAverage(SIGMA),
    "ManifoldBias": detectors.ManifoldBias(SIGMA),
    "DenoisingLoss": detectors.DenoisingLoss(SIGMA),
    "ScoreNorm": detectors.ScoreNorm(SIGMA),
    "SecMI": detectors.SecMI(SIGMA),
    "PIA": detectors.PIA(SIGMA),
    "SimA": detectors.SimA(SIGMA),
    "NoiseGapNorm": detectors.NoiseGapNorm(),
    "Sharpness": detectors.Sharpness(),
    "Anisotropy": detectors.Anisotropy(SIGMA),
    "DSMGap": detectors.DSMGap(),
    "LHSD": detectors.LHSD(SIGMA),
    "CurvatureDifference": detectors.CurvatureDifference(SIGMA),
    "CLiD": detectors.CLiD(SIGMA),
    "UpdateNorm": detectors.UpdateNorm(),
    "QuantileRegression": detectors.QuantileRegression(SIGMA, jnp.zeros(17), jnp.zeros(17), jnp.ones(17), 0.0),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cheap:
    """A network that holds next to nothing itself, and whose derivative is another one everywhere."""

    gain: Array

    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        """ε̂ of one point."""
        told = 0 if condition is None else condition
        return self.gain * (1 + told) * jnp.tanh(x)


def temp_bytes(detector: Detector, n: int | None = None) -> int:
    """Temporary buffers of the program for ``n`` images at a time; None for as many as ``scores`` takes."""
    # Of the normal bundle, ``scores`` runs this on the device, and the rest on the host.
    program = detector.rows(0) if isinstance(detector, detectors.NormalBundle) else detector
    n = points_at_once(DIM, program.nfe(DIM)) if n is None else n
    points, whole = jax.ShapeDtypeStruct((n, DIM), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    queries = Query(points, whole, points, jax.ShapeDtypeStruct((n,), jnp.float32))
    model = Diffusion(Cheap(jnp.float32(0.5)), VPLinear())
    one = partial(program.statistic, key=jax.random.key(0))
    many = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    return many.lower(model, queries).compile().memory_analysis().temp_size_in_bytes


def measure(runs: int) -> list[Row]:
    """A batch of the default size, and one image, of every detector; the same in every run."""
    shown = DETECTORS | {"CopyRatio": detectors.CopyRatio(jnp.zeros((N_REFERENCE, DIM)))}
    rows = []
    for what, n in (("default batch", None), ("one image", 1)):
        of_flux = temp_bytes(FLUX, n)
        for name, detector in shown.items():
            found = temp_bytes(detector, n)
            rows.append(Row(f"{name}, {what}: temporary memory", [found / 2**20], "MiB"))
            rows.append(Row(f"{name}, {what}: temporary memory / flux", [found / of_flux], "×", at_most=MOST))
    return rows


if __name__ == "__main__":
    publish(measure)
