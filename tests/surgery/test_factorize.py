"""Kernels as products of smaller ones: exact where they are, as wrong as NumPy says where they are not."""

import itertools
import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct.analyze.costs import Costs
from tfstruct.errors import BudgetError, ModelError, PlanError
from tfstruct.graph import cpu_kernels, trace
from tfstruct.surgery import factorize

METHODS = ("svd", "tucker", "cp", "spatial", "depthwise")


def _product(method, shape, rng, rank=2):
    """A kernel that has an exact form of this rank."""
    *taps, ins, outs = shape
    draw = lambda *size: rng.normal(size=size)  # noqa: E731
    t = int(np.prod(taps))
    if method == "svd":
        kernel = draw(t * ins, rank) @ draw(rank, outs)
    elif method == "tucker":
        kernel = np.einsum("tab,ia,ob->tio", draw(t, rank, rank), draw(ins, rank), draw(outs, rank))
    elif method == "spatial":
        kernel = np.einsum("hir,wro->hwio", draw(taps[0], ins, rank), draw(taps[1], rank, outs))
    elif method == "depthwise":
        kernel = np.einsum("tim,imo->tio", draw(t, ins, rank), draw(ins, rank, outs))
    else:
        letters = "hw"[: len(taps)]
        factors = [np.linalg.qr(draw(max(n, rank), rank))[0][:n] for n in shape]
        names = f"{letters}io"
        kernel = np.einsum(",".join(f"{c}r" for c in names) + f"->{names}", *factors)
    return (kernel.reshape(shape) / np.abs(kernel).max()).astype("float32")


def _conv(shape, **options):
    kind = {3: layers.Conv1D, 4: layers.Conv2D, 5: layers.Conv3D}[len(shape)]
    size = {3: (13,), 4: (11, 10), 5: (6, 5, 6)}[len(shape)]
    conv = kind(shape[-1], shape[:-2], name="conv", activation="relu", bias_initializer="normal", **options)
    return keras.Sequential([keras.Input((*size, shape[-2])), conv], name="one")


_CASES = ((1, "same", 1), (2, "same", 1), (2, "valid", 1), (1, "same", 2), (1, "valid", 2), ((2, 1), "same", 1))
GEOMETRIES = [{"strides": s, "padding": p, "dilation_rate": d} for s, p, d in _CASES]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_convolution_that_has_the_form_is_equal(method, geometry):
    rng = np.random.default_rng(0)
    shape = (3, 5, 8, 14) if method == "depthwise" else (3, 5, 8, 12)
    model = _conv(shape, **geometry)
    kernel = _product(method, shape, rng)
    model.layers[0].kernel.assign(kernel)
    done = factorize(model, rank=2, method=method)
    detail = done.details["conv"]
    assert detail["error"] < 1e-5
    assert done.max_difference.relative < 2e-5
    assert isinstance(done.model, keras.Sequential) and done.model.layers[-1].name == "conv"
    assert all(layer.name.startswith("conv_") for layer in done.model.layers[:-1])
    _figures_are_the_models(model, done)


def _figures_are_the_models(before, done):
    """Parameters and MACs of the details add up to what the graph counts."""
    gained = np.sum([np.diff(d["parameters"]) for d in done.details.values()])
    assert done.model.count_params() - before.count_params() == gained
    gained = np.sum([np.diff(d["macs"]) for d in done.details.values()])
    assert done.macs[1] - done.macs[0] == gained
    assert Costs(trace(done.model), ("macs",))()["macs"] == done.macs[1]


