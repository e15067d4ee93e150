"""Every detector on one footing: ``python -m experiments.run +exp=detection_benchmark``.

A caption-conditioned network generates images at several guidance scales; which images are copies of training images,
and which captions lead to copies? With the prompt known to the detector, and without.
"""

from typing import Annotated

from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.tracker import Tracker
from experiments.detection_benchmark import explaining
from experiments.detection_benchmark.forms import Form, Halves, against, calibrated, forms_of, methods_in, name_in
from experiments.detection_benchmark.halves import apart
from experiments.detection_benchmark.results import Cell, Results
from experiments.detection_benchmark.scoring import CandidateScores, score
from experiments.detection_benchmark.tasks import tasks
from experiments.shared.captions import CaptionedConfig, CaptionedImages, CaptionedStudy, generated, prepare
from experiments.shared.methods import Method, Prompt
from plap_jax.metrics import proportion_interval
from plap_jax.typing import require

__all__ = ["Config", "run"]
PROMPTS: tuple[Prompt, ...] = ("known", "unknown")


class Config(CaptionedConfig):
    """The config of this experiment."""

    noise_levels: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="levels of calibrated scores")
    detectors: dict[str, Method] = Field(min_length=1, description="by name, with what each tries for validation")
    forms: list[Form] = Field(min_length=1, description="of each detector: raw, calibrated, baseline")
    reference: str = Field(description="the detector that the others are compared with")
    min_copy_share: float = Field(gt=0, le=1, description="a caption with that share of copies is memorized")
    duplicate_distance: Annotated[float, Field(ge=0)] | None = Field(
        description="√(mean (a − b)²) up to which an image of the test half is one of the validation half, and is "
        "removed; null: none is"
    )

    @model_validator(mode="after")
    def _can_be_scored(self) -> "Config":
        schedule = self.diffusion.make()
        for name, method in self.detectors.items():
            method.check(f"detectors.{name}", schedule)
        allowed = f"must be one of {', '.join(self.detectors)} that needs no prompt"
        known = self.reference in self.detectors and self.detectors[self.reference].runs_with("unknown")
        require(known, "reference", self.reference, allowed)
        distinct = "raw" in self.forms and len(set(self.forms)) == len(self.forms)
        require(distinct, "forms", self.forms, "must hold raw, and none twice")
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Train, generate, label, score with every detector, choose on the validation half, measure on the test half."""
    common = {"report": report, "cache": cache}
    study = prepare(config, with_control="baseline" in config.forms, tracker=tracker, **common)
    results = Results(
        methods_in(config.detectors, config.forms), config.reference, config.seed, tuple(sorted(config.planting.copies))
    )
    for guidance in config.samples.guidance:
        made = generated(config, study, guidance, **common)
        _count_copies(config, study, made, report)
        made = _distinct(config, study, made, report)
        halves = Halves.of(made.images, study.captions.validation[made.prompts])
        scored = {prompt: _scores(config, study, made, halves, prompt, **common) for prompt in PROMPTS}
        with report.stage("evaluate"):
            for task in tasks(study, made, config.min_copy_share):
                for prompt, found in scored.items():
                    results.add(Cell(task.name, prompt, guidance), task, found)
                if task.name == "image" and "calibrated" in config.forms:
                    reference = scored["unknown"][config.reference]
                    explaining.write(report, guidance, task, reference, halves, config.seed)
    with report.stage("evaluate"):
        results.write(report)


def _scores(
    config: Config,
    study: CaptionedStudy,
    made: CaptionedImages,
    halves: Halves,
    prompt: Prompt,
    *,
    report: Report,
    cache: Cache,
) -> dict[str, CandidateScores]:
    """By the name of the detector and its form; a form next to the others of the same detector."""
    found, how = {}, {"prompt": prompt, "seed": config.seed, "report": report, "cache": cache}
    for name, method in config.detectors.items():
        if not method.runs_with(prompt):
            continue
        raw = score(method, study, made, name=name, network=study.network, **how)
        for form in forms_of(method, prompt, config.forms):
            if form == "baseline":
                control = score(method, study, made, name=f"{name}/control", network=study.baseline, **how)
                found[name_in(form, name)] = against(raw, control, halves, method.levels)
            else:
                found[name_in(form, name)] = raw if form == "raw" else calibrated(raw, halves, method.levels)
    return found


def _distinct(config: Config, study: CaptionedStudy, made: CaptionedImages, report: Report) -> CaptionedImages:
    """``made`` with both halves apart, where the config asks for it; how many images that cost."""
    if config.duplicate_distance is None:
        return made
    with report.stage("label"):
        kept = apart(made, study.captions.validation, config.duplicate_distance)
    report.metric(f"samples/g{made.guidance:g}/duplicates_removed", len(made.images) - len(kept.images))
    return kept


def _count_copies(config: Config, study: CaptionedStudy, made: CaptionedImages, report: Report) -> None:
    """Share of images that are copies, by the number of copies behind their caption, and of shared captions."""
    copies, is_copy = study.captions.copies[made.prompts], made.copies.by_ratio
    kinds = study.captions.kind[made.prompts]
    groups = {f"k{k}": (kinds == "unique") & (copies == k) for k in sorted(config.planting.copies)}
    groups |= {kind: kinds == kind for kind in ("group", "class")} | {"all": copies >= 0}
    for name, members in groups.items():
        shares = {"copy_fraction": is_copy, "copy_fraction_by_distance": made.copies.by_distance}
        for share, chosen in shares.items():
            key = f"samples/g{made.guidance:g}/{name}/{share}"
            if members.any():
                report.metric(key, proportion_interval(int(chosen[members].sum()), int(members.sum())))
            else:
                report.metric(key, None, "no image of this kind")
