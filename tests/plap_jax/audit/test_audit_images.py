"""``audit_images``: from a notebook, without a file; valid p-values; what is spent is what is reported."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from plap_jax.audit import AuditSettings, audit_images
from plap_jax.audit.images import pixels
from plap_jax.audit.scores import Scorer, described
from plap_jax.audit.subject import as_subject
from plap_jax.detectors import ScoreNorm
from plap_jax.diffusion import EDM, Diffusion, RectifiedFlow, VPCosine
from plap_jax.networks import ResidualMLP
from plap_jax.pretrained import UserModel, as_pretrained
from tests.helpers import memorizing_model
from tests.helpers.analytic_network import MixtureNetwork
from tests.helpers.counting_network import counted, counts

KEY = jax.random.key(0)
MEMORIZED, images = memorizing_model.MEMORIZED, memorizing_model.images
QUICK = {"target_stderr": 0.1, "max_samples": 32, "evaluations": 1024, "key": KEY}


@pytest.fixture(scope="module")
def audited():
    everything = np.concatenate([images(20, 1), MEMORIZED])
    return audit_images(memorizing_model.factory(), everything, reference=images(100, 2), sigma=0.22, **QUICK)


def test_memorized_images_are_flagged_and_nothing_is_written(audited, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert audited.flagged[20:].all() and audited.flagged[:20].sum() <= 2
    assert audited.p_value[20:].max() == pytest.approx(1 / 101) and (audited.stderr > 0).all()
    names = ("score", "stderr", "p_value", "q_value", "flagged", "z", "nfe")
    assert {name: np.shape(getattr(audited, name)) for name in names} == dict.fromkeys(names, (32,))
    assert audited.reference_score.shape == (100,) and audited.claims.is_controlled
    assert audited.lines[0].endswith("(false-discovery rate 0.05, null: exchangeable with the 100 reference images)")
    rows = audited.to_rows()
    assert [row["rank"] for row in rows] == list(range(1, 33)) and rows[0]["flagged"] == 1
    assert "flagged" in repr(audited) and "<table>" in audited._repr_html_()
    assert list(tmp_path.iterdir()) == []
    audited.save_csv(tmp_path / "audit.csv")
    audited.save_report(tmp_path / "report.html")
    assert len((tmp_path / "audit.csv").read_text().splitlines()) == 33
    assert "exchangeable with the reference images" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("schedule", [RectifiedFlow(), EDM()], ids=lambda schedule: schedule.name)
def test_an_audit_does_not_depend_on_the_path(schedule):
    """Noise levels are translated: the same evidence, and the same verdict, as on the schedule they are named after."""
    everything, found = np.concatenate([images(20, 1), MEMORIZED]), []
    for path, prediction in ((memorizing_model.SCHEDULE, "eps"), (schedule, "flow")):
        network = MixtureNetwork(memorizing_model.mixture(), path, prediction)
        model = Diffusion(network, path, prediction)
        how = {"reference": images(40, 2), "shape": memorizing_model.SHAPE, "noise_levels": (0.16, 0.32)}
        found.append(audit_images(model, everything, key=KEY, **how))
    one, other = found
    np.testing.assert_allclose(other.kappa, one.kappa, atol=2e-3)
    held_out, memorized = slice(20), slice(20, None)
    np.testing.assert_allclose(other.evidence[held_out], one.evidence[held_out], rtol=0.05, atol=0.05)
    np.testing.assert_allclose(other.score[held_out], one.score[held_out], rtol=0.05, atol=0.05)
    # At a memorized image ε̂ vanishes, and its logarithm is of what float32 leaves: only "far" is sure.
    for result in found:
        assert result.score[memorized].min() > 2 * result.score[held_out].max()


def test_a_reference_that_is_too_small_says_so_wherever_the_result_is_shown(audited):
    few = dataclasses.replace(audited.verdict, reference=audited.reference_score[:5])
    found = dataclasses.replace(audited, verdict=few)
    for shown in (repr(found), found._repr_html_()):
        assert "it needs at least 19 images, and 639 to flag a single one" in shown


def test_what_a_notebook_shows_is_escaped(audited):
    named = dataclasses.replace(audited.audited, names=["<script>alert(1)</script>"] * 32)
    shown = dataclasses.replace(audited, audited=named)._repr_html_()
    assert "<script" not in shown and "&lt;script&gt;" in shown


def test_a_file_that_is_gone_has_no_picture(tmp_path):
    for i, image in enumerate(MEMORIZED[:2]):
        Image.fromarray(pixels(image)[..., 0]).save(tmp_path / f"{i}.png")
    found = audit_images(memorizing_model.factory(), tmp_path, sigma=0.22, **QUICK)
    assert found._repr_html_().count("<img") == 2
    (tmp_path / "1.png").unlink()
    assert found._repr_html_().count("<img") == 1


def test_networks_of_this_library_tell_shape_and_prompts():
    network = ResidualMLP((4, 4, 1), width=8, depth=1, embed_dim=8, n_conditions=3, rngs=nnx.Rngs(0))
    found = as_subject(Diffusion(network, VPCosine()), None)
    assert found.model.shape == (4, 4, 1) and found.model.n_conditions == 3 and found.takes_prompts


def test_arrays_files_and_folders_are_the_same_audit(audited, tmp_path):
    everything = np.concatenate([images(20, 1), MEMORIZED])
    np.savez(tmp_path / "images.npz", everything)
    model = memorizing_model.factory()
    how = {"reference": images(100, 2), "sigma": 0.22, **QUICK}
    of_file = audit_images(model, tmp_path / "images.npz", **how)
    np.testing.assert_array_equal(of_file.score, audited.score)
    diffusion = as_pretrained(model).diffusion
    np.testing.assert_array_equal(audit_images(diffusion, everything[..., 0], **how).score, audited.score)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(everything):
        Image.fromarray(pixels(image)[..., 0]).save(tmp_path / "folder" / f"{i:02d}.png")
    of_folder = audit_images(as_pretrained(model), tmp_path / "folder", **how)
    assert of_folder.names[3] == "03.png"
    np.testing.assert_allclose(of_folder.score, audited.score, atol=0.15)  # 8 bits
    with pytest.raises(ValueError, match="^shape=None: must be given for a Diffusion with a folder of files"):
        audit_images(diffusion, tmp_path / "folder", **how)


def test_what_is_reported_is_what_was_spent():
    """Calls of the network, counted in it: a loop over a whole batch would spend what its hardest image needs."""
    made = memorizing_model.factory()
    model = UserModel(lambda x, t, condition: counted(made.function(x, t, condition)), made.schedule, made.shape)
    subject = as_subject(model, None)
    settings = AuditSettings(target_stderr=0.03, max_samples=128, evaluations=1024)
    scorer = Scorer(subject, settings, KEY, 0.22)
    everything = np.concatenate([images(44, 1), MEMORIZED])
    counts.update(evaluations=0)
    columns = scorer(everything, None)
    jax.effects_barrier()
    spent = counts["evaluations"]
    assert columns["spent"].sum() == pytest.approx(spent, rel=1e-9)
    assert columns["nfe"].sum() == pytest.approx(spent, rel=0.1)
    # and it is not what the hardest image asked for, times their number
    assert columns["nfe"].max() >= 3 * columns["nfe"].min() and spent < 0.7 * columns["nfe"].max() * len(everything)


def test_finished_chunks_are_taken_up_again(tmp_path, monkeypatch):
    how = {"sigma": 0.22, "chunk": 8, "resume_dir": tmp_path / "parts", **QUICK, "evaluations": 256}
    first = audit_images(memorizing_model.factory(), MEMORIZED, **how)
    files = sorted((tmp_path / "parts").glob("audit_images-*"))
    assert len(files) == 2 and len(list((tmp_path / "parts").iterdir())) == 3  # and whether the model denoises at all
    monkeypatch.setattr(Scorer, "__call__", lambda *_: pytest.fail("it is computed again"))
    again = audit_images(memorizing_model.factory(), MEMORIZED, **how)
    np.testing.assert_array_equal(again.score, first.score)
    monkeypatch.undo()
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 1
    files[0].write_bytes(content)
    np.testing.assert_array_equal(audit_images(memorizing_model.factory(), MEMORIZED, **how).score, first.score)


def test_without_jinja_all_but_the_report_works(audited, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for name in ("plap_jax.audit.page", "plap_jax.audit.report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    audited.save_csv(tmp_path / "audit.csv")
    with pytest.raises(ImportError, match=r"^a report needs jinja2: pip install '\.\[audit\]' in the repository$"):
        audited.save_report(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"fdr": 1.0}, "fdr=1.0: must lie in (0, 1)"),
        ({"n_samples": 4}, "n_samples=4: must hold at least 8 independent units"),
        ({"noise_levels": ()}, "noise_levels=(): must be different numbers in (0, 1)"),
        ({"noise_levels": (0.1, 0.1)}, "noise_levels=(0.1, 0.1): must be different numbers in (0, 1)"),
        ({"noise_levels": (0.1, 7.0)}, "noise_levels=(0.1, 7.0): must be different numbers in (0, 1)"),
        ({"n_directions": 2}, "n_directions=2: must be an integer >= 4"),
        ({"duplicate_distance": -1}, "duplicate_distance=-1.0: must be >= 0"),
        ({"score": "best"}, "score='best': must be one of None, kappa"),
        ({"score": "detector"}, "score='detector': needs a detector"),
        ({"score": "kappa_gap"}, "score='kappa_gap': needs prompts"),
        ({"prompts": 3}, "prompts=3: must not be given: this model has no prompts"),
        ({"reference_prompts": 3}, "reference_prompts=3: needs a reference"),
        ({"sigma": 7.0}, "sigma=7.0: must lie in ["),
        ({"reference": np.zeros((3, 5, 5, 1))}, "reference=(3, 5, 5, 1): must be (n, 4, 4, 1)"),
        ({"sigma": "0.1"}, "sigma='0.1': must be a finite number"),
        ({"fdr": "0.05"}, "fdr='0.05': must be a finite number"),
        ({"noise_levels": 0.1}, "noise_levels=0.1: must be a sequence of numbers in (0, 1)"),
        ({"target_stderr": "x"}, "target_stderr='x': must be a finite number"),
        ({"chunk": 2.5}, "chunk=2.5: must be an integer >= 1"),
        ({"key": 0}, "key=0: must be one key, such as jax.random.key(0)"),
        ({"reference": "nowhere"}, "reference='nowhere': must be a folder of images, an .npz or an .npy"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments, line):
    with pytest.raises(ValueError) as refused:
        audit_images(memorizing_model.factory(), MEMORIZED, **{"key": KEY, **arguments})
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_file_that_is_no_array_is_one_line(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no array")
    for model in (memorizing_model.factory(), as_pretrained(memorizing_model.factory()).diffusion):
        with pytest.raises(ValueError, match=r"^images=.*a\.npy: is no NumPy array: "):
            audit_images(model, tmp_path / "a.npy", key=KEY)


def test_a_misspelt_setting_is_refused_by_name():
    with pytest.raises(TypeError, match="no argument of audit_images, and no setting .*; did you mean reference[?]$"):
        audit_images(memorizing_model.factory(), MEMORIZED, refrence=MEMORIZED, key=KEY)
    with pytest.raises(TypeError, match="^target_error: no argument of audit_images, and no setting"):
        audit_images(memorizing_model.factory(), MEMORIZED, key=KEY, target_error=0.1)


def test_a_detector_is_told_the_prompts_of_both_sides_or_of_none():
    """Else images and reference are scored by two rules, and p-values mean nothing."""
    model, sides = memorizing_model.prompted(), {"reference": images(30, 2), "detector": ScoreNorm(0.22), **QUICK}
    for prompts in ({"prompts": 0}, {"reference_prompts": 0}):
        with pytest.raises(ValueError, match="^reference_prompts=.*must be given for the images and the reference, or"):
            audit_images(model, images(30, 1), sigma=0.22, **sides, **prompts)
    both = audit_images(model, images(30, 1), sigma=0.22, **sides, prompts=0, reference_prompts=0)
    neither = audit_images(model, images(30, 1), sigma=0.22, **sides)
    for one in (both, neither):
        assert 0.2 < one.p_value.mean() < 0.8
    assert np.abs(both.score - neither.score).max() > 1e-3


def test_images_without_the_reference_s_prompts_are_ranked_without_theirs_and_told_so(caplog):
    found = audit_images(
        memorizing_model.prompted(), MEMORIZED, reference=images(30, 2), prompts=0, sigma=0.22, **QUICK
    )
    assert found.verdict.name == "kappa" and "ranked without their prompts" in caplog.text


def test_numbers_of_any_kind_are_taken_and_written_down(tmp_path):
    how = {"key": KEY, "evaluations": np.int64(1024), "n_samples": np.int32(16), "target_stderr": np.float32(0.1)}
    found = audit_images(memorizing_model.factory(), MEMORIZED, sigma=jnp.float32(0.22), resume_dir=tmp_path, **how)
    assert found.sigma == pytest.approx(0.22) and list(tmp_path.iterdir())


def test_a_detector_of_other_code_is_another_one(monkeypatch):
    before = described(ScoreNorm(0.22))
    assert before == described(ScoreNorm(0.22)) != described(ScoreNorm(0.1))
    monkeypatch.setattr("inspect.getsource", lambda module: "changed")
    assert described(ScoreNorm(0.22)) != before

    def none(module):
        raise OSError("no source")

    monkeypatch.setattr("inspect.getsource", none)
    assert described(ScoreNorm(0.22)) != described(ScoreNorm(0.22))


def test_a_picture_that_is_gone_costs_no_report(tmp_path):
    for i, image in enumerate(MEMORIZED):
        Image.fromarray(pixels(image)[..., 0]).save(tmp_path / f"{i:02d}.png")
    found = audit_images(memorizing_model.factory(), tmp_path, sigma=0.22, **QUICK)
    (tmp_path / "03.png").unlink()
    found.save_report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "03.png" in html and html.count("<img") == len(MEMORIZED) - 1
