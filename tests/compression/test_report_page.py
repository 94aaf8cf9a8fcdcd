"""The report as pictures, page and card: all that is known is in them, nothing is loaded, and a browser is content."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import reports
from matplotlib.figure import Figure

from tfstruct.compression import Budget, CompressionReport
from tfstruct.compression.report_pictures import front, pictures
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter

EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def report():
    return reports.report()


@pytest.fixture(scope="module")
def page(report):
    return report.to_html()


class Page(html.parser.HTMLParser):
    """Tags, what they refer to, and text of a page; fails on a tag closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.refers = [], "", [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open[-1:] = [] if self.open[-1] == tag else self.open[-1:]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone(page):
    read = Page(page)
    assert not {"script", "link", "iframe", "base", "object"} & set(read.tags) and "@import" not in page
    assert read.refers and all(one.startswith(("#", "data:image/png;base64,")) for one in read.refers)
    assert "http" not in page and all(one.startswith("#") for one in re.findall(r"url\(([^)]*)\)", page))
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and {one[1:] for one in read.refers if one.startswith("#")} <= set(ids)
    assert "width=device-width" in page and "prefers-color-scheme:dark" in page


def test_the_page_says_everything(report, page):
    text = Page(page).text
    for row in report.rows():
        assert "".join(row) in text
    for stage in report.stages:
        assert stage.step.reason in text and all(layer + what in text for layer, what in stage.changes + stage.skipped)
    for decision in report.decisions:
        assert decision.reason in text
    assert "The budget is met. Asked: accuracy_drop=0.02, macs=0.5, tflite_bytes=0.65." in text
    assert "macsat most 25,00024,000met" in text and "accuracy, validationat least 0.890.893met" in text
    assert "only 300 samples" in text and "keras3.15.0" in text and "old8gone" in text
    assert "no. 0: 0, said 1, 64% sure" in text and page.count("<img") == len(report.mistakes.worst) == 12
    assert page.count("<svg") == 4  # of all pictures but the worst samples


def test_a_missed_budget_is_said(report):
    limits = Budget(macs=0.4).limits(report.original, report.plain)
    text = Page(dataclasses.replace(report, limits=limits).to_html()).text
    assert "The budget is missed: macs 24,000 (at most 20,000)." in text and "at most 20,00024,000missed" in text


def test_only_figures_make_a_page_and_a_card_too(report):
    bare = CompressionReport("net", report.budget, report.limits, report.original, report.plain, report.result)
    text = Page(bare.to_html()).text
    assert "Before and after" in text and "Worst samples" not in text and "What was done" not in text
    assert [one.name for one in pictures(bare)] == ["front"]
    assert "## Figures" in bare.model_card() and "It was not judged on a test set." in bare.model_card()
    with pytest.raises(ValueError, match=r"Expected one of front, which there are data for. Received: 'worst'"):
        bare.plot("worst")


def test_text_is_escaped(report):
    stage = dataclasses.replace(report.stages[0], changes=((EVIL, EVIL),))
    changed = dataclasses.replace(
        report, model=EVIL, stages=(stage,), warnings=(EVIL,), widths={EVIL: (2, 1)}, processor=EVIL
    )
    page = changed.to_html()
    assert "<script" not in page and EVIL in Page(page).text
    assert "<script" not in changed.model_card() and "&lt;script&gt;" in changed.model_card()


def test_without_matplotlib_the_page_says_so(report, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = report.to_html()
    assert "pip install &#x27;tfstruct[plot]&#x27;" in text and "<svg" not in text


def test_lines_stand_for_samples_that_are_no_images(report):
    text = dataclasses.replace(report, mistakes=reports.mistakes(images=False)).to_html()
    assert text.count("<polyline") == 2 * 12 and "<img" not in text
    points = re.search(r'<polyline points="([^"]*)"', text).group(1).split()
    assert len(points) == 40 and points[0].startswith("0.0,") and points[-1].startswith("100.0,")


def test_pictures(report):
    assert [one.name for one in pictures(report)] == ["front", "widths", "sensitivity", "confusion", "worst"]
    whole = report.plot()
    assert isinstance(whole, Figure) and len(whole.axes) == 2 + 1 + 2 + 2 + 12  # a colour bar beside the sensitivity
    widths = report.plot("widths").axes[0]
    assert [bar.get_width() for bar in widths.patches][:2] == [10, 8]  # the last layer is lowest
    assert [text.get_text().strip() for text in widths.texts][:2] == ["10", "8 → 0"]
    confusion = report.plot("confusion").axes
    assert sum(int(text.get_text()) for text in confusion[1].texts) == 300


def test_the_front_is_what_no_other_beats():
    points = {"a": (0.9, 900), "b": (0.8, 500), "c": (0.7, 600), "d": (0.8, 700), "e": (0.6, 100), "f": (0.95, 900)}
    every = [reports.candidate(name, quality, tflite_bytes=size) for name, (quality, size) in points.items()]
    assert [one.name for one in front(every, "tflite_bytes")] == ["e", "b", "f"]
    errors = [one.replace(greater_is_better=False) for one in every]
    assert [one.name for one in front(errors, "tflite_bytes")] == ["e"]


def test_the_same_again_after_json(report, page, tmp_path):
    again = CompressionReport.from_json(report.to_json())
    assert again == report
    for name in ("r.html", "r.json", "r.md"):
        again.save(tmp_path / name)
    assert (tmp_path / "r.html").read_text() == page and (tmp_path / "r.md").read_text() == report.model_card()
    assert json.loads((tmp_path / "r.json").read_text())["mistakes"]["classes"] == 10
    with pytest.raises(ValueError, match=r"ends in .html, .json, .md. Received: 'r.pdf'"):
        report.save("r.pdf")


def test_the_card(report):
    card = report.model_card()
    assert card.startswith("# net\n\nA TensorFlow Lite file of 5,000 bytes, made from the Keras model net")
    assert "| file, bytes | 20,000 | 8,000 | 5,000 | 62.5% |" in card
    assert "- looked at once, at the end: 360 samples (arrays)" in card
    assert "Values of `image` outside 0 to 15.94 are clipped." in card
    recalls = report.mistakes.recalls(report.mistakes.result)
    assert f"class 0 {recalls[0]:.1%}" in card and "only 300 samples" in card
    assert all(
        line.count("|") == card.split("## Figures")[1].strip().splitlines()[0].count("|")
        for line in card.split("## Figures")[1].split("\n\n")[1].splitlines()
    )


def test_the_code_of_the_card_runs_the_file(process: ConverterProcess, report, tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(3, activation="softmax")])
    x = np.random.default_rng(0).uniform(-1, 1, (32, 6)).astype("float32")
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", calibration=x))
    file.save(tmp_path / "model.tflite")
    monkeypatch.chdir(tmp_path)
    runtime = Runtime(file.content)
    ports = {"inputs": runtime.inputs, "outputs": runtime.outputs}
    code = dataclasses.replace(report, ports=ports).model_card().split("```python\n")[1].split("```")[0]
    known = {"x": x[:1]}
    exec(code, known)
    np.testing.assert_allclose(known["y"], file.predict(x[:1]), rtol=1e-6)
    assert CompressionReport.from_json(dataclasses.replace(report, ports=ports).to_json()).ports == ports


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if program is None:
        pytest.skip("needs chromium or chrome")

    def run(file, *options):
        profile = tmp_path_factory.mktemp("profile")
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--window-size=390,844", *options,
            file.as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return run


PROBE = """<!doctype html><style>body{margin:0}</style><p id="said">
<iframe id="page" style="width:390px;height:844px;border:0" srcdoc="%s"></iframe>
<script>page.onload = () => {
  const read = page.contentDocument, root = read.documentElement
  const wide = [...read.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg')
    && e.getBoundingClientRect().right > 390.5)
  const broken = [...read.images].filter(e => !e.naturalWidth)
  said.textContent = [root.scrollWidth, root.clientWidth, wide.length, broken.length].join(' ')
}</script>"""


def test_in_a_browser_of_a_phones_width(chromium, page, tmp_path):
    """No message on the console; nothing but the inside of a table's box is wider than the window; pictures load."""
    (tmp_path / "probe.html").write_text(PROBE % page.replace("&", "&amp;").replace('"', "&quot;"))
    done = chromium(tmp_path / "probe.html", "--dump-dom", "--virtual-time-budget=5000")
    scrolled, window, wide, broken = map(int, re.search(r'<p id="said">([\d ]+)', done.stdout).group(1).split())
    assert scrolled <= window <= 390 and wide == 0 and broken == 0
    assert "CONSOLE" not in done.stderr
    (tmp_path / "report.html").write_text(page)
    assert "CONSOLE" not in chromium(tmp_path / "report.html", "--dump-dom").stderr
