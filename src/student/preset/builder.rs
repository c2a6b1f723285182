//! A small builder of ONNX graphs in training form, as PyTorch's TorchScript exporter writes them.
//!
//! A node is named by its path of modules (`layer1.0.conv1`) and its output like the node. The
//! output of a module carries the module's name, the outermost one's where several end together:
//! `layer1` is what stage 1 gives, in a network of any depth. Initializers are named as in PyTorch
//! (`layer1.0.conv1.weight`).

use super::init::{Init, Law};
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};
use crate::onnx::{Model, tensor_proto};

const INPUT: &str = "input";
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// PyTorch's batch normalization; ONNX counts the momentum from the other end.
const BATCH_NORM_EPSILON: f32 = 1e-5;
const BATCH_NORM_MOMENTUM: f32 = 0.9;

/// Channels, height and width of an input.
const LARGEST_SIDE: usize = 1 << 16;

/// What a protobuf file can hold, with room for the graph.
const LARGEST_MODEL_BYTES: usize = (2 << 30) - (16 << 20);

/// A value of the graph.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    name: String,
    /// Channels, height and width of one sample; a vector is [features, 1, 1].
    shape: [usize; 3],
}

impl Tensor {
    pub(super) fn channels(&self) -> usize {
        self.shape[0]
    }

    pub(super) fn height(&self) -> usize {
        self.shape[1]
    }

    /// The longer side.
    pub(super) fn side(&self) -> usize {
        self.shape[1].max(self.shape[2])
    }
}

/// A square convolution. Padding keeps the size at stride 1 unless it is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    out: usize,
    window: Window,
    groups: usize,
    bias: bool,
}

/// A square window that slides over a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Conv {
    pub(super) fn new(out: usize, kernel: usize) -> Self {
        Self {
            out,
            window: Window { kernel, stride: 1, padding: kernel / 2 },
            groups: 1,
            bias: false,
        }
    }

    pub(super) fn stride(mut self, stride: usize) -> Self {
        self.window.stride = stride;
        self
    }

    pub(super) fn padding(mut self, padding: usize) -> Self {
        self.window.padding = padding;
        self
    }

    pub(super) fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    pub(super) fn bias(mut self) -> Self {
        self.bias = true;
        self
    }
}

/// A graph under construction.
#[derive(Debug)]
pub(super) struct Builder {
    /// How convolutions start.
    pub(super) conv_init: Init,
    /// How linear layers start.
    pub(super) linear_init: Init,
    seed: u64,
    scope: String,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    initializer_bytes: usize,
}

