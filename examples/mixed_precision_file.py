"""One model, several recipes: what is shared is done once, and each layer can have a precision of its own.

python examples/mixed_precision_file.py
"""

from rich.console import Console

from tfstruct import Recipe, demo
from tfstruct.convert import Converter
from tfstruct.convert.report import comparison


def main(epochs: int = 12) -> None:
    (x, y), test = demo.digits()
    model = demo.train(x, y, epochs)
    int8 = Recipe(precision="int8", calibration=x, calibrator="percentile", verification=test)
    recipes = {
        "int8": int8,
        "int4 weights": int8.replace(precision="int4"),
        "int4, first layer int8": int8.replace(precision="int4", layers={"conv1": "int8"}),
        "int8, head in float": int8.replace(layers={"classes": "float32"}),
    }
    console = Console()
    with Converter(model) as converter:
        for name, recipe in recipes.items():
            report = converter.convert(recipe).report
            console.print(f"\n[bold]{name}[/bold]")
            console.print(comparison([report]))
            kept = {op.layers[0]: op.weights for op in report.operators if op.weights}
            console.print(f"weights by layer: {kept}", highlight=False)
    # A recipe is plain data: keep it beside the file it made. Data in memory has no JSON, a path has.
    print(int8.replace(calibration="train.npz", verification="test.npz").to_json())


if __name__ == "__main__":
    main()
