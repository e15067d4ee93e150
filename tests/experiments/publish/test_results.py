"""Tables of docs/results.md from runs that are made up."""

import json

import pytest

from experiments.core.revision import require_clean
from experiments.publish import results
from experiments.publish.mitigation_tables import CURVES
from experiments.publish.over_seeds import over_seeds
from experiments.publish.results import BLOCK, DOCUMENTS, TABLES, filled, main
from plap_jax.metrics import mean_interval


@pytest.fixture
def directory(tmp_path):
    """Three runs of patches, numbered so that text order is not their order."""
    for seed, name in ((1, "0"), (2, "2"), (3, "10")):
        run = tmp_path / "patches" / name
        run.mkdir(parents=True)
        metrics = {
            "samples/auc": {"value": 0.9 + seed / 100, "low": 0.8, "high": 1.0, "n": 5},
            "dose/2/reproduced": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 5},
            "dose/2/visits": 1234.0,
            "dose/2/detected": None if seed == 1 else 0.5,
        }
        (run / "metrics.json").write_text(json.dumps(metrics))
        overrides = ["+exp=image_memorization_patches", f"seed={seed}", "cache_dir=x", "train.n_steps=9"]
        manifest = {"seed": seed, "git": {"commit": "0123456789", "dirty": False}, "overrides": overrides}
        (run / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_every_table_of_the_document_can_be_made():
    names = [match["name"] for document in DOCUMENTS for match in BLOCK.finditer(document.read_text())]
    assert len(names) >= 6
    assert len(set(names)) == len(names)
    assert set(names) <= set(TABLES)


def test_tables_whose_runs_are_there_are_made_anew_and_the_rest_stays(directory):
    text = "a\n<!-- table patches/doses -->\nold\n<!-- end -->\nb\n<!-- table digits/doses -->\nkept\n<!-- end -->\n"
    made = filled(text, directory)
    assert "old" not in made
    assert "<!-- table digits/doses -->\nkept\n<!-- end -->" in made
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in made.splitlines() if "|" in line}
    assert rows["visits"] == "1,234"
    assert rows["reproduced"] == "0.250"
    assert rows["AUC of κ_1"] == ""  # not measured
    assert filled(made, directory) == made


