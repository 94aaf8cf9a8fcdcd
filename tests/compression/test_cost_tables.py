"""Sums over cost tables against models that are really assembled, and against their files."""

import dataclasses
import itertools
import types

import keras
import numpy as np
import pytest
import zoo
from compression.test_offered_parts import nested, recurrent, resnet, transformer, transformer_block
from keras import layers

from tfstruct import graph as graphs
from tfstruct.analyze import Costs
from tfstruct.compression.alternatives.cost_table import CostTable, totals
from tfstruct.compression.alternatives.cost_tables import cost_tables
from tfstruct.compression.alternatives.latency_tables import latency_tables
from tfstruct.compression.alternatives.measured import tables_of
from tfstruct.compression.alternatives.offered import conflicts_of, edited, parts_of
from tfstruct.compression.alternatives.operator_times import Times
from tfstruct.compression.alternatives.variants import variants_of
from tfstruct.convert import flatbuffer
from tfstruct.convert.draft import draft
from tfstruct.convert.kernel_operator import kernel_operator
from tfstruct.convert.latency import LatencyTable, OperatorLatency, macs_of, shapes_of
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.table_bytes import bytes_by_operator
from tfstruct.errors import ArgumentError


def encoder():
    """A transformer's block whose weights are most of its file."""
    inputs = keras.Input((6, 64), name="tokens")
    x = transformer_block(inputs, hidden=192, activation="relu")
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="encoder")


def alike():
    """Six wide layers and as many narrow ones, whose kernels of one width share their zero points in the file."""
    x = inputs = keras.Input((64,), name="values")
    for i in range(6):
        y = layers.Dense(256, activation="relu", name=f"wide{i}")(x)
        x = layers.Add(name=f"add{i}")([x, layers.Dense(64, name=f"narrow{i}")(y)])
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="alike")


MODELS = (resnet, transformer, recurrent, nested, zoo.depthwise, zoo.residual, zoo.concat)
BUILDERS = {one.__name__: one for one in (*MODELS, encoder, alike)}


class Offered:
    """A model with its parts, and choices of them drawn at random that are without conflict."""

    def __init__(self, name, process=None):
        keras.utils.set_random_seed(0)
        self.model = zoo.randomise(BUILDERS[name]())
        self.graph = graphs.trace(self.model)
        limits = types.SimpleNamespace(figures={"tflite_bytes": 5_000})
        settings = types.SimpleNamespace(target="mobile")
        every = parts_of(
            types.SimpleNamespace(
                model=self.model, graph=self.graph, limits=limits, settings=settings, process=process,
                original=types.SimpleNamespace(params=self.model.count_params()),
            )
        )  # fmt: skip
        # Of many forms of a layer only some: each method has to be among them.
        self.parts = [dataclasses.replace(p, alternatives=(*p.alternatives[:3], *p.alternatives[3::4])) for p in every]
        self.conflicts = conflicts_of(self.parts)

    def drawn(self, rng, most=0.5):
        while True:
            picked = {
                part.name: int(rng.integers(len(part.alternatives))) if rng.random() < most else 0
                for part in self.parts
            }
            if not any(one.excludes(picked) for one in self.conflicts):
                return picked

    def assembled(self, picked):
        """The model of a choice, and the precisions of its layers."""
        return edited(self.model, {part: part.alternatives[picked[part.name]] for part in self.parts})


@pytest.fixture(scope="module")
def offered():
    made = {}

    def get(name):
        if name not in made:
            one = Offered(name)
            made[name] = one, cost_tables(one.graph, one.parts)
        return made[name]

    return get


@pytest.mark.parametrize("name", [one.__name__ for one in MODELS])
def test_the_model_as_it_is(offered, name):
    one, tables = offered(name)
    found = totals(tables, dict.fromkeys((part.name for part in one.parts), 0))
    assert {figure: found[figure] for figure in found} == pytest.approx(Costs(one.graph)())
    assert all(len(parts) <= 5 for table in tables for parts, _ in table.arrays)


