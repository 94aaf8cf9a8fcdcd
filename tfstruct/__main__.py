"""`python -m tfstruct`: the command `tfstruct`."""

from tfstruct.cli.commands import run

if __name__ == "__main__":
    run()
