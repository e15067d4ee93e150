"""Maps of which pixels a network memorized, each made of so many evaluations of networks: κ₁'s and its rivals'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.curvature_map import CurvatureMap, curvature_difference, map_of_units, units_of_scores
from plap_jax.diffusion import Diffusion
from plap_jax.directions import on_sphere, sample_directions
from plap_jax.evidence import times_of
from plap_jax.memory import points_at_once
from plap_jax.parallel import map_points
from plap_jax.typing import Array, ArrayLike, PRNGKey, standard_error

MapName = Literal[
    "kappa",
    "kappa_given",
    "kappa_gap",
    "kappa_baseline",
    "score_gap",
    "curvature_gap",
    "curvature_baseline",
    "denoised_difference",
    "error_difference",
]
MAPS: tuple[MapName, ...] = get_args(MapName)
Group = Literal["shell", "curvature"]


@dataclass(frozen=True)
class MapKind:
    """What a map needs and costs.

    Attributes:
        cost: evaluations for each direction or probe; a Jacobian-vector product counts as two.
        needs: "prompt", "control", or nothing beside the image.
        label: for tables and figures.
    """

    cost: int
    needs: str
    label: str


KINDS: dict[MapName, MapKind] = {
    "kappa": MapKind(1, "", "κ₁"),
    "kappa_given": MapKind(1, "prompt", "κ₁ given the prompt"),
    "kappa_gap": MapKind(2, "prompt", "κ₁ given the prompt − κ₁"),
    "kappa_baseline": MapKind(2, "control", "κ₁ − control's"),
    "score_gap": MapKind(2, "prompt", "|s_c − s_∅|"),
    "curvature_gap": MapKind(4, "prompt", "−diag(H_c − H_∅)"),
    "curvature_baseline": MapKind(4, "control", "−diag(H − control's)"),
    "denoised_difference": MapKind(2, "control", "|x̂₀ − control's|"),
    "error_difference": MapKind(2, "control", "control's error − error"),
}


def group_of(name: MapName) -> Group:
    """Maps of one group are made together, of the same evaluations as far as they share them."""
    return "curvature" if name.startswith("curvature") else "shell"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapsAt:
    """Image and prompt ↦ all maps of a group at one noise level, ``(h, w)`` each; a pytree for ``map_points``.

    All maps are without unit (those of curvature are multiplied by σ²), channels taken together, higher = more
    memorized. Scores are taken on the shell of centre αx₀ and radius σ√d, in the same directions for all images, maps
    and networks; curvature is that at αx₀.

    Args:
        model, control: of one schedule.
        t: time.
        key: of the directions.
        group: which maps.
        evaluations: of networks that each of the maps may cost.
    """

    model: Diffusion
    control: Diffusion
    t: ArrayLike
    key: PRNGKey
    group: Group = field(metadata={"static": True})
    evaluations: int = field(metadata={"static": True})

    def __call__(self, image: Array, prompt: Array) -> dict[MapName, CurvatureMap]:
        """Prompts reach the network only where ``KINDS`` says that a map needs one."""
        return self._curvature(image, prompt) if self.group == "curvature" else self._shell(image, prompt)

    def _shell(self, image: Array, prompt: Array) -> dict[MapName, CurvatureMap]:
        """One network takes all directions, two take half of them each."""
        model, t, half = self.model, self.t, self.evaluations // 2
        centre, radius = model.ball(image, t)
        vectors = sample_directions(self.key, 2 * half, image.shape, "iid", centre.dtype)
        points = on_sphere(centre, radius, vectors)
        plain, given = (jax.vmap(model.score_at(t, told))(points) for told in (None, prompt))
        control = jax.vmap(self.control.score_at(t))(points[:half])
        of = {"plain": plain, "given": given, "control": control}
        terms = {name: units_of_scores(s, vectors[: len(s)], channels=True) for name, s in of.items()}

        def beyond(name: str, base: str) -> CurvatureMap:
            return map_of_units(terms[name][0][:half] - terms[base][0][:half], terms[base][1][:half])

        alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
        mine, theirs = ((points[:half] + sigma**2 * s[:half]) / alpha for s in (plain, control))  # x̂₀
        return {
            "kappa": map_of_units(*terms["plain"]),
            "kappa_given": map_of_units(*terms["given"]),
            "kappa_gap": beyond("given", "plain"),
            "kappa_baseline": beyond("plain", "control"),
            "score_gap": _mean(_length(given[:half] - plain[:half]) * sigma),
            "denoised_difference": _mean(_length(mine - theirs)),
            "error_difference": _mean(_length(theirs - image) ** 2 - _length(mine - image) ** 2),
        }

    def _curvature(self, image: Array, prompt: Array) -> dict[MapName, CurvatureMap]:
        model, t = self.model, self.t
        centre, _ = model.ball(image, t)
        plain, given, control = model.score_at(t), model.score_at(t, prompt), self.control.score_at(t)
        how = {"key": self.key, "n_probes": self.evaluations // 4, "channels": True}
        square = model.schedule.sigma(t) ** 2
        fields = {"curvature_gap": (given, plain), "curvature_baseline": (plain, control)}
        found = {name: curvature_difference(s, centre, baseline=base, **how) for name, (s, base) in fields.items()}
        return {name: CurvatureMap(square * one.value, square * one.stderr) for name, one in found.items()}


def units_of(name: MapName, evaluations: int, n_levels: int) -> int:
    """Directions or probes at each level, so that all of them together cost ``evaluations`` at most."""
    cost = KINDS[name].cost
    return max(cost, 2) * (evaluations // n_levels // max(cost, 2)) // cost


def maps_of(
    group: Group,
    networks: tuple[Diffusion, Diffusion],
    images: np.ndarray,
    prompts: np.ndarray,
    *,
    levels: Sequence[float],
    evaluations: int,
    key: PRNGKey,
) -> dict[MapName, tuple[np.ndarray, np.ndarray]]:
    """The maps of n images and their standard errors, ``(n, h, w)`` both: means over the levels.

    Args:
        group: which maps.
        networks: the network, and the control.
        images, prompts: ``(n, h, w, c)``, ``(n,)``.
        levels: σ of a variance-preserving schedule, translated by σ/α.
        evaluations: of networks that each map may cost for an image, shared by the levels.
        key: of the directions, others at each level.
    """
    model, control = networks
    at_level = evaluations // len(levels)
    batch = points_at_once(images[0].size, 3 * at_level)
    n, filled = len(images), -len(images) % batch  # batches of one size compile once
    rows = np.concatenate([np.arange(n), np.full(filled, n - 1)])
    parts = []
    for i, t in enumerate(times_of(model.schedule, levels).values()):
        at = MapsAt(model, control, t, jax.random.fold_in(key, i), group, at_level)
        parts.append(map_points(at, images[rows], prompts[rows], batch_size=batch))
    found = {}
    for name in parts[0]:
        values, errors = (np.stack([getattr(part[name], of)[:n] for part in parts]) for of in ("value", "stderr"))
        found[name] = values.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(parts)
    return found


def _length(vectors: Array) -> Array:
    """Over the channels of each pixel."""
    return jnp.sqrt(jnp.sum(vectors**2, axis=-1))


def _mean(units: Array) -> CurvatureMap:
    return CurvatureMap(jnp.mean(units, axis=0), standard_error(units))