@pytest.mark.sweep(14)
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", [one.__name__ for one in MODELS])
def test_any_choice_costs_what_its_model_costs(offered, name, seed):
    one, tables = offered(name)
    picked = one.drawn(np.random.default_rng(seed))
    want = Costs(graphs.trace(one.assembled(picked)[0]))()
    found = totals(tables, picked)
    assert found["macs"] == pytest.approx(want["macs"], abs=0.5), picked
    assert found["params"] == pytest.approx(want["params"], abs=0.5), picked
    assert found["peak_memory"] == pytest.approx(want["peak_memory"], rel=0.01), picked
    eight = {**picked, **{part.name: 0 for part in one.parts if part.kind == "quantize"}}
    assert totals(tables, eight)["tflite_bytes"] == pytest.approx(want["tflite_bytes"], rel=0.02), picked


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_bytes_are_those_of_the_file(name, process):
    one = Offered(name, process)
    plain = draft(one.model, process=process)
    tables = cost_tables(one.graph, one.parts, plain)
    assert totals(tables, dict.fromkeys((part.name for part in one.parts), 0))["tflite_bytes"] == pytest.approx(
        len(plain[0])
    )
    rng, errors = np.random.default_rng(3), []
    for _ in range(6):
        picked = one.drawn(rng)
        model, precisions = one.assembled(picked)
        size = len(draft(model, recipe=Recipe(precision="int8", layers=precisions), process=process)[0])
        errors.append(totals(tables, picked)["tflite_bytes"] / size - 1)
    assert np.median(np.abs(errors)) < 0.02 and np.max(np.abs(errors)) < 0.04, errors


def test_zero_points_of_another_width_are_counted(process):
    """A layer that alone is narrower has a vector of them that no other layer has."""
    one = Offered("alike")
    plain = draft(one.model, process=process)
    one.parts = [part for part in one.parts if part.kind == "prune_channels" and "wide" in part.name]
    tables = cost_tables(one.graph, one.parts, plain)
    for picks in ([1], [1, 1], [2, 0, 1]):
        picked = {part.name: place for part, place in itertools.zip_longest(one.parts, picks, fillvalue=0)}
        size = len(draft(one.assembled(picked)[0], process=process)[0])
        assert totals(tables, picked)["tflite_bytes"] == pytest.approx(size, rel=0.002), picked


@pytest.mark.parametrize("layer", ["GRU", "LSTM", "Bidirectional GRU"])
def test_unrolled_steps_of_fewer_units(process, layer):
    """Each step of a GRU has a bias of its own in the file, with its scales."""
    keras.utils.set_random_seed(0)
    kind = getattr(layers, layer.split()[-1])(48, name="units")
    kind = layers.Bidirectional(kind, name="units") if "Bidirectional" in layer else kind
    model = keras.Sequential([keras.Input((6, 12)), kind, layers.Dense(4, name="head")])
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    graph = graphs.trace(model)
    settings, limits = types.SimpleNamespace(target="mobile"), types.SimpleNamespace(figures={"macs": 1.0})
    original = types.SimpleNamespace(params=model.count_params())
    task = types.SimpleNamespace(model=model, graph=graph, limits=limits, settings=settings, original=original)
    part = next(one for one in parts_of(task) if one.name.startswith("width of units"))
    tables = cost_tables(graph, [part], draft(model, process=process))
    for place in (1, len(part.alternatives) - 1):
        size = len(draft(edited(model, {part: part.alternatives[place]})[0], process=process)[0])
        found = totals(tables, {part.name: place})["tflite_bytes"]
        assert found == pytest.approx(size, rel=0.04), part.alternatives[place].name


class ByWork(Times):
    """Times that are the multiply-accumulates of an operator; twice as much with weights of 4 bits."""

    overhead = 0.0

    def of(self, operator):
        return operator.macs * (2.0 if operator.weights == "int4" else 1.0)

    def of_other(self, content, name="", dtype="", shapes=()):
        return 1e-9

    def save(self):
        pass


