"""Augmented samples as a picture."""

import numpy as np


def fill(figure, kind: str, epochs: list, value_range) -> None:
    """Fills a matplotlib figure: a row a sample, first as it is, then by epoch.

    Args:
        figure: a figure, or a part of one.
        epochs: (values, labels or None) of the same samples, the first unchanged.
    """
    samples = len(epochs[0][0])
    axes = figure.subplots(samples, len(epochs), squeeze=False)
    for column, (values, labels) in enumerate(epochs):
        for row in range(samples):
            axis = axes[row, column]
            _DRAW[kind](axis, np.asarray(values[row]), value_range)
            axis.set_xticks([])
            axis.set_yticks([])
            said = [] if labels is None else [_label(labels, row)]
            if row == 0:
                said.insert(0, "as it is" if column == 0 else f"epoch {column}")
            axis.set_title("\n".join(said), fontsize=8)


def _image(axis, image, value_range):
    low, high = value_range or (image.min(), image.max())
    shown = np.clip((image.astype("float32") - low) / max(high - low, 1e-12), 0, 1)
    axis.imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)


def _wave(axis, wave, value_range):
    axis.plot(wave, linewidth=0.7)
    if value_range is not None:
        axis.set_ylim(*value_range)


def _spectrogram(axis, values, value_range):
    values = values if values.ndim == 2 else values[..., 0]
    axis.imshow(values.T, origin="lower", aspect="auto")


def _tokens(axis, ids, value_range):
    lines = [" ".join(map(str, ids[i : i + 6])) for i in range(0, min(len(ids), 36), 6)]
    axis.text(0.02, 0.95, "\n".join(lines), va="top", family="monospace", fontsize=7)


_DRAW = {"images": _image, "waves": _wave, "spectrograms": _spectrogram, "tokens": _tokens}


def _label(labels, row: int) -> str:
    if isinstance(labels, dict | tuple):
        return ""
    label = np.asarray(labels[row])
    if label.ndim == 1 and len(label) > 1:
        return ", ".join(f"{i}: {label[i]:.2f}" for i in np.flatnonzero(label > 0.005)[:3])
    return str(label.ravel()[0]) if label.size == 1 else ""
