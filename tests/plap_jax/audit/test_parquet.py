"""Data sets as Hugging Face has them, from the command line to the table: what a folder of the same images gives."""

import csv
import shlex

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from plap_jax.audit import audit_images
from plap_jax.audit.command_line import main
from plap_jax.audit.images import pixels
from tests.helpers import memorizing_model

HOW = "--noise-levels 0.08 0.32 --evaluations 1024 --maps 0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Thirty images, twelve of them memorized, and a file that is none: in a folder, and in two Parquet files."""
    base = tmp_path_factory.mktemp("parquet")
    (base / "folder").mkdir()
    for i, image in enumerate(np.concatenate([memorizing_model.images(18, 1), memorizing_model.MEMORIZED])):
        Image.fromarray(pixels(image)[..., 0]).save(base / "folder" / f"{i:02d}.png")
    (base / "folder" / "30.png").write_text("no image")
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted((base / "folder").iterdir())]
    for k in range(2):
        mine = rows[16 * k : 16 * (k + 1)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(mine, kind), "label": pa.array(range(len(mine)), pa.int64())})
        pq.write_table(table, base / f"train-{k:05d}-of-00002.parquet", row_group_size=10)
    np.save(base / "reference.npy", memorizing_model.images(150, 2))
    return base


@pytest.fixture(scope="module")
def expected(place):
    """The audit of the folder."""
    how = {"noise_levels": (0.08, 0.32), "evaluations": 1024, "maps": 0, "reference": place / "reference.npy"}
    return audit_images(memorizing_model.factory(), place / "folder", key=jax.random.key(0), **how)


def command(place, out, *more):
    images = "--model tests.helpers.memorizing_model:factory --images train-*-of-00002.parquet"
    return shlex.split(f"{images} --reference reference.npy {HOW} --out {out}") + list(more)


def rows_of(place, out):
    with (place / out / "audit.csv").open() as file:
        return {row["file"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("n_shards", [None, 2])
def test_an_audit_of_parquet_files_is_that_of_a_folder(n_shards, place, expected, monkeypatch, capsys):
    monkeypatch.chdir(place)
    out = f"out-{n_shards}"
    for k in range(1, (n_shards or 0) + 1):
        assert main(command(place, out, "--shard", f"{k}/{n_shards}")) == 0
    if n_shards:
        monkeypatch.chdir(place / "folder")  # the merge finds the images from wherever it is called
    assert main(["merge", f"../{out}"] if n_shards else command(place, out)) == 0
    found = rows_of(place, out)
    told = [found[f"train-{i // 16:05d}-of-00002.parquet/{i % 16}"] for i in range(30)]
    assert len(found) == 30 and expected.names == [f"{i:02d}.png" for i in range(30)]
    for name, values in {"calibrated": expected.score, "p_value": expected.p_value, "nfe": expected.nfe}.items():
        assert [float(row[name]) for row in told] == values.tolist(), name
    assert [row["flagged"] == "1" for row in told] == expected.flagged.tolist() and expected.flagged[18:].all()
    assert "images,train-00001-of-00002.parquet/14," in (place / out / "skipped.csv").read_text()
    assert expected.lines[0] in capsys.readouterr().out


def test_a_star_that_stands_for_nothing_is_refused(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    options = command(place, "none")
    assert main(["test-*.parquet" if word.startswith("train") else word for word in options]) == 2
    assert capsys.readouterr().err.startswith("--images test-*.parquet: must be a folder of images, ")