def _work_of_file(content):
    model = flatbuffer.read(content)
    every = [kernel_operator(model, op) for op in flatbuffer.operators(model)]
    return sum(ByWork().of(one) for one in every if one is not None)


@pytest.mark.parametrize("name", [pytest.param("resnet", marks=pytest.mark.slow), "nested"])
def test_latency_is_that_of_the_operators_of_the_assembled_file(name, process):
    """Where an operator takes its work, the tables say the work of the operators that the file really has."""
    one = Offered(name, process)
    plain = draft(one.model, process=process)
    variants = list(variants_of(one.graph, one.parts))
    tables = latency_tables(variants, one.parts, plain, ByWork())
    assert totals(tables, dict.fromkeys((part.name for part in one.parts), 0))["latency_us"] == pytest.approx(
        _work_of_file(plain[0]), rel=1e-3
    )
    rng = np.random.default_rng(5)
    for _ in range(2):
        picked = one.drawn(rng)
        model, precisions = one.assembled(picked)
        content = draft(model, recipe=Recipe(precision="int8", layers=precisions), process=process)[0]
        want = _work_of_file(content)
        assert totals(tables, picked)["latency_us"] == pytest.approx(want, rel=2e-3), picked
    whole = latency_tables(variants, one.parts, plain, ByWork(), plain_us=1e7)
    assert totals(whole, dict.fromkeys((part.name for part in one.parts), 0))["latency_us"] == pytest.approx(1e7)
    less = latency_tables(variants, one.parts, plain, ByWork(), plain_us=1e3)
    assert totals(less, picked)["latency_us"] == pytest.approx(1e3 * want / _work_of_file(plain[0]), rel=5e-3)


def test_the_tables_of_a_file_are_nearly_all_that_is_not_constants(process):
    content, named = draft(zoo.randomise(zoo.conv_bn()), process=process)
    found = bytes_by_operator(content, named)
    model = flatbuffer.read(content)
    assert [op for op, _ in found] == flatbuffer.operators(model, named)
    assert all(40 < size < 600 for _, size in found)
    data = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    assert 0.5 * (len(content) - data) < sum(size for _, size in found) < len(content) - data


def test_tables_that_do_not_fit_themselves():
    with pytest.raises(ArgumentError, match="must have an axis for each of its 1 parts"):
        CostTable("dense", ("a",), {"macs": np.zeros((2, 2))})
    with pytest.raises(ArgumentError, match="must name each part once"):
        CostTable("dense", ("a", "a"), {"macs": np.zeros((2, 2))})


def test_latency_is_counted_where_the_budget_limits_it(process):
    """By the table of the device that the budget names, brought into line with what that says of the plain file."""
    one = Offered("nested", process)
    content, named = draft(one.model, process=process)
    rows = [OperatorLatency(op.name, shapes_of(model, op), op.dtype, 5.0, "a board", (), macs_of(model, op))
            for model in [flatbuffer.read(content)] for op in flatbuffer.operators(model)]  # fmt: skip
    table = LatencyTable(tuple(rows))
    measure = types.SimpleNamespace(table=table, reference_us=table.estimate(content, named).total())
    task = types.SimpleNamespace(model=one.model, graph=one.graph, process=process, measure=measure)
    whole = dict.fromkeys((part.name for part in one.parts), 0)
    task.limits = types.SimpleNamespace(figures={"macs": 1e5})
    assert "latency_us" not in totals(tables_of(task, one.parts), whole)
    task.limits = types.SimpleNamespace(figures={"latency_us": 10})
    tables = tables_of(task, one.parts)
    assert totals(tables, whole)["latency_us"] == pytest.approx(5.0 * len(rows))
    part = next(part for part in one.parts if part.name == "width of base/conv1")
    narrow = {**whole, part.name: len(part.alternatives) - 1}
    assert totals(tables, narrow)["latency_us"] < totals(tables, whole)["latency_us"]
