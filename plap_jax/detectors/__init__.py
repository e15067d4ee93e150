"""Memorization detectors, one file each: all with one signature, and for all of them higher = more memorized."""

from plap_jax.detectors.anisotropy import Anisotropy
from plap_jax.detectors.ball_average import BallAverage
from plap_jax.detectors.base import NEEDS, Detector, Need, Query
from plap_jax.detectors.clid import CLiD
from plap_jax.detectors.copy_ratio import CopyRatio
from plap_jax.detectors.curvature_difference import CurvatureDifference
from plap_jax.detectors.denoising_loss import DenoisingLoss
from plap_jax.detectors.dsm_gap import DSMGap
from plap_jax.detectors.flipd import FLIPD
from plap_jax.detectors.flux_density import FluxDensity
from plap_jax.detectors.flux_gap import FluxGap
from plap_jax.detectors.lhsd import LHSD
from plap_jax.detectors.manifold_bias import ManifoldBias
from plap_jax.detectors.noise_gap import NoiseGapNorm
from plap_jax.detectors.normal_bundle import NormalBundle
from plap_jax.detectors.p_laplacian_at import PLaplacianAt
from plap_jax.detectors.pia import PIA
from plap_jax.detectors.quantile_regression import QuantileRegression
from plap_jax.detectors.score_norm import ScoreNorm
from plap_jax.detectors.secmi import SecMI
from plap_jax.detectors.sharpness import Sharpness
from plap_jax.detectors.sima import SimA
from plap_jax.detectors.update_norm import UpdateNorm

__all__ = [
    "FLIPD",
    "LHSD",
    "NEEDS",
    "PIA",
    "Anisotropy",
    "BallAverage",
    "CLiD",
    "CopyRatio",
    "CurvatureDifference",
    "DSMGap",
    "DenoisingLoss",
    "Detector",
    "FluxDensity",
    "FluxGap",
    "ManifoldBias",
    "Need",
    "NoiseGapNorm",
    "NormalBundle",
    "PLaplacianAt",
    "QuantileRegression",
    "Query",
    "ScoreNorm",
    "SecMI",
    "Sharpness",
    "SimA",
    "UpdateNorm",
]
