"""Tables of the experiments on images: what a sweep over seeds says of training images and of audits."""

from itertools import product
from pathlib import Path
from typing import Any

from experiments.publish.over_seeds import metrics_of, over_seeds, table
from experiments.publish.pooled import runs_of

DOSES = {"reproduced": "dose/{}/reproduced", "detected at 1 % FPR": "dose/{}/detected"}
OF_TRAINING = {"AUC of κ_1": "auc", "AUC of the score norm": "score_norm_auc", "gain": "gain_over_score_norm"}
HEADLINE = {
    "training images, 40 copies against held out: AUC": "train_images/auc",
    "TPR at 1 % FPR": "train_images/tpr_at_1pct_fpr",
    "all planted images against held out: AUC": "train_images/auc_planted",
    "single images against held out: AUC": "train_images/auc_single_vs_heldout",
    "control, all planted images: AUC": "control/auc",
    "control, 40 copies: AUC": "control/auc_headline",
    "generated images, copies against others: AUC": "samples/auc",
    "generated images: TPR at 1 % FPR": "samples/tpr_at_1pct_fpr",
    "AUC for p = 1": "samples/auc/p1",
    "AUC for p = 1.5": "samples/auc/p1.5",
    "AUC for p = 2": "samples/auc/p2",
    "AUC for p = 3": "samples/auc/p3",
    "AUC with absolute distance as the label": "samples/auc_by_distance",
    "AUC of the score norm": "samples/score_norm_auc",
    "gain of κ_1 over it": "samples/gain_over_score_norm",
    "AUC of the control on the same images": "samples/control_auc",
    "share of copies, by ratio": "samples/copy_fraction",
    "share of copies, by distance": "samples/copy_fraction_by_distance",
    "8 directions instead of 128, training images: AUC": "directions/train_images/difference",
    "8 directions instead of 128, samples: AUC": "directions/samples/difference",
}
WAYS = {
    "": "one noise level",
    "_calibrated": "difficulty taken out",
    "_baseline": "control subtracted",
    "_both": "both",
}
EVIDENCE = {"": "κ_1", "_norm": "score norm", "_contrast": "contrast", "_combined": "κ_1 and contrast"}
AUDITED = {"": "difficulty taken out", "baseline": "difficulty and control taken out", "raw": "κ_1 at one noise level"}


def headline(sweep: Path) -> str:
    """The main numbers of the image experiment."""
    runs = runs_of(sweep)
    return table(["", ""], [[label, over_seeds(runs, metric)] for label, metric in HEADLINE.items()])


def doses(sweep: Path) -> str:
    """Dose and response of the image experiment."""
    runs = runs_of(sweep)
    metrics = metrics_of(runs[0])
    copies = sorted({int(key.split("/")[1]) for key in metrics if key.startswith("dose/")})
    rows: list[list[Any]] = [["visits", *(f"{metrics[f'dose/{k}/visits']:,.0f}" for k in copies)]]
    rows += [[label, *(over_seeds(runs, metric.format(k)) for k in copies)] for label, metric in DOSES.items()]
    for label, metric in OF_TRAINING.items():
        rows.append([label, *(over_seeds(runs, f"train_images/k{k}/{metric}") for k in copies)])
    return table(["copies", *copies], rows)


def ways(sweep: Path) -> str:
    """AUC of the image experiment by copies: at one level, with difficulty, the control or both taken out."""
    runs = runs_of(sweep)
    copies = sorted({int(key.split("/")[1]) for key in metrics_of(runs[0]) if key.startswith("dose/")})
    rows = []
    for (end, evidence), (way, label) in product(EVIDENCE.items(), WAYS.items()):
        cells = [over_seeds(runs, f"train_images/k{k}/auc{way}{end}") for k in copies]
        if any(cells):
            rows.append([evidence, label, *cells])
    return table(["evidence", "way", *copies], rows)


def membership(sweep: Path) -> str:
    """Single images against held-out ones: published attacks, and the scores of an audit."""
    runs = runs_of(sweep)
    names = [key.split("/")[1] for key in metrics_of(runs[0]) if key.startswith("attacks/") and key.endswith("/auc")]
    found = {f"{name} (attack)": f"attacks/{name}/auc" for name in names}
    for (end, evidence), way in product(EVIDENCE.items(), ("", "_calibrated")):
        found[f"{evidence}, {WAYS[way]}"] = f"train_images/k1/auc{way}{end}"
    rows = [[label, over_seeds(runs, metric)] for label, metric in found.items()]
    return table(["score", "AUC"], sorted((row for row in rows if row[1]), key=lambda row: row[1], reverse=True))


def audits(sweep: Path) -> str:
    """What audits flag of planted images among held-out ones, means over divisions and seeds."""
    runs = runs_of(sweep)
    names = [key.split("/")[1] for key in metrics_of(runs[0]) if key.startswith("audit/") and key.endswith("/power")]
    rows = []
    for name in names:
        copies, reference, *score = name.split("_")
        numbers = [over_seeds(runs, f"audit/{name}/{metric}") for metric in ("power", "false_share")]
        rows.append([copies[1:], reference[3:], AUDITED["_".join(score)], *numbers])
    rows.sort(key=lambda row: -int(row[0]))
    return table(["copies", "reference", "score", "power", "false share"], rows)
