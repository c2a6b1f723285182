#!/usr/bin/env python3
"""Models of transformers, torchvision, ultralytics, Keras, TensorFlow and JAX through their real
exporters, with random weights: the second table of docs/models.md.

    check-teachers.py torch          what torch, torchvision, transformers and ultralytics are for
    check-teachers.py tensorflow     Keras and TensorFlow through tf2onnx
    check-teachers.py jax            flax through jax2onnx

Each is exported as a teacher, in evaluation form, run by `inspect` and `extract` over eight random
samples, whose stored outputs are compared with onnxruntime's of the same file; then, exported in
training form, trained for one epoch as the student of that cache. Prints what is found, or the
reason of a refusal; exits with 1 where a command fails in another way than a refusal (status 2), or
where a stored value is another one. The program is the one on the PATH, or NST.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnxruntime

warnings.filterwarnings("ignore")
SAMPLES = 8
IMAGES = (3, 64, 64)


def program(*arguments):
    binary = os.environ.get("NST", "nst-cache")
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)


def reason(text):
    lines = [line for line in text.strip().splitlines() if line.startswith("error")]
    return (lines or text.strip().splitlines() or ["?"])[0].removeprefix("error: ")[:110]


def images(shape=IMAGES, name="pixel_values"):
    random = np.random.default_rng(0)
    return {name: random.standard_normal((SAMPLES, *shape)).astype(np.float32)}


def tokens(length=16, vocabulary=1000):
    random = np.random.default_rng(0)
    ids = random.integers(0, vocabulary, (SAMPLES, length))
    return {"input_ids": ids, "attention_mask": np.ones((SAMPLES, length), np.int64)}


def by_torch(build, data, outputs, exporter):
    """An exporter of PyTorch's: `build` makes a module that takes `data` in order."""

    def export(path, training):
        import torch

        torch.manual_seed(0)
        model = build().train(training)
        arguments = tuple(torch.tensor(array[:2]) for array in data.values())
        names = {"input_names": list(data), "output_names": outputs}
        if exporter == "torchscript":
            axes = {name: {0: "batch"} for name in [*data, *outputs]}
            torch.onnx.export(
                model,
                arguments,
                path,
                dynamo=False,
                training=getattr(torch.onnx.TrainingMode, "TRAINING" if training else "EVAL"),
                do_constant_folding=not training,
                dynamic_axes=axes,
                **names,
            )
        else:
            batch = torch.export.Dim("batch", min=2, max=4096)
            torch.onnx.export(
                model,
                arguments,
                path,
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in data),
                external_data=False,
                verbose=False,
                optimize=not training,
                **names,
            )

    return export


