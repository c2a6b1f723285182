#!/usr/bin/env python3
"""One step of `nst-cache train` beside PyTorch's, for networks of timm and torchvision and for each
of PyTorch's exporters: the table of docs/models.md.

    check-students.py                        every network of students.txt, every exporter
    check-students.py efficientnet_b0 --exporters dynamo

A network is exported with random weights (seed 0), trained for one step of SGD on one batch of
random images (`--precision strict`, learning rate 1), and compared with the same step of PyTorch in
float64: the parameters by name and number, the relative error of the update beside PyTorch's own in
float32, and the logits of the exported student in ONNX Runtime; where that is off, of up to three
batches. students.txt names behind a network the exporters that fail or whose file is refused, which
has to be before the first step. Exits with 1 where a row is wrong. Exports are kept in the work
folder. Needs torch, torchvision, timm, onnxscript, onnx, onnxruntime, numpy.
"""

import argparse
import contextlib
import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import timm
import torch
import torch.nn.functional as F
import torchvision
from onnx import numpy_helper
from torch import nn

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
from export_timm import RECIPE, export  # noqa: E402: what people copy is what is tested

CLASSES = 10
BATCHES = 3
EXPORTERS = ["torchscript", "dynamo", "dynamo-whole"]
# where 64 pixels are too few for the network or its exporter
SIZES = {
    "tv:alexnet": 224,
    "tv:vgg11_bn": 224,
    "tv:maxvit_t": 224,
    "crossvit_tiny_240": 240,
    "halonet26t": 256,
}


def build(name, size):
    torch.manual_seed(0)
    if name.startswith("tv:"):
        options = {"weights": None, "num_classes": CLASSES}
        if "googlenet" in name or "inception_v3" in name:
            options |= {"aux_logits": False, "init_weights": True}
        if any(kind in name for kind in ("efficientnet", "convnext", "swin")):
            options["stochastic_depth_prob"] = 0.0
        if name.startswith("tv:vit"):
            options["image_size"] = size
        if name.startswith("tv:maxvit"):
            options["input_size"] = (size, size)
        return torchvision.models.get_model(name[3:], **options)
    for options in ({"img_size": size}, {}):
        for drop in ({"drop_path_rate": 0.0}, {}):
            try:
                torch.manual_seed(0)
                return timm.create_model(
                    name, pretrained=False, num_classes=CLASSES, **options, **drop
                )
            except (TypeError, ValueError, AssertionError):
                pass
    raise ValueError("timm does not build it")


