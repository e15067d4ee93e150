"""Planted templates: images that share one region exactly while the rest varies, so that memorized pixels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from plap_jax.data.planting import alternate
from plap_jax.data.regions import KINDS, SMALLEST, Kind, has_detail, region_mask
from plap_jax.typing import ArrayLike, require

Role = Literal["template", "copy", "pasted", "single", "fresh", "decoy", "plain"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, eq=False)
class PlantedTemplates:
    """Images of which some share a region, in training and beside it.

    Whether a region was pasted tells nothing of whether training saw it often: *pasted* images in training and *decoys*
    beside it show regions of the same kinds. The roles:

    ============ ==================================================================================
    ``template``  in training once, with a region that ``dose`` training images share
    ``copy``      in training several times, whole
    ``pasted``    in training once, with a region that no other image has
    ``single``    in training once, nothing pasted
    ``fresh``     never in training, with the region of a template: host and combination are new
    ``decoy``     never in training, with a region that training never saw
    ``plain``     never in training, nothing pasted
    ============ ==================================================================================

    Attributes:
        points: ``(n, h, w, c)``.
        role: ``(n,)`` of ``ROLES``.
        copies: ``(n,)``, how often the image stands in training.
        region: ``(n,)``, which region it shows; −1 for none.
        captions: ``(n,)`` int32: the class of the image underneath, first; then one for each copy; then one for each
            template, which its fresh images have, too.
        validation: ``(n,)`` booleans; images that share a region are on one side.
        masks: ``(r, h, w)`` booleans, the pixels of each region.
        kind: ``(r,)`` of ``KINDS``.
        dose: ``(r,)``, how many training images have the region: 0 of decoys.
        n_rest_captions: captions of classes: those that a network without templates and copies knows.
    """

    points: np.ndarray
    role: np.ndarray
    copies: np.ndarray
    region: np.ndarray
    captions: np.ndarray
    validation: np.ndarray
    masks: np.ndarray
    kind: np.ndarray
    dose: np.ndarray
    n_rest_captions: int

    @property
    def train(self) -> np.ndarray:
        """The training set, copies included."""
        return np.repeat(self.points, self.copies, axis=0)

    @property
    def train_captions(self) -> np.ndarray:
        """The captions of ``train``."""
        return np.repeat(self.captions, self.copies)

    @property
    def distinct(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images of the training set, each once, how many copies of each it holds, and their captions."""
        seen = self.copies > 0
        return self.points[seen], self.copies[seen], self.captions[seen]

    @property
    def is_rest(self) -> np.ndarray:
        """What a control network is trained on: no templates, no copies; ``(n,)`` booleans."""
        return np.isin(self.role, ("single", "pasted"))

    @property
    def dose_of_image(self) -> np.ndarray:
        """``(n,)``: how many training images have the region of each image; −1 where it shows none."""
        return np.where(self.region >= 0, self.dose[self.region], -1)

    def mask_of(self, i: int) -> np.ndarray:
        """``(h, w)`` booleans: the pixels of image i that were pasted."""
        none = np.zeros(self.points.shape[1:3], bool)
        return self.masks[self.region[i]] if self.region[i] >= 0 else none


