"""Writes the small models of this folder (onnx 1.19 or later). Weights are seeded; run it again
after a change and commit the files."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(0)


def weight(name, *shape):
    return numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def info(name, kind, *shape):
    return h.make_tensor_value_info(name, kind, list(shape))


def save(name, nodes, inputs, outputs, initializers=(), opset=17, ir=8, **external):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    model = h.make_model(
        graph, opset_imports=[h.make_opsetid("", opset)], ir_version=ir, producer_name=""
    )
    onnx.checker.check_model(model)
    onnx.save(model, HERE / f"{name}.onnx", **external)


# channels last at the input, weights in Constant nodes, a softmax at the end: what TensorFlow's
# exporter writes
constant = lambda t: h.make_node("Constant", [], [t.name], value=t)
save(
    "nhwc",
    [
        constant(weight("w1", 4, 3, 3, 3)),
        constant(weight("w2", 8, 4, 3, 3)),
        constant(weight("fc", 8, 5)),
        constant(weight("bias", 5)),
        h.make_node("Transpose", ["image:0"], ["image/nchw:0"], perm=[0, 3, 1, 2]),
        h.make_node("Conv", ["image/nchw:0", "w1"], ["block1/conv:0"], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["block1/conv:0"], ["block1/relu:0"]),
        h.make_node("Transpose", ["block1/relu:0"], ["block1/nhwc:0"], perm=[0, 2, 3, 1]),
        h.make_node("Transpose", ["block1/nhwc:0"], ["block2/nchw:0"], perm=[0, 3, 1, 2]),
        h.make_node(
            "Conv", ["block2/nchw:0", "w2"], ["block2/conv:0"], pads=[1, 1, 1, 1], strides=[2, 2]
        ),
        h.make_node("Relu", ["block2/conv:0"], ["block2/relu:0"]),
        h.make_node("GlobalAveragePool", ["block2/relu:0"], ["pool:0"]),
        constant(ints("axes", 2, 3)),
        h.make_node("Squeeze", ["pool:0", "axes"], ["features:0"]),
        h.make_node("MatMul", ["features:0", "fc"], ["dense:0"]),
        h.make_node("Add", ["dense:0", "bias"], ["logits:0"]),
        h.make_node("Softmax", ["logits:0"], ["probabilities:0"], axis=1),
        h.make_node("Identity", ["probabilities:0"], ["Identity:0"]),
    ],
    [info("image:0", T.FLOAT, "batch", 8, 8, 3)],
    [info("Identity:0", T.FLOAT, "batch", 5)],
    opset=13,
    ir=7,
)

# bytes at the input, open height and width, initialisers listed as inputs, the oldest operator set
save(
    "uint8",
    [
        h.make_node("Cast", ["image"], ["float"], to=T.FLOAT),
        h.make_node("Mul", ["float", "scale"], ["scaled"]),
        h.make_node("Conv", ["scaled", "w"], ["conv"], strides=[2, 2], kernel_shape=[3, 3]),
        h.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"]),
        h.make_node("Relu", ["norm"], ["relu"]),
        h.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        h.make_node("Flatten", ["pool"], ["flat"]),
        h.make_node("Gemm", ["flat", "fc", "bias"], ["logits"], transB=1),
    ],
    [
        info("image", T.UINT8, "N", 3, "H", "W"),
        info("scale", T.FLOAT, 1),
        info("w", T.FLOAT, 4, 3, 3, 3),
        info("gamma", T.FLOAT, 4),
        info("beta", T.FLOAT, 4),
        info("mean", T.FLOAT, 4),
        info("var", T.FLOAT, 4),
        info("fc", T.FLOAT, 5, 4),
        info("bias", T.FLOAT, 5),
    ],
    [info("logits", T.FLOAT, "N", 5)],
    [
        numpy_helper.from_array(np.array([1 / 255], np.float32), "scale"),
        weight("w", 4, 3, 3, 3),
        weight("gamma", 4),
        weight("beta", 4),
        weight("mean", 4),
        numpy_helper.from_array(np.ones(4, np.float32), "var"),
        weight("fc", 5, 4),
        weight("bias", 5),
    ],
    opset=7,
    ir=3,
)

# a batch of exactly one, int32 at the input
save(
    "int32_batch1",
    [
        h.make_node("Cast", ["image"], ["float"], to=T.FLOAT),
        h.make_node("Conv", ["float", "w"], ["conv"]),
        h.make_node("Relu", ["conv"], ["relu"]),
        h.make_node("ReduceMean", ["relu", "axes"], ["mean"], keepdims=0),
        h.make_node("Reshape", ["mean", "shape"], ["flat"]),
        h.make_node("Gemm", ["flat", "fc"], ["logits"]),
    ],
    [info("image", T.INT32, 1, 3, 8, 8)],
    [info("logits", T.FLOAT, 1, 5)],
    [weight("w", 4, 3, 3, 3), ints("axes", 2, 3), ints("shape", 1, 4), weight("fc", 4, 5)],
    opset=23,
    ir=11,
)

# an open batch is declared, but a reshape holds a batch of one
save(
    "baked_batch",
    [
        h.make_node("Relu", ["x"], ["relu"]),
        h.make_node("Reshape", ["relu", "shape"], ["flat"]),
        h.make_node("Gemm", ["flat", "fc"], ["logits"]),
    ],
    [info("x", T.FLOAT, "batch", 4)],
    [info("logits", T.FLOAT, "batch", 5)],
    [ints("shape", 1, 4), weight("fc", 4, 5)],
)

# a tensor whose width depends on the values, and outputs that are no floats
save(
    "varying",
    [
        h.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=0),
        h.make_node("Greater", ["mean", "half"], ["chosen"]),
        h.make_node("Compress", ["x", "chosen"], ["kept"], axis=1),
        h.make_node("Greater", ["x", "half"], ["large"]),
        h.make_node("QuantizeLinear", ["x", "step", "zero"], ["bytes"]),
        h.make_node("Relu", ["x"], ["relu"]),
    ],
    [info("x", T.FLOAT, "batch", 64)],
    [
        info("relu", T.FLOAT, "batch", 64),
        info("large", T.BOOL, "batch", 64),
        info("bytes", T.INT8, "batch", 64),
        info("kept", T.FLOAT, "batch", None),
    ],
    [
        numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        numpy_helper.from_array(np.array(0.01, np.float32), "step"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ],
)

# weights beside the model
save(
    "external",
    [h.make_node("Gemm", ["x", "fc", "bias"], ["logits"])],
    [info("x", T.FLOAT, "batch", 16)],
    [info("logits", T.FLOAT, "batch", 8)],
    [weight("fc", 16, 8), weight("bias", 8)],
    save_as_external_data=True,
    location="external.data",
    size_threshold=0,
)

# a vision transformer: patches as tokens with a class token before them, one block without
# attention, the class token's vector at the end
save(
    "vit",
    [
        h.make_node("Conv", ["image", "patches"], ["patch"], strides=[2, 2]),
        h.make_node("Reshape", ["patch", "flat"], ["columns"]),
        h.make_node("Transpose", ["columns"], ["embedded"], perm=[0, 2, 1]),
        h.make_node("Shape", ["image"], ["batch"], end=1),
        h.make_node("Concat", ["batch", "one_row"], ["class_shape"], axis=0),
        h.make_node("Expand", ["class", "class_shape"], ["class_tokens"]),
        h.make_node("Concat", ["class_tokens", "embedded"], ["tokens"], axis=1),
        h.make_node("MatMul", ["tokens", "mix"], ["mixed"]),
        h.make_node("Relu", ["mixed"], ["active"]),
        h.make_node("Add", ["tokens", "active"], ["block"]),
        h.make_node("Gather", ["block", "first"], ["vector"], axis=1),
        h.make_node("Gemm", ["vector", "fc"], ["logits"]),
    ],
    [info("image", T.FLOAT, "batch", 3, 8, 6)],
    [info("logits", T.FLOAT, "batch", 5)],
    [
        weight("patches", 7, 3, 2, 2),
        ints("flat", 0, 0, -1),
        ints("one_row", 1, 7),
        weight("class", 1, 1, 7),
        weight("mix", 7, 7),
        numpy_helper.from_array(np.array(0, np.int64), "first"),
        weight("fc", 7, 5),
    ],
)
