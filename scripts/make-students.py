#!/usr/bin/env python3
"""Writes tests/data/exported: small PyTorch modules as its exporters write them, and what training
them in PyTorch gives.

Beside NAME.onnx stands NAME.json: the loss of a batch in training mode and, of the gradient of each
parameter, its norm and its product with cos(0), cos(1), …, all in float64. Needs torch,
torchvision, onnxscript, onnx, numpy. With names as arguments it writes those alone.
"""

import copy
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

warnings.filterwarnings("ignore")
OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/exported"
BATCH, CLASSES = 4, 5
# of no use to a reader of the graph
NOISE = ("stack_trace", "namespace", "class_hierarchy")


def cnn(conv=nn.Conv2d, norm=nn.BatchNorm2d, middle=(), bias=True):
    return nn.Sequential(
        *(conv(3, 6, 3, padding=1, bias=bias), norm(6), nn.ReLU()),
        *middle,
        *(conv(6, 8, 3, stride=2, padding=1, bias=bias), norm(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    )


class Standardized(nn.Conv2d):
    """Weight standardization, as in BiT and the NFNets."""

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        rows = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, rows.reshape_as(self.weight), self.bias, self.stride, self.padding)


class Blur(nn.Module):
    def __init__(self, channels):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = (row[:, None] * row / 16)[None, None]
        self.register_buffer("filt", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.filt, padding=1, groups=x.shape[1])


class Scalars(nn.Module):
    """ReZero and a learned scale: parameters of one element."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.full((1,), 0.3))
        self.b = nn.Parameter(torch.tensor(0.5))
        self.c = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return x + self.a * F.relu(self.c(x)) * self.b


class Tokens(nn.Module):
    """Two blocks of equal start: norms of ones and zeros, biases of zero, layer scales."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(8, CLASSES)
        nn.init.zeros_(self.embed.bias)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.5))
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return x + self.gamma.reshape(1, 1, -1) * F.gelu(self.linear(self.norm(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.head = nn.Linear(8, CLASSES)
        nn.init.zeros_(self.a.bias)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        x = self.embed(x).mean((2, 3))
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 2, stride=2)
        self.register_buffer("pos", torch.sin(torch.arange(64.0 * 16)).reshape(1, 64, 16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.pos
        return self.head(F.relu(x).mean(1))


class Dense(nn.Module):
    """A norm that follows a convolution beside one that does not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.a = nn.BatchNorm2d(6)
        self.b = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = F.relu(self.a(self.conv(x)))
        return self.head(F.relu(self.b(x)).mean((2, 3)))


class Parts(nn.Module):
    """Splits, which torch.export writes as sequences."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.conv(x)
        a, b, c = x.split([1, 4, 4], 1)
        d, e = b.chunk(2, 1)
        x = F.relu(a * c) + torch.cat([e, d], 1)
        return self.head(x.mean((2, 3)))


class Vectors(nn.Module):
    """A norm that is folded into a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.linear = nn.Linear(6, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.head(F.relu(self.norm(self.linear(x))))


class Twice(nn.Module):
    """One layer with a bias of zero at two places, one of tokens and one of vectors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.again = nn.Conv2d(8, 8, 1)
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        nn.init.zeros_(self.again.bias)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        x = self.again(F.relu(self.again(self.conv(x))))
        x = self.linear(x.flatten(2).transpose(1, 2))
        return self.head(F.relu(self.linear(F.relu(x).mean(1))))


class View(nn.Module):
    """A batch that a trace writes into a Reshape."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv(x))
        return self.head(x.reshape(x.shape[0], -1))


def trained(model):
    """Running statistics and norms as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model


def part_frozen(model):
    """The first norm keeps its statistics."""
    model.train()[1].eval()
    return model


CASES = {
    "standardized": (lambda: cnn(conv=Standardized), "torchscript"),
    "blur": (lambda: cnn(middle=(Blur(6),)), "torchscript"),
    "scalars": (lambda: cnn(middle=(Scalars(),)), "torchscript"),
    "frozen_norms": (lambda: cnn(norm=FrozenBatchNorm2d), "torchscript"),
    "part_frozen": (lambda: part_frozen(cnn()), "torchscript"),
    "positions": (Positions, "torchscript"),
    "tied": (Tied, "torchscript"),
    "baked": (View, "torchscript static"),
    "tokens_dynamo": (Tokens, "dynamo"),
    "tokens_whole": (Tokens, "dynamo whole"),
    "tied_dynamo": (Tied, "dynamo"),
    "group_norm_dynamo": (lambda: cnn(norm=lambda c: nn.GroupNorm(2, c)), "dynamo"),
    "group_norm_whole": (lambda: cnn(norm=lambda c: nn.GroupNorm(2, c)), "dynamo whole 21"),
    "vectors_dynamo": (Vectors, "dynamo"),
    "twice_dynamo": (Twice, "dynamo"),
    "blur_dynamo": (lambda: cnn(middle=(Blur(6),), norm=lambda c: nn.GroupNorm(2, c)), "dynamo"),
    "scalars_dynamo": (lambda: cnn(middle=(Scalars(),)), "dynamo"),
    "parts_whole": (Parts, "dynamo whole"),
    "norms_folded": (lambda: cnn(bias=False), "dynamo"),
    "norms_folded_biased": (cnn, "dynamo"),
    "norms_folded_in_part": (Dense, "dynamo"),
    "norms_whole": (cnn, "dynamo whole"),
    "norms_trained": (lambda: trained(cnn(bias=False)), "dynamo"),
    "baked_dynamo": (View, "dynamo static"),
    "sigmoid": (lambda: nn.Sequential(cnn(), nn.Sigmoid()), "torchscript"),
    "half": (lambda: cnn().half(), "torchscript"),
}
# of these the file alone is of use
ALONE = ("sigmoid", "half")


def export(model, how, path):
    x = torch.randn(2, 3, 16, 16, dtype=next(model.parameters()).dtype)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    is_open = "static" not in how
    if how.startswith("dynamo"):
        if is_open:
            names["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
        whole = {"external_data": False, "verbose": False, "optimize": "whole" not in how}
        if "21" in how:
            # from here on a group norm is an operator
            whole["opset_version"] = 21
        torch.onnx.export(model, (x,), path, dynamo=True, **names, **whole)
    else:
        if is_open:
            names["dynamic_axes"] = {"input": {0: "batch"}, "logits": {0: "batch"}}
        mode = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(
            model, x, path, dynamo=False, training=mode, do_constant_folding=False, **names
        )
    graph = onnx.load(path)
    for part in [*graph.graph.node, *graph.graph.value_info]:
        kept = [entry for entry in part.metadata_props if not entry.key.endswith(NOISE)]
        del part.metadata_props[:]
        part.metadata_props.extend(kept)
    graph.doc_string = ""
    onnx.save(graph, path)


def expected(model):
    x = torch.sin(0.7 * torch.arange(BATCH * 3 * 16 * 16, dtype=torch.float64))
    model = copy.deepcopy(model).double()
    logits = model(x.reshape(BATCH, 3, 16, 16))
    loss = F.cross_entropy(logits, torch.arange(BATCH) % CLASSES)
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        flat = parameter.grad.numpy().ravel()
        product = float(flat @ np.cos(np.arange(flat.size)))
        gradients[name] = [float(np.linalg.norm(flat)), product]
    return {"loss": loss.item(), "gradients": gradients}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (build, how) in CASES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        torch.manual_seed(0)
        model = build()
        if name != "part_frozen":
            model.train()
        export(copy.deepcopy(model), how, str(OUT / f"{name}.onnx"))
        print(name, (OUT / f"{name}.onnx").stat().st_size)
        if name in ALONE:
            continue
        values = expected(model)
        if name == "tied_dynamo":
            # torch.export names tied weights by their last module
            values["gradients"]["b.weight"] = values["gradients"].pop("a.weight")
        (OUT / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