def plant_templates(
    train: ArrayLike,
    heldout: ArrayLike,
    *,
    doses: Mapping[int, int],
    copies: Mapping[int, int],
    n_pasted: int,
    n_single: int,
    n_fresh: int,
    n_plain: int,
    seed: int,
    kinds: Sequence[Kind] = KINDS,
    least_detail: float = 0.5,
    train_classes: ArrayLike | None = None,
    heldout_classes: ArrayLike | None = None,
) -> PlantedTemplates:
    """Paste regions of some images into others, exactly, at known doses; and repeat some images whole.

    image = host outside the mask, source inside. Each image of a pool has one use: as a source, whose region is taken
    and of which nothing else is used, as a host, or as it is. For every template there is a decoy of the same kind.

    Args:
        train: exchangeable images ``(n, h, w, c)`` that may be trained on; h, w ≥ 7.
        heldout: ``(m, h, w, c)``, likewise, never trained on: hosts of fresh images, sources and hosts of decoys.
        doses: training images that share a region → how many regions are shared by so many: doses ≥ 2, numbers ≥ twice
            the number of kinds. Kinds take turns.
        copies: copies → how many images get that many, whole; copies ≥ 2, numbers ≥ 2; may be empty.
        n_pasted: training images with a region of their own, ≥ 0.
        n_single: images that occur once as they are, ≥ 2.
        n_fresh: images with each template's region that training never sees, ≥ 1; as many with each decoy's.
        n_plain: held-out images as they are, ≥ 2.
        seed: of the places of the regions.
        kinds: of regions, see ``region_mask``.
        least_detail: the least share of a region's pixels that differ from the pixel to the right or below, in [0, 1):
            a black border holds nothing to memorize, and says nothing of a map. Sources with less are passed over, for
            templates and decoys alike.
        train_classes, heldout_classes: ``(n,)``, ``(m,)`` integers; None: all of one class.

    Returns:
        ``PlantedTemplates``.

    Raises:
        ValueError: numbers out of range, or too few images.

    Example:
        >>> pool = np.random.default_rng(0).uniform(-1, 1, (400, 14, 14, 1)).astype(np.float32)
        >>> sizes = {"n_pasted": 6, "n_single": 40, "n_fresh": 2, "n_plain": 20}
        >>> found = plant_templates(pool[:250], pool[250:], doses={8: 6}, copies={4: 4}, seed=0, **sizes)
        >>> found.points.shape, len(found.train)
        ((158, 14, 14, 1), 110)
    """
    pools = _Pool("train", train, train_classes), _Pool("heldout", heldout, heldout_classes)
    require(pools[1].shape == pools[0].shape, "heldout", pools[1].images.shape, f"must be (m, *{pools[0].shape})")
    require(min(pools[0].shape[:2]) >= SMALLEST, "train", pools[0].images.shape, f"must be >= {SMALLEST} pixels a side")
    counts = {"n_pasted": (n_pasted, 0), "n_single": (n_single, 2), "n_fresh": (n_fresh, 1), "n_plain": (n_plain, 2)}
    _check(doses, copies, kinds, **counts)
    of_template = np.repeat(*_columns(doses))
    trained = np.concatenate([of_template, np.ones(n_pasted, int)])
    dose = np.concatenate([trained, np.zeros_like(of_template)])
    turns = _turns(trained) % len(kinds)
    kind = np.asarray(kinds)[np.concatenate([turns, turns[: len(of_template)]])]
    rng = np.random.default_rng(seed)
    found = [pools[int(times == 0)].source(one, rng, least_detail) for one, times in zip(kind, dose, strict=True)]
    masks, values = (np.stack(parts) for parts in zip(*found, strict=True))

    templates, pasted, decoys = np.split(np.arange(len(dose)), [len(of_template), len(of_template) + n_pasted])
    of_role: dict[Role, np.ndarray] = {
        "template": np.repeat(templates, of_template),
        "copy": np.full(sum(copies.values()), -1),
        "pasted": pasted,
        "single": np.full(n_single, -1),
        "fresh": np.repeat(templates, n_fresh),
        "decoy": np.repeat(decoys, n_fresh),
        "plain": np.full(n_plain, -1),
    }
    role = np.repeat(ROLES, [len(of_role[name]) for name in ROLES])
    region = np.concatenate([of_role[name] for name in ROLES])
    in_training = ~np.isin(role, ("fresh", "decoy", "plain"))
    hosts = [pool.take(int(use.sum())) for pool, use in zip(pools, (in_training, ~in_training), strict=True)]
    points, classes = (np.concatenate(parts) for parts in zip(*hosts, strict=True))
    has = region >= 0
    points[has] = np.where(masks[region[has], ..., None], values[region[has]], points[has])
    times = np.where(in_training, 1, 0)
    times[role == "copy"] = np.repeat(*_columns(copies)) if copies else []
    captions, n_rest = _captions(role, region, classes)
    halves = _halves(role, region, times, dose, kind)
    return PlantedTemplates(points, role, times, region, captions, halves, masks, kind, dose, n_rest)


