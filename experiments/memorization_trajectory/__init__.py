"""Flux along generation: ``python -m experiments.run +exp=memorization_trajectory``.

A caption-conditioned network generates images step by step. At each step κ_1 without and with the prompt, and κ^Δ, are
taken around the image that the step foresees, at the step's own noise level (Brokman et al., NeurIPS 2025 workshop):
how early can one tell which images end as copies of training images? Nothing is chosen here, neither a noise level nor
a step, so that all captions are reported and none are set aside for validation. Where difficulty is taken out of κ_1,
the regression, which sees no label, is fitted on every other caption.
"""

from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import checked_as
from experiments.core.tracker import Tracker
from experiments.memorization_trajectory.evaluation import as_array, bands, calibrated, measure, rows, summarize
from experiments.memorization_trajectory.following import CALIBRATED, STATISTICS, follow
from experiments.shared.captions import CaptionedConfig, CaptionedSamples, prepare
from plap_jax.directions import unit_size
from plap_jax.metrics import proportion_interval
from plap_jax.typing import require

__all__ = ["Config", "run"]


class Config(CaptionedConfig):
    """The config of this experiment."""

    forms: list[Literal["raw", "calibrated"]] = Field(description="of κ_1 without the prompt: raw, calibrated")

    @field_validator("samples")
    @classmethod
    def _keeps_its_steps(cls, samples: CaptionedSamples) -> CaptionedSamples:
        target = samples.sampler.spec["_target_"]
        require(target == "plap_jax.sampling.DDIM", "samples.sampler", target, "must be ddim, which keeps its steps")
        return samples

    @model_validator(mode="after")
    def _can_be_followed(self) -> "Config":
        require(self.flux.p == 1, "flux.p", self.flux.p, "must be 1 here")
        distinct = "raw" in self.forms and len(set(self.forms)) == len(self.forms)
        require(distinct, "forms", self.forms, "must hold raw, and none twice")
        require(self.flux.radius is None, "flux.radius", self.flux.radius, "must be null: it falls with the noise")
        n = self.flux.n_samples
        checked_as("flux.n_samples", n, unit_size, self.flux.directions, n, 2**30)
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Train, generate and follow at every guidance scale, label the images that come out, measure step by step."""
    study = prepare(config, report=report, cache=cache, tracker=tracker)
    captions = study.captions
    prompts = study.prompts(config.samples.per_caption)
    # Most copies come from captions of one image. Among all images the kind of the caption tells copies already, and a
    # statistic that sees no more than that does well; among images of such captions it has to see the copying.
    compared = {"auc": np.full(len(prompts), True), "auc_own_caption": captions.kind[prompts] == "unique"}
    with_difficulty = "calibrated" in config.forms
    statistics = (*STATISTICS, CALIBRATED) if with_difficulty else STATISTICS
    arrays = {"statistics": np.asarray(statistics), "guidance": np.asarray(config.samples.guidance)}
    arrays |= {"prompts": prompts, "own_caption": compared["auc_own_caption"]}
    arrays["copies_of_caption"] = captions.copies[prompts]
    table = []
    for guidance in config.samples.guidance:
        name = f"g{guidance:g}"
        found = follow(config, study, guidance, prompts, with_difficulty=with_difficulty, report=report, cache=cache)
        with report.stage("label"):
            copies = config.labels.find(found["images"], study.reference)
        is_copy = copies.by_ratio
        report.metric(f"trajectory/{name}/copy_fraction", proportion_interval(int(is_copy.sum()), len(is_copy)))
        with report.stage("evaluate"):
            if with_difficulty:
                how = (found.pop("difficulty"), found["images"], captions.validation[prompts])
                extra = calibrated(found["values"][STATISTICS.index("flux_p1")], *how)
                found["values"] = np.concatenate([found["values"], extra[None]])
            measured = {
                kind: measure(found["values"][..., members], is_copy[members], prompts[members], config.seed)
                for kind, members in compared.items()
            }
            by_class = {"copies": bands(found["values"], is_copy), "others": bands(found["values"], ~is_copy)}
            for kind, one in measured.items():
                summarize(name, kind, statistics, one, report)
            table += rows(guidance, statistics, found["sigmas"], measured, by_class)
        kept = found | {"is_copy": is_copy, "ratio": copies.ratio, "distance": copies.distance}
        kept |= {f"bands_{key}": value for key, value in by_class.items()}
        kept |= {kind: as_array(one) for kind, one in measured.items() if not isinstance(one, str)}
        arrays |= {f"{name}/{key}": value for key, value in kept.items()}
    report.table("trajectory", table)
    report.arrays("trajectory", **arrays)
