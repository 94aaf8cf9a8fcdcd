"""Every example runs as it stands, in seconds."""

import importlib.util
import json
import pathlib
import re

import keras
import pytest

from tfstruct import demo

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# They take a thousand to train with, and the rest for validation; or a range test, which takes some hundred steps.
ALL_DIGITS = ("test_troubles", "test_compress_model", "test_compress_tasks", "test_search", "test_learning_rates")


@pytest.fixture(autouse=True)
def few_digits(request, monkeypatch):
    (x, y), test = demo.digits()
    if request.node.originalname not in ALL_DIGITS:
        monkeypatch.setattr(demo, "digits", lambda: ((x[:640], y[:640]), test))


@pytest.fixture(scope="module")
def digits_file(digits_model, tmp_path_factory):
    digits_model.save(file := tmp_path_factory.mktemp("digits") / "digits.keras")
    return file


@pytest.fixture
def trained(digits_file, monkeypatch):
    """For examples that begin with `demo.train` and are about what comes then: it loads the network of all tests."""

    def train(x, y, epochs=12):
        keras.utils.set_random_seed(0)
        return keras.models.load_model(digits_file)

    monkeypatch.setattr(demo, "train", train)


def test_convert_int8(tmp_path, capsys):
    _load("convert_int8").main(str(tmp_path / "digits.tflite"), epochs=6)
    said = capsys.readouterr().out
    assert "none: every compute operator is integer" in said
    assert "Which layer loses most" in said
    assert (tmp_path / "digits.tflite").read_bytes()[4:8] == b"TFL3"


@pytest.mark.slow
def test_device_file(tmp_path, capsys, trained):
    _load("device_file").main(str(tmp_path / "device"))
    said = capsys.readouterr().out
    assert "in:  camera: stored = round(real), clipped to 0..255" in said
    assert "fits the Edge TPU: True" in said
    assert "'7', '8', '9'" in said and "main.cc" in said
    assert all(float(share) > 90 for share in re.findall(r"([\d.]+)% right", said))


@pytest.mark.slow
def test_mixed_precision_file(capsys, trained):
    _load("mixed_precision_file").main(epochs=2)
    said = capsys.readouterr().out
    assert "'conv1': 'int8'" in said.replace("\n", " ")
    assert json.loads(said[said.rindex('{\n "precision"') :])["calibration"] == "train.npz"


def test_microcontroller(tmp_path, capsys, trained):
    from tfstruct.convert import micro
    from tfstruct.convert.devices import ethos_u

    _load("microcontroller").main(str(tmp_path / "digits.tflite"), epochs=2)
    said = capsys.readouterr().out
    assert "GELU (layer features)" in said and "hard_swish fits: True" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits.cc", "digits.h", "digits.tflite"]
    assert "AddConv2D, AddMean, AddFullyConnected, AddSoftmax" in said
    assert ("bytes of arena" in said) == (micro.version() is not None)
    assert ("100% of the operators" in said) == (ethos_u.version() is not None)


def test_which_devices(capsys, tmp_path, monkeypatch):
    from tfstruct.convert.devices import boards

    monkeypatch.setattr(boards, "_BOARDS", dict(boards._BOARDS))
    _load("which_devices").main(str(tmp_path))
    said = capsys.readouterr().out
    assert "GELU" in (tmp_path / "gelu.html").read_text() and "operators against" in said
    assert "Use Activation('hard_swish')" in said and "edgetpu" in said.split("fits as well: ")[1].splitlines()[0]
    assert "8 channels: fits" in said and "32 channels: RAM of cortex-m4:ours does NOT fit" in said


def test_prune_channels(capsys):
    _load("prune_channels").main(epochs=2)
    said = capsys.readouterr().out
    assert "stem" in said and "can go" in said
    whole, smaller = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", said))
    assert smaller <= 0.6 * whole
    assert re.search(r"int8 file: [\d,]+ bytes", said)


def test_open_layers(capsys):
    _load("open_layers").main(epochs=1)
    said = capsys.readouterr().out
    assert "transformer: 3 layers opened, 0 closed" in said
    before, after = (int(n) for n in re.findall(r"channels that can go(?: before)?: (\d+)%", said))
    assert before == 0 and after > 90
    whole, smaller = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", said))
    assert smaller < 0.6 * whole and re.search(r"int8 file: [\d,]+ bytes", said)


