"""A report prints, tabulates and turns into JSON and one HTML page; files are written whole or not at all."""

import dataclasses
import html.parser
import json
import math

import pytest

from tfstruct.convert.agreement import Agreement, Scores
from tfstruct.convert.flatbuffer import Operator
from tfstruct.convert.layer_errors import LayerError
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.report import Report, comparison, comparison_rows, html_page, render
from tfstruct.convert.runtime import Latency
from tfstruct.convert.verification import Verification

CONV = Operator(0, 0, "CONV_2D", ("conv", "relu"), ("x",), ("relu",), "int8", "int8", False)
ELU = Operator(1, 0, "ELU", ("elu",), ("relu",), ("elu",), "float32", "", True)
DENSE = Operator(2, 0, "FULLY_CONNECTED", ("head",), ("elu",), ("y",), "int8", "int8", False)
BARE = Operator(3, 0, "CONV_2D", (), ("y",), ("z",), "int8", "int8", False)
WARNINGS = ("only 3 calibration samples: ranges may be too narrow", "1 operator stays in float: elu: ELU & co <fast>")


def make(**changes):
    report = Report(
        model="net",
        precision="int8",
        engine="litert",
        recipe=Recipe(precision="int8").to_dict(),
        parameters=12345,
        size=67890,
        gzip_size=4321,
        operators=(CONV, ELU, DENSE, BARE),
        float_operators=(ELU,),
        verification=Verification(
            "data.npz",
            1500,
            (Agreement("y", 0.25, 0.0125, 31.24, 0.99951, 0.987),),
            Scores(0.9, 0.8, 0.85),
            Scores(0.89, 0.79, 0.84),
            (LayerError(("conv", "relu"), "relu", 35.5, 0.1225), LayerError((), "bare", 40.0, 0.0)),
        ),
        latency=(Latency(1, 123.4, 150.0, 1000), Latency(2, 12_345.0, 15_000.0, 20)),
        processor="A processor, 2 cores",
        rewrites=("norm in integer operators",),
        warnings=WARNINGS,
        seconds={"convert": 1.5},
    )
    return dataclasses.replace(report, **changes)


def verified(**changes):
    return dataclasses.replace(make().verification, **changes)


def exact():
    """A float file that equals Keras: infinite SQNR, no labels."""
    outputs = (Agreement("y", 0.0, 0.0, math.inf, 1.0, None),)
    return make(
        precision="float32",
        engine="converter",
        verification=Verification("data.npz", 8, outputs, layers=(LayerError(("conv",), "relu", math.inf, 0.0),)),
        rewrites=(),
        warnings=(),
        latency=(),
        float_operators=(),
    )