class _Pool:
    """Images in random order, each taken once."""

    def __init__(self, name: str, images: ArrayLike, classes: ArrayLike | None) -> None:
        self.name, self.images, self.used = name, np.asarray(images), 0
        good = self.images.ndim == 4 and np.issubdtype(self.images.dtype, np.floating)
        require(good, name, self.images.shape, "must be floating, (n, h, w, c)")
        self.classes = np.zeros(len(self.images), int) if classes is None else np.asarray(classes)
        whole = self.classes.shape == self.images.shape[:1] and np.issubdtype(self.classes.dtype, np.integer)
        allowed = f"must be integers, one for each of {len(self.images)} images"
        require(whole, f"{name}_classes", self.classes.shape, allowed)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def source(self, kind: Kind, rng: np.random.Generator, least_detail: float) -> tuple[np.ndarray, np.ndarray]:
        """A mask, and the next image with enough detail within it."""
        mask = region_mask(kind, self.shape[:2], rng)
        for i in range(self.used, len(self.images)):
            if has_detail(self.images[i])[mask].mean() >= least_detail:
                self.used = i + 1
                return mask, self.images[i]
        allowed = f"must hold more images of which a region has least_detail={least_detail:g}"
        raise ValueError(f"{self.name}={self.images.shape}: {allowed}")

    def take(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The next n, with their classes."""
        allowed = f"must hold {self.used + n} images: {self.used} went into regions, {n} are shown"
        require(self.used + n <= len(self.images), self.name, self.images.shape, allowed)
        chosen = slice(self.used, self.used + n)
        self.used += n
        return self.images[chosen].copy(), self.classes[chosen]


def _check(
    doses: Mapping[int, int], copies: Mapping[int, int], kinds: Sequence[Kind], **counts: tuple[int, int]
) -> None:
    known = len(set(kinds)) == len(kinds) >= 1 and set(kinds) <= set(KINDS)
    require(known, "kinds", list(kinds), f"must hold some of {', '.join(KINDS)}, none twice")
    require(len(doses) >= 1 and min(doses) >= 2, "doses", dict(doses), "must share regions between at least 2 images")
    fewest = 2 * len(kinds)
    allowed = f"must give at least {fewest} regions to every dose: each kind in both halves"
    require(min(doses.values()) >= fewest, "doses", dict(doses), allowed)
    good = all(times >= 2 and number >= 2 for times, number in copies.items())
    require(good, "copies", dict(copies), "must repeat at least 2 images at least 2 times")
    for name, (value, fewest) in counts.items():
        require(value >= fewest, name, value, f"must be >= {fewest}")


def _columns(numbers: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Doses, the highest first, and how many of each."""
    ordered = sorted(numbers.items(), reverse=True)
    return [dose for dose, _ in ordered], [number for _, number in ordered]


def _turns(doses: np.ndarray) -> np.ndarray:
    """0, 1, 2, … within each dose."""
    found = np.zeros(len(doses), int)
    for dose in np.unique(doses):
        found[doses == dose] = np.arange((doses == dose).sum())
    return found


def _captions(role: np.ndarray, region: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Classes first, then copies, then templates."""
    names, captions = np.unique(classes, return_inverse=True)
    captions, n_rest = captions.astype(np.int32), len(names)
    is_copy, has_template = role == "copy", np.isin(role, ("template", "fresh"))
    captions[is_copy] = n_rest + np.arange(is_copy.sum())
    captions[has_template] = n_rest + is_copy.sum() + region[has_template]
    return captions, n_rest


def _halves(role: np.ndarray, region: np.ndarray, copies: np.ndarray, dose: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Regions alternate within dose and kind, and all of their images with them; other images within their role."""
    n_decoys = int((dose == 0).sum())
    as_template = np.concatenate([dose[: len(dose) - n_decoys], -dose[:n_decoys]])  # decoys alternate as templates do
    of_region = alternate(np.char.add(kind, as_template.astype(str)))
    of_role = alternate(np.char.add(role, copies.astype(str)))
    return np.where(region >= 0, of_region[region], of_role)
