"""What stands in the gallery of figures, in its order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One experiment of the gallery.

    Attributes:
        name: ``+exp=name``.
        title: heading.
        about: what it is, and which published figure it regenerates.
        picture: the one that stands for all, ``figures/NAME.png``.
        tables: shown below the pictures, names of ``tables/*.md``.
        settings: beside ``+exp=name``, of an experiment that stands here more than once.
        suffix: of its folder then.
    """

    name: str
    title: str
    about: str
    picture: str
    tables: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    suffix: str = ""

    @property
    def folder(self) -> str:
        """Below ``figures``, and what it is asked for by."""
        return self.name + self.suffix


ENTRIES = (
    Entry(
        "gmm_memorization",
        "Gaussian mixtures",
        "The published mixture example (Brokman et al., SSVM 2025): three components on a triangle, "
        "means, midpoints and centre, boundary and volume, analytic and learned score; then maps of κ_p, and "
        "planted points.",
        "maps_kappa_t20",
        ("critical",),
    ),
    Entry(
        "image_memorization",
        "Digits",
        "Which training images has a network memorized, and which generated ones are copies.",
        "dose_response",
    ),
    Entry(
        "image_memorization_patches",
        "Patches of photographs, with a U-Net",
        "The same questions, in colour.",
        "dose_response",
    ),
    Entry(
        "image_memorization_fashion",
        "Photographs of clothes",
        "The same questions where images differ much in difficulty, and κ_1 at one noise level does not answer them.",
        "calibrated",
        ("audits",),
    ),
    Entry(
        "audit_demo_fashion",
        "An audit",
        "Images that a network was trained on 40 times each, found among others that it never saw.",
        "flagged",
    ),
    Entry(
        "detection_benchmark",
        "Every detector on one footing",
        "With and without the prompt; the protocol of the published comparison with 500 prompts, on "
        "a network that can be trained here.",
        "ranking_image",
    ),
    Entry(
        "memorization_trajectory",
        "Along the generation",
        "κ^Δ at every step, as in the follow-up (Brokman et al., NeurIPS 2025 workshop).",
        "trajectory",
    ),
    Entry(
        "local_memorization",
        "Memorized regions",
        "Training images share a logo, a sleeve or a background exactly, and maps look for it in other images.",
        "maps",
        ("detection",),
    ),
    Entry(
        "local_memorization",
        "Memorized regions, with a transformer",
        "Training images share a logo, a sleeve or a background exactly, and maps of a transformer that was trained by "
        "flow matching look for it in other images.",
        "maps",
        ("detection",),
        ("model=dit", "diffusion=rectified_flow"),
        "_dit",
    ),
    Entry(
        "mitigation",
        "Generation that does not copy",
        "What each method takes from the copies, and what it costs in agreement with the caption and in evaluations.",
        "pareto",
    ),
    Entry(
        "mitigation_dit",
        "Generation that does not copy, with a transformer",
        "What each method takes from the copies of a transformer trained by flow matching, and what it costs. Without "
        "a method every image of a memorized caption is a copy.",
        "pareto",
    ),
    Entry(
        "estimator_study",
        "Estimators and their errors",
        "Errors against their bounds, as in the second version of the paper, for every estimator of the library.",
        "convergence",
    ),
)
