"""Architectures of Keras's published examples: opened, equal, pruned to 60 % of the MACs, saved, loaded, trained, int8.

`pytest -m "slow or not slow" -s` prints a table of them.
"""

import custom_layers
import keras
import numpy as np
import published_others
import published_sequences
import published_vision
import pytest
from oracle import assert_equal, masked_outputs
from sweeps import sweep

from tfstruct import surgery
from tfstruct.convert import Converter, Recipe
from tfstruct.errors import ConversionError
from tfstruct.graph import groups, trace
from tfstruct.surgery.pruning.plan import units_of

MODELS = {**published_vision.MODELS, **published_sequences.MODELS, **published_others.MODELS}
QUICK = {"grouped_query_decoder", "real_nvp"}
# What `plan_channels` counts where there is no product of a kernel: embeddings and their inner product.
BY_PARAMETERS = {"recommender"}
ROWS: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _table():
    yield
    print("", f"{'architecture':34} {'opened':>6} {'can go':>7} {'MACs':>21}", *ROWS, sep="\n")


def opened(name):
    keras.utils.set_random_seed(0)
    model, inputs = MODELS[name]()
    custom_layers.randomized(model)
    return model, surgery.open_layers(model, inputs)


def samples(model, count, seed=1):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 5, (count, *x.shape[1:])).astype(x.dtype)
        if "int" in x.dtype
        else rng.normal(size=(count, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]


def structured(model, arrays):
    return arrays[0] if len(arrays) == 1 else keras.tree.pack_sequence_as(model.input, arrays)


def flat(outputs):
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def planned(model, name):
    """Planned to 60 % of the MACs."""
    figure = "params" if name in BY_PARAMETERS else "macs"
    return figure, surgery.plan_channels(model, f"{figure}=60%")


@pytest.mark.parametrize("name", sweep(MODELS, QUICK))
def test_opened_pruned_saved_and_trained(name, tmp_path):
    model, found = opened(name)
    assert not found.opaque
    x = structured(found.model, [keras.ops.convert_to_tensor(x) for x in samples(found.model, 3)])
    assert_equal(flat(model(x, training=False)), flat(found.model(x, training=False)))

    figure, plan = planned(found.model, name)
    graph = trace(found.model)
    smaller = surgery.apply(found.model, plan)
    assert smaller.count_params() < model.count_params()
    expected = masked_outputs(graph, units_of(graph, plan), x)
    assert_equal([np.asarray(y) for y in expected], flat(smaller(x, training=False)))

    smaller.save(tmp_path / "smaller.keras")
    known = {"StochasticDepth": published_vision.StochasticDepth, "Orthogonal": published_vision.Orthogonal}
    loaded = keras.models.load_model(tmp_path / "smaller.keras", custom_objects=known, safe_mode=True)
    assert_equal(flat(smaller(x, training=False)), flat(loaded(x, training=False)))

    before = [w.numpy() for w in loaded.trainable_variables]
    loaded.compile("adam", "mse")
    small = structured(loaded, [a if "int" in str(a.dtype) else a / 20 for a in samples(loaded, 3)])  # no dead ReLUs
    target = keras.tree.map_structure(lambda y: np.random.default_rng(2).normal(size=y.shape), loaded(x))
    loss = loaded.fit(small, target, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert any(np.abs(a - w.numpy()).max() > 0 for a, w in zip(before, loaded.trainable_variables, strict=True))

    free = sum(len(group.free) for group in groups(graph)), sum(group.width for group in groups(graph))
    figures = f"{plan.before[figure]:,.0f} -> {plan.after[figure]:,.0f}"
    ROWS.append(f"{name:34} {len(found.opened):6} {free[0] / free[1]:7.0%} {figures:>21}")
    assert plan.after[figure] <= 0.6 * plan.before[figure]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_int8_files_agree_or_name_the_operator(name, process):
    _, found = opened(name)
    smaller = surgery.apply(found.model, planned(found.model, name)[1])
    x = samples(smaller, 64)
    with Converter(smaller, process=process) as converter:
        try:
            recipe = Recipe(precision="int8", calibration=structured(smaller, x), check_range=False)
            file = converter.convert(recipe)
        except ConversionError as error:
            assert error.layers or "operator" in str(error), error
            ROWS.append(f"{name:34} int8: {str(error)[:160]}")
            return
    worst = min(output.sqnr_db for output in file.report.verification.outputs if output.sqnr_db is not None)
    ROWS.append(f"{name:34} int8: {worst:.1f} dB")
    assert worst > 15 or any("SQNR" in said for said in file.report.warnings)