def torch_models():
    import torch
    import torchvision
    import transformers as tr

    class Only(torch.nn.Module):
        """The named outputs of a model of transformers."""

        def __init__(self, model, names, inputs):
            super().__init__()
            self.model, self.names, self.inputs = model, names, inputs

        def forward(self, first, second=None):
            given = [first] if second is None else [first, second]
            found = self.model(**dict(zip(self.inputs, given)))
            return tuple(getattr(found, name) for name in self.names)

    small = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vision = small | {"intermediate_size": 128, "image_size": 64}
    transformers_of = {
        "ViTForImageClassification": (
            tr.ViTForImageClassification,
            lambda: tr.ViTConfig(**vision, **still, patch_size=16, num_labels=10),
            ["logits"],
            images(),
        ),
        "Dinov2Model": (
            tr.Dinov2Model,
            lambda: tr.Dinov2Config(**small, image_size=56, patch_size=14),
            ["last_hidden_state", "pooler_output"],
            images((3, 56, 56)),
        ),
        "CLIPVisionModelWithProjection": (
            tr.CLIPVisionModelWithProjection,
            lambda: tr.CLIPVisionConfig(**vision, patch_size=16, projection_dim=32),
            ["image_embeds"],
            images(),
        ),
        "BertForSequenceClassification": (
            tr.BertForSequenceClassification,
            lambda: tr.BertConfig(
                **small, **still, intermediate_size=128, vocab_size=1000, num_labels=3
            ),
            ["logits"],
            tokens(),
        ),
        "BertForTokenClassification": (
            tr.BertForTokenClassification,
            lambda: tr.BertConfig(
                **small, **still, intermediate_size=128, vocab_size=1000, num_labels=7
            ),
            ["logits"],
            tokens(),
        ),
        "ResNetForImageClassification": (
            tr.ResNetForImageClassification,
            lambda: tr.ResNetConfig(
                embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10
            ),
            ["logits"],
            images(),
        ),
    }
    for name, (kind, config, outputs, data) in transformers_of.items():
        for exporter in ("torchscript", "dynamo"):

            def build(kind=kind, config=config, outputs=outputs, data=data):
                return Only(kind(config()), outputs, list(data))

            yield f"transformers {name}", exporter, by_torch(build, data, outputs, exporter), data

    class Maps(torch.nn.Module):
        """The class maps of a segmenter of torchvision."""

        def __init__(self, name):
            super().__init__()
            options = {"weights": None, "weights_backbone": None, "num_classes": 5}
            self.model = torchvision.models.get_model(name, **options)

        def forward(self, x):
            return self.model(x)["out"]

    for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        for exporter in ("torchscript", "dynamo"):
            data = images(name="input")
            export = by_torch(lambda name=name: Maps(name), data, ["out"], exporter)
            yield f"torchvision {name}", exporter, export, data

    class Pyramid(torch.nn.Module):
        """A detector of torchvision up to its heads: scores and boxes of all anchors."""

        def __init__(self):
            super().__init__()
            self.model = torchvision.models.detection.fcos_resnet50_fpn(
                weights=None, weights_backbone=None, num_classes=4, trainable_backbone_layers=5
            )

        def forward(self, x):
            found = self.model.head(list(self.model.backbone(x).values()))
            return found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"]

    for exporter in ("torchscript", "dynamo"):
        data = images(name="input")
        outputs = ["scores", "boxes", "centerness"]
        yield "torchvision fcos_resnet50_fpn", exporter, by_torch(
            Pyramid, data, outputs, exporter
        ), data

    def yolo(path, training):
        with contextlib.redirect_stdout(sys.stderr):
            from ultralytics import YOLO

            made = YOLO("yolov8n.yaml").export(format="onnx", imgsz=64, dynamic=True, verbose=False)
        os.replace(made, path)

    yield "ultralytics yolov8n", "its own", yolo, images(name="images")


def tensorflow_models():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf
    import tf2onnx

    def convert(build, shape):
        def export(path, training):
            keras.utils.set_random_seed(0)
            model = build()
            function = tf.function(lambda x: model(x, training=training))
            signature = [tf.TensorSpec((None, *shape), tf.float32, name="input")]
            tf2onnx.convert.from_function(
                function, input_signature=signature, opset=17, output_path=path
            )

        return export

    applications = {
        "keras MobileNetV2": lambda: keras.applications.MobileNetV2(
            weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
        ),
        "keras EfficientNetB0": lambda: keras.applications.EfficientNetB0(
            weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation="softmax"
        ),
        "keras U-Net (own)": unet,
    }
    for name, build in applications.items():
        yield name, "tf2onnx", convert(build, (64, 64, 3)), images((64, 64, 3), "input")


def unet():
    import keras
    from keras import layers

    x = first = layers.Input((64, 64, 3))
    x = skip = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.MaxPool2D()(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.Concatenate()([x, skip])
    return keras.Model(first, layers.Conv2D(5, 1)(x))


def jax_models():
    from flax import nnx
    from jax2onnx import to_onnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.LayerNorm(16, rngs=rngs)
            self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
            self.last = nnx.Linear(32, 10, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.first(x)))
            x = nnx.relu(self.second(x))
            return self.last(x.mean(axis=(1, 2)))

    def export(path, training):
        to_onnx(
            Network(nnx.Rngs(0)), [("B", 64, 64, 3)], return_mode="file", output_path=str(path)
        )

    yield "flax nnx.Conv, LayerNorm, Linear", "jax2onnx", export, images((64, 64, 3), "")


