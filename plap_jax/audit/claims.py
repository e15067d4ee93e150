"""What an audit proves and does not prove, in words; what is true depends on what was known."""

from dataclasses import dataclass, replace

NULL = "exchangeable with the reference images"
OWN_IMAGES = (
    "images that the model generated itself are not exchangeable with real ones: a model finds its own outputs "
    "familiar, so that a flag among them does not mean memorized"
)

UNFIT = (
    "The model predicts the noise in these images badly. With another schedule, unit or kind of prediction than it was "
    "trained with, scores say little about memorization."
)
GUARDED = (
    "To generate images that do not repeat training images, use a guard, which notes what it changed: "
    "python -m experiments.run +exp=generate mitigation=guard (docs/mitigation.md)."
)


@dataclass(frozen=True)
class Claims:
    """Sentences for the reader of an audit.

    Attributes:
        control: what bounds the errors, or that nothing does, or that nothing can be found, in a few words.
        proves, does_not: a sentence or two each.
        is_controlled: whether errors are controlled, and what is found can be trusted.
    """

    control: str
    proves: tuple[str, ...]
    does_not: tuple[str, ...]
    is_controlled: bool


def claims(
    fdr: float | None,
    n_reference: int = 0,
    *,
    own_generations: bool = False,
    calibrated: bool = False,
    training_set: bool = False,
    max_ratio: float = 1 / 3,
    can_flag: bool = True,
    denoises: bool = True,
) -> Claims:
    """The sentences for an audit.

    Args:
        fdr: the false-discovery rate of Benjamini–Hochberg, where the reference images are known not to be in the
            training data; None where they are not known to be, or there are none.
        n_reference: number of reference images.
        own_generations: the reference is what the model itself generated.
        calibrated: difficulty was taken out of the evidence of all noise levels.
        training_set: the training set was searched for the nearest image.
        max_ratio: below it, d₁/d₂ says copy.
        can_flag: the reference is large enough to flag anything.
        denoises: the model is not known to fail at the noise in these images.
    """
    controlled = fdr is not None
    found = _with_error_control(fdr, n_reference, calibrated) if controlled else _without(n_reference, own_generations)
    if controlled and not can_flag:
        found = replace(found, control="Reference too small to flag anything", is_controlled=False)
    if not denoises:
        found = replace(found, does_not=(UNFIT, *found.does_not))
        if found.is_controlled:
            found = replace(found, control="The model may not denoise these images", is_controlled=False)
    if not training_set:
        return found
    proves, does_not = _of_the_training_set(max_ratio)
    return replace(found, proves=found.proves + proves, does_not=found.does_not + does_not)


def difficulty_in_words(explained: float, *, with_baseline: bool) -> tuple[str, ...]:
    """How difficulty was taken out, for a reader.

    Args:
        explained: the share of the evidence's spread that difficulty explains.
        with_baseline: a baseline's evidence was subtracted first.
    """
    simple = (
        "κ₁ is the mean cosine between the model’s score around an image and the direction back to it: near 1 where "
        "everything around is drawn to the image. A model finds simple images familiar, whether its training saw "
        "them or not, so that they score high anyway."
    )
    share = f"{100 * max(explained, 0):.0f}\N{NO-BREAK SPACE}%"
    statistics = "statistics of its pixels alone: contrast, edges, fine and coarse detail, size as a PNG file"
    rule = (
        "The rule is fitted to all images together, audited and reference alike, and never learns which is which. The "
        "score says how far an image lies above what is expected of it, in standard deviations, mean over all noise "
        "levels."
    )
    if not with_baseline:
        return (
            f"{simple} Each image is therefore compared with images as hard as itself, judged by {statistics}. That "
            f"explains {share} of the spread of what the model says.",
            rule,
        )
    return (
        f"{simple} What a baseline model says of the same image is therefore subtracted, asked in the same directions: "
        "it has not seen these images, so what it finds familiar too is no memory.",
        f"The difference is then compared with that of images as hard as this one, judged by {statistics}; that "
        f"explains {share} of the spread that is left. {rule}",
    )


