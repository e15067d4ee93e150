"""Memorized prompts of a text-to-image model: ``python -m experiments.run +exp=text_to_image_memorization``.

The image experiment of the paper, for a local Stable Diffusion folder and a file of prompts (docs/text_to_image.md):
generate, label against reference images, score with and without the prompt.
"""

import jax
import numpy as np
from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import BaseConfig
from experiments.core.tracker import Tracker
from experiments.shared.audit_settings import Settings
from experiments.shared.audited_models import load
from experiments.shared.audits import surroundings
from experiments.shared.measuring import STATISTICS, measure, measure_share
from experiments.shared.own_images import Generation, generate
from experiments.text_to_image_memorization.listed import Listed, distances, read_listed
from plap_jax.audit.evaluator import Columns
from plap_jax.audit.images import Pictures
from plap_jax.audit.scores import Scorer
from plap_jax.audit.stream import score_all
from plap_jax.audit.subject import Subject
from plap_jax.typing import require

__all__ = ["Config", "run"]
SCORES = ("kappa", "kappa_given", "kappa_gap")
SHOWN = 24  # pictures that are kept, of each class


class Config(BaseConfig, Settings):
    """The config of this experiment."""

    prompts: str | None = Field(description="a CSV file with the columns prompt,memorized,image")
    per_prompt: int = Field(ge=1, description="images generated for each prompt")
    generation: Generation

    @model_validator(mode="after")
    def _has_prompts(self) -> "Config":
        require(self.prompts is not None, "prompts", None, "must be a CSV file with the columns prompt,memorized,image")
        require(self.sigma is not None, "sigma", None, "must be a noise level: three scores are compared at it")
        require(not self.detector, "detector", list(self.detector or ()), "must be null here: κ₁ and κ^Δ are compared")
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Generate, label, score, evaluate; prompts in chunks, of whose images only scores and a few pictures are kept."""
    with report.stage("model"):
        subject = load("model", config.model)
    require(subject.takes_text, "model", subject.words, "must be a model of texts, as a Stable Diffusion folder")
    listed = read_listed(config.prompts, subject.model.image_shape)
    report.table("skipped", [{"prompt": prompt, "reason": why} for prompt, why in listed.skipped])
    rows = np.repeat(np.arange(len(listed)), config.per_prompt)
    columns, pictures = _scored(config, subject, listed, rows, report, cache)
    _evaluate(config, listed, rows, columns, report)
    _leave(listed, rows, columns, pictures, report)


def _scored(
    config: Config, subject: Subject, listed: Listed, rows: np.ndarray, report: Report, cache: Cache
) -> tuple[Columns, dict[int, np.ndarray]]:
    """Scores and distances of every generated image, and the first pictures of each class by their number."""
    common, around = {"report": report, "cache": cache}, surroundings(config, report, cache)
    found, pictures, scorer = [], {}, None
    wanted = {int(i) for kind in (True, False) for i in np.flatnonzero(listed.memorized[rows] == kind)[:SHOWN]}
    for start in range(0, len(rows), config.chunk):
        chosen = rows[start : start + config.chunk]
        prompts = [listed.prompts[row] for row in chosen]
        name = f"text_to_image/{start}"
        how = {"seed": config.seed, "name": name, **common}
        made = generate(subject, len(chosen), prompts, config.generation, **how)
        told = Pictures(made, prompts)
        if scorer is None:
            subject.model.diffusion.schedule.time_at(config.sigma)
            scorer = Scorer(subject, config.of_audit(), jax.random.key(config.seed), config.sigma, SCORES)
            report.metric("scoring/sigma", config.sigma)
        scored = score_all(scorer, told, None, key=name, around=around)
        missing = f"{len(chosen) - len(scored)} of {len(chosen)} images have no finite score; try model.dtype=float32"
        require(len(scored) == len(chosen), "model", subject.words, missing)
        columns = scored.columns
        images = [made.read(i) for i in range(len(chosen))]
        columns["distance"] = distances(images, [listed.images.get(int(row)) for row in chosen])
        found.append(columns)
        pictures |= {start + i: image for i, image in enumerate(images) if start + i in wanted}
    joined = {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}
    return joined, pictures


def _evaluate(config: Config, listed: Listed, rows: np.ndarray, columns: Columns, report: Report) -> None:
    """Per prompt, as the file says, and per sample, by what was really reproduced; images of a prompt go together."""
    memorized = listed.memorized[rows]
    copied = columns["distance"] < config.labels.max_distance
    views = {"by_prompt": (memorized, ~memorized), "by_sample": (memorized & copied, ~memorized)}
    known = memorized & np.isfinite(columns["distance"])
    report.metric("data/prompts", len(listed))
    report.metric("data/images", len(rows))
    report.metric("scoring/network_evaluations_per_image", float(columns["spent"].mean()))
    measure_share(report, "reproduced", copied[known])
    table = []
    for view, (positive, negative) in views.items():
        for score in SCORES:
            row = {"labels": view, "score": score, "positive": int(positive.sum()), "negative": int(negative.sum())}
            for name, statistic in STATISTICS.items():
                values, clusters = columns[score], (rows[positive], rows[negative])
                pair = values[positive], values[negative]
                one = measure(report, f"{view}/{score}/{name}", statistic, *pair, config.seed, clusters)
                row |= {name: one and one.value, f"{name}_low": one and one.low, f"{name}_high": one and one.high}
            table.append(row)
    report.table("detection", table, kinds=("csv", "md", "tex"))


def _leave(listed: Listed, rows: np.ndarray, columns: Columns, pictures: dict[int, np.ndarray], report: Report) -> None:
    table = []
    for i, row in enumerate(rows.tolist()):
        distance = float(columns["distance"][i])
        line = {"prompt": listed.prompts[row], "memorized": int(listed.memorized[row])}
        line |= {"distance": distance if np.isfinite(distance) else None}
        for score in SCORES:
            line |= {score: float(columns[score][i]), f"{score}_stderr": float(columns[f"{score}/stderr"][i])}
        table.append(line)
    report.table("images", table)
    pixels = {"shown": np.asarray(sorted(pictures)), "pictures": np.stack([pictures[i] for i in sorted(pictures)])}
    known = {"memorized": listed.memorized[rows], "distance": columns["distance"]}
    report.arrays("text_to_image", **known, **pixels, **{score: columns[score] for score in SCORES})
