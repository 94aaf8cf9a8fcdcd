"""How the command ends."""

import sys

FINE, BELOW, BAD_INPUT = 0, 1, 2


def fail(message: str, status: int = BAD_INPUT) -> int:
    print(f"tfstruct-convert: {' '.join(message.split())}", file=sys.stderr)
    return status
