//! A linear layer behind a tensor of a student, as a further output of its file.

use super::export::array;
use crate::array::{Array, Dtype};
use crate::error::{Error, Result};
use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};
use crate::onnx::tensor_proto;
use candle_core::Tensor;

/// A linear layer on the channels of a tensor: the last axis of `[batch, channels]` and
/// `[batch, positions, channels]`, axis 1 of `[batch, channels, height, width]`.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The student's tensor.
    pub tensor: String,
    /// The axes of a sample of it.
    pub shape: Vec<usize>,
    /// The name of the output.
    pub output: String,
    /// `[channels out, channels in]`.
    pub weight: Tensor,
    /// `[channels out]`.
    pub bias: Tensor,
}

impl Projection {
    /// Applies the layer to values of the tensor.
    ///
    /// # Errors
    /// When the shape is another one.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.to_dtype(x.dtype())?, self.bias.to_dtype(x.dtype())?);
        if let &[batch, channels, height, width] = x.dims() {
            let flat = x.reshape((batch, channels, height * width))?;
            let out = weight.dim(0)?;
            let y = weight.broadcast_left(batch)?.contiguous()?.matmul(&flat.contiguous()?)?;
            let y = y.broadcast_add(&bias.reshape((1, out, 1))?)?;
            return Ok(y.reshape((batch, out, height, width))?);
        }
        let rows = x.reshape(((), x.dim(candle_core::D::Minus1)?))?;
        let y = rows.matmul(&weight.t()?)?.broadcast_add(&bias)?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = y.dim(1)?;
        }
        Ok(y.reshape(shape)?)
    }

    /// Adds the layer to a graph whose tensor is called `input` there.
    pub(super) fn append(&self, graph: &mut GraphProto, input: &str, dtype: Dtype) -> Result<()> {
        let name = |part: &str| format!("{}.{part}", self.output);
        let (out, channels) = self.weight.dims2()?;
        let mut shape = self.shape.clone();
        let node =
            |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
                op_type: Some(op.into()),
                name: Some(name(op)),
                input: inputs.iter().map(|&input| input.to_owned()).collect(),
                output: vec![output.to_owned()],
                attribute,
                ..NodeProto::default()
            };
        let (weight, bias, product) = (name("weight"), name("bias"), name("product"));
        let stored = match shape.as_mut_slice() {
            [width] => {
                *width = out;
                let transposed = AttributeProto {
                    name: Some("transB".into()),
                    r#type: Some(AttributeType::Int.into()),
                    i: Some(1),
                    ..AttributeProto::default()
                };
                let inputs = [input, &weight, &bias];
                graph.node.push(node("Gemm", &inputs, &self.output, vec![transposed]));
                self.weight.clone()
            }
            [_, width] => {
                *width = out;
                graph.node.push(node("MatMul", &[input, &weight], &product, Vec::new()));
                graph.node.push(node("Add", &[&product, &bias], &self.output, Vec::new()));
                self.weight.t()?.contiguous()?
            }
            [width, _, _] => {
                *width = out;
                let inputs = [input, &weight, &bias];
                graph.node.push(node("Conv", &inputs, &self.output, Vec::new()));
                self.weight.reshape((out, channels, 1, 1))?
            }
            _ => return Err(Error::internal("projection: of no vector, tokens or map")),
        };
        let arrays: [(&String, Array); 2] =
            [(&weight, array(&stored, dtype)?), (&bias, array(&self.bias, dtype)?)];
        graph.initializer.extend(arrays.iter().map(|(name, array)| tensor_proto(name, array)));
        graph.output.push(output(&self.output, &shape, dtype));
        Ok(())
    }
}

/// A declared output of samples of this shape.
fn output(name: &str, shape: &[usize], dtype: Dtype) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    const FLOAT: i32 = 1;
    const FLOAT16: i32 = 10;
    let size = |&n: &usize| Value::DimValue(i64::try_from(n).unwrap_or(i64::MAX));
    let axes = std::iter::once(Value::DimParam("batch".into())).chain(shape.iter().map(size));
    let dim = axes.map(|value| Dimension { value: Some(value), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor {
        elem_type: Some(if dtype == Dtype::F16 { FLOAT16 } else { FLOAT }),
        shape: Some(TensorShapeProto { dim }),
    };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}
