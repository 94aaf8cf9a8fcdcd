"""Channels as labels: which channels must stay or go together, recorded while tracing and resolved at once.

A label is an integer. Labels are united, multiplied (the channel `(head, width)` of merged axes goes when its head or
its width goes), frozen, marked or bound into blocks; `resolve` then says which units can be removed independently.
"""

import dataclasses

import numpy as np

FIXED = 0  # the label of whatever never goes


def _components(size: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest label united with each label: hooking larger roots to smaller ones, with pointer jumping."""
    root = np.arange(size)
    if not pairs:
        return root
    a = np.concatenate([p[0] for p in pairs])
    b = np.concatenate([p[1] for p in pairs])
    while True:
        ra, rb = root[a], root[b]
        differ = ra != rb
        if not differ.any():
            return root
        a, b, ra, rb = a[differ], b[differ], ra[differ], rb[differ]
        np.minimum.at(root, np.maximum(ra, rb), np.minimum(ra, rb))
        while True:
            jumped = root[root]
            if np.array_equal(jumped, root):
                break
            root = jumped


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Equal numbers of these labels have to stay in each of `count` consecutive blocks."""

    labels: np.ndarray
    count: int
    path: str


@dataclasses.dataclass(frozen=True)
class Units:
    """What can go: unit 0 never goes; a label stays while all units in its row of `parts` stay.

    Attributes:
        parts: shape (labels, k): the units behind each label, padded with 0.
        frozen: unit -> reason, for those that have to stay.
        lossy: unit -> reason, for those whose removal changes statistics taken over channels.
        blocks: the block constraints, by unit: shape (count, units in a block) each.
        bundle: unit -> number of the group it belongs to; -1 for unit 0.
        averages: (labels, reason) of statistics over channels that stay what they are while all of these labels have
            equally many copies.
        sums: (labels, reason) of sums over channels in which a copy would count twice.
    """

    count: int
    parts: np.ndarray
    frozen: dict[int, str]
    lossy: dict[int, str]
    blocks: tuple[np.ndarray, ...]
    bundle: np.ndarray
    averages: tuple[tuple[np.ndarray, str], ...] = ()
    sums: tuple[tuple[np.ndarray, str], ...] = ()

    def of(self, labels: np.ndarray) -> np.ndarray:
        """All units behind these labels, sorted, without unit 0."""
        found = np.unique(self.parts[labels])
        return found[found != 0]

    def kept(self, keep: np.ndarray) -> np.ndarray:
        """By label, whether it stays; `keep` is by unit."""
        return keep[self.parts].all(axis=1)


class Labels:
    """The record of one trace."""

    def __init__(self, rows: bool = False):
        self.rows = rows  # whether the rows of tables that ids are looked up in count as channels
        self._size = 1
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._products: dict[tuple[int, int], int] = {}
        self._frozen: list[tuple[np.ndarray, str]] = []
        self._lossy: list[tuple[np.ndarray, str]] = []
        self._sums: list[tuple[np.ndarray, str]] = []
        self._blocks: list[Blocks] = []
        self._bundles: list[np.ndarray] = []

    def fresh(self, count: int) -> np.ndarray:
        """Labels of channels that an operation makes: one group, unless something ties them to another."""
        labels = np.arange(self._size, self._size + count)
        self._size += count
        self._bundles.append(labels)
        return labels

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """The i-th channel of `a` and the i-th of `b` go together."""
        if a is b:
            return
        a, b = np.ravel(a), np.ravel(b)
        fixed = (a == FIXED) | (b == FIXED)
        if fixed.any():
            held = np.maximum(a, b)[fixed]
            self.freeze(held[held != FIXED], "joined with channels that always stay, such as a model's input")
            a, b = a[~fixed], b[~fixed]
        self._pairs.append((a, b))

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Labels of channels that go when either factor goes; arrays of one shape, or that broadcast."""
        a, b = np.broadcast_arrays(a, b)
        made = np.empty(a.size, int)
        for i, pair in enumerate(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)):
            if FIXED in pair:
                made[i] = max(pair)
                continue
            if pair not in self._products:
                self._products[pair] = self._size
                self._size += 1
            made[i] = self._products[pair]
        return made.reshape(a.shape)

    def factors(self, block: np.ndarray, axis: int) -> np.ndarray | None:
        """The labels along `axis` that `block` is a product with; None unless it was made of products that way."""
        pairs = {product: pair for pair, product in self._products.items()}
        rows = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)
        found = []
        for row in rows.tolist():
            parts = [set(self._leaf_labels(label, pairs)) for label in row]
            found.append(set.intersection(*parts))
        common = set.intersection(*found) if len(found) > 1 else set()
        own = [parts - common for parts in found]
        if any(len(parts) != 1 for parts in own):
            return None
        return np.array([next(iter(parts)) for parts in own])

    def _leaf_labels(self, label: int, pairs: dict[int, tuple[int, int]]) -> list[int]:
        if label not in pairs:
            return [label]
        return [leaf for part in pairs[label] for leaf in self._leaf_labels(part, pairs)]

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        self._frozen.append((np.ravel(labels), reason))

    def lossy(self, labels: np.ndarray, reason: str) -> None:
        self._lossy.append((np.ravel(labels), reason))

    def sums(self, labels: np.ndarray, reason: str) -> None:
        self._sums.append((np.ravel(labels), reason))

    def blocks(self, labels: np.ndarray, count: int, path: str) -> None:
        if count > 1:
            self._blocks.append(Blocks(np.asarray(labels), count, path))

    def resolve(self) -> Units:
        root, made_of = self._factors()
        plain = np.unique(root)
        plain = plain[[r != FIXED and r not in made_of for r in plain.tolist()]]
        unit_of = np.zeros(self._size, int)
        unit_of[plain] = np.arange(1, len(plain) + 1)
        width = max((len(parts) for parts in made_of.values()), default=1)
        by_root = np.zeros((self._size, width), int)
        by_root[:, 0] = unit_of
        for r, parts in made_of.items():
            by_root[r] = 0
            by_root[r, : len(parts)] = unit_of[sorted(parts)]
        parts = by_root[root]
        count = len(plain) + 1

        def by_unit(noted):
            reasons: dict[int, str] = {}
            for labels, reason in noted:
                for unit in np.unique(parts[labels]).tolist():
                    if unit:
                        reasons.setdefault(unit, reason)
            return reasons

        blocks = []
        for block in self._blocks:
            units = parts[block.labels][:, 0].reshape(block.count, -1)
            if units.all() and len(np.unique(units)) == units.size:
                blocks.append(units)
            # Otherwise `_factors` has tied equal places of the blocks together, which needs no constraint.
        ties = []
        for group in [parts[labels] for labels in self._bundles if len(labels)] + [u.reshape(-1, 1) for u in blocks]:
            if not group[:, 1:].any() and group[:, 0].all():
                ties.append((group[:1, 0].repeat(len(group)), group[:, 0]))
        bundle = _components(count, ties)
        bundle[0] = -1
        return Units(
            count,
            parts,
            by_unit(self._frozen),
            by_unit(self._lossy),
            tuple(blocks),
            bundle,
            tuple(self._lossy),
            tuple(self._sums),
        )

    def _factors(self) -> tuple[np.ndarray, dict[int, frozenset[int]]]:
        """Roots, and for the roots that are products, the roots they are made of."""
        pairs = list(self._pairs)
        while True:
            root = _components(self._size, pairs)
            made_of: dict[int, set[frozenset[int]]] = {}
            for (a, b), product in self._products.items():
                made_of.setdefault(int(root[product]), set()).add(frozenset((int(root[a]), int(root[b]))))
            ties: list[tuple[int, int]] = []
            flat: dict[int, frozenset[int]] = {}
            for r, ways in made_of.items():
                # Made in two ways, or of itself: only all together.
                sets = {self._leaves(way, made_of, frozenset({r})) for way in ways}
                if len(sets) == 1 and None not in sets:
                    flat[r] = next(iter(sets))
                    continue
                everything = set().union(*ways)
                ties += [(r, part) for part in everything if part != r]
            for block in self._blocks:
                places = root[block.labels].reshape(block.count, -1)
                repeated = len(np.unique(places)) != places.size
                if repeated or any(p in made_of or p == FIXED for p in places.ravel().tolist()):
                    for row in places[1:]:
                        ties += [(x, y) for x, y in zip(places[0].tolist(), row.tolist(), strict=True) if x != y]
            if not ties:
                return root, flat
            a, b = np.array(ties).T
            pairs.append((a, b))

    def _leaves(self, way, made_of, above):
        leaves: set[int] = set()
        for part in way:
            if part in above:
                return None
            if part in made_of:
                for inner in made_of[part]:
                    found = self._leaves(inner, made_of, above | {part})
                    if found is None:
                        return None
                    leaves |= found
            else:
                leaves.add(part)
        return frozenset(leaves)
