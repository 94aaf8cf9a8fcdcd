"""What a conversion did, as an object that prints, tabulates, and turns into JSON or one HTML page."""

import collections
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfstruct import reporting
from tfstruct.convert import model_card
from tfstruct.convert.flatbuffer import Operator
from tfstruct.convert.latency import Estimate, OperatorLatency, by_time
from tfstruct.convert.layer_errors import LayerError
from tfstruct.convert.ports import Port
from tfstruct.convert.runtime import Latency
from tfstruct.convert.verification import Verification
from tfstruct.markup import element, folded, page, table
from tfstruct.reporting import Sheet
from tfstruct.reporting.tables import counted
from tfstruct.streaming.plan import StreamPlan

if TYPE_CHECKING:
    from tfstruct.convert.dynamic import SizeCheck
    from tfstruct.convert.target_report import TargetReport

_SCORE_NAMES = {
    "accuracy": "accuracy",
    "recall": "mean recall",
    "precision": "mean precision",
    "mean_abs_error": "mean error",
}


@dataclasses.dataclass(frozen=True)
class Report(reporting.OpenedReport):
    """The report of one conversion. Saved as `.md` it is a model card.

    Attributes:
        model: name of the Keras model.
        precision: of the recipe.
        engine: who wrote the file: `"converter"`, `"litert"` or `"tensorflow"`.
        recipe: the recipe as plain data; data that was in memory is named, not held.
        parameters: of the Keras model.
        size: bytes of the file.
        gzip_size: bytes of the file after gzip -9.
        operators: every operator of the file.
        float_operators: those that compute in float.
        verification: agreement with the Keras model.
        latency: one entry a number of threads; none with `Recipe(measure_latency=False)`.
        processor: where the latency was measured.
        rewrites: layers that compute in another form in the file, for want of integer kernels.
        warnings: what the user should know.
        seconds: time by stage.
        profile: time of every operator alone, where it was asked for.
        estimate: what a table of latencies says of the file, where one was given.
        target: whether the file fits the target that was asked for.
        inputs, outputs: of the file: name, shape, dtype, scale and zero point.
        versions: of tfstruct and what the file was made with.
        source: what it was made of, where that is no Keras model.
        streaming: of a streaming model, how it is run: frames a call, delays, states.
        state_bytes: of one stream of such a file.
        sizes: of a file with open sizes, the comparison at some; latency is that of `timed_at`.
        timed_at: the shapes of the inputs of one timed call, where the file leaves them open.
    """

    model: str
    precision: str
    engine: str
    recipe: dict
    parameters: int
    size: int
    gzip_size: int
    operators: tuple[Operator, ...]
    float_operators: tuple[Operator, ...]
    verification: Verification
    latency: tuple[Latency, ...]
    processor: str
    rewrites: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    profile: tuple[OperatorLatency, ...] = ()
    estimate: Estimate | None = None
    target: "TargetReport | None" = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""
    streaming: StreamPlan | None = None
    state_bytes: int = 0
    sizes: "tuple[SizeCheck, ...]" = ()
    timed_at: str = ""

    def operator_counts(self) -> dict[str, int]:
        """Operator name -> how many, the most frequent first."""
        return dict(collections.Counter(op.name for op in self.operators).most_common())

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "operator_counts": self.operator_counts()}

    def rows(self) -> list[tuple[str, str]]:
        """The report as (what, value) lines."""
        check = self.verification
        rows = [
            ("model", f"{self.model}, {counted(self.parameters, 'parameter')}"),
            *([("made from", self.source)] if self.source else []),
            ("precision", f"{self.precision} (by {self.engine})"),
            ("size", f"{self.size:,} bytes, {self.gzip_size:,} gzipped"),
            *(("takes", f"{port.name}: {port.described(True)}") for port in self.inputs),
            *(("gives", f"{port.name}: {port.described(False)}") for port in self.outputs),
            ("operators", ", ".join(f"{n} {name}" for name, n in self.operator_counts().items())),
            ("in float", _float_line(self.float_operators)),
            ("verified on", f"{counted(check.samples, 'sample')}: {check.source}"),
        ]
        for out in check.outputs:
            if out.equal is not None:
                rows.append(
                    (f"output {out.name}", f"integers, equal {out.equal:.2%}, max error {out.max_abs_error:.3g}")
                )
                continue
            top1 = "" if out.top1_agreement is None else f", top-1 equal {out.top1_agreement:.2%}"
            rows.append(
                (
                    f"output {out.name}",
                    f"max error {out.max_abs_error:.3g}, mean {out.mean_abs_error:.3g}, SQNR {_db(out.sqnr_db)}, "
                    f"cosine {out.cosine:.6f}{top1}",
                )
            )
        rows += [("also at", str(one)) for one in self.sizes]
        if check.keras is not None and check.tflite is not None:
            for name in _SCORE_NAMES:
                ours, theirs = getattr(check.tflite, name), getattr(check.keras, name)
                if ours is not None:
                    form = ".4g" if name == "mean_abs_error" else ".2%"
                    rows.append((_SCORE_NAMES[name], f"TFLite {ours:{form}}, Keras {theirs:{form}}"))
        rows += self.streaming.facts(self.state_bytes) if self.streaming else ()
        for one in self.latency:
            threads = counted(one.threads, "thread")
            at = f", at {self.timed_at}" if self.timed_at else ""
            rows.append(("latency", f"{_us(one.median_us)} median, {_us(one.p90_us)} p90, {threads}{at}"))
        if self.latency and self.streaming:
            rows.append(("latency a frame", f"{self.latency[0].median_us / self.streaming.hop:.1f} µs"))
        if self.latency:
            rows.append(("measured on", self.processor))
        elif self.recipe.get("measure_latency") is False:
            rows.append(("latency", "not measured, as asked"))
        for name, error in list(_by_layer(check.layers).items())[:5]:
            rows.append(("loses most", f"{name}: SQNR {_db(error.sqnr_db)}, {_added(error):.2f}% noise added there"))
        if self.rewrites:
            rows.append(("rewritten", "; ".join(self.rewrites)))
        for timed in by_time(self.profile)[:8]:
            place = ", ".join(timed.layers) or "no layer known"
            rows.append(("operator", f"{timed.microseconds:.1f} µs {timed.operator} ({place}), alone"))
        if self.profile:
            total = sum(one.microseconds for one in self.profile)
            rows.append(
                ("operators' sum", f"{total:.1f} µs, {len(self.profile)} timed alone: {self.profile[0].processor}")
            )
        rows += self.estimate.rows() if self.estimate else []
        rows += self.target.summary() if self.target else []
        rows += [("warning", text) for text in self.warnings]
        return rows

    def sheet(self) -> Sheet:
        return Sheet(facts=self.rows())

    def model_card(self) -> str:
        """Markdown to put beside the file: what it is, how to use it, its figures and limits."""
        return model_card.model_card(self)

    to_markdown = model_card

    def to_html(self) -> str:
        """One self-contained page, readable without network."""
        return html_page(f"{self.model}: {self.precision}", [self])


