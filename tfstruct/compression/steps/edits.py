"""An edit of layers, and the training that makes up for it."""

from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Outcome, Work
from tfstruct.surgery.edited import Edited


def trained_after(work: Work, step: Step, made: Edited) -> Outcome:
    """The edited model, trained for the epochs of the step."""
    history = work.train(made.model, step.epochs) if step.epochs and made.changes else []
    details = {name: value for name, value in made.details.items() if name != "order"}
    return Outcome(made.model, made.changes, made.skipped, details, history)
