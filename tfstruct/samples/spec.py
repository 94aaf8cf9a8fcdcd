"""What goes into a model and what comes out: names, shapes and dtypes, the batch axis left out."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the Keras name.
        shape: the shape of one sample, without the batch axis; None is a dimension left open.
        dtype: a NumPy dtype name such as `"float32"`.
        other_names: what else the input is called; those at one place belong together over a model's inputs.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    other_names: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def accepts(self, shape: tuple[int | None, ...]) -> bool:
        """True if one sample of `shape` fits; an open size fits an open one."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name} ({dims}) {self.dtype}"