FAMILIES = {"torch": torch_models, "tensorflow": tensorflow_models, "jax": jax_models}


def check(export, data, folder):
    """The cells of a row, and whether it is right."""
    path, student = folder / "model.onnx", folder / "student.onnx"
    failed = exported(export, path, training=False)
    if failed:
        return [failed], True
    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_inputs()]
    data = {name: data.get(name, next(iter(data.values()))) for name in names}
    np.savez(folder / "data.npz", **data)
    source = ["--data", f"npz:{folder / 'data.npz'}"]
    found = program("inspect", path, "--json")
    if found.returncode:
        return [f"refused: {reason(found.stderr)}"], found.returncode == 2
    found = json.loads(found.stdout)
    suggested = [tap["tensor"] for tap in found["taps"] if tap["suggested"]]
    cache = folder / "cache"
    made = program("extract", path, *source, "-o", cache, "--store", "f32", "--batch", 4)
    if made.returncode:
        return [f"refused: {reason(made.stderr)}"], made.returncode == 2
    same = compared(session, data, cache)
    run = ["--epochs", 1, "--batch", 4, "--lr", "1e-4", "-o", folder / "run"]
    failed = exported(export, student, training=True)
    trained = program("train", student, "--cache", cache, *run)
    shown = lambda shape: ", ".join(str(n) if isinstance(n, int) else "…" for n in shape[1:])
    outputs = ", ".join(f"{v['name']} [{shown(v['shape'])}]" for v in found["outputs"])
    student = "trains" if trained.returncode == 0 else f"refused: {reason(trained.stderr)}"
    student = failed or student
    logits = found["logits"]
    cells = [outputs, str(len(suggested)), logits or "none", same, student]
    return cells, bool(failed or trained.returncode in (0, 2)) and same in ("=", "other form")


def exported(export, path, training):
    """Why there is no file, if there is none."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            export(str(path), training)
    except Exception as error:  # noqa: BLE001: exporters fail in every way
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
        return f"not exported: {type(error).__name__} {text[0][:90] if text else ''}"
    return None


def compared(session, data, cache):
    """Whether the outputs that a cache holds are onnxruntime's."""
    manifest = json.loads((cache / "manifest.json").read_text())["manifest"]
    paths = {array["tensor"]: array["path"] for array in manifest["view_arrays"]}
    verdict = "other form"
    batches = [
        session.run(None, {name: array[at : at + 4] for name, array in data.items()})
        for at in range(0, SAMPLES, 4)
    ]
    for number, value in enumerate(session.get_outputs()):
        path = paths.get(value.name)
        if path is None or "inputs/" in path:
            continue
        file = cache.with_suffix(".npz")
        program("cache", "export", cache, "--npz", file, "--tap", path, "--force")
        found = np.load(file)
        stored = found[path][0][np.argsort(found["sample_id"])]
        expected = np.concatenate([outputs[number] for outputs in batches])
        if stored.size == expected.size:
            verdict = "="
            stored = stored.reshape(expected.shape).astype(np.float64)
            scale = max(1e-6, np.abs(expected).max())
            if np.abs(stored - expected).max() / scale > 1e-5:
                return f"{path} differs"
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    arguments = parser.parse_args()
    print("| model | exporter | outputs | taps | class logits | stored | as a student |")
    print("|---|---|---|---|---|---|---|")
    wrong = 0
    for family in arguments.families:
        for name, exporter, export, data in FAMILIES[family]():
            with tempfile.TemporaryDirectory() as folder:
                cells, right = check(export, data, pathlib.Path(folder))
            wrong += not right
            row = [name, exporter, *cells, *[""] * (5 - len(cells))]
            print(f"| {' | '.join(row)} |{'' if right else ' wrong'}", flush=True)
    print(f"\n{wrong} wrong", file=sys.stderr)
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