def maps_in_words(*, of_difference: bool) -> str:
    """What a curvature map shows, and what it does not, for a reader."""
    if of_difference:
        return (
            "Bright where the model’s density is peaked around the image more sharply than the baseline’s, so that "
            "noise on these pixels is drawn back to the image; that is no proof that this part is memorized, since two "
            "models may differ for other reasons, too."
        )
    return (
        "Bright where the model’s density is locally peaked around the image, so that noise on these pixels is drawn "
        "back to the image; that is no proof that this part is memorized, since plain areas are bright in any image."
    )


def _with_error_control(fdr: float, n_reference: int, calibrated: bool) -> Claims:
    one_rule = (
        "These p-values rest on one thing: every image is scored by one rule, which does not know which images are the "
        "reference. Where difficulty is misjudged, fewer memorized images are found, and no more false ones."
    )
    at = "these noise levels" if calibrated else "this noise level"
    return Claims(
        control=f"False-discovery rate held at {fdr:.2g}",
        proves=(
            f"A p-value answers one question: if this image were {NULL}, how often would an image score at least "
            f"this high? With {n_reference:,} reference images it cannot fall below {1 / (n_reference + 1):.2g}.",
            f"If every image that was not memorized is {NULL}, then on average over audits like this one at most "
            f"{100 * fdr:.3g}\N{NO-BREAK SPACE}% of the flagged images are false discoveries (Benjamini–Hochberg).",
            "With 95\N{NO-BREAK SPACE}% confidence, for all thresholds at once: wherever the threshold is put, no more "
            "of the flagged images are false than the page says there. It may be moved after a look at the result.",
            *((one_rule,) if calibrated else ()),
        ),
        does_not=(
            "A flag is not a proof of training. An image from another source, of another quality or of an unusual kind "
            "also differs from the reference, and may be flagged for that alone.",
            f"I{OWN_IMAGES[1:]}.",
            "The false-discovery rate holds on average over audits. In this one the share of false ones may be higher.",
            f"An image without a flag is not cleared: training may have seen it and left no trace at {at}.",
            "The interval of a score covers the random directions it was measured with, not another training run.",
        ),
        is_controlled=True,
    )


def _without(n_reference: int, own_generations: bool) -> Claims:
    compared = (
        f"the {n_reference:,} images that the model generated itself"
        if own_generations
        else f"the {n_reference:,} images it was compared with"
        if n_reference
        else "all audited images"
    )
    of_generations = (
        "The model’s own generations are not known to be free of memorized images. Where it repeats training images, "
        "they are in the comparison too, and hide others of their kind.",
        GUARDED,
    )
    of_audited = ("Where many of the audited images are memorized, they move the median, and z-scores come out small.",)
    return Claims(
        control="No error control",
        proves=(
            "The ranking: the model’s density is sharper at the images with higher scores.",
            f"A robust z-score says how far an image lies above the median of {compared}, in robust standard "
            "deviations (1.48 times the median absolute deviation).",
        ),
        does_not=(
            "No error control: there are no p-values, and nothing bounds the share of false finds. A cut at any score "
            "is a choice, not a test. For a test, give images that are known not to be in the training data.",
            *(of_generations if own_generations else () if n_reference else of_audited),
            "The interval of a score covers the random directions it was measured with, not another training run.",
        ),
        is_controlled=False,
    )


def _of_the_training_set(max_ratio: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    proves = (
        "The nearest training image is a fact about pixels. A ratio d₁/d₂, its distance over that of the second "
        f"nearest, below {max_ratio:.2g} means that no other training image is nearly as close: a copy.",
        "Where a high score and a low ratio agree, the model is sharp at an image that it was trained on.",
    )
    does_not = (
        "Distances are between pixels: a copy that is cropped, mirrored or recoloured may have no near neighbour. And "
        "an image that stands in the training set is near to itself whether or not it is memorized.",
    )
    return proves, does_not