def without_dropout(model):
    """What is random has no step to compare."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        for name in ("attn_drop", "drop_rate", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def batch(size, seed):
    count = 16 if size <= 64 else 4
    random = np.random.default_rng(seed)
    low = torch.tensor(random.standard_normal((count, 3, 8, 8)).astype(np.float32))
    smooth = F.interpolate(low, size=(size, size), mode="bicubic").numpy()
    noise = random.standard_normal((count, 3, size, size))
    return (smooth + 0.3 * noise).astype(np.float32), random.integers(0, CLASSES, count)


def step(model, x, y, dtype):
    model = copy.deepcopy(model).to(dtype).train()
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=1.0)
    logits = model(torch.tensor(x).to(dtype))
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    F.cross_entropy(logits, torch.tensor(y)).backward()
    optimizer.step()
    return model


def evaluated(model, x, dtype):
    with torch.no_grad():
        logits = model.eval()(torch.tensor(x).to(dtype))
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    return logits.double().numpy()


def program(*arguments):
    binary = os.environ.get("NST", "nst-cache")
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)


def reason(text):
    lines = [line for line in text.strip().splitlines() if line.startswith("error")]
    return (lines or text.strip().splitlines() or ["?"])[0].removeprefix("error: ")


def check(name, exporter, work):
    """The cells of a row, and whether it is right."""
    size = SIZES.get(name, 64)
    model = without_dropout(build(name, size))
    path = work / f"{name.replace(':', '_')}.{exporter}.onnx"
    if not path.exists():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                kind, optimize = exporter.removesuffix("-whole"), exporter == "dynamo"
                export(model, str(path), size, kind, optimize)
        except Exception as error:  # noqa: BLE001: exporters fail in every way
            text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
            return [f"not exported: {type(error).__name__} {text[0][:90] if text else ''}"], True
    # an export in training mode has run once
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for key, value in model.named_buffers():
        if key in held and held[key].shape == tuple(value.shape):
            value.copy_(torch.tensor(held[key].copy()))
    # rounding moves an activation over the edge of a ReLU now and then; a mistake shows every time
    for seed in range(1, BATCHES + 1):
        cells, right = compare(model, path, work, batch(size, seed))
        if right or len(cells) == 1:
            break
    return cells, right


def compare(model, path, work, samples):
    """The cells of a row for one batch, and whether it is right."""
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    count = sum(p.numel() for p in parameters.values())
    x, y = samples
    np.savez(work / "batch.npz", input=x, labels=y)
    (work / "step.toml").write_text(RECIPE.format(batch=len(x)))
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    data = f"npz:{work / 'batch.npz'}"
    recipe = work / "step.toml"
    result = program("train", path, "--data", data, "--recipe", recipe, "-o", run)
    if result.returncode == 2 and not run.exists():
        return [f"refused: {reason(result.stderr)}"], True
    if result.returncode:
        return [f"fails: {reason(result.stderr)}"], False
    count_found = json.loads(program("--json", "inspect", path).stdout)["trainable_parameters"]
    trained = onnx.load(run / "student.onnx")
    ours = {t.name: numpy_helper.to_array(t) for t in trained.graph.initializer}
    exact, single = step(model, x, y, torch.float64), step(model, x, y, torch.float32)
    before = model.state_dict()
    sums = np.zeros(3)
    absent = 0
    for key, value in exact.named_parameters():
        target, start = value.detach().numpy(), before[key].double().numpy()
        if key not in ours or ours[key].size != target.size:
            absent += value.requires_grad
            continue
        error = ours[key].astype(np.float64).reshape(target.shape) - target
        theirs = single.get_parameter(key).detach().double().numpy() - target
        sums += [(e**2).sum() for e in (error, theirs, target - start)]
    update, own = np.sqrt(sums[:2] / sums[2])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(run / "student.onnx", options)
    logits = session.run(None, {session.get_inputs()[0].name: x})[0]
    reference, theirs = evaluated(exact, x, torch.float64), evaluated(single, x, torch.float32)
    scale = max(1.0, np.abs(reference).max())
    off, own_off = (np.abs(found - reference).max() / scale for found in (logits, theirs))
    # folded weights are single: their batch norms come back to the last digits of those
    folded = "batch norms folded" in result.stderr
    bound = max(1e-3 if folded else 3e-5, 4 * own)
    same = count_found == count and not absent
    cells = [f"{count:,}", "=" if same else f"{count_found:,}, {absent} absent"]
    right = same and update < bound
    if np.isfinite(theirs).all():
        right = right and off < max(1e-3, 4 * own_off)
        return [*cells, f"{update:.1e}", f"{own:.1e}", f"{off:.1e}"], right
    # a step of rate 1 is too large for float32
    return [*cells, f"{update:.1e}", f"{own:.1e}", "PyTorch's are no numbers"], right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--exporters", default=",".join(EXPORTERS))
    parser.add_argument("--work", type=pathlib.Path, default=HERE.parent / "target/students")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    listed = [line.split() for line in (HERE / "students.txt").read_text().splitlines()]
    # what is known not to train, and why not is printed
    refused = {(name, exporter) for name, *others in listed for exporter in others}
    networks = arguments.networks or [name for name, *_ in listed]
    print("| network | exporter | parameters | trained | update | PyTorch f32 | logits |")
    print("|---|---|---|---|---|---|---|")
    wrong = 0
    for network in networks:
        for exporter in arguments.exporters.split(","):
            try:
                cells, right = check(network, exporter, arguments.work)
            except Exception as error:  # noqa: BLE001: a row must not end the table
                cells, right = [f"fails: {type(error).__name__} {str(error)[:120]}"], False
            right = right and (len(cells) == 1) == ((network, exporter) in refused)
            wrong += not right
            row = [network, exporter, *cells, *[""] * (5 - len(cells))]
            print(f"| {' | '.join(row)} |{'' if right else ' wrong'}", flush=True)
    print(f"\n{wrong} wrong", file=sys.stderr)
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