@pytest.mark.parametrize("method", ["cp", "depthwise"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_strides_that_depthwise_factors_cannot_have(padding, method):
    """They go to the next factor, at the same positions: sizes and taps of every parity, strides beyond the taps."""
    rng, seen = np.random.default_rng(3), set()
    for strides, taps in itertools.product([(2, 2), (1, 3), (3, 2)], [(3, 5), (2, 4)]):
        for size in ((9, 10), (10, 9))[: taps[0] - 1]:  # even taps are padded alike for both
            shape = (*taps, 6, 9 if method == "cp" else 14)
            conv = layers.Conv2D(shape[-1], taps, strides=strides, padding=padding, name="conv")
            model = keras.Sequential([keras.Input((*size, 6)), conv])
            conv.kernel.assign(_product(method, shape, rng))
            done = factorize(model, rank=2, method=method)
            assert done.details and done.max_difference.relative < 2e-5, (strides, taps, size)
            _figures_are_the_models(model, done)
            for layer in done.model.layers:
                assert cpu_kernels.refused(layer) is None
            seen |= {type(layer).__name__ for layer in done.model.layers}
    assert ("ZeroPadding2D" in seen) == (padding == "same")


def test_strides_whose_padding_is_not_known():
    inputs = keras.Input((None, None, 6))
    model = keras.Model(inputs, layers.Conv2D(24, 3, strides=(2, 1), padding="same", name="conv")(inputs))
    for method in ("cp", "depthwise"):
        assert "sizes that are open" in dict(factorize(model, rank=1, method=method).skipped)["conv"]
    shared = layers.Conv2D(6, 3, strides=(2, 1), padding="same", name="conv")
    inputs = keras.Input((9, 8, 6))
    model = keras.Model(inputs, shared(shared(shared(inputs))))  # 9, 5, 3 rows: one zero before; 8, 4, 2: none
    assert factorize(model, rank=2, method="cp").details
    inputs = keras.Input((10, 8, 6))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert "padded differently" in dict(factorize(model, rank=2, method="cp").skipped)["conv"]


@pytest.mark.parametrize("taps", [(3, 1), (1, 3)])
@pytest.mark.parametrize("method", ["svd", "tucker", "cp", "depthwise"])
def test_strides_over_an_axis_of_one_tap(method, taps):
    model = _conv((*taps, 8, 12), strides=2, padding="same")
    model.layers[0].kernel.assign(_product(method, (*taps, 8, 12), np.random.default_rng(2)))
    done = factorize(model, rank=2, method=method)
    assert done.details and done.max_difference.relative < 2e-5
    _figures_are_the_models(model, done)


@pytest.mark.parametrize("method", ["svd", "tucker", "cp", "depthwise"])
@pytest.mark.parametrize("options", [{"padding": "causal", "dilation_rate": 2}, {"strides": 2, "padding": "same"}])
def test_one_axis(method, options):
    model = _conv((5, 8, 16), **options)
    model.layers[0].kernel.assign(_product(method, (5, 8, 16), np.random.default_rng(1)))
    done = factorize(model, rank=2, method=method)
    assert done.details and done.max_difference.relative < 2e-5
    _figures_are_the_models(model, done)


@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_three_axes(method):
    model = _conv((3, 2, 3, 4, 8), strides=2, padding="same")
    model.layers[0].kernel.assign(_product(method, (3, 2, 3, 4, 8), np.random.default_rng(1)))
    done = factorize(model, rank=2, method=method)
    assert done.details and done.max_difference.relative < 2e-5
    _figures_are_the_models(model, done)
    for other in ("cp", "depthwise", "spatial"):
        assert factorize(model, rank=2, method=other).skipped[0][0] == "conv"


def _net():
    x = inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="a")(x)
    x = layers.Conv2D(24, 3, strides=2, padding="same", name="b", kernel_regularizer="l2")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(32, activation="relu", name="c")(x)
    return zoo.randomise(keras.Model(inputs, layers.Dense(4, name="head")(x), name="net"))


def _restored(model, name, method):
    """W' from the new model's own weights, by definition."""
    kernel = lambda suffix: model.get_layer(name + suffix).kernel.numpy().astype("float64")  # noqa: E731
    last = kernel("")
    if last.ndim == 2:
        return kernel("_u") @ last
    if method == "svd":
        return np.einsum("hwir,ro->hwio", kernel("_u"), last[0, 0])
    if method == "tucker":
        core = kernel("_core")
        first = kernel("_u")[0, 0] if core.shape[2] < 16 and f"{name}_u" in [x.name for x in model.layers] else None
        core = core if first is None else np.einsum("ia,hwab->hwib", first, core)
        return np.einsum("hwib,bo->hwio", core, last[0, 0])
    if method == "spatial":
        return np.einsum("hir,wro->hwio", kernel("_vertical")[:, 0], last[0])
    if method == "cp":
        p, y, x = kernel("_u")[0, 0], kernel("_vertical")[:, 0, :, 0], kernel("_horizontal")[0, :, :, 0]
        return np.einsum("ir,hr,wr,ro->hwio", p, y, x, last[0, 0])
    depthwise = kernel("_depthwise")
    return np.einsum("hwim,imo->hwio", depthwise, last[0, 0].reshape(depthwise.shape[2], -1, last.shape[-1]))


@pytest.mark.parametrize(
    ("method", "rank"), [("svd", 5), ("tucker", (7, 9)), ("cp", 6), ("spatial", 6), ("depthwise", 2)]
)
def test_errors_and_figures_are_those_of_numpy(method, rank):
    model = _net()
    done = factorize(model, ["b", "c"], rank=rank, method=method)
    assert set(done.details) == ({"b", "c"} if method in ("svd", "tucker", "cp") else {"b"})
    for name, detail in done.details.items():
        kernel = model.get_layer(name).kernel.numpy().astype("float64")
        made = _restored(done.model, name, method)
        assert detail["error"] == pytest.approx(np.linalg.norm(kernel - made) / np.linalg.norm(kernel), rel=1e-5)
        if detail["method"] == "svd":
            values = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1]
            best = np.sqrt((values[detail["rank"][0] :] ** 2).sum() / (values**2).sum())
            assert detail["error"] == pytest.approx(best, rel=1e-5)
    _figures_are_the_models(model, done)
    np.testing.assert_array_equal(done.model.get_layer("b").bias, model.get_layer("b").bias)
    json.dumps(done.to_dict())
    assert "b" in str(done)


