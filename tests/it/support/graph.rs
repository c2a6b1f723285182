//! Small ONNX graphs: a node, an attribute, a declared tensor, a model around a graph.

use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::attribute_proto::AttributeType;
use nst_cache::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use nst_cache::onnx::tensor_proto;
use prost::Message as _;
use std::path::Path;

/// Codes of ONNX's element types.
pub const FLOAT: i32 = 1;
pub const INT8: i32 = 3;
pub const UINT16: i32 = 4;
pub const INT32: i32 = 6;
pub const INT64: i32 = 7;
pub const BOOL: i32 = 9;
pub const BFLOAT16: i32 = 16;

/// A node of one output, named for both.
pub fn node(op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{op}_{output}")),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        attribute: attributes,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind.into()),
        ..AttributeProto::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub fn floats(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto { floats: values.to_vec(), ..attribute(name, AttributeType::Floats) }
}

pub fn text(name: &str, value: &'static str) -> AttributeProto {
    let s = Some(value.as_bytes().into());
    AttributeProto { s, ..attribute(name, AttributeType::String) }
}

pub fn texts(name: &str, values: &[&'static str]) -> AttributeProto {
    let strings = values.iter().map(|value| value.as_bytes().into()).collect();
    AttributeProto { strings, ..attribute(name, AttributeType::Strings) }
}

/// An input or output of an element type; axes that are numbers are sizes, other words symbols.
pub fn value(name: &str, element: i32, axes: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let size =
        |axis: &str| axis.parse().map_or_else(|_| Value::DimParam(axis.into()), Value::DimValue);
    let dim = axes.iter().map(|axis| Dimension { value: Some(size(axis)), ..Dimension::default() });
    declared(name, element, Some(TensorShapeProto { dim: dim.collect() }))
}

/// An input or output of this shape, or of none that is told.
pub fn declared(name: &str, element: i32, shape: Option<TensorShapeProto>) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(element), shape };
    let r#type =
        TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// Adds an initializer.
pub fn constant(graph: &mut GraphProto, name: &str, shape: &[usize], values: Values) {
    graph.initializer.push(tensor_proto(name, &Array::new(shape.to_vec(), values).unwrap()));
}

/// A model around a graph, of operator set 17.
pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// Writes a graph as a model of operator set 17.
pub fn write_graph(path: &Path, graph: GraphProto) {
    std::fs::write(path, model(graph).encode_to_vec()).unwrap();
}
