"""Trains a model after an edit of its layers."""

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Step
from tfstruct.reporting import Result


def trained_after(context: StepContext, step: Step, made: Result) -> Outcome:
    """The edited model, trained for the epochs of the step; without any, its batch norms are recalibrated."""
    history = []
    if made.changes and step.epochs:
        history = context.train(made.model, step.epochs)
    elif made.changes and not made.exact:
        context.recalibrate(made.model)
    details = {name: value for name, value in made.details.items() if name != "order"}
    return Outcome(made.model, made.changes, made.skipped, details, history)