_ENERGIES = [*((method, 0.99) for method in METHODS), ("svd", 0.9), ("depthwise", 0.9)]


@pytest.mark.parametrize(("method", "energy"), _ENERGIES)
def test_the_energy_is_held(method, energy):
    model = _net()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        kernel = model.get_layer(name).kernel
        made = _product(method if len(kernel.shape) > 2 else "svd", kernel.shape, rng, 3)
        noise = rng.normal(size=kernel.shape) * 0.02 * np.linalg.norm(made) / np.sqrt(kernel.numpy().size)
        kernel.assign(made + noise)
    done = factorize(model, energy=energy, method=method)
    assert "b" in done.details
    for name, detail in done.details.items():
        kernel = model.get_layer(name).kernel.numpy().astype("float64")
        lost = np.sum((kernel - _restored(done.model, name, method)) ** 2) / np.sum(kernel**2)
        assert lost <= 1 - energy
        if name == "b" and energy == 0.9 and method in ("svd", "spatial", "depthwise"):
            (rank,) = detail["rank"]
            if rank > 1:  # one less would break it
                fewer = factorize(model, [name], rank=rank - 1, method=method)
                assert fewer.details[name]["error"] ** 2 > 1 - energy


def test_all_the_energy_of_a_kernel_of_low_rank():
    model = _net()
    model.get_layer("c").kernel.assign(_product("svd", model.get_layer("c").kernel.shape, np.random.default_rng(0), 3))
    assert factorize(model, ["c"], energy=1.0).details["c"]["rank"] == [3]


_BUDGETS = [("svd", 0.8), ("svd", 0.3), ("tucker", 0.5), ("cp", 0.5), ("spatial", 0.6), ("depthwise", 0.5)]


@pytest.mark.parametrize(("method", "share"), sweep(_BUDGETS, quick=[_BUDGETS[1], _BUDGETS[2], *_BUDGETS[4:]]))
def test_a_budget_is_met(method, share):
    model = _net()
    done = factorize(model, macs=share, method=method)
    assert done.macs[1] <= share * done.macs[0]
    _figures_are_the_models(model, done)


def test_one_rank_more_would_break_the_budget():
    model = _net()
    done = factorize(model, macs=0.6)
    last = []
    for name, detail in done.details.items():
        (rank,), before = detail["rank"], detail["macs"][1]
        more = factorize(model, [name], rank=rank + 1)
        if more.details:
            last.append(done.macs[1] - before + more.details[name]["macs"][1] > 0.6 * done.macs[0])
    assert any(last)


