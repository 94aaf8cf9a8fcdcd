"""The errors tfstruct raises on purpose. Each message says what was expected, what came, and what to do."""

from tfstruct.markup import visible


class TfstructError(Exception):
    """Base of all errors raised by tfstruct on purpose.

    Its text can hold names and values of files from elsewhere: what cannot be seen in them is written out.
    """

    def __str__(self) -> str:
        return "\n".join(map(visible, super().__str__().split("\n")))


class ArgumentError(TfstructError, ValueError):
    """An argument out of range, of an unknown name, or that contradicts another."""


class ArgumentTypeError(TfstructError, TypeError):
    """An argument of a type that is not taken."""


class ModelError(TfstructError, ValueError):
    """A model that cannot be read or taken: missing, damaged, unsafe or of an unsupported kind."""


class DataError(TfstructError, ValueError):
    """Samples or labels that do not fit the model: shape, dtype, range, number, or a damaged file."""


class RecipeError(TfstructError, ValueError):
    """A recipe that contradicts itself or the model it is used on."""


class MissingPackageError(TfstructError, ImportError):
    """A package that only some calls need is not installed; the message says how to install it."""


class ConversionError(TfstructError, RuntimeError):
    """The conversion failed: an operator, a crash, a time-out, or operators left in float.

    Attributes:
        layers: names of the Keras layers the failure came from; empty where it is unknown.
    """

    def __init__(self, message: str, layers: tuple[str, ...] = ()):
        super().__init__(message)
        self.layers = tuple(layers)


class VerificationError(TfstructError, RuntimeError):
    """The file was converted, but agrees less with the Keras model than the recipe asks.

    Attributes:
        model: the `TFLiteModel` that fell short, with its report.
    """

    def __init__(self, message: str, model=None):
        super().__init__(message)
        self.model = model


class PlanError(TfstructError, ValueError):
    """A plan that does not fit the model: made for another one, an unknown layer, or channels that contradict."""


class BudgetError(TfstructError, ValueError):
    """A budget that cannot be read, or that no plan within the given limits meets.

    Attributes:
        least: the least that is reachable, by figure; empty where the budget could not be read.
        best: what `compress` found that comes nearest, a `Compressed`; None elsewhere.
    """

    def __init__(self, message: str, least: dict[str, float] | None = None, best=None):
        super().__init__(message)
        self.least = dict(least or {})
        self.best = best


class EmptyPlanError(PlanError, BudgetError):
    """A plan that removes nothing: the model meets the budget as it is, or nothing can go; the message says why."""


def one_line(error: BaseException, most: int = 200) -> str:
    """What an exception of others says, in one line of at most so many characters; its kind where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an exception of others says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()
