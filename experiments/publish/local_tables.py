"""Tables of local memorization: what a sweep over seeds says of every map, and of images that hold a region."""

from collections.abc import Callable
from pathlib import Path

from experiments.publish.over_seeds import metrics_of, over_seeds, table
from experiments.publish.pooled import runs_of

NETWORKS = ("unet", "dit")
SCORES = {"mass": "largest mass of the map", "whole": "κ_1 − control's", "whole_raw": "κ_1"}


def pixels(network: str, statistic: str) -> Callable[[Path], str]:
    """A row for each map, a column for each dose; 0: a region that training never saw."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        names, doses = _names(metrics_of(runs[0]), network)
        rows = []
        for name in names:
            cells = [over_seeds(runs, f"local/{network}/{dose}/{name}/{statistic}") for dose in doses]
            rows.append([name, over_seeds(runs, f"local/{network}/maps/{name}/evaluations").partition(".")[0], *cells])
        return table(["map", "NFE", *doses], rows)

    return write


def gains(network: str) -> Callable[[Path], str]:
    """How much more pixel AUC the main map has than each rival, paired, by dose."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        names, doses = _names(metrics_of(runs[0]), network)
        found = [key for key in metrics_of(runs[0]) if key.startswith(f"local/{network}/") and "/gain_over_" in key]
        mains = sorted({key.split("/")[3] for key in found} & set(names))
        rows = [
            [f"{main} − {name}", *(over_seeds(runs, f"local/{network}/{d}/{main}/gain_over_{name}") for d in doses[1:])]
            for main in mains
            for name in names
            if name != main
        ]
        return table(["difference", *doses[1:]], rows)

    return write


def detection(network: str) -> Callable[[Path], str]:
    """AUC of unseen images with a region, by dose, and of copies, against decoys and plain images."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        groups = [*_names(metrics_of(runs[0]), network)[1][1:], "copies"]
        rows = []
        for score, label in SCORES.items():
            cells = [over_seeds(runs, f"local/{network}/{group}/detection/{score}/auc") for group in groups]
            rows.append([label, *cells])
        return table(["score", *groups], rows)

    return write


def _names(metrics: dict, network: str) -> tuple[list[str], list[str]]:
    """Maps, and doses in order."""
    keys = [key.split("/") for key in metrics if key.startswith(f"local/{network}/") and key.endswith("/pixel_auc")]
    doses = sorted({key[2] for key in keys}, key=int)
    return list(dict.fromkeys(key[3] for key in keys)), doses


MAKERS = {
    "pixels": lambda network: pixels(network, "pixel_auc"),
    "iou": lambda network: pixels(network, "iou"),
    "gains": gains,
    "detection": detection,
}
# name in the document → (sweep, what makes the table)
LOCAL = {
    f"local/{network}/{name}": (f"local_{network}", make(network))
    for network in NETWORKS
    for name, make in MAKERS.items()
}