def test_a_budget_out_of_reach_says_the_least():
    model = _net()
    with pytest.raises(BudgetError, match=r"at most .* MACs; the factors of rank 1 .* leave") as caught:
        factorize(model, macs=0.001)
    least = caught.value.least["macs"]
    total = Costs(trace(model), ("macs",))()["macs"]
    assert factorize(model, macs=least / total).macs[1] == least


@pytest.mark.parametrize("name", ["nested", "shared", "several", "conv1d", "grouped", "attention", "residual"])
def test_the_zoo(name):
    model = zoo.build(name)
    before = [w.numpy() for w in model.weights]
    done = factorize(model, rank=1)
    assert done.details
    assert done.model.output_shape == model.output_shape
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    _figures_are_the_models(model, done)
    x = zoo.sample_inputs(model, 2)
    for y in keras.tree.flatten(done.model(x)):
        assert np.isfinite(y).all()
    if name == "shared":
        assert set(done.details) == {"twice", "head"} and len(done.model.get_layer("twice_u")._inbound_nodes) == 3
    if name == "nested":
        assert done.model.get_layer("block").get_layer("conv_u").filters == 1
    if name == "grouped":
        assert dict(done.skipped)["grouped"] == "its kernel is in 2 groups"


def test_what_would_not_save_stays():
    model = _net()
    done = factorize(model, ["head", "c"], rank=4)
    assert "would not save parameters: 132 -> 148" in dict(done.skipped)["head"]
    assert list(done.details) == ["c"]
    everything = factorize(model, rank=10_000)
    assert not everything.details and everything.max_difference.absolute == 0.0


def test_names_patterns_functions_and_ranks_by_layer():
    model = _net()
    assert set(factorize(model, "[bc]", rank=2).details) == {"b", "c"}
    assert set(factorize(model, lambda layer: layer.name == "c", rank=2).details) == {"c"}
    done = factorize(model, rank={"b": 2, "c": 3})
    assert {name: d["rank"] for name, d in done.details.items()} == {"b": [2], "c": [3]}
    assert dict(factorize(model, ["norm"], rank=2).skipped)["norm"].startswith("BatchNormalization is no dense")
    assert done.model.get_layer("b_u").kernel_regularizer is not None
    done = factorize(model, rank={"[bc]": 2, "c": 3})
    assert {name: d["rank"] for name, d in done.details.items()} == {"b": [2], "c": [3]}
    assert set(factorize(zoo.build("nested"), "block", rank=1).details) == {"block/conv"}


def test_a_name_that_is_taken():
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="a_u")(inputs)
    model = keras.Model(inputs, layers.Dense(8, name="a")(x))
    done = factorize(model, rank=2)
    assert [layer.name for layer in done.model.layers[1:]] == ["a_u_u", "a_u", "a_u2", "a"]


@pytest.mark.parametrize("method", sweep(METHODS, quick=["cp", "depthwise"]))
@pytest.mark.sweep(1)
def test_training_and_saving(method, tmp_path):
    done = factorize(_net(), rank=2, method=method)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 12, 12, 3)).astype("float32"), rng.normal(size=(32, 4)).astype("float32")
    done.model.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)  # no tracing: faster here
    before = done.model.evaluate(x, y, verbose=0)
    done.model.fit(x, y, epochs=1, batch_size=8, verbose=0)
    assert done.model.evaluate(x, y, verbose=0) < before
    done.model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(x), done.model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", sweep(METHODS, quick=["svd", "cp"]))