def test_scores_of_each_way_stand_by_copies_and_audits_by_dose(tmp_path):
    for seed in range(2):
        run = tmp_path / "fashion" / str(seed)
        run.mkdir(parents=True)
        metrics = {f"dose/{k}/visits": 10.0 for k in (16, 2)} | {
            "train_images/k2/auc": {"value": 0.5},
            "train_images/k16/auc_calibrated_norm": {"value": 0.9},
            "train_images/k2/auc_both_combined": None,
            "audit/k8_ref20_baseline/power": 0.75,
            "audit/k8_ref20_baseline/false_share": 0.04,
            "audit/k40_ref3/power": 1.0,
            "audit/k40_ref3/false_share": 0.0,
        }
        (run / "metrics.json").write_text(json.dumps(metrics))
        (run / "manifest.json").write_text(json.dumps({"seed": seed, "git": {"commit": None, "dirty": None}}))
    blocks = "".join(f"<!-- table fashion/{name} -->\n<!-- end -->\n" for name in ("ways", "audits"))
    lines = [line.split("|")[1:-1] for line in filled(blocks, tmp_path).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == ["evidence", "way", "2", "16"]
    assert cells[2:4] == [
        ["κ_1", "one noise level", "0.500", ""],
        ["score norm", "difficulty taken out", "", "0.900"],
    ]
    assert cells[4] == ["copies", "reference", "score", "power", "false share"]
    assert cells[6:] == [
        ["40", "3", "difficulty taken out", "1.000", "0.000"],
        ["8", "20", "difficulty and control taken out", "0.750", "0.040"],
    ]


def test_local_memorization_has_maps_by_dose_and_scores_of_images(tmp_path):
    for seed in range(2):
        run = tmp_path / "local_unet" / str(seed)
        run.mkdir(parents=True)
        metrics = {f"local/unet/{k}/kappa_baseline/pixel_auc": {"value": 0.5 + k / 100} for k in (0, 2, 16)} | {
            "local/unet/2/score_gap/pixel_auc": {"value": 0.625},
            "local/unet/16/kappa_baseline/gain_over_score_gap": {"value": 0.125},
            "local/unet/maps/kappa_baseline/evaluations": 128,
            "local/unet/16/detection/mass/auc": {"value": 0.75},
            "local/unet/copies/detection/whole/auc": None,
        }
        (run / "metrics.json").write_text(json.dumps(metrics))
        (run / "manifest.json").write_text(json.dumps({"seed": seed, "git": {"commit": None, "dirty": None}}))
    blocks = "".join(f"<!-- table local/unet/{name} -->\n<!-- end -->\n" for name in ("pixels", "gains", "detection"))
    lines = [line.split("|")[1:-1] for line in filled(blocks, tmp_path).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines if "--" not in line[0]]
    assert cells == [
        ["map", "NFE", "0", "2", "16"],
        ["kappa_baseline", "128", "0.500", "0.520", "0.660"],
        ["score_gap", "", "", "0.625", ""],
        ["difference", "2", "16"],
        ["kappa_baseline − score_gap", "", "0.125"],
        ["score", "2", "16", "copies"],
        ["largest mass of the map", "", "0.750", ""],
        ["κ_1 − control's", "", "", ""],
        ["κ_1", "", "", ""],
    ]


def test_mitigation_has_a_row_for_each_method_at_each_guidance(tmp_path):
    """Measures over seeds; strengths, goals and better methods counted; seeds without enough copies tell no goal."""
    for seed in range(2):  # methods in an order of their own, and metrics sorted by name as a run leaves them
        run = tmp_path / "mitigation" / str(seed)
        (run / "tables").mkdir(parents=True)
        place = "mitigation/unet/g2"
        metrics = {f"{place}/none/copies": {"value": 0.5}, f"{place}/none/others/agreement": {"value": 0.75}} | {
            f"{place}/guard/copies": {"value": 0.25},
            f"{place}/guard/agreement_change": {"value": -0.5},
            f"{place}/guard/others/moved": {"value": 0.125},
            f"{place}/guard/goal_met": None if seed else 1,
        }
        (run / "metrics.json").write_text(json.dumps(metrics, sort_keys=True))
        (run / "manifest.json").write_text(json.dumps({"seed": seed, "git": {"commit": None, "dirty": None}}))
        lines = [
            "guidance,method,strength,dominated_by",
            "2.0,none,,",
            f"2.0,guard,level={seed},{'a b' if seed else 'b'}",
        ]
        (run / "tables" / "methods.csv").write_text("\n".join(lines))
        names = ("guidance", "method", "strength", *(f"test_{name}" for name in CURVES))
        rows = [["2.0", "none", "", 0.5, 0.5, 1, 50], ["2.0", "guard", "level=1", 0.25, 0, 0.5 + 0.25 * seed, 80]]
        lines = [",".join(map(str, line)) for line in (names, *rows)]
        (run / "tables" / "strengths.csv").write_text("\n".join(lines))

    def cells(name):
        text = filled(f"<!-- table mitigation/{name} -->\n<!-- end -->", tmp_path)
        rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in row if cell.strip()] for row in rows[2:]]

    assert cells("memorized") == [["2", "none", "0.500"], ["2", "guard", "0.250", "-0.500"]]
    assert cells("others") == [["2", "none", "0.750"], ["2", "guard", "0.125"]]
    curve = ["2", "guard", "level=1", "0.250", "0.000", "0.500, 0.750", "80.000"]
    assert cells("curves") == [["2", "none", "0.500", "0.500", "1.000", "50.000"], curve]
    assert cells("chosen") == [["2", "guard", "level=0 (1), level=1 (1)", "1 of 1", "b (2), a (1)"]]


def test_the_source_is_the_command_without_what_is_local(directory):
    made = filled("<!-- table patches/source -->\n<!-- end -->", directory)
    command = "python -m experiments.run -m +exp=image_memorization_patches train.n_steps=9 seed=1,2,3"
    assert f"`{command}`, commit 0123456\n" in made


def test_means_are_over_the_runs_that_have_the_metric(directory):
    runs = results.runs_of(directory / "patches")
    assert [run.name for run in runs] == ["0", "2", "10"]
    found = mean_interval([0.91, 0.92, 0.93])
    assert over_seeds(runs, "samples/auc") == f"0.920 ± {found.high - found.value:.3f}"
    assert over_seeds(runs, "dose/2/detected") == "0.500 (2)"
    assert over_seeds(runs[:1], "dose/2/reproduced") == "0.250"
    assert over_seeds(runs[:2], "samples/auc") == "0.910, 0.920"
    assert over_seeds(runs, "nothing") == ""


@pytest.mark.parametrize("told", [True, False])
def test_detectors_have_intervals_and_no_column_of_what_was_not_measured(tmp_path, told):
    for seed in range(3):
        run, cell = tmp_path / "detection" / str(seed), "prompt/known/g1/kall"
        run.mkdir(parents=True)
        auc = 0.7 + seed / 10
        numbers = {"auc": {"value": auc}, "tpr_at_1pct_fpr": {"value": auc} if told else None, "nfe": 16}
        metrics = {f"detection/{cell}/flux_p1/{name}": value for name, value in numbers.items()}
        (run / "metrics.json").write_text(json.dumps(metrics))
        (run / "manifest.json").write_text(json.dumps({"seed": seed, "git": {"commit": None, "dirty": None}}))
    made = filled("<!-- table detection/prompt/known -->\n<!-- end -->", tmp_path)
    head, _, row = (line.split("|")[1:-1] for line in made.splitlines()[1:4])
    columns = ["detector", "NFE", "AUC, guidance 1", *["TPR at 1 % FPR, guidance 1"] * told]
    assert [cell.strip() for cell in head] == columns
    assert [cell.strip() for cell in row] == ["flux_p1", "16", *["0.800 ± 0.248"] * (1 + told)]