@pytest.mark.slow
def test_layer_surgery(capsys):
    _load("layer_surgery").main(epochs=2)
    said = capsys.readouterr().out
    exact = re.findall(
        r"(?:trained|optimize_inference|widen and deepen): [\d,]+ parameters, test accuracy ([\d.]+)%", said
    )
    assert len(exact) == 3 and len(set(exact)) == 1  # the exact edits change nothing
    parameters = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", said)]
    assert parameters[1] < parameters[0] < parameters[-1]
    assert "pooling of (2, 2) taken out" in said


def test_legacy_model(capsys, tmp_path):
    _load("legacy_model").main(str(tmp_path))
    said = capsys.readouterr().out
    assert "took off the quantizers, kept their trained ranges" in said
    assert "none: every compute operator is integer" in said


def test_prune_weights(capsys):
    _load("prune_weights").main(epochs=2)
    said = capsys.readouterr().out
    zeros = re.search(r"by hand: ([\d,]+) of ([\d,]+) weights are zero", said)
    count, whole = (int(n.replace(",", "")) for n in zeros.groups())
    assert 0.5 < count / whole < 1
    packed = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) packed by gzip", said)]
    assert max(packed[1:]) < packed[0]


@pytest.mark.slow
def test_prune_channels_while_training(capsys):
    _load("prune_channels_while_training").main(epochs=2)
    said = capsys.readouterr().out
    assert "macs" in said.lower() and "int8" in said


def test_learning_rates(capsys):
    _load("learning_rates").main(epochs=2)
    said = capsys.readouterr().out
    assert said.count("of the test digits") == 2
    fewer = re.search(r"in (\d+) steps instead of (\d+)", said)
    assert int(fewer[1]) < int(fewer[2])


def test_gradient_tape(capsys):
    _load("gradient_tape").main(epochs=1)
    said = capsys.readouterr().out
    assert said.count("test accuracy") >= 3 and "ProximalAdam" in said


@pytest.mark.slow
def test_sparse_optimizer(capsys):
    _load("sparse_optimizer").main(epochs=3)
    said = capsys.readouterr().out
    asked = re.search(r"(\d+) were asked for", said)
    assert int(asked[1]) > 0
    parameters = [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) parameters, test accuracy", said)]
    assert parameters[-1] < parameters[0]


@pytest.mark.slow
def test_regularize_built_model(capsys):
    example = _load("regularize_built_model")
    del example.PENALTIES["none"], example.PENALTIES["BatchNormScale"]  # one way of the three
    example.main(epochs=1)
    said = capsys.readouterr().out
    assert "GroupLasso over channels" in said and "gradient's variance" in said


def test_dropout_layers(capsys):
    _load("dropout_layers").main(epochs=2)
    said = capsys.readouterr().out
    assert "channels closed" in said and "of the weights are noise" in said
    assert re.search(r"int8 file: [\d,]+ bytes", said)


def test_quantize_aware(capsys):
    _load("quantize_aware").main(epochs=2)
    said = capsys.readouterr().out
    assert "classes/pre_activation" in said
    equal = [float(n) for n in re.findall(r"([\d.]+)% │\n", said)]
    # Kernels for 4 bits are other ones than those for 8, and round some halves by one step otherwise.
    assert len(equal) == 2 and equal[0] >= 99.5 and equal[1] >= 98


def test_cluster_weights(capsys, trained):
    _load("cluster_weights").main(epochs=2)
    said = capsys.readouterr().out
    plain, shared = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes packed", said))
    assert shared < 0.8 * plain and said.count("16") >= 3


def test_pack_model(capsys, trained):
    from tfstruct.convert import micro

    _load("pack_model").main(epochs=2)
    said = capsys.readouterr().out
    assert said.count("comes back equal: True") == 2
    for kind in ("keras", "tflite"):
        whole, packed = re.search(rf"\({kind}\): ([\d,]+) bytes, ([\d,]+) packed", said).groups()
        assert int(packed.replace(",", "")) < 0.4 * int(whole.replace(",", ""))
    assert ("for tflite-micro, with lookup tables" in said) == (micro.version() is not None)