def test_int8(method, process):
    from ai_edge_litert.interpreter import Interpreter

    from tfstruct.convert.draft import draft

    content, _ = draft(factorize(_net(), rank=2, method=method).model, process=process)
    tensors = Interpreter(model_content=content).get_tensor_details()
    kernels = [t for t in tensors if t["name"].startswith("b_") and len(t["shape"]) == 4]
    assert kernels and all(t["dtype"] == np.int8 for t in kernels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give one of `rank`, `energy` and `macs`. Received: none"),
        ({"rank": 2, "energy": 0.9}, "Received: rank, energy"),
        ({"rank": 0}, "`rank` must be an integer above 0"),
        ({"rank": True}, "`rank` must be an integer above 0"),
        ({"rank": (2, 3)}, "only for tucker"),
        ({"rank": 2.5}, "`rank` must be an integer above 0"),
        ({"energy": 0}, r"`energy` must be in \(0, 1\]"),
        ({"macs": 1.5}, r"`macs` must be in \(0, 1\]"),
        ({"rank": 2, "method": "qr"}, "`method` must be one of svd, tucker, cp, spatial, depthwise. Received: 'qr'"),
        ({"rank": 2, "layers": ["nope"]}, "`layers` names `nope`, but `net` has no such layer"),
        ({"rank": {"b": 2}, "layers": ["c"]}, "`rank` has no entry for `c`"),
        ({"rank": {"nope": 2}}, "`rank` names `nope`"),
        ({"rank": 2, "layers": [3]}, "must be names, or a function"),
    ],
)  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(PlanError, match=message):
        factorize(_net(), **options)


def test_models_without_a_graph_and_weights_without_a_value():
    with pytest.raises(ModelError, match="call"):
        factorize(zoo.build("subclassed"), rank=2)
    model = _net()
    model.get_layer("c").kernel.assign(np.full(model.get_layer("c").kernel.shape, np.nan))
    assert dict(factorize(model, rank=2).skipped)["c"] == "its kernel holds values that are not finite"
    zeros = _net()
    zeros.get_layer("c").kernel.assign(np.zeros(zeros.get_layer("c").kernel.shape))
    assert factorize(zeros, energy=0.99).details["c"]["error"] == 0.0
    open_sizes = keras.Sequential([keras.Input((None, None, 8)), layers.Conv2D(16, 3, name="conv")])
    assert factorize(open_sizes, rank=2).details["conv"]["macs"] is None
    with pytest.raises(ModelError, match="leaves spatial sizes open"):
        factorize(open_sizes, macs=0.5)


def test_without_tensorly(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorly", None)
    with pytest.raises(ImportError, match=r"pip install \"tfstruct\[cp\]\""):
        factorize(_net(), rank=2, method="cp")


@pytest.mark.slow
def test_vgg16():
    model = keras.applications.VGG16(weights=None)
    rng = np.random.default_rng(0)
    fc = model.get_layer("fc2")
    made = rng.normal(size=(4096, 64)) @ rng.normal(size=(64, 4096)) / 512
    fc.kernel.assign(made + 0.001 * rng.normal(size=made.shape))
    done = factorize(model, ["fc1", "fc2", "predictions"], rank={"fc1": 64, "fc2": 64, "predictions": 100})
    assert done.details["fc1"]["parameters"] == [25088 * 4096 + 4096, 64 * (25088 + 4096) + 4096]
    assert done.details["fc1"]["macs"] == [25088 * 4096, 64 * (25088 + 4096)]
    for name in ("fc2", "predictions"):
        kernel = model.get_layer(name).kernel.numpy()
        lost = np.linalg.norm(kernel - _restored(done.model, name, "svd")) / np.linalg.norm(kernel)
        assert done.details[name]["error"] == pytest.approx(lost, rel=1e-3)
    values = np.linalg.svd(model.get_layer("predictions").kernel.numpy(), compute_uv=False).astype("float64")
    best = np.sqrt((values[100:] ** 2).sum() / (values**2).sum())
    assert done.details["predictions"]["error"] == pytest.approx(best, rel=1e-3)
    alone = keras.Sequential([keras.Input((4096,)), layers.Dense(4096, name="fc2")])
    alone.layers[0].set_weights(fc.get_weights())
    held = factorize(alone, energy=0.99).details["fc2"]
    assert held["rank"][0] <= 64 and held["error"] ** 2 <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("method", ["svd", "tucker", "spatial"])
def test_vgg16s_convolutions(method):
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    done = factorize(model, macs=0.4, method=method)
    assert done.macs[1] <= 0.4 * done.macs[0]
    _figures_are_the_models(model, done)
    for name, detail in done.details.items():
        kernel = model.get_layer(name).kernel.numpy().astype("float64")
        if method != "tucker":
            lost = np.linalg.norm(kernel - _restored(done.model, name, method)) / np.linalg.norm(kernel)
            assert detail["error"] == pytest.approx(lost, rel=1e-4)