def test_a_row_for_each_detector_and_a_column_for_each_form(tmp_path):
    """The best with difficulty taken out first; a lead over rivals by copies; dear and unmeasured ones leave gaps."""
    for seed in range(3):
        run = tmp_path / "clothes" / str(seed)
        run.mkdir(parents=True)
        cell, metrics = "image/unknown/g2", {}
        aucs = {"flux_p1": 0.6, "flux_p1_calibrated": 0.9, "flux_p1_baseline": 0.95}
        aucs |= {"sima": 0.8, "sima_calibrated": 0.5, "clid": None}
        for name, auc in aucs.items():
            value = auc and {"value": auc + seed / 100}
            metrics |= {f"detection/{cell}/k{k}/{name}/auc": value for k in ("all", "4", "16")}
        metrics["detection/image/unknown/g2/kall/sima/tpr_at_1pct_fpr"] = {"value": 0.25}
        metrics |= {"hypothesis/calibrated/g2/k16/lead": {"value": 0.5}, "hypothesis/calibrated/g2/k4/lead": None}
        metrics |= {"hypothesis/baseline/g2/k4/lead": {"value": -0.25}, "hypothesis/calibrated/g2/kall/lead": None}
        (run / "metrics.json").write_text(json.dumps(metrics))
        (run / "manifest.json").write_text(json.dumps({"seed": seed, "git": {"commit": None, "dirty": None}}))

    def cells(name):
        text = filled(f"<!-- table clothes/{name} -->\n<!-- end -->", tmp_path)
        rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
        head, _, *body = [[cell.strip().split(" ±")[0] for cell in row] for row in rows]
        return head, body

    head, body = cells("image/unknown")
    assert head == ["detector", "raw, g = 2", "difficulty out, g = 2", "baseline, g = 2"]
    assert body == [["flux_p1", "0.610", "0.910", "0.960"], ["sima", "0.810", "0.510", ""]]
    rows = [[name, auc, auc] for name, auc in (("flux_p1", "0.910"), ("sima", "0.510"))]
    assert cells("calibrated/g2") == (["detector", "4", "16"], rows)
    assert cells("rates") == (["detector", "raw, g = 2"], [["sima", "0.250"]])
    head, body = cells("hypothesis")
    assert head == ["form", "guidance", "4", "16"]
    assert body == [["difficulty out", "2", "", "0.500"], ["baseline", "2", "-0.250", ""]]


def test_what_difficulty_explains_stands_by_guidance(tmp_path):
    for seed in range(2):
        run = tmp_path / "clothes_difficulty" / str(seed)
        run.mkdir(parents=True)
        metrics = {f"difficulty/g{g}/{name}/auc": {"value": g / 8} for g in (4, 1) for name in ("alone", "taken_out")}
        (run / "metrics.json").write_text(json.dumps(metrics | {"difficulty/g4/kept/auc": None}))
        (run / "manifest.json").write_text(json.dumps({"seed": seed, "git": {"commit": None, "dirty": None}}))
    made = filled("<!-- table clothes_difficulty/explained -->\n<!-- end -->", tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines() if line.startswith("|")]
    assert rows[0][1:3] == ["statistics of the pixels alone", "κ_1"]
    assert rows[2:] == [["1", "0.125", "", "0.125", ""], ["4", "0.500", "", "0.500", ""]]


def test_runs_of_changed_code_are_refused(directory):
    manifest = directory / "patches" / "2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dirty": false', '"dirty": true'))
    with pytest.raises(ValueError, match=r"patches/2: must be a run of committed code; its tree was changed$"):
        filled("<!-- table patches/doses -->\n<!-- end -->", directory)


def test_a_changed_tree_is_refused_and_the_document_stays(directory, changed_tree, capsys, monkeypatch, tmp_path):
    document = tmp_path / "document.md"
    document.write_text(text := "<!-- table patches/doses -->\n<!-- end -->\n")
    monkeypatch.setattr(results, "DOCUMENTS", (document,))
    monkeypatch.setattr(results, "require_clean", lambda: require_clean(changed_tree))
    assert main([str(directory)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert document.read_text() == text


def test_bad_input_ends_in_one_line(directory, capsys, monkeypatch, tmp_path):
    assert main([]) == 2
    assert main([str(directory / "nowhere")]) == 2
    document = tmp_path / "document.md"
    document.write_text("<!-- table patches/nothing -->\n<!-- end -->\n")
    monkeypatch.setattr(results, "DOCUMENTS", (document,))
    monkeypatch.setattr(results, "require_clean", lambda: None)
    capsys.readouterr()
    assert main([str(directory)]) == 2
    assert capsys.readouterr().err.startswith("table patches/nothing: must be one of")
