"""A script for a Python with litert-torch: the digits' network in PyTorch, with weights from Keras, as a float file.

`python torch_digits.py WEIGHTS.npz OUT.tflite first|last`: the axis of the channels in what goes in.
"""

import sys

import litert_torch
import numpy as np
import torch
from torch import nn


class Digits(nn.Module):
    """`tfstruct.demo.train`'s, written as one does in PyTorch: channels first."""

    def __init__(self, weights):
        super().__init__()
        sizes = [(1, 16, 1), (16, 32, 2), (32, 32, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=stride, bias=False) for a, b, stride in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b, eps=1e-3) for _, b, _ in sizes)
        self.classes = nn.Linear(32, 10)
        with torch.no_grad():
            for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
                conv.weight.copy_(torch.tensor(weights[f"conv{i}"].transpose(3, 2, 0, 1)))
                scale, shift, mean, variance = (torch.tensor(row) for row in weights[f"norm{i}"])
                norm.weight.copy_(scale)
                norm.bias.copy_(shift)
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
            self.classes.weight.copy_(torch.tensor(weights["kernel"].T))
            self.classes.bias.copy_(torch.tensor(weights["bias"]))

    def forward(self, x):
        x = x / 16
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # Keras pads by what is missing: of a stride of 2 on an even size, below and at the right alone.
            before = 0 if conv.stride[0] == 2 else 1
            x = torch.relu(norm(conv(nn.functional.pad(x, (before, 1, before, 1)))))
        return torch.softmax(self.classes(x.mean((2, 3))), -1)


def main(weights: str, target: str, channels: str) -> None:
    with np.load(weights) as data:
        net = Digits(dict(data)).eval()
    example = torch.zeros(1, 1, 8, 8)
    if channels == "last":
        net, example = litert_torch.to_channel_last_io(net, args=[0]), torch.zeros(1, 8, 8, 1)
    litert_torch.convert(net, (example,)).export(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