def test_dequantize(capsys, trained):
    _load("dequantize").main(epochs=6)
    said = capsys.readouterr().out
    file, plain = (float(re.search(rf"{name}: ([\d.]+)%", said)[1]) for name in ("int4 file", "dequantized"))
    assert abs(file - plain) < 3  # activations of 8 bits lie between them
    assert "conv3 has at most 15 values in a channel" in said and "what they were: True" in said


@pytest.mark.slow
def test_distill(capsys):
    _load("distill").main(epochs=1)
    said = capsys.readouterr().out
    assert "of the teacher's 24 channels" in said
    parameters = re.findall(r"│ (?:labels alone|outputs|outputs and inner layers) +│ +([\d,]+) │", said)
    assert len(parameters) == 3 and len(set(parameters)) == 1
    assert said.count("test accuracy") == 3


@pytest.mark.slow
def test_augment(tmp_path, capsys):
    _load("augment").main(str(tmp_path), epochs=1, samples=100)
    said = capsys.readouterr().out
    assert "audio.png, images.png, sequences.png, spectrograms.png, text.png" in said
    assert said.count("test accuracy") == 3


@pytest.mark.slow
def test_post_training(capsys):
    _load("post_training").main(epochs=2, steps=3)
    said = capsys.readouterr().out
    assert re.search(r"layers? equalized with (its|their) readers", said) and "one layer quantized at a time" in said
    assert re.search(r"mixed: \{.*'int4'.*\}, [\d,]+ bytes", said)
    assert float(re.search(r"same class for ([\d.]+)%", said)[1]) >= 98


def test_diagnose(capsys):
    _load("diagnose").main(epochs=3)
    said = capsys.readouterr().out
    assert "vanishing" in said and "learning_rate_too_high" in said


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda f: f.stem)
def test_examples_are_short_and_tested(file):
    assert len(file.read_text().splitlines()) < 120
    assert f'_load("{file.stem}")' in pathlib.Path(__file__).read_text()


def test_two_functions(tmp_path, capsys):
    _load("two_functions").main(str(tmp_path), epochs=2)
    said = capsys.readouterr().out
    assert "3 functions in a file" in said and "('encode', 'decode', 'classify')" in said
    assert int(re.search(r"shared +([\d,]+) bytes", said)[1].replace(",", "")) > 48 * 64
    assert (tmp_path / "digits.tflite").stat().st_size > (tmp_path / "encode.tflite").stat().st_size


def test_compress_model(tmp_path, capsys):
    _load("compress_model").main(str(tmp_path / "work"), epochs=1)
    said = capsys.readouterr().out
    assert "does auto: of the choices within the budget (macs " in said.replace("\n", " ")
    assert re.search(r"MACs +│ +997,104 │ +997,104 │ +(4\d\d,\d\d\d) ", said)
    assert re.search(r"stem +24 -> \d+ channels", said) and (tmp_path / "work" / "manifest.json").exists()


