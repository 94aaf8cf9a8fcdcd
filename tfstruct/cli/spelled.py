"""Values as people write them: `1/255`, `83%`, `INT8`."""

import argparse
import math

from tfstruct import budgets
from tfstruct.errors import BudgetError
from tfstruct.precisions import named


def number(text: str) -> float:
    """A number, or a fraction such as `1/255`."""
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.5 or 1/255. Received: {text!r}") from None


def share(text: str) -> float:
    """A share: `0.83` or `83%`."""
    if "%" not in text:
        return number(text)
    try:
        return budgets.number("share", text)
    except BudgetError:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.83 or 83%. Received: {text!r}") from None


def count(text: str) -> int:
    """A positive whole number."""
    try:
        found = float(text.replace("_", ""))
    except ValueError:
        found = math.nan
    if not (found >= 1 and found == int(found)):
        raise argparse.ArgumentTypeError(f"expected a positive whole number. Received: {text!r}")
    return int(found)


def precision(text: str) -> str:
    """The name of a precision, however it is written; other texts as they are, for the list of choices."""
    return named(text) or text
