"""Which images hold a memorized region? The largest connected mass of the map against κ₁ of the whole image."""

import numpy as np

from experiments.local_memorization.choosing import MapChoice, for_mass, for_whole, whole
from experiments.local_memorization.maps import MapName
from experiments.local_memorization.measures import largest_masses, smoothed
from experiments.local_memorization.study import LocalStudy
from experiments.shared.measuring import measure, measure_gain
from plap_jax.metrics import auc

MASS, WHOLE, WHOLE_RAW = "mass", "whole", "whole_raw"


def run(study: LocalStudy, network: str, main: MapName, choose_from: int) -> None:
    """Metrics ``local/<network>/<dose>/detection/…``: fresh images of each dose against decoys and plain ones.

    Copies are whole images of the training set, against plain ones and decoys as well: ``local/<network>/copies/…``.
    """
    positive = study.rows("fresh", validation=True, least_dose=choose_from)
    negative = study.rows("decoy", "plain", validation=True)
    choices = {
        MASS: (main, for_mass(study, main, positive, negative)),
        WHOLE: (main, for_whole(study, main, positive, negative)),
        WHOLE_RAW: ("kappa", for_whole(study, "kappa", positive, negative)),
    }
    others = study.rows("decoy", "plain", validation=False)
    scores = {name: _scores(study, name, *choice, others) for name, choice in choices.items()}
    fresh, copies = (study.rows(role, validation=False) for role in ("fresh", "copy"))
    of_fresh, of_copies = (
        {name: _scores(study, name, *choice, rows) for name, choice in choices.items()} for rows in (fresh, copies)
    )
    table = []
    dose = study.planted.dose_of_image[fresh]
    groups = {str(one): (fresh, of_fresh, dose == one) for one in np.unique(dose).tolist()}
    groups["copies"] = (copies, of_copies, np.full(len(copies), True))
    for group, (rows, found, chosen) in groups.items():
        prefix = f"local/{network}/{group}/detection"
        clusters = _clusters(study, rows[chosen]), _clusters(study, others)
        row = {"group": group, "images": int(chosen.sum()), "others": len(others)}
        for name in choices:
            pair = found[name][chosen], scores[name]
            one = measure(study.report, f"{prefix}/{name}/auc", auc, *pair, study.seed, clusters)
            row |= {name: one and one.value, f"{name}_low": one and one.low, f"{name}_high": one and one.high}
        for name in (WHOLE, WHOLE_RAW):
            pairs = (found[MASS][chosen], scores[MASS], found[name][chosen], scores[name])
            measure_gain(study.report, f"{prefix}/gain_over_{name}", pairs, study.seed, clusters)
        table.append(row)
    study.report.table("detection", table)
    for name, (of_map, choice) in choices.items():
        prefix = f"local/{network}/detection/{name}"
        study.report.metric(f"{prefix}/validation_auc", choice.validation)
        study.report.table(f"chosen_{name}", [{"map": of_map, "levels": choice.words, "smoothing": choice.smoothing}])


def _scores(study: LocalStudy, name: str, of_map: MapName, choice: MapChoice, rows: np.ndarray) -> np.ndarray:
    maps = study.maps(of_map, choice.levels, rows)
    return largest_masses(smoothed(maps, choice.smoothing), choice.threshold) if name == MASS else whole(maps)


def _clusters(study: LocalStudy, rows: np.ndarray) -> np.ndarray:
    """What is drawn together: images of one region; an image without one alone."""
    region = study.planted.region[rows]
    return np.where(region >= 0, region, len(study.planted.masks) + rows)
