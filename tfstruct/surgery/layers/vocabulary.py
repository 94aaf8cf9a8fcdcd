"""`prune_vocabulary`: rows of embedding tables that no data uses go."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np

from tfstruct.analyze.data_criteria import run
from tfstruct.analyze.inference import batches_for, in_inference
from tfstruct.arguments import checked_but
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.graph import Graph, open_and_trace, rebuild
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.trace import OWN_OUTPUT
from tfstruct.reporting import OpenedReport, Result, Sheet
from tfstruct.samples.for_model import samples_of
from tfstruct.surgery.compiling import compile_like
from tfstruct.surgery.layers.id_flow import IdFlow, Source, Table, id_flow


@dataclasses.dataclass(frozen=True)
class VocabularyReport(OpenedReport):
    """Which rows of a model's tables went, and the new numbers of the ids.

    Attributes:
        name: of the model.
        ids: name of an input -> the old ids that stay: the place of an id in this list is its new number. Also by path
            of a layer that makes ids of words, such as a `StringLookup`, whose vocabulary is smaller now.
        unknown: name of an input -> the new number of what stands for ids that went; None if nothing does.
        rows: path of a table -> its rows before and after.
        saved: path of a table -> bytes that went.
        left_alone: path of a table -> why its rows stay.
        outputs: output that has another width -> width before and after; its channels are the ids that stay.
    """

    name: str
    ids: Mapping[str, tuple[int, ...]]
    unknown: Mapping[str, int | None]
    rows: Mapping[str, tuple[int, int]]
    saved: Mapping[str, int]
    left_alone: Mapping[str, str]
    outputs: Mapping[str, tuple[int, int]]

    def map(self, ids, input: str | None = None):
        """Old ids as new ones, in an array of the same shape and dtype.

        Args:
            ids: of the original model.
            input: name of the input; needed where inputs have ids of different kinds.

        Raises:
            DataError: an id that went, where no `unknown` stands for it.
        """
        kinds = {name: kept for name, kept in self.ids.items() if input in (None, name)}
        if not kinds or len(set(kinds.values())) > 1:
            raise ArgumentError(f"Expected `input`, one of {list(self.ids)}. Received: {input!r}.")
        name, kept = next(iter(kinds.items()))
        old, known = np.asarray(ids), np.asarray(kept)
        places = np.minimum(np.searchsorted(known, old), len(known) - 1)
        gone = known[places] != old
        unknown = self.unknown[name]
        if gone.any() and unknown is None:
            raise DataError(
                f"The ids {np.unique(old[gone])[:5].tolist()} went, and nothing stands for them. Keep them by `keep`, "
                "or give the id that stands for unknown ones as `unknown`."
            )
        return np.where(gone, 0 if unknown is None else unknown, places).astype(old.dtype)

    def sheet(self) -> Sheet:
        rows = [(path, before, after, self.saved[path]) for path, (before, after) in self.rows.items()]
        notes = [
            f"{name}: {len(kept):,} ids have new numbers" + (f", others become {self.unknown[name]}" if known else "")
            for name, kept in self.ids.items()
            for known in [self.unknown[name] is not None]
        ]
        notes += [f"output {name}: width {before:,} -> {after:,}" for name, (before, after) in self.outputs.items()]
        title = f"{self.name}: {sum(self.saved.values()):,} bytes of embeddings went"
        columns = ("table", ("rows before", ",d"), ("after", ",d"), ("bytes saved", ",d"))
        return Sheet(title, columns, rows, left_alone=tuple(self.left_alone.items()), notes=notes)


@checked_but("ids", "keep")
@in_inference
def prune_vocabulary(
    model: keras.Model,
    data=None,
    *,
    ids: Iterable[int] | Mapping[str, Iterable[int]] | None = None,
    keep: Iterable[int] | Mapping[str, Iterable[int]] = (),
    unknown: int | Mapping[str, int] | None = None,
    outputs: Sequence[str] = (),
    batch_size: int = 256,
    open_layers: str | bool = "auto",
) -> Result:
    """Drops the rows of embedding tables that data never uses, and numbers the ids anew.

    The ids that stay keep their order: `model(ids) == smaller(report.map(ids))`. Tables that read the same input, and
    inputs that read the same table, share one numbering. A `StringLookup`, `IntegerLookup` or `TextVectorization` in
    the model gets a smaller vocabulary, and its input stays as it was: words that went are unknown ones. An id that the
    model compares with a constant, as a mask does, has to keep its number: where smaller ids go, it cannot.

    Where the table is also the kernel of the logits (tied weights), an output has a channel for each id: the table
    stays whole unless that output is named in `outputs`.

    Args:
        model: a Sequential or functional model. It is not changed.
        data: samples from which the ids in use are read, in any form of `tfstruct.samples`.
        ids: instead of data: the ids in use; by name of an input where inputs have ids of different kinds, tables of
            those that are not named stay whole.
        keep: ids that stay besides, such as special tokens; or by name of an input.
        unknown: the id that stands for ids that went, which stays too; or by name of an input.
        outputs: names of outputs (`model.output_names`) that may lose the channels of ids that go.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`; its report is a `VocabularyReport`: the ids that stay, `map`, and what was saved; `save` writes it as
        JSON.

    Raises:
        ModelError: no rows can go, with the reasons.
        DataError: neither `data` nor `ids`, or ids that are no rows of the table.
        ArgumentError: a name that is no input's with ids, or ids without names where there are several kinds.

    Example:
        >>> inputs = keras.Input((3,), dtype="int32", name="ids")
        >>> x = keras.layers.Flatten()(keras.layers.Embedding(1000, 4, name="table")(inputs))
        >>> text = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> found = tfstruct.surgery.prune_vocabulary(text, ids=[7, 9, 40], unknown=1)
        >>> found.report.map([9, 40, 500]).tolist()
        [2, 3, 0]
    """
    if (data is None) == (ids is None):
        raise DataError("Expected either `data`, from which the ids in use are read, or `ids`.")
    graph = open_and_trace(model, open_layers=open_layers, resized=outputs, rows=True)
    flow = id_flow(graph)
    left: dict[str, str] = {t.path: t.obstacle or "its ids come from no input" for t in flow.tables if not t.sources}
    families = []
    for sources, tables in flow.families():
        why = next((said for said in (*(x.obstacle for x in sources), *(x.obstacle for x in tables)) if said), "")
        if not why and isinstance(ids, Mapping) and not any(source.name in ids for source in sources):
            why = f"`ids` has none of {' or '.join(source.name for source in sources)}"
        if why:
            left.update({table.path: why for table in tables})
        else:
            families.append((sources, tables))
    if not families:
        said = "".join(f" {path}: {why}." for path, why in left.items())
        if OWN_OUTPUT in left.values():
            said += f" Name outputs that may be as narrow as the vocabulary: outputs={graph.output_names}."
        if not said:
            why = next((call.opaque for call in graph.calls if call.opaque), "it has no table that ids pick from")
            said = f" {why[:1].upper()}{why[1:]}."
        raise ModelError(f"No rows of a table of `{model.name}` can go.{said}")
    names = {source.name for sources, _ in families for source in sources}
    if len(families) > 1 and ids is not None and not isinstance(ids, Mapping):
        raise ArgumentError(
            f"`{model.name}` has ids of {len(families)} kinds. Give `ids` by name of an input, of {sorted(names)}; "
            "tables of inputs that are not named stay whole."
        )
    used = _in_data(graph, flow, data, batch_size) if ids is None else _by_name(ids, names, "ids")
    besides = _by_name(keep, names, "keep")
    stands = _by_name(() if unknown is None else unknown, names, "unknown")
    stays = np.ones(graph.units.count, bool)
    kept: dict[str, tuple[int, ...]] = {}
    for sources, tables in families:
        found = _kept(sources, tables, used, besides, stands)
        kept.update({source.name: tuple(found.tolist()) for source in sources})
        for table in tables:
            gone = np.ones(len(table.rows), bool)
            gone[found] = False
            stays[graph.units.of(table.rows[gone])] = False
    words = _words_left(flow, kept)
    for call in graph.calls:
        if call.path in words and call.op.get_config().get("vocabulary") is not None:
            call.set("vocabulary", lambda _, own=words[call.path]: own)
    smaller, pairs = rebuild(graph, stays)
    layers = layer_paths(smaller)
    for path, own in words.items():
        layers[path].set_vocabulary(own)
    compile_like(smaller, graph.model)
    return Result(smaller, _report(graph, families, kept, stands, left, smaller, pairs))


def _in_data(graph: Graph, flow: IdFlow, data, batch_size: int) -> dict[str, np.ndarray]:
    """Name of a source -> the ids in it, over all samples."""
    found: dict[str, set[int]] = {source.name: set() for source in flow.sources.values()}
    lookups = any(source.lookup is not None for source in flow.sources.values())

    def note(key: int, value) -> None:
        if key in flow.sources and "str" not in keras.backend.standardize_dtype(value.dtype):
            found[flow.sources[key].name].update(np.unique(keras.ops.convert_to_numpy(value)).astype(int).tolist())

    def visit(call, outputs) -> None:
        for channels, value in zip(call.outputs, outputs, strict=True):
            note(channels.key, value)

    words = any(keras.backend.standardize_dtype(x.dtype) == "string" for x in graph.model.inputs)
    samples = None if words else samples_of(graph.model, data)
    batches = (b.inputs for b in batches_for(graph.model, samples, batch_size)) if samples else _words(graph, data)
    for batch in batches:
        tensors = [keras.ops.convert_to_tensor(x) for x in batch]
        for channels, value in zip(graph.body.inputs, tensors, strict=True):
            note(channels.key, value)
        if lookups:
            run(graph, tensors, visit)
    return {name: np.array(sorted(own), int) for name, own in found.items()}


def _words(graph: Graph, data) -> list[list]:
    """Arrays for a model that takes texts, which samples of numbers are not; one batch."""
    given = [data[x.name] for x in graph.model.inputs] if isinstance(data, Mapping) else data
    arrays = [given] if len(graph.model.inputs) == 1 and hasattr(given, "shape") else given
    if not isinstance(arrays, (list, tuple)) or len(arrays) != len(graph.model.inputs):
        raise DataError(
            f"`{graph.model.name}` takes texts: expected `data` as an array for each input, such as "
            f"np.array(['one text', 'another']). Received: {type(data).__name__}."
        )
    return [list(arrays)]


def _by_name(given, names: set[str], argument: str) -> dict[str, np.ndarray]:
    """What was given, by name of each source."""
    if isinstance(given, Mapping):
        strangers = [name for name in given if name not in names]
        if strangers:
            raise ArgumentError(f"`{argument}` names {strangers}. The inputs with ids are {sorted(names)}.")
        return {name: _whole(given.get(name, ()), argument) for name in names}
    return dict.fromkeys(names, _whole(given, argument))


def _whole(given, argument: str) -> np.ndarray:
    found = np.unique(np.asarray(given if np.ndim(given) else np.atleast_1d(given)))
    if found.size and (not np.isfinite(found).all() or (found != found.astype(int)).any()):
        raise ArgumentError(f"`{argument}` must hold whole numbers. Received: {repr(given)[:80]}.")
    return found.astype(int)


def _kept(sources: list[Source], tables: list[Table], used, keep, unknown) -> np.ndarray:
    """The ids of a family that stay, sorted."""
    size = min(len(table.rows) for table in tables)
    first = [np.arange(_specials(source.lookup)) for source in sources if source.lookup is not None]
    own = [ids for source in sources for ids in (used[source.name], keep[source.name], unknown[source.name])]
    pinned = {i: why for source in sources for i, why in source.pinned.items()}
    found = np.unique(np.concatenate([*own, *first, np.array(sorted(i for i in pinned if 0 <= i < size), int)]))
    if not found.size:
        raise DataError(f"No id of {sources[0].name} is in use.")
    if found[0] < 0 or found[-1] >= size:
        raise DataError(
            f"The ids of {sources[0].name} must be rows of {tables[0].path}, 0 to {size - 1}. Received: "
            f"{found[0] if found[0] < 0 else found[-1]}."
        )
    for i, why in pinned.items():
        place = int(np.searchsorted(found, i))
        if place != i:
            raise ModelError(
                f"The id {i} would become {place}, and {why}. Give keep=range({i + 1}), so that it keeps its number."
            )
    return found


def _specials(lookup) -> int:
    """How many ids of a lookup layer stand for no word: the mask, and unknown words."""
    words = lookup.get_vocabulary(include_special_tokens=False)
    return lookup.vocabulary_size() - len(words)


def _words_left(flow: IdFlow, kept: dict[str, tuple[int, ...]]) -> dict[str, list]:
    """Path of a lookup layer -> its smaller vocabulary."""
    found = {}
    for source in flow.sources.values():
        if source.lookup is not None and source.name in kept:
            first = _specials(source.lookup)
            words = source.lookup.get_vocabulary(include_special_tokens=False)
            found[source.name] = [_word(words[i - first]) for i in kept[source.name] if i >= first]
    return found


def _word(word):
    return word.item() if isinstance(word, np.generic) else word  # of NumPy, as `adapt` leaves them


def _report(graph, families, kept, unknown, left, smaller, pairs) -> VocabularyReport:
    rows, saved = {}, {}
    for sources, tables in families:
        for table in tables:
            before, after = len(table.rows), len(kept[sources[0].name])
            rows[table.path], saved[table.path] = (before, after), 0
            for slot in graph.slots:
                if any(np.array_equal(labels, table.rows) for _, _, labels in slot.tied()):
                    new, _ = pairs[id(slot.variable)]
                    size = np.dtype(keras.backend.standardize_dtype(slot.variable.dtype)).itemsize
                    saved[table.path] += int(np.prod(slot.variable.shape) - np.prod(new.shape)) * size
    widths = zip(graph.output_names, graph.model.outputs, smaller.outputs, strict=True)
    changed = {name: (x.shape[-1], y.shape[-1]) for name, x, y in widths if x.shape[-1] != y.shape[-1]}
    stands = {
        name: int(np.searchsorted(ids, unknown[name][0])) if unknown[name].size else None for name, ids in kept.items()
    }
    return VocabularyReport(
        graph.model.name, kept, stands, rows, saved, left, changed, opened=graph.opened, opaque=graph.opaque
    )
