"""An audit whose answer is known: ``python -m experiments.run +exp=audit_demo``, or ``make audit-demo``.

Images are planted in a training set, a network is trained on it, and planted and held-out images are audited as files,
against other held-out images. Over seeds it shows that errors are kept: ``-m seed=1,2,3``.
"""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from experiments.core.tracker import Tracker
from experiments.shared.audit_settings import Request, Settings
from experiments.shared.audits import audit, surroundings
from experiments.shared.networks import MAIN, Learning, Trained, snapshot_steps, trained
from experiments.shared.own_images import Generation
from experiments.shared.planting import Planting, planted_images
from plap_jax.audit import AuditResult
from plap_jax.audit.auditing import audit as audit_opened
from plap_jax.audit.images import MODES, Pictures, pixels
from plap_jax.audit.sources import open_source
from plap_jax.audit.subject import Held, Subject
from plap_jax.calibration import benjamini_hochberg, conformal_p_values
from plap_jax.data import Planted, fingerprint
from plap_jax.metrics import auc, proportion_interval
from plap_jax.pretrained import Pretrained
from plap_jax.typing import require

__all__ = ["Config", "run"]
IMAGES, REFERENCE, SINGLE, TRAINING = "images", "reference", "single", "training"
N_RESPLITS = 500


class Audited(Section):
    """Which images are audited."""

    n_heldout: int = Field(ge=2, description="held-out images among the audited")
    n_reference: int | None = Field(ge=1, description="other held-out images, the reference; null: all that are left")
    n_single: int = Field(ge=2, description="images that stand once in the training set, told apart")


