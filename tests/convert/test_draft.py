"""The latency of a model that nobody has calibrated: measured, or by a table."""

import keras
import pytest
import zoo

from tfstruct import Recipe
from tfstruct.convert import LatencyTable, measured_latency
from tfstruct.convert.draft import draft
from tfstruct.convert.latency import OperatorLatency, profile_operators
from tfstruct.errors import DataError, RecipeError


def test_measured_here(process):
    time = measured_latency(zoo.build("conv_bn"), process=process, seconds=0.05)
    assert 0 < time < 1e6


def test_by_a_table(process, tmp_path):
    model = zoo.build("conv_bn")
    content, layers = draft(model, process=process)
    rows = profile_operators(content, layers, seconds=0.001)
    table = LatencyTable(rows)
    expected = table.estimate(content, layers).microseconds
    assert measured_latency(model, table=table, process=process) == pytest.approx(expected)
    with pytest.raises(DataError, match="lacks"):  # it has no float operators
        measured_latency(model, recipe=Recipe("int8", layers={"conv": "float32"}), table=table, process=process)
    (tmp_path / "board.json").write_text(table.to_json())
    assert measured_latency(model, table=tmp_path / "board.json", process=process) == pytest.approx(expected)


def test_a_table_without_an_operator_is_an_error(process):
    table = LatencyTable((OperatorLatency("CONV_2D", ((1, 1, 1, 1),), "int8", 1.0, "board", (), 1),))
    with pytest.raises(DataError, match=r"lacks .*FULLY_CONNECTED"):
        measured_latency(zoo.build("conv_bn"), table=table, process=process)


def test_open_sizes_have_to_be_fixed(process):
    inputs = keras.Input((None, None, 3), name="image")
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(RecipeError, match=r"image.*Fix them"):
        measured_latency(model, process=process)
    fixed = Recipe("int8", input_shapes={"image": (8, 8, 3)})
    assert measured_latency(model, recipe=fixed, process=process, seconds=0.01) > 0
