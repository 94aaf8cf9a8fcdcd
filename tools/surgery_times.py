"""What surgery costs against a copy of the model, and against Torch-Pruning where torch is installed."""

import keras
from interleaved import Table, medians
from networks import clone, encoder, vit

import tfstruct
from tfstruct.surgery import optimize_inference

MODELS = {
    "MobileNetV2": lambda: keras.applications.MobileNetV2(weights=None),
    "ResNet50": lambda: keras.applications.ResNet50(weights=None),
    "ViT-B": vit,
    "BERT-base": encoder,
}
QUICK = ("MobileNetV2", "BERT-base")
PEER = "clone_model and weights"


def surgery(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """Half of the MACs planned and applied; nothing to shrink; all exact edits. CPU seconds, and ratios to the peer."""
    rounds = 1 if quick else rounds
    table = Table("surgery", f"CPU seconds, medians of {rounds} interleaved rounds", {"rounds": rounds}, folder)
    for name in QUICK if quick else MODELS:
        table.row(name, lambda name=name: _row(name, rounds))
        keras.backend.clear_session()
    table.show()


def _row(name: str, rounds: int) -> dict:
    model = MODELS[name]()
    works = {
        PEER: lambda: clone(model),
        "plan and apply": lambda: tfstruct.apply(model, tfstruct.plan_channels(model, {"macs": 0.5})),
        "shrink": lambda: tfstruct.shrink(model),
        "optimize_inference": lambda: optimize_inference(model),
    }
    torch = _torch_pruning(name)
    if torch is not None:
        works["Torch-Pruning"] = torch
    found = medians(works, rounds)
    ours = [work for work in works if work not in (PEER, "Torch-Pruning")]
    ratios = {f"{x} / clone": found[x] / found[PEER] for x in ours}
    if torch is not None:
        ratios["plan and apply / Torch-Pruning"] = found["plan and apply"] / found["Torch-Pruning"]
    return {"parameters": model.count_params(), **found, **ratios}


def _torch_pruning(name: str):
    """The same network pruned to about half of its MACs by Torch-Pruning; None where it, or torch, is missing."""
    build = {"MobileNetV2": "mobilenet_v2", "ResNet50": "resnet50", "ViT-B": "vit_b_16"}.get(name)
    try:
        import torch
        import torch_pruning
        import torchvision
    except ImportError:
        return None
    if build is None:
        return None

    def pruned():
        model = torchvision.models.get_model(build, weights=None).eval()
        heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000]
        torch_pruning.pruner.MagnitudePruner(
            model, torch.randn(1, 3, 224, 224), torch_pruning.importance.MagnitudeImportance(p=2), pruning_ratio=0.3,
            ignored_layers=heads,
        ).step()  # fmt: skip

    return pruned
