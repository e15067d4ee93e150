"""Does an image show what its caption says? A classifier that is trained on images which the network has not seen."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sklearn
from pydantic import Field
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from experiments.core.cache import Cache, code_tag
from experiments.core.report import Report
from experiments.core.schema import Section, Target
from experiments.shared.captions import CaptionedConfig, CaptionedStudy
from plap_jax.data import Captions, ImageData, Planted, fingerprint
from plap_jax.metrics import Interval, proportion_interval
from plap_jax.neighbours import nearest
from plap_jax.typing import require


class JudgeSettings(Section):
    """The classifier, a support vector machine on principal components."""

    data: Target | None = Field(description="images to train it on; null: half of the held-out ones")
    n_components: int = Field(ge=1, description="principal components that the classifier sees")
    penalty: float = Field(gt=0, description="C of the support vector machine")
    apart: float = Field(ge=0, description="√(mean (a − b)²) up to which an image is one of the network's")


@dataclass(frozen=True)
class Judge:
    """Tells the classes of images.

    Attributes:
        told: ``(m, n classes)`` booleans, the classes of the images behind each caption.
        accuracy: on held-out images, which neither the network nor the classifier has seen.
        predict: ``(n, *shape) -> (n,)``, numbers of classes.
    """

    told: np.ndarray
    accuracy: Interval
    predict: Callable[[np.ndarray], np.ndarray]

    def agrees(self, images: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        """Whether each image is of a class of its caption, ``(n,)`` booleans."""
        return self.told[prompts, self.predict(images)]


def fitted_judge(
    config: CaptionedConfig, settings: JudgeSettings, study: CaptionedStudy, *, report: Report, cache: Cache
) -> Judge:
    """The classifier of this run's classes.

    Raises:
        ValueError: images without classes.
    """
    data: ImageData = config.data.make(seed=config.seed)
    require(data.train_labels is not None, "data", config.data.spec["_target_"], "must be images with classes")
    names, classes = np.unique(_classes(data, study.images), return_inverse=True)
    heldout, half = study.images.is_heldout, study.images.validation
    if settings.data is None:
        fit, tried = heldout & half, heldout & ~half
        images, labels = study.images.points[fit], classes[fit]
    else:
        tried = heldout
        other: ImageData = settings.data.make(seed=config.seed)
        require(other.train_labels is not None, "judge.data", settings.data.spec["_target_"], "must have classes")
        apart = nearest(other.train, study.images.points)[0][:, 0] / np.sqrt(other.train[0].size)
        kept = (apart > settings.apart) & np.isin(other.train_labels, names)
        images, labels = other.train[kept], np.searchsorted(names, other.train_labels[kept])
    machine = make_pipeline(
        PCA(min(settings.n_components, *_flat(images).shape), svd_solver="covariance_eigh"), SVC(C=settings.penalty)
    ).fit(_flat(images), labels)
    by = {
        "fitted": fingerprint(images, labels),
        "settings": settings.model_dump(mode="json"),
        "code": code_tag(sys.modules[__name__]),
        "scikit-learn": sklearn.__version__,
    }

    def predict(given: np.ndarray) -> np.ndarray:
        def compute() -> dict[str, np.ndarray]:
            return {"classes": machine.predict(_flat(given))}

        return cache.arrays("judged", by | {"images": fingerprint(given)}, compute)["classes"]

    right = predict(study.images.points[tried]) == classes[tried]
    report.fingerprint("judge", images, labels)
    told = told_by(study.captions, classes, len(names))
    return Judge(told, proportion_interval(int(right.sum()), len(right)), predict)


def told_by(captions: Captions, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """The classes of the images behind each caption, ``(m, n classes)`` booleans."""
    told = np.zeros((len(captions.kind), n_classes), bool)
    trained = captions.of_point >= 0
    told[captions.of_point[trained], classes[trained]] = True
    return told


def _classes(data: ImageData, images: Planted) -> np.ndarray:
    n_train = int((images.copies > 0).sum())
    return np.concatenate([data.train_labels[:n_train], data.heldout_labels])


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)
