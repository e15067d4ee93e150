"""Calibration and verdict of many images, on few."""

from benchmarks.verdict import measured


def test_images_that_stand_out_are_flagged_and_parts_are_timed():
    found = measured(1000)
    assert found["power"] == 1
    assert found["false_share"] < 0.5
    assert found["seconds"] >= found["seconds_calibration"] > 0
