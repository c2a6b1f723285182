#!/usr/bin/env python3
"""Exports any timm model as a student that nst-cache trains, and checks one step of it against
PyTorch.

    export_timm.py mobilenetv3_small_100 --classes 10 --size 64 -o student.onnx
    export_timm.py resnet18 --pretrained -o student.onnx --exporter torchscript
    export_timm.py efficientnet_b0 --classes 10 --size 64 -o student.onnx --check

`--check` trains the file for one step of SGD with `nst-cache train` (on the PATH, or NST) and with
PyTorch in float64, on the same random batch, and prints the relative error of the update beside
PyTorch's own in float32. Needs torch, timm, onnx, onnxscript; the check numpy.
"""

import argparse
import copy
import os
import pathlib
import subprocess
import sys
import tempfile

import timm
import torch

EXPORTERS = ["dynamo", "torchscript"]
RECIPE = """epochs = 1
batch = {batch}
precision = "strict"
[optimizer]
kind = "sgd"
lr = 1.0
momentum = 0.0
nesterov = false
weight-decay = 0.0
[schedule]
kind = "constant"
"""


def export(model, path, size, exporter="dynamo", optimize=False):
    """Writes a model in training form: batch norms are kept, every parameter is a tensor of its
    own, and the batch is open. `optimize` is what PyTorch does by default, and folds batch norms.
    """
    # batch norms of an exporter that runs the model change with what it is fed
    model = copy.deepcopy(model).train()
    x = torch.randn(2, 3, size, size)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    if exporter == "torchscript":
        torch.onnx.export(
            model,
            x,
            path,
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            **names,
        )
    else:
        torch.onnx.export(
            model,
            (x,),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
            optimize=optimize,
            **names,
        )


def step(model, x, y, dtype):
    """The model after one step of SGD with learning rate 1."""
    model = copy.deepcopy(model).to(dtype).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    torch.nn.functional.cross_entropy(model(x.to(dtype)), y).backward()
    optimizer.step()
    return model


def check(model, path, size, classes, batch=16):
    """The relative error of nst-cache's update and of PyTorch's own in float32, and the parameters
    that are not in nst-cache's file.
    """
    import numpy
    import onnx
    from onnx import numpy_helper

    # a file written in training form has run once
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, value in model.named_buffers():
        if name in held and held[name].shape == tuple(value.shape):
            value.copy_(torch.tensor(held[name].copy()))
    random = numpy.random.default_rng(1)
    x = random.standard_normal((batch, 3, size, size)).astype(numpy.float32)
    y = random.integers(0, classes, batch)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        numpy.savez(folder / "batch.npz", input=x, labels=y)
        (folder / "step.toml").write_text(RECIPE.format(batch=batch))
        command = [os.environ.get("NST", "nst-cache"), "train", path, "--quiet"]
        command += ["--data", f"npz:{folder}/batch.npz", "--recipe", folder / "step.toml"]
        subprocess.run([*map(str, command), "-o", str(folder / "run")], check=True)
        trained = onnx.load(folder / "run" / "student.onnx").graph.initializer
        ours = {t.name: numpy_helper.to_array(t) for t in trained}
    x, y = torch.tensor(x), torch.tensor(y)
    exact, single = step(model, x, y, torch.float64), step(model, x, y, torch.float32)
    before = model.state_dict()
    sums, missing = numpy.zeros(3), []
    for name, value in exact.named_parameters():
        target = value.detach().numpy()
        if name not in ours:
            missing.append(name)
            continue
        error = ours[name].astype(numpy.float64).reshape(target.shape) - target
        own = single.get_parameter(name).detach().double().numpy() - target
        moved = target - before[name].double().numpy()
        sums += [(part**2).sum() for part in (error, own, moved)]
    update, own = numpy.sqrt(sums[:2] / sums[2])
    return update, own, missing


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a name of timm.list_models()")
    parser.add_argument("-o", "--output", default="student.onnx")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--exporter", choices=EXPORTERS, default="dynamo")
    parser.add_argument("--pretrained", action="store_true", help="with timm's weights")
    parser.add_argument("--check", action="store_true", help="compare one step with PyTorch")
    a = parser.parse_args()
    torch.manual_seed(0)
    # what is random has no step to compare
    options = {"drop_rate": 0.0} if a.check else {}
    model = timm.create_model(a.model, pretrained=a.pretrained, num_classes=a.classes, **options)
    export(model, a.output, a.size, a.exporter)
    count = sum(p.numel() for p in model.parameters())
    print(f"{a.output}: {a.model}, {count:,} parameters, {a.classes} classes, {a.size}x{a.size}")
    if a.check:
        update, own, missing = check(model, a.output, a.size, a.classes)
        print(f"one step: {update:.1e} from PyTorch's in float64, PyTorch in float32 {own:.1e}")
        if missing or not update < max(3e-5, 4 * own):
            sys.exit(f"the step is not PyTorch's (parameters that are missing: {missing})")


if __name__ == "__main__":
    main()