@pytest.mark.parametrize(
    "name, epochs, drop",
    [
        ("text", 1, 0.5),
        ("machine", 1, 0.5),
        *((name, 30, 0.01) for name in ("image", "text", "sensors", "machine")),
    ],
)
@pytest.mark.slow
def test_compress_tasks(name, epochs, drop, capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    report = _load("compress_tasks").main(name, epochs=epochs, drop=drop)
    assert report.result.tflite_bytes <= 0.5 * report.plain.tflite_bytes
    assert report.test["result"] >= report.test["plain"] - drop
    assert f"{name}: " in capsys.readouterr().out


@pytest.mark.slow
def test_search(tmp_path, capsys):
    _load("search").main(str(tmp_path), trials=2, epochs=1)
    said = capsys.readouterr().out
    assert said.startswith("2 trials") and "best: trial" in said
    assert (tmp_path / "best.tflite").read_bytes()[4:8] == b"TFL3" and (tmp_path / "front.png").exists()
    assert (tmp_path / "search.db").exists()


@pytest.mark.slow
def test_scene_segmentation(tmp_path, capsys):
    scores = _load("scene_segmentation").main(str(tmp_path), epochs=1, count=160)
    said = capsys.readouterr().out
    assert "int8 file: IoU" in said and re.search(r"macs +24,805,376 -> 12,\d{3},\d{3} ", said)
    assert abs(scores["int8 file"] - scores["tuned"]) < 0.2
    whole, now = (int(n.replace(",", "")) for n in re.search(r"bytes: ([\d,]+) of .* ([\d,]+) now", said).groups())
    assert now < 0.6 * whole and (tmp_path / "segmentation.tflite").exists()


@pytest.mark.slow
def test_scene_keywords(tmp_path, capsys):
    scores = _load("scene_keywords").main(str(tmp_path), epochs=2, count=300)
    said = capsys.readouterr().out
    assert "yes: 12 of 12 operators" in said or "judged by      a table" in said
    assert set(scores) == {"trained", "0.4 of the work", "int8 file"}
    assert {p.name for p in tmp_path.iterdir()} == {"keywords.h", "keywords.cc"}


@pytest.mark.slow
def test_scene_recommendation(tmp_path, capsys):
    scores = _load("scene_recommendation").main(str(tmp_path), epochs=2, users=3000)
    said = capsys.readouterr().out
    assert scores["rows of unused items gone"] == pytest.approx(scores["trained"], abs=0.01)
    assert abs(scores["int8 file"] - scores["trained"]) < 0.03
    sizes = [int(n.replace(",", "")) for n in re.findall(r"(?:float32|int8|int4) ([\d,]+) bytes", said)]
    assert sizes[1] < 0.25 * sizes[0] and sizes[2] < sizes[1]
    assert {p.name for p in tmp_path.iterdir()} >= {"ids.json", "catalogue.npy", "user_tower.int8.tflite"}


@pytest.mark.slow
def test_scene_decoder(tmp_path, capsys):
    scores = _load("scene_decoder").main(str(tmp_path), epochs=1, count=300)
    said = capsys.readouterr().out
    assert abs(scores["int8 file"] - scores["taught"]) < 0.3 and scores["taught"] < 6
    before, now = (
        int(n.replace(",", "")) for n in re.search(r"([\d,]+) parameters before, ([\d,]+) now", said).groups()
    )
    assert now < 0.6 * before and "args:" in said


# The troubles that take a second or two run by default.
@pytest.mark.parametrize(
    "file, name, shows",
    [
        # By what the processor's ReLU makes of NaN: 0, or NaN, so that the loss is one too.
        ("training", "nan", ("nan at hidden0", "nan at log")),
        ("training", "diverges", "learning_rate_too_high"),
        ("files", "floats", "would stay in float: sin: SIN"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("training", "vanishing", "vanishing_gradients"),
                ("training", "overfits", "overfitting"),
                ("training", "slow", "one cycle up to"),
                ("files", "int8", "most is lost at conv2"),
                ("files", "pruned", "batch norms measured anew"),
                ("files", "slower", "half of the work gone"),
                ("files", "size", "pruned, int4"),
                ("files", "arena", "bytes"),
            )
        ),
    ],
)
def test_troubles(file, name, shows, capsys):
    examples = {"training": _load("troubles_with_training"), "files": _load("troubles_with_files")}
    if name == "arena":
        from tfstruct.convert import micro

        if micro.version() is None:
            pytest.skip("needs tflite-micro")
    examples[file].main(name)
    said = capsys.readouterr().out
    assert said.startswith(f"{name}\n") and any(one in said for one in ([shows] if isinstance(shows, str) else shows))
    figures = [float(n.replace(",", "")) for n in re.findall(r"([\d,.]+)% right", said)]
    if name in ("pruned", "vanishing", "diverges", "nan", "slow"):
        assert figures[-1] > figures[-2]  # the cure


def test_every_trouble_of_the_page_has_its_script():
    page = (EXAMPLES.parent / "docs" / "troubleshooting.md").read_text()
    for example in ("troubles_with_training", "troubles_with_files"):
        for trouble in _load(example).TROUBLES:
            assert f"`{trouble.__name__}`" in page
            assert f"| {trouble.__name__}" in _load(example).__doc__ or f"[{trouble.__name__}" in _load(example).__doc__


@pytest.mark.slow
def test_streaming(tmp_path, capsys):
    _load("streaming").main(str(tmp_path / "spotter.tflite"), epochs=3)
    said = capsys.readouterr().out
    assert "bytes a stream" in said and "none: every compute operator is integer" in said
    assert float(re.search(r"on 176 windows: (\S+)", said)[1]) < 1e-5
