"""Tables of an audit: all rows as CSV, and of very many some as CSV and all as Parquet."""

import csv

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from plap_jax.audit import audit_images, output, table
from plap_jax.audit.output import write_output
from plap_jax.audit.result import AuditResult
from tests.helpers import memorizing_model


@pytest.fixture(scope="module")
def result():
    """Thirty-two images, one of them twice, and one whose name is no UTF-8."""
    images = memorizing_model.images(20, 1)
    everything = np.concatenate([images, memorizing_model.MEMORIZED])
    everything[3] = everything[4]
    how = {"noise_levels": (0.08, 0.32), "maps": 0, "key": jax.random.key(0), "training": images[:5]}
    found = audit_images(memorizing_model.factory(), everything, reference=memorizing_model.images(150, 2), **how)
    found.names[7] = "\udce4.png"
    return found


def test_of_very_many_images_all_are_in_parquet_and_the_first_in_the_csv_file(result, tmp_path, monkeypatch):
    told, save = [], AuditResult.save_report
    monkeypatch.setattr(AuditResult, "save_report", lambda *args, **how: (told.append(how), save(*args, **how)))
    write_output(tmp_path / "few", result)
    assert not (tmp_path / "few" / "audit.parquet").exists()
    for name, value in {"MOST_ROWS": 31, "SOME_ROWS": 5}.items():
        monkeypatch.setattr(output, name, value)
    monkeypatch.setattr("plap_jax.adjustment.ROWS", 10)
    write_output(tmp_path, result)
    lines = (tmp_path / "few" / "audit.csv").read_text().splitlines()
    assert len(lines) == 33 and (tmp_path / "audit.csv").read_text().splitlines() == lines[:6]
    stored = pq.read_table(tmp_path / "audit.parquet")
    rows = result.to_rows()
    assert [row["rank"] for row in rows] == list(range(1, 33))
    for row in rows:
        row["file"] = row["file"].encode("utf-8", "backslashreplace").decode()
    assert stored.to_pylist() == rows and pq.ParquetFile(tmp_path / "audit.parquet").num_row_groups == 4
    assert "\\udce4.png" in stored["file"].to_pylist() and stored["same_as"].null_count == 31
    assert [one["table"] for one in told] == ["audit.csv", "audit.parquet"]
    write_output(tmp_path, result)  # a file of its own is replaced


def test_a_csv_file_holds_the_rows(result, tmp_path):
    result.save_csv(tmp_path / "all.csv")
    result.save_csv(tmp_path / "some.csv", max_rows=3)
    with (tmp_path / "all.csv").open() as file:
        found = list(csv.DictReader(file))
    expected = result.to_rows()
    assert [one["rank"] for one in found] == [str(one["rank"]) for one in expected]
    for row, one in zip(found, expected, strict=True):
        assert all(row[name] == ("" if value is None else str(value)) for name, value in one.items() if name != "file")
    assert len((tmp_path / "some.csv").read_text().splitlines()) == 4
    assert list(table.ranked_rows(result, 3)) == expected[:3]
