"""What everything here builds on: the planted images, the network, the control, and maps from the cache."""

import time
from dataclasses import dataclass

import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag
from experiments.core.report import Report
from experiments.local_memorization import maps
from experiments.local_memorization.maps import KINDS, MapName
from experiments.shared.networks import Trained, named_key
from plap_jax.data import PlantedTemplates, fingerprint
from plap_jax.data.templates import Role


@dataclass(frozen=True, eq=False)
class LocalStudy:
    """Images, the network that saw all of their training part, and a control that saw no template and no copy.

    Attributes:
        planted: the images.
        network, control: trained in the same way.
        levels: noise levels that are tried, alone or together.
        smoothing: widths that are tried.
        evaluations: of networks for each map of an image.
        seed: of the directions.
        report, cache: of the run.
    """

    planted: PlantedTemplates
    network: Trained
    control: Trained
    levels: tuple[tuple[float, ...], ...]
    smoothing: tuple[float, ...]
    evaluations: int
    seed: int
    report: Report
    cache: Cache

    def rows(
        self, *roles: Role, validation: bool, least_dose: int = -1, most_per_region: int | None = None
    ) -> np.ndarray:
        """Numbers of the images of these roles in one half, ascending.

        Args:
            roles: of ``PlantedTemplates``.
            validation: which half.
            least_dose: of the region.
            most_per_region: the first so many images of each region; None: all. Of those without one, all.
        """
        planted = self.planted
        chosen = np.isin(planted.role, roles) & (planted.validation == validation)
        found = np.flatnonzero(chosen & (planted.dose_of_image >= least_dose))
        if most_per_region is None:
            return found
        regions = planted.region[found]
        earlier = np.asarray([np.sum(regions[:i] == region) for i, region in enumerate(regions)], int)
        return found[(earlier < most_per_region) | (regions < 0)]

    def masks_of(self, rows: np.ndarray) -> np.ndarray:
        """``(n, h, w)`` booleans: the pasted pixels of images ``rows``."""
        return np.stack([self.planted.mask_of(i) for i in rows])

    def maps(self, name: MapName, levels: tuple[float, ...], rows: np.ndarray) -> np.ndarray:
        """The map ``name`` of images ``rows``, ``(n, h, w)``."""
        return self.maps_with_errors(name, levels, rows)[0]

    def maps_with_errors(
        self, name: MapName, levels: tuple[float, ...], rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """With their standard errors, from the cache when they are there."""
        images, prompts, group = self.planted.points[rows], self.planted.captions[rows], maps.group_of(name)
        how = {"levels": list(levels), "evaluations": self.evaluations}

        def compute() -> dict[str, np.ndarray]:
            started = time.perf_counter()
            networks = (self.network.network, self.control.network)
            key = named_key(self.seed, "local/directions")
            with self.report.stage(f"maps/{group}"):
                found = maps.maps_of(group, networks, images, prompts, key=key, **how)
            self.report.rate(f"images/maps/{group}", len(images), time.perf_counter() - started)
            return {f"{one}_{i}": pair[i] for one, pair in found.items() for i in (0, 1)}

        depends_on = {
            "networks": [self.network.key, self.control.key],
            "images": fingerprint(images, prompts),
            "seed": self.seed,
            "how": how,
            "code": code_tag(maps, plap_jax),
        }
        found = self.cache.arrays(f"maps/{group}", depends_on, compute)
        return found[f"{name}_0"], found[f"{name}_1"]


def evaluations_of(name: MapName, evaluations: int, n_levels: int) -> int:
    """What a map really costs for an image: whole directions or probes at each level."""
    return maps.units_of(name, evaluations, n_levels) * n_levels * KINDS[name].cost