def comparison(reports: Sequence[Report]):
    """A `rich.table.Table` with one row a report: what each precision costs and gives."""
    header, rows = comparison_rows(reports)
    columns = [name if i in (0, len(header) - 1) else (name, ">") for i, name in enumerate(header)]
    return Sheet(columns=columns, rows=rows).rich()


def _accuracies(report: Report) -> tuple[float, float] | None:
    """Keras's and the file's, where both are known."""
    ours, file = report.verification.keras, report.verification.tflite
    if ours is None or file is None or ours.accuracy is None or file.accuracy is None:
        return None
    return ours.accuracy, file.accuracy


def comparison_rows(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several conversions of one model."""
    accuracies = [pair for pair in map(_accuracies, reports) if pair is not None]
    scored = len(accuracies) == len(reports)
    header = ["precision", *(("Keras acc.", "TFLite acc.") if scored else ("SQNR",))]
    header += ["top-1 equal", "bytes", "gzipped", "latency", "operators"]
    rows = []
    for number, r in enumerate(reports):
        figures = r.verification.figures()
        row = [r.precision]
        if scored:
            row += [f"{accuracy:.2%}" for accuracy in accuracies[number]]
        else:
            row += [_db(figures["sqnr_db"])]
        row += [f"{figures['top1_agreement']:.2%}" if "top1_agreement" in figures else "-"]
        row += [f"{r.size:,}", f"{r.gzip_size:,}", _us(r.latency[0].median_us) if r.latency else "-"]
        total, floats = len(r.operators), len(r.float_operators)
        row += [f"{total}, all integer" if not floats else f"{total}, {floats} in float"]
        rows.append(row)
    return header, rows


def render(renderable, width: int = 100) -> str:
    """A rich table as plain text."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(renderable)
    return buffer.getvalue().rstrip("\n")


def html_page(title: str, reports: Sequence[Report]) -> str:
    """Reports as one HTML page: the comparison where there are several, then each in full."""
    parts = []
    if len(reports) > 1:
        header, rows = comparison_rows(reports)
        parts.append(table(rows, header))
    for r in reports:
        lines = r.rows()
        if len(reports) > 1:
            parts.append(element("h2", r.precision))
        parts.append(
            table(
                [(element("b", what), value) for what, value in lines],
                classes=["warning" if what == "warning" else "" for what, _ in lines],
            )
        )
        parts += [element("p", note) for note in r.layer_notes]
        if r.verification.layers:
            parts.append(element("h3", "Noise by layer"))
            named = _by_layer(r.verification.layers)
            header = ["layers", "SQNR, dB", "noise added there, %", ""]
            parts.append(table(_noise_rows(named), header, numbers={1, 2}))
        operators = [(op.name, ", ".join(op.layers), op.dtype) for op in r.operators]
        parts.append(
            folded(counted(len(operators), "operator"), table(operators, ["operator", "Keras layers", "type"]))
        )
    return page(title, *parts)


def _by_layer(errors: Sequence[LayerError]) -> dict[str, LayerError]:
    """The errors by the names of their layers, those that add most first; of several operators of a layer the worst."""
    worst: dict[str, LayerError] = {}
    for error in errors:
        name = ", ".join(error.layers) or error.tensor
        if name not in worst or _added(error) > _added(worst[name]):
            worst[name] = error
    return dict(sorted(worst.items(), key=lambda item: -_added(item[1])))


def _added(error: LayerError) -> float:
    """Percent of the signal; an operator that reads more noise than it hands on adds none."""
    return 0.0 if math.isnan(error.added_noise) else max(0.0, 100 * error.added_noise)


def _noise_rows(named: Mapping[str, LayerError]) -> list[tuple]:
    """With bars of what each layer adds, the longest for the most."""
    most = max(map(_added, named.values()), default=0.0)
    rows = []
    for name, error in named.items():
        width = 100 * min(1.0, _added(error) / most) if 0 < most < math.inf else 0.0
        bar = element("div", element("div", class_="bar", style=f"width:{width:.0f}%"), class_="track")
        rows.append((name, _db(error.sqnr_db).removesuffix(" dB"), f"{_added(error):.3g}", bar))
    return rows


def _float_line(floats: Sequence[Operator]) -> str:
    if not floats:
        return "none: every compute operator is integer"
    named = list(dict.fromkeys(f"{op.name} ({', '.join(op.layers) or 'no layer known'})" for op in floats))
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return f"{len(named)}: {', '.join(named[:8])}{more}"


def _db(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"


def _us(value: float) -> str:
    return f"{value:.0f} µs" if value < 10_000 else f"{value / 1000:.1f} ms"
