"""Where is the region? Every map, chosen on the validation half, measured on images of the test half."""

from collections.abc import Sequence

import numpy as np

from experiments.local_memorization.choosing import MapChoice, for_pixels
from experiments.local_memorization.maps import KINDS, MapName
from experiments.local_memorization.measures import ious, measure_mean, pixel_aucs, smoothed
from experiments.local_memorization.study import LocalStudy, evaluations_of

CHOOSING = 1  # images of each region that choose: every map is made at every level for them
SEEN = 2  # training images of each template that are mapped
SHOWN = 2  # images of each dose and kind in the figure


def run(study: LocalStudy, network: str, names: Sequence[MapName], main: MapName, choose_from: int) -> None:
    """Metrics ``local/<network>/<dose>/<map>/…``, the table of maps, and the arrays of the figures.

    Dose 0 are decoys: there a map that only saw what is pasted would score above one half.
    """
    rows = study.rows("fresh", validation=True, least_dose=choose_from, most_per_region=CHOOSING)
    choices = {name: for_pixels(study, name, rows) for name in names}
    fresh, decoys = (study.rows(role, validation=False) for role in ("fresh", "decoy"))
    seen = study.rows("template", validation=False, most_per_region=SEEN)
    test = {"fresh": fresh, "decoy": decoys, "seen": seen}
    found = {
        role: {name: _measured(study, name, choices[name], chosen) for name in names} for role, chosen in test.items()
    }
    table, doses = [], np.unique(study.planted.dose_of_image[np.concatenate([fresh, decoys])])
    for dose in doses.tolist():
        of = "fresh" if dose else "decoy"
        for name in names:
            told = _record(study, f"local/{network}/{dose}", name, main, dose, test, found, of)
            table.append({"dose": dose, "map": name, "needs": KINDS[name].needs, **told, **_chosen(choices[name])})
    for name in names:
        choice, prefix = choices[name], f"local/{network}/maps/{name}"
        spent = evaluations_of(name, study.evaluations, len(choice.levels))
        study.report.metric(f"{prefix}/evaluations", spent)
        study.report.metric(f"{prefix}/validation_pixel_auc", choice.validation)
    study.report.table("pixels", table)
    _leave(study, network, names, main, choices, table, fresh, decoys)


def _measured(study: LocalStudy, name: MapName, choice: MapChoice, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Pixel AUC and intersection over union of each of the images."""
    masks, maps = study.masks_of(rows), smoothed(study.maps(name, choice.levels, rows), choice.smoothing)
    return {"pixel_auc": pixel_aucs(maps, masks), "iou": ious(maps, masks, choice.threshold)}


def _record(
    study: LocalStudy, prefix: str, name: MapName, main: MapName, dose: int, test: dict, found: dict, of: str
) -> dict[str, float | None]:
    """The metrics of one map at one dose, and what of them stands in the table."""
    report, seed, told = study.report, study.seed, {}
    regions = study.planted.region

    def measured(key: str, role: str, values: np.ndarray) -> None:
        chosen = study.planted.dose_of_image[test[role]] == dose
        one = measure_mean(report, f"{prefix}/{key}", values[chosen], regions[test[role]][chosen], seed)
        told.update({key.rpartition("/")[2]: one and one.value, f"{key.rpartition('/')[2]}_low": one and one.low})
        told.update({f"{key.rpartition('/')[2]}_high": one and one.high})

    for statistic in ("pixel_auc", "iou"):
        measured(f"{name}/{statistic}", of, found[of][name][statistic])
    if of == "fresh":
        measured(f"{name}/pixel_auc_seen", "seen", found["seen"][name]["pixel_auc"])
        if name != main:
            apart = found[of][main]["pixel_auc"] - found[of][name]["pixel_auc"]
            measured(f"{main}/gain_over_{name}", of, apart)
    return {key.replace(f"gain_over_{name}", "gain_of_main"): value for key, value in told.items()}


def _chosen(choice: MapChoice) -> dict[str, float | str]:
    return {"levels": choice.words, "smoothing": choice.smoothing, "threshold": choice.threshold}


def _leave(
    study: LocalStudy,
    network: str,
    names: Sequence[MapName],
    main: MapName,
    choices: dict[MapName, MapChoice],
    table: list[dict],
    fresh: np.ndarray,
    decoys: np.ndarray,
) -> None:
    """``arrays/local.npz``: pictures of each dose and kind with all maps, and the numbers of the table."""
    planted = study.planted
    shown = []
    for rows in (fresh, decoys):
        groups: dict[tuple[int, str], list[int]] = {}
        for i in rows.tolist():
            groups.setdefault((int(planted.dose_of_image[i]), str(planted.kind[planted.region[i]])), []).append(i)
        shown += [i for members in groups.values() for i in members[:SHOWN]]
    shown = np.sort(np.asarray(shown))
    pictures, errors = {}, {}
    for name in names:
        rows = [(chosen, study.maps_with_errors(name, choices[name].levels, chosen)) for chosen in (fresh, decoys)]
        everyone = np.concatenate([chosen for chosen, _ in rows])
        order = np.argsort(everyone)[np.searchsorted(np.sort(everyone), shown)]
        value, stderr = (np.concatenate([of[k] for _, of in rows])[order] for k in (0, 1))
        pictures[f"map_{name}"], errors[f"stderr_{name}"] = smoothed(value, choices[name].smoothing), stderr
    study.report.arrays(
        "local",
        network=network,
        names=list(names),
        labels=[KINDS[name].label for name in names],
        main=main,
        images=planted.points[shown],
        masks=study.masks_of(shown),
        dose=planted.dose_of_image[shown],
        kind=planted.kind[planted.region[shown]],
        thresholds=[choices[name].threshold for name in names],
        table_map=[row["map"] for row in table],
        table_dose=[row["dose"] for row in table],
        table_auc=[[row[f"pixel_auc{end}"] or np.nan for end in ("", "_low", "_high")] for row in table],
        **pictures,
        **errors,
    )