class Config(RunConfig, Settings):
    """The config of this experiment."""

    planting: Planting
    learning: Learning
    audited: Audited
    generation: Generation

    @model_validator(mode="after")
    def _is_of_images(self) -> "Config":
        allowed = "must be images, such as digits, which the seed completes (_partial_: true)"
        require(self.data.is_partial, "data", self.data.spec["_target_"], allowed)
        known = self.planting.n_single
        allowed = f"must be at most planting.n_single={known}"
        require(known is None or self.audited.n_single <= known, "audited.n_single", self.audited.n_single, allowed)
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Plant, train, audit, and compare with what is known."""
    _, images = planted_images(config, report=report)
    require(images.points.shape[-1] in MODES, "data", config.data.spec["_target_"], "must be grey or RGB")
    # The steps of image_memorization, which finds this network in the cache, and this experiment that one's.
    steps = snapshot_steps(config.learning.n_snapshots, config.train.make().n_steps)
    common = {"report": report, "cache": cache}
    points, copies = images.distinct
    network = trained(config, points, copies=copies, name=MAIN, snapshot_steps=steps, tracker=tracker, **common)
    with report.stage("files"):
        folder = _files(config, images, cache)
    held = Held(_subject(network, images))
    asked = {name: getattr(config, name) for name in Settings.model_fields}
    paths = {name: str(folder / name) for name in (IMAGES, REFERENCE, SINGLE, TRAINING)}
    nothing = ("baseline", "pixel_range", "generate", "prompts", "reference_prompts", "crop")
    given = {name: paths[name] for name in (IMAGES, REFERENCE, TRAINING)} | dict.fromkeys(nothing)
    request = Request(**asked, **given, resize="refuse", generation=config.generation)
    found = audit(request, held, seed=config.seed, **common)
    shape = held.subject.model.image_shape
    opened = [open_source(name, paths[name], shape, "refuse", None) for name in (SINGLE, REFERENCE)]
    single, reference = (Pictures(source) for source in opened)
    how = {"fdr": config.fdr, "sigma": config.sigma, "key": jax.random.key(config.seed)}
    how |= {"detector": config.made_detector(), "around": surroundings(config, report, cache)}
    others = audit_opened(held, replace(found.settings, maps=0), single, reference, None, **how)
    _compare(report, config, found, others)


def _subject(network: Trained, images: Planted) -> Subject:
    shape = images.points.shape[1:]
    kind, n = type(network.network.network).__name__, len(images.distinct[0])
    words = f"{kind} trained on {n:,} different images, some of them planted"
    return Subject(Pretrained(network.network, "pixels", shape, shape), words)


def _files(config: Config, images: Planted, cache: Cache) -> Path:
    """Folders of PNG files, whose names tell what an image is; the audit does not look at them."""
    heldout = np.flatnonzero(images.is_heldout)
    n, n_reference = config.audited.n_heldout, config.audited.n_reference
    require(len(heldout) > n, "audited.n_heldout", n, f"must leave a reference of the {len(heldout)} held-out images")
    left = heldout[n:]
    allowed = f"must be at most {len(left)}, the held-out images that are left"
    require(n_reference is None or n_reference <= len(left), "audited.n_reference", n_reference, allowed)
    planted = np.flatnonzero(images.copies == max(config.planting.copies))
    sets = {
        IMAGES: {"planted": planted, "heldout": heldout[:n]},
        REFERENCE: {"heldout": left[:n_reference]},
        SINGLE: {"single": np.flatnonzero(images.is_single)[: config.audited.n_single]},
        TRAINING: {"training": np.flatnonzero(images.copies > 0)},
    }

    def build(directory: Path) -> None:
        for folder, kinds in sets.items():
            (directory / folder).mkdir(exist_ok=True)
            for kind, chosen in kinds.items():
                for i in chosen.tolist():
                    picture = pixels(images.points[i])
                    picture = picture[..., 0] if picture.shape[-1] == 1 else picture
                    Image.fromarray(picture).save(directory / folder / f"{kind}_{i:05d}.png")

    chosen = {name: {kind: rows.tolist() for kind, rows in kinds.items()} for name, kinds in sets.items()}
    depends_on = {"images": fingerprint(images.points), "sets": chosen}
    return cache.stage("audit/files", depends_on, build)


def _compare(report: Report, config: Config, found: AuditResult, single: AuditResult) -> None:
    """Power and false discoveries; members that stand once are no nulls, and are told apart."""
    verdict = found.verdict
    tested = np.ones(len(found.names), bool) if verdict.tested is None else verdict.tested
    planted = np.asarray([name.startswith("planted") for name in found.names])
    heldout, planted = tested & ~planted, tested & planted
    flagged, reference = verdict.flagged, verdict.reference
    report.metric("proof/power", proportion_interval(int(flagged[planted].sum()), int(planted.sum())))
    false = int(flagged[heldout].sum())
    report.metric("proof/false_discoveries", false)
    report.metric("proof/false_discovery_proportion", false / max(1, int(flagged.sum())))
    report.metric("proof/auc", float(auc(verdict.score[planted], verdict.score[heldout])))
    report.metric("proof/single_auc", float(auc(single.score, single.reference_score)))
    below = int((single.p_value <= config.fdr).sum())
    report.metric("proof/single_p_below_fdr", proportion_interval(below, int(np.isfinite(single.p_value).sum())))
    again = resplit(verdict.score[planted], np.concatenate([verdict.score[heldout], reference]), config)
    for name, value in again.items():
        report.metric(f"proof/resplit/{name}", value)
    nulls = int((verdict.p_value[heldout] <= config.fdr).sum())
    report.metric("proof/heldout_p_below_fdr", proportion_interval(nulls, int(heldout.sum())))


def resplit(planted: np.ndarray, heldout: np.ndarray, config: Config) -> dict[str, float]:
    """The same scores, with the held-out images divided anew into audited ones and reference, again and again.

    Returns:
        Mean false-discovery proportion and mean power over the audits.
    """
    rng, n = np.random.default_rng(config.seed), config.audited.n_heldout
    shares, power = [], []
    for _ in range(N_RESPLITS):
        nulls, reference = np.split(rng.permutation(heldout), [n])
        flagged = benjamini_hochberg(conformal_p_values(np.concatenate([planted, nulls]), reference), config.fdr)
        shares.append(flagged[len(planted) :].sum() / max(1, flagged.sum()))
        power.append(flagged[: len(planted)].mean())
    return {"false_discovery_rate": float(np.mean(shares)), "power": float(np.mean(power))}
