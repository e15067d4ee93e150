"""A detector of the library with the parameters that an experiment tries."""

import itertools
import pkgutil
from inspect import ismethod
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field, model_validator

from experiments.core.schema import Section, Target, check_arguments, checked_as
from plap_jax.detectors import Detector, Query
from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.typing import Array, PRNGKey, require

Prompt = Literal["known", "unknown"]
Family = Literal["p-laplacian", "other", "oracle"]


class Method(Section):
    """One detector and the parameters that are tried on the validation half."""

    family: Family = Field(description="p-laplacian, other, oracle (sees the training data)")
    detector: Target
    grid: dict[str, list[float | int | None]] = Field(
        description="parameter of the detector → values; all combinations"
    )
    subset: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="images that are scored, drawn at random, of a detector that is dear; null: all"
    )

    @model_validator(mode="after")
    def _holds_values(self) -> "Method":
        for name, values in self.grid.items():
            distinct = len(values) >= 1 and len(set(values)) == len(values)
            require(distinct, f"grid.{name}", values, "must hold at least one value, none twice")
        return self

    @property
    def kind(self) -> type[Detector]:
        """The class of the detector, which says what it needs."""
        named = pkgutil.resolve_name(self.detector.spec["_target_"])
        return named.__self__ if ismethod(named) else named

    @property
    def is_fitted(self) -> bool:
        """Whether the detector is made by a fit to images that are known not to be members."""
        return ismethod(pkgutil.resolve_name(self.detector.spec["_target_"]))

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels that are tried, where the candidates differ in nothing else."""
        return tuple(self.grid["sigma"]) if tuple(self.grid) == ("sigma",) else ()

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Every combination of parameters, those of the grid named."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def make(self, candidate: dict[str, Any], reference: np.ndarray) -> Detector:
        """The detector with these parameters."""
        more = {"reference": reference} if "training data" in self.kind.needs else {}
        return self.detector.make(**candidate, **more)

    def fit(self, candidate: dict[str, Any], model: Diffusion, nonmembers: np.ndarray, key: PRNGKey) -> Detector:
        """The detector with these parameters, fitted to images ``(n, *shape)`` that the model was not trained on."""
        return self.detector.make(model, Query(image=nonmembers), key=key, **candidate)

    def runs_with(self, prompt: Prompt) -> bool:
        """Whether it can do without what is not known; images to fit to have no prompt of their own."""
        return prompt == "unknown" if self.is_fitted else prompt == "known" or "prompt" not in self.kind.needs

    def check(self, key: str, schedule: Schedule) -> None:
        """Refuses parameters and noise levels out of range, named by ``key``, before anything is computed.

        Raises:
            ValueError, UserError: the first that does not fit.
        """
        oracle = "training data" in self.kind.needs
        allowed = "must be oracle, for it sees the training data" if oracle else "must not be oracle: it sees no data"
        require((self.family == "oracle") == oracle, f"{key}.family", self.family, allowed)
        reference = np.stack([np.zeros(SHAPE), np.ones(SHAPE)])
        for candidate in self.candidates:
            check_arguments({**self.detector.spec, **candidate}, tuple(f"{key}.detector".split(".")))
            if self.is_fitted:
                checked_as(f"{key}.grid", candidate, schedule.time_at, candidate["sigma"])
                continue
            made = checked_as(f"{key}.grid", candidate, self.make, candidate, reference)
            checked_as(f"{key}.grid", candidate, made.check, schedule)
        if self.is_fitted:
            return  # it takes a network and images
        try:
            _trace(made, schedule)
        except ValueError as error:
            raise ValueError(f"{key}.detector: {error}") from error


SHAPE = (4, 4, 1)  # of an image to try a detector on


def _trace(detector: Detector, schedule: Schedule) -> None:
    """One statistic, traced; nothing is computed."""
    model, image = Diffusion(Partial(_nothing), schedule), jnp.zeros(SHAPE)
    query = Query(image, jnp.asarray(0), image, 1.0)
    jax.eval_shape(lambda key: detector.statistic(model, query, key), jax.random.key(0))


def _nothing(x: Array, level: Array, condition: Array | None = None) -> Array:
    return x
