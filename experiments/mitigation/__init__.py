"""What each method of mitigation saves and costs: ``python -m experiments.run +exp=mitigation``.

A caption-conditioned network generates images of captions that it has memorized, and of captions that it has not, by
every method at several strengths, from the same noise. How many are copies, do they still show what the caption says,
how different are they, how many evaluations did they take? Strengths are chosen on validation captions, and everything
is reported on the others. docs/mitigation.md is the page for readers; the methods are ``plap_jax.mitigation``.
"""

import numpy as np
from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.tracker import Tracker
from experiments.mitigation.judging import Judge, JudgeSettings, fitted_judge
from experiments.mitigation.measuring import MeasuredImages
from experiments.mitigation.results import NONE, AtScale, Goal, Tried, choose, sheet, write
from experiments.mitigation.strengths import Strength, Swept
from experiments.mitigation.trials import Trials, check_bands, prompts_of
from experiments.shared.captions import CaptionedConfig, CaptionedStudy, prepare
from plap_jax.typing import require

__all__ = ["Config", "run"]


class Config(CaptionedConfig):
    """The config of this experiment."""

    methods: dict[str, Swept] = Field(min_length=1)
    memorized_from: int = Field(ge=2, description="copies in training from which a caption of one image is memorized")
    n_memorized: int = Field(ge=2, description="images of each memorized caption; of others, samples.per_caption")
    judge: JudgeSettings
    goal: Goal
    n_shown: int = Field(ge=1, description="images on the contact sheet")
    batch_size: int = Field(ge=1, description="images at a time, which bounds the memory")

    @model_validator(mode="after")
    def _can_be_compared(self) -> "Config":
        given = self.methods.get(NONE)
        allowed = "must hold none, of family none, with which the others are compared"
        require(given is not None and given.family == "none", "methods", sorted(self.methods), allowed)
        require(given.grid == {}, "methods.none.grid", given.grid, "must be empty")
        schedule = self.diffusion.make()
        for name, method in self.methods.items():
            method.check(f"methods.{name}", self.samples.sampler, schedule)
        most = max(self.planting.copies)
        allowed = f"must be at most {most}, the most in planting.copies"
        require(self.memorized_from <= most, "memorized_from", self.memorized_from, allowed)
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Train, generate by every method, judge, choose on the validation half, measure on the test half."""
    how = {"report": report, "cache": cache}
    study = prepare(config, tracker=tracker, **how)
    prompts = prompts_of(config, study)
    check_bands(config.methods, prompts)
    with report.stage("judge"):
        judge = fitted_judge(config, config.judge, study, **how)
    report.metric("judge/accuracy", judge.accuracy)
    for name in ("memorized", "others", "band"):
        report.metric(f"data/images_{name}", len(getattr(prompts, name)))
    scales, sheets = [], {}
    for guidance in config.samples.guidance:
        trials = Trials(config, study, prompts, guidance, **how)
        scale = _tried(config, study, judge, trials)
        scales.append(scale)
        with report.stage("evaluate"):
            plain = config.labels.find(scale.tried[NONE][0].test.images, study.reference)
            found = sheet(scale, config.goal, config.n_shown, study.reference, plain.nearest)
        sheets |= {f"g{guidance:g}/{key}": value for key, value in found.items()}
    heldout = study.images.points[study.images.is_heldout]
    with report.stage("evaluate"):
        arrays = write(scales, network_name(config), config.goal, heldout, config.seed, report)
    report.arrays("mitigation", **arrays, **sheets)


def network_name(config: Config) -> str:
    """The module of the network's class: mlp, unet or dit."""
    return config.model.spec["_target_"].split(".")[-2]


def _tried(config: Config, study: CaptionedStudy, judge: Judge, trials: Trials) -> AtScale:
    """Every method at every strength on the memorized captions, and at the chosen one on the others."""
    scale, prompts = AtScale(trials.guidance), trials.prompts
    half = study.captions.validation[prompts.memorized]
    for name, method in config.methods.items():
        scale.tried[name] = []
        for strength in method.strengths:
            found = _measured(config, study, judge, trials, "memorized", name, strength)
            scale.tried[name].append(Tried(name, method.family, strength, found.part(half), found.part(~half)))
        chosen = scale.tried[name][choose(scale.tried[name], config.goal)]
        scale.others[name] = _measured(config, study, judge, trials, "others", name, chosen.strength)
    return scale


def _measured(
    config: Config, study: CaptionedStudy, judge: Judge, trials: Trials, role: str, name: str, strength: Strength
) -> MeasuredImages:
    made, prompts = trials.made(role, name, strength), getattr(trials.prompts, role)
    with trials.report.stage("judge"):
        copies = config.labels.find(made["images"], study.reference)
        agrees = judge.agrees(made["images"], prompts)
    return MeasuredImages.of(np.asarray(prompts), made["images"], made["nfe"], copies, agrees)