class Page(html.parser.HTMLParser):
    """The tags and the text of a page; fails on a tag closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_operators_are_counted():
    assert list(make().operator_counts().items()) == [("CONV_2D", 2), ("ELU", 1), ("FULLY_CONNECTED", 1)]


def test_json_holds_everything():
    report = make()
    data = json.loads(report.to_json())
    assert {f.name for f in dataclasses.fields(Report)} | {"operator_counts"} == data.keys()
    assert data["operator_counts"] == {"CONV_2D": 2, "ELU": 1, "FULLY_CONNECTED": 1}
    assert data["warnings"] == list(WARNINGS) and data["recipe"]["precision"] == "int8"
    assert data["operators"][0] == {**dataclasses.asdict(CONV), **{k: list(getattr(CONV, k)) for k in ("layers",)}} | {
        "inputs": ["x"],
        "outputs": ["relu"],
    }
    assert data["verification"]["outputs"][0]["sqnr_db"] == 31.24
    assert data["verification"]["tflite"]["accuracy"] == 0.89
    assert data["latency"][1] == {"threads": 2, "median_us": 12345.0, "p90_us": 15000.0, "runs": 20}
    assert data == report.to_dict()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_json_has_no_infinities(bad):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    report = make(
        verification=verified(
            outputs=(Agreement("y", bad, 0.5, bad, 1.0, None),), layers=(LayerError(("conv",), "relu", bad, bad),)
        ),
        recipe={**Recipe().to_dict(), "timeout": bad},
        seconds={"convert": bad},
    )
    data = json.loads(report.to_json(), parse_constant=refuse)
    found = data["verification"]["outputs"][0]
    assert {name: found[name] for name in list(found)[:6]} == {
        "name": "y",
        "max_abs_error": None,
        "mean_abs_error": 0.5,
        "sqnr_db": None,
        "cosine": 1.0,
        "top1_agreement": None,
    }
    assert set(found) == {f.name for f in dataclasses.fields(Agreement)}
    assert data["verification"]["layers"][0]["added_noise"] is None
    assert data["recipe"]["timeout"] is None and data["seconds"] == {"convert": None}


def test_text():
    text = str(make())
    for part in (
        "net, 12,345 parameters",
        "int8 (by litert)",
        "67,890 bytes, 4,321 gzipped",
        "2 CONV_2D, 1 ELU, 1 FULLY_CONNECTED",
        "1: ELU (elu)",
        "1,500 samples: data.npz",
        "max error 0.25, mean 0.0125, SQNR 31.2 dB, cosine 0.999510, top-1 equal 98.70%",
        "TFLite 89.00%, Keras 90.00%",
        "TFLite 79.00%, Keras 80.00%",
        "TFLite 84.00%, Keras 85.00%",
        "123 µs median, 150 µs p90, 1 thread\n",
        "12.3 ms median, 15.0 ms p90, 2 threads\n",
        "A processor, 2 cores",
        "conv, relu: SQNR 35.5 dB, 12.25% noise added there",
        "bare: SQNR 40.0 dB, 0.00% noise added there",
    ):
        assert part in text, part


def test_text_mentions_every_warning():
    text = str(make())
    assert [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("warning")] == list(WARNINGS)
    assert "warning" not in str(make(warnings=()))


def test_text_of_a_file_that_is_exact():
    text = str(exact())
    assert "SQNR exact, cosine 1.000000" in text
    assert "none: every compute operator is integer" in text
    for absent in ("top-1", "Keras", "latency", "measured on", "warning", "inf"):
        assert absent not in text, absent


def test_text_of_a_regression():
    text = str(make(verification=verified(keras=Scores(mean_abs_error=0.5), tflite=Scores(mean_abs_error=0.515625))))
    assert "mean error     TFLite 0.5156, Keras 0.5" in text and "accuracy" not in text


def test_text_names_eight_float_operators_at_most():
    many = tuple(dataclasses.replace(ELU, index=i, layers=(f"elu_{i}",)) for i in range(10))
    text = str(make(float_operators=many))
    assert "10: ELU (elu_0), " in text and "ELU (elu_7) and 2 more" in text and "elu_8" not in text
    assert "1: ELU (no layer known)" in str(make(float_operators=(dataclasses.replace(ELU, layers=()),)))


def test_text_lists_the_five_layers_that_lose_most():
    layers = tuple(LayerError((f"layer_{i}",), f"t{i}", 30.0, 0.9 - i / 10) for i in range(7))
    lines = [line for line in str(make(verification=verified(layers=layers))).splitlines() if "added there" in line]
    assert len(lines) == 5 and "layer_0" in lines[0] and "layer_4" in lines[4]


def test_table_says_what_the_text_says():
    shown = " ".join(render(make().table(), width=300).split())
    for what, value in make().rows():
        assert f"{what} {' '.join(value.split())}" in shown


@pytest.mark.parametrize("text", ["expected [channels] last", "read [/data/x.npz]", "in [bold]"])
def test_table_shows_brackets_as_they_are(text):
    report = make(model=f"net {text}", warnings=(text,))
    shown = render(report.table(), width=300)
    assert shown.count(text) == 2


def test_comparison_rows_with_scores():
    header, rows = comparison_rows([make(), make(precision="int16x8", float_operators=(), latency=())])
    assert header == [
        "precision",
        "Keras acc.",
        "TFLite acc.",
        "top-1 equal",
        "bytes",
        "gzipped",
        "latency",
        "operators",
    ]
    assert rows == [
        ["int8", "90.00%", "89.00%", "98.70%", "67,890", "4,321", "123 µs", "4, 1 in float"],
        ["int16x8", "90.00%", "89.00%", "98.70%", "67,890", "4,321", "-", "4, all integer"],
    ]


def test_comparison_rows_without_scores():
    # One report without scores, and the whole table shows what all of them have.
    header, rows = comparison_rows([make(), exact()])
    assert header == ["precision", "SQNR", "top-1 equal", "bytes", "gzipped", "latency", "operators"]
    assert rows == [
        ["int8", "31.2 dB", "98.70%", "67,890", "4,321", "123 µs", "4, 1 in float"],
        ["float32", "exact", "-", "67,890", "4,321", "-", "4, all integer"],
    ]


def test_comparison_shows_the_worst_output():
    outputs = (
        Agreement("a", 0, 0, 40.0, 1, 0.99),
        Agreement("b", 0, 0, 20.0, 1, 0.95),
        Agreement("c", 0, 0, 30.0, 1, None),
    )
    _, rows = comparison_rows([make(verification=verified(outputs=outputs, keras=None, tflite=None))])
    assert rows[0][1:3] == ["20.0 dB", "95.00%"]


def test_comparison_is_the_table_of_its_rows():
    reports = [make(), make(precision="int16x8")]
    header, rows = comparison_rows(reports)
    shown = render(comparison(reports), width=200)
    for cell in (*header, *rows[0], *rows[1]):
        assert cell in shown
    assert "\x1b" not in shown


def test_page_needs_nothing_from_outside():
    page = html_page("title", [make(), exact()])
    for text in (page, make().to_html()):
        assert "http" not in text and "src=" not in text and "url(" not in text and "@import" not in text
        assert not {"script", "link", "img", "iframe", "base"} & {tag for tag, _ in Page(text).tags}
        assert text.startswith("<!doctype html>")


def test_page_says_what_the_text_says():
    report = make()
    page = Page(report.to_html())
    for what, value in report.rows():
        assert what + value in page.text
    for warning in WARNINGS:
        assert page.text.count(warning) == 1
    assert sum(attrs.get("class") == "warning" for _, attrs in page.tags) == len(WARNINGS)
    assert "4 operators" in page.text and "CONV_2Dconv, reluint8" in page.text
    assert "net: int8" in page.text


def test_page_compares_several_reports():
    several, one = Page(html_page("all", [make(), exact()])), Page(html_page("all", [make()]))
    for cell in comparison_rows([make(), exact()])[0]:
        assert f"{cell}" in several.text
    assert sum(tag == "th" for tag, _ in several.tags) == sum(tag == "th" for tag, _ in one.tags) + 7 + 7
    assert [tag for tag, _ in several.tags].count("h2") == 2


EVIL = '<b>&"x"</b>'


@pytest.mark.parametrize(
    "changes",
    [
        {"model": EVIL},
        {"precision": EVIL},
        {"engine": EVIL},
        {"processor": EVIL},
        {"warnings": (EVIL,)},
        {"operators": (dataclasses.replace(CONV, layers=(EVIL,)), dataclasses.replace(CONV, name=EVIL))},
        {"float_operators": (dataclasses.replace(ELU, layers=(EVIL,)),)},
        {"verification": verified(source=EVIL)},
        {"verification": verified(outputs=(Agreement(EVIL, 0, 0, 1.0, 1, None),))},
        {"verification": verified(layers=(LayerError((EVIL,), "t", 1.0, 1.0), LayerError((), EVIL, 1.0, 1.0)))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_page_escapes_what_it_is_given(changes):
    plain, changed = make().to_html(), make(**changes).to_html()
    assert EVIL not in changed and "&lt;b&gt;&amp;" in changed
    assert EVIL in Page(changed).text
    # The only <b> are the page's own, one a line of the report.
    assert changed.count("<b>") == len(make(**changes).rows()) and plain.count("<b>") == len(make().rows())


def test_page_escapes_its_title():
    page = html_page(EVIL, [make()])
    assert page.count("&lt;b&gt;&amp;&quot;x&quot;&lt;/b&gt;") == 2 and EVIL not in page


@pytest.mark.parametrize(
    ("added", "widths"),
    [
        ((0.4, 0.1, 0.2), (100, 50, 25)),
        ((-0.1, 0.0, -0.2), (0, 0, 0)),
        ((0.4, math.nan, -1.0), (100, 0, 0)),
        ((math.inf, 0.1, 0.2), (0, 0, 0)),
    ],
)
def test_bars_are_as_long_as_the_noise_that_a_layer_adds_the_most_first(added, widths):
    errors = tuple(LayerError((f"layer{i}",), f"t{i}", 30.0, one) for i, one in enumerate(added))
    page = make(verification=verified(layers=errors)).to_html()
    bars = [attrs["style"] for _, attrs in Page(page).tags if attrs.get("class") == "bar"]
    assert bars == [f"width:{width}%" for width in widths]


def test_a_layer_of_several_operators_is_named_once_with_its_worst():
    errors = tuple(LayerError(("classes",), f"t{i}", 30.0 + i, one) for i, one in enumerate((0.1, 0.3, -0.2)))
    report = make(verification=verified(layers=errors))
    assert [value for what, value in report.rows() if what == "loses most"] == [
        "classes: SQNR 31.0 dB, 30.00% noise added there"
    ]
    page = report.to_html()
    assert page.count('class="bar"') == 1 and page.count("<h2>") == 0  # one precision needs no heading of its own