impl Builder {
    /// An empty graph that starts as the ResNets do: convolutions by fan-out, linear layers by
    /// PyTorch's default.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            conv_init: Init::FanOut,
            linear_init: Init::Uniform,
            seed,
            scope: String::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            initializer_bytes: 0,
        }
    }

    /// The graph's input, `shape` being [channels, height, width].
    ///
    /// # Errors
    /// When a size is zero, or so large that counts of elements could overflow.
    pub(super) fn input(shape: [usize; 3]) -> Result<Tensor> {
        if let Some(size) = shape.iter().find(|size| !(1..=LARGEST_SIDE).contains(*size)) {
            return Err(Error::input(format!(
                "input: expected sizes from 1 to {LARGEST_SIDE}, found {size}"
            )));
        }
        Ok(Tensor { name: INPUT.to_owned(), shape })
    }

    /// Builds a module: names inside get its name as a prefix, and its output becomes the tensor of
    /// that name.
    pub(super) fn module(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let path = self.path(name);
        let outer = std::mem::replace(&mut self.scope, path);
        let output = build(self);
        let path = std::mem::replace(&mut self.scope, outer);
        Ok(self.rename(&output?, path))
    }

    pub(super) fn conv(&mut self, name: &str, x: &Tensor, conv: Conv) -> Result<Tensor> {
        let Conv { out, window, groups, bias } = conv;
        let [_, height, width] = self.slide(name, x, window)?;
        let parameters = self.weight_and_bias(
            name,
            self.conv_init,
            &[out, x.channels() / groups, window.kernel, window.kernel],
            bias,
        )?;
        let mut attributes = window_attributes(window);
        attributes.extend([ints("dilations", &[1, 1]), int("group", groups)]);
        let inputs = [x.name.clone()].into_iter().chain(parameters).collect();
        Ok(self.node("Conv", name, inputs, attributes, [out, height, width]))
    }

    /// Batch normalization in training mode: it gives the new running statistics beside its output.
    pub(super) fn batch_norm(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let starts = [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)];
        let mut inputs = vec![x.name.clone()];
        for (parameter, start) in starts {
            inputs.push(self.parameter(
                format!("{}.{parameter}", self.path(name)),
                &[x.channels()],
                Law::Constant(start),
            )?);
        }
        let attributes = vec![
            float("epsilon", BATCH_NORM_EPSILON),
            float("momentum", BATCH_NORM_MOMENTUM),
            int("training_mode", 1),
        ];
        let output = self.node("BatchNormalization", name, inputs, attributes, x.shape);
        if let Some(node) = self.nodes.last_mut() {
            node.output.extend([
                format!("{}.next_mean", output.name),
                format!("{}.next_var", output.name),
            ]);
        }
        Ok(output)
    }

    pub(super) fn relu(&mut self, name: &str, x: &Tensor) -> Tensor {
        self.node("Relu", name, vec![x.name.clone()], vec![], x.shape)
    }

    /// min(max(x, 0), 6).
    pub(super) fn relu6(&mut self, name: &str, x: &Tensor) -> Tensor {
        let bounds = [("relu6.min", 0.0f32), ("relu6.max", 6.0)].map(|(name, bound)| {
            self.constant(name, DataType::Float, &[], bound.to_le_bytes().to_vec());
            name.to_owned()
        });
        let inputs = [x.name.clone()].into_iter().chain(bounds).collect();
        self.node("Clip", name, inputs, vec![], x.shape)
    }

    pub(super) fn add(&mut self, name: &str, a: &Tensor, b: &Tensor) -> Tensor {
        debug_assert_eq!(a.shape, b.shape, "operands of {name}");
        self.node("Add", name, vec![a.name.clone(), b.name.clone()], vec![], a.shape)
    }

    /// Joins maps of one size along their channels.
    pub(super) fn concat(&mut self, name: &str, parts: &[Tensor]) -> Tensor {
        let channels = parts.iter().map(Tensor::channels).sum();
        let [_, height, width] = parts.first().map_or([0; 3], |part| part.shape);
        debug_assert!(
            parts.iter().all(|part| part.shape[1..] == [height, width]),
            "operands of {name}"
        );
        self.node(
            "Concat",
            name,
            parts.iter().map(|part| part.name.clone()).collect(),
            vec![int("axis", 1)],
            [channels, height, width],
        )
    }

    /// The two halves of the channels.
    pub(super) fn halves(&mut self, name: &str, x: &Tensor) -> [Tensor; 2] {
        let [channels, height, width] = x.shape;
        let half = channels / 2;
        [("first", 0, half), ("second", half, channels)].map(|(side, start, end)| {
            let name = format!("{name}.{side}");
            let range = [("starts", start), ("ends", end), ("axes", 1)]
                .map(|(part, value)| self.sizes(&format!("{name}.{part}"), &[value]));
            let inputs = [x.name.clone()].into_iter().chain(range).collect();
            self.node("Slice", &name, inputs, vec![], [end - start, height, width])
        })
    }

    /// Channel shuffle (Zhang et al. 2018, arXiv:1707.01083): channel (g, c) of `groups` ×
    /// channels/groups moves to (c, g).
    pub(super) fn shuffle(&mut self, name: &str, x: &Tensor, groups: usize) -> Result<Tensor> {
        let [channels, height, width] = x.shape;
        self.module(name, |g| {
            // Reshape takes 0 as "the input's size": the open batch axis
            let grouped = g.sizes("grouped.shape", &[0, groups, channels / groups, height, width]);
            let flat = g.sizes("flat.shape", &[0, channels, height, width]);
            let y = g.node("Reshape", "grouped", vec![x.name.clone(), grouped], vec![], x.shape);
            let y = g.node(
                "Transpose",
                "transposed",
                vec![y.name],
                vec![ints("perm", &[0, 2, 1, 3, 4])],
                x.shape,
            );
            Ok(g.node("Reshape", "flat", vec![y.name, flat], vec![], x.shape))
        })
    }

    pub(super) fn max_pool(&mut self, name: &str, x: &Tensor, window: Window) -> Result<Tensor> {
        let shape = self.slide(name, x, window)?;
        Ok(self.node("MaxPool", name, vec![x.name.clone()], window_attributes(window), shape))
    }

    /// The mean over a window, padding counted as PyTorch does.
    pub(super) fn average_pool(
        &mut self,
        name: &str,
        x: &Tensor,
        window: Window,
    ) -> Result<Tensor> {
        let shape = self.slide(name, x, window)?;
        let mut attributes = window_attributes(window);
        attributes.push(int("count_include_pad", 1));
        Ok(self.node("AveragePool", name, vec![x.name.clone()], attributes, shape))
    }

    /// The mean of each map as one vector, `flatten`: the penultimate features of most networks.
    pub(super) fn global_average(&mut self, x: &Tensor) -> Tensor {
        let pooled = self.node(
            "GlobalAveragePool",
            "avgpool",
            vec![x.name.clone()],
            vec![],
            [x.channels(), 1, 1],
        );
        self.flatten("flatten", &pooled)
    }

    pub(super) fn flatten(&mut self, name: &str, x: &Tensor) -> Tensor {
        let features = x.shape.iter().product();
        self.node("Flatten", name, vec![x.name.clone()], vec![int("axis", 1)], [features, 1, 1])
    }

    /// x Wᵀ + b, W being [out, in].
    pub(super) fn linear(&mut self, name: &str, x: &Tensor, out: usize) -> Result<Tensor> {
        let parameters =
            self.weight_and_bias(name, self.linear_init, &[out, x.channels()], true)?;
        let inputs = [x.name.clone()].into_iter().chain(parameters).collect();
        Ok(self.node(
            "Gemm",
            name,
            inputs,
            vec![float("alpha", 1.0), float("beta", 1.0), int("transB", 1)],
            [out, 1, 1],
        ))
    }

    pub(super) fn dropout(&mut self, name: &str, x: &Tensor, ratio: f32) -> Tensor {
        let path = self.path(name);
        let options = [
            (format!("{path}.ratio"), DataType::Float, ratio.to_le_bytes().to_vec()),
            (format!("{path}.training_mode"), DataType::Bool, vec![1]),
        ];
        let mut inputs = vec![x.name.clone()];
        for (name, data_type, bytes) in options {
            self.constant(&name, data_type, &[], bytes);
            inputs.push(name);
        }
        self.node("Dropout", name, inputs, vec![], x.shape)
    }

    /// Closes the graph: `last` becomes its output of this name, with an open batch axis named
    /// `batch` on both ends.
    ///
    /// # Errors
    /// When the model does not pass its own checks.
    pub(super) fn finish(
        mut self,
        preset: &str,
        description: String,
        input: &Tensor,
        last: &Tensor,
        output: &str,
    ) -> Result<Model> {
        let last = self.rename(last, output.to_owned());
        let graph = GraphProto {
            name: Some(preset.to_owned()),
            node: self.nodes,
            initializer: self.initializers,
            input: vec![value_info(&input.name, &input.shape)],
            output: vec![value_info(&last.name, &[last.channels()])],
            ..Default::default()
        };
        Model::from_proto(ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            producer_name: Some("nst-cache".to_owned()),
            doc_string: Some(description),
            graph: Some(graph),
            metadata_props: vec![StringStringEntryProto {
                key: Some("nst-cache.preset".to_owned()),
                value: Some(preset.to_owned()),
            }],
            ..Default::default()
        })
    }

    /// The name of something in the module at hand.
    fn path(&self, name: &str) -> String {
        if self.scope.is_empty() { name.to_owned() } else { format!("{}.{name}", self.scope) }
    }

    /// Appends a node; its first output gets the node's name.
    fn node(
        &mut self,
        op: &str,
        name: &str,
        input: Vec<String>,
        attribute: Vec<AttributeProto>,
        shape: [usize; 3],
    ) -> Tensor {
        let name = self.path(name);
        self.nodes.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(name.clone()),
            input,
            output: vec![name.clone()],
            attribute,
            ..Default::default()
        });
        Tensor { name, shape }
    }

    /// Renames the last node's output, which nothing has consumed yet.
    fn rename(&mut self, x: &Tensor, name: String) -> Tensor {
        if let Some(output) = self.nodes.last_mut().and_then(|node| node.output.first_mut()) {
            debug_assert_eq!(*output, x.name, "a module gives what its last node computes");
            output.clone_from(&name);
        }
        Tensor { name, shape: x.shape }
    }

    /// The shape that a window leaves of a map, channels kept.
    fn slide(
        &self,
        name: &str,
        x: &Tensor,
        Window { kernel, stride, padding }: Window,
    ) -> Result<[usize; 3]> {
        let [channels, height, width] = x.shape;
        let steps =
            |size: usize| (size + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1);
        match (steps(height), steps(width)) {
            (Some(height), Some(width)) => Ok([channels, height, width]),
            _ => Err(Error::input(format!(
                "{}: a window of {kernel}x{kernel} does not fit a map of {height}x{width}",
                self.path(name)
            ))
            .hint("give a larger --input, or choose a network with fewer stages")),
        }
    }

    /// Adds `NAME.weight`, and `NAME.bias` if asked for, and gives their names.
    fn weight_and_bias(
        &mut self,
        name: &str,
        init: Init,
        shape: &[usize],
        bias: bool,
    ) -> Result<Vec<String>> {
        let path = self.path(name);
        let (weight_law, bias_law) = init.laws(shape);
        let mut names = vec![self.parameter(format!("{path}.weight"), shape, weight_law)?];
        if bias {
            names.push(self.parameter(format!("{path}.bias"), &shape[..1], bias_law)?);
        }
        Ok(names)
    }

    /// Adds a float initializer and gives its name.
    fn parameter(&mut self, name: String, shape: &[usize], law: Law) -> Result<String> {
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let bytes = count
            .and_then(|count| count.checked_mul(size_of::<f32>()))
            .and_then(|bytes| bytes.checked_add(self.initializer_bytes));
        let (Some(count), Some(bytes)) =
            (count, bytes.filter(|&bytes| bytes <= LARGEST_MODEL_BYTES))
        else {
            return Err(Error::input(format!(
                "{name}: a parameter of {shape:?} takes the model past the 2 GiB of an ONNX file"
            )));
        };
        self.initializer_bytes = bytes;
        let array = Array::new(shape.to_vec(), Values::F32(law.values(count, self.seed, &name)))?;
        self.initializers.push(tensor_proto(&name, &array));
        Ok(name)
    }

    /// Adds a vector of sizes as an int64 initializer and gives its name.
    fn sizes(&mut self, name: &str, sizes: &[usize]) -> String {
        let name = self.path(name);
        let bytes = sizes.iter().flat_map(|&size| signed(size).to_le_bytes()).collect();
        self.constant(&name, DataType::Int64, &[sizes.len()], bytes);
        name
    }

    /// Adds an initializer that is no parameter, once.
    fn constant(&mut self, name: &str, data_type: DataType, shape: &[usize], bytes: Vec<u8>) {
        if self.initializers.iter().all(|known| known.name() != name) {
            self.initializers.push(TensorProto {
                name: Some(name.to_owned()),
                data_type: Some(data_type as i32),
                dims: shape.iter().map(|&size| signed(size)).collect(),
                raw_data: Some(bytes.into()),
                ..Default::default()
            });
        }
    }
}

/// A size as ONNX stores it; the limits on the input and on parameters keep it far below the bound.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn window_attributes(Window { kernel, stride, padding }: Window) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &[kernel; 2]),
        ints("strides", &[stride; 2]),
        ints("pads", &[padding; 4]),
    ]
}

fn int(name: &str, value: usize) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(signed(value)),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&value| signed(value)).collect();
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints,
        ..Default::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..Default::default()
    }
}

/// A float32 input or output with an open batch axis in front of `sizes`.
fn value_info(name: &str, sizes: &[usize]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let batch = Value::DimParam("batch".to_owned());
    let sizes = sizes.iter().map(|&size| Value::DimValue(signed(size)));
    let dim = std::iter::once(batch)
        .chain(sizes)
        .map(|value| Dimension { value: Some(value), ..Default::default() })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
