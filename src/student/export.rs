//! Writing a trained graph: the nodes as they were read, inference form, today's weights.

use super::chance::Mean;
use super::{Projection, Student};
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::operator::Inference;
use crate::onnx::proto::{
    AttributeProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};
use crate::onnx::{Model, metadata, tensor_proto};
use crate::tensor::narrow;
use candle_core::{DType, Tensor};
use half::f16;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The name of the batch axis.
const BATCH: &str = "batch";

/// The student's graph with its weights of today; see [`Student::export`].
pub(super) fn export(
    student: &Student,
    metadata: &[(String, String)],
    projections: &[Projection],
) -> Result<Model> {
    let mut proto = student.model.proto().clone();
    let graph = proto.graph.as_mut().ok_or_else(|| Error::internal("model has no graph"))?;
    let mut outputs: BTreeSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
    let weights = weights(student)?;

    let mut nodes = Vec::new();
    let kept: BTreeMap<usize, &NodeProto> =
        student.graph.nodes.iter().map(|n| (n.number, &n.proto)).collect();
    let chance = &student.graph.chance;
    let mut renamed: HashMap<String, String> = HashMap::new();
    for (number, original) in graph.node.iter().enumerate() {
        let Some(&read) = kept.get(&number) else {
            // a Constant or Identity: dropped where a weight took its name
            if !original.output.iter().any(|o| weights.contains_key(o)) {
                nodes.push(original.clone());
            }
            continue;
        };
        let mut node = read.clone();
        if let Some(mean) = chance.mean(read) {
            nodes.push(constant(node, mean)?);
            continue;
        }
        for input in &mut node.input {
            if let Some(name) = renamed.get(input) {
                input.clone_from(name);
            }
        }
        let inference = node.operator().inference;
        let passed =
            if inference == Inference::Input { Some(0) } else { chance.passed(number, read) };
        if let Some(slot) = passed {
            let (Some(input), Some(output)) =
                (node.input.get(slot).cloned(), node.output.first().cloned())
            else {
                continue;
            };
            if outputs.contains(&output) {
                node = NodeProto {
                    op_type: Some("Identity".into()),
                    input: vec![input],
                    output: vec![output],
                    attribute: Vec::new(),
                    ..node
                };
            } else {
                renamed.insert(output, input);
                continue;
            }
        } else if inference == Inference::FirstOutput {
            node.output.truncate(1);
            node.attribute.retain(|a| a.name() != "training_mode");
        }
        nodes.push(node);
    }
    graph.node = nodes;
    let dtype = student.model.outputs().first().and_then(|output| output.dtype);
    for projection in projections {
        let input = renamed.get(&projection.tensor).unwrap_or(&projection.tensor);
        projection.append(graph, input, dtype.unwrap_or(Dtype::F32))?;
        outputs.insert(projection.output.clone());
    }
    drop_unread(&mut graph.node, &outputs);

    let read: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|n| &n.input)
        .map(String::as_str)
        .chain(outputs.iter().map(String::as_str))
        .collect();
    let mut initializers: Vec<TensorProto> = Vec::new();
    for old in &graph.initializer {
        if !weights.contains_key(old.name()) && read.contains(old.name()) {
            initializers.push(old.clone());
        }
    }
    initializers.extend(
        weights
            .iter()
            .filter(|(name, _)| read.contains(name.as_str()))
            .map(|(name, array)| tensor_proto(name, array)),
    );
    initializers.sort_by(|a, b| a.name().cmp(b.name()));
    let held: BTreeSet<&str> = initializers
        .iter()
        .map(TensorProto::name)
        .chain(graph.initializer.iter().map(TensorProto::name))
        .collect();
    graph.input.retain(|i| !held.contains(i.name()));
    graph.initializer = initializers;
    graph.value_info.clear();
    graph.doc_string = None;
    graph.input.iter_mut().chain(&mut graph.output).for_each(open_batch);
    identify(&mut proto, metadata);
    Model::from_proto(proto)
}

/// Parameters and running statistics by name, in the type that the file held them in.
fn weights(student: &Student) -> Result<BTreeMap<String, Array>> {
    let vars = student
        .parameters
        .iter()
        .map(|p| (&p.name, &p.var))
        .chain(student.buffers.iter().map(|b| (&b.name, &b.var)));
    vars.map(|(name, var)| {
        let original =
            student.graph.parameters.get(name).or_else(|| student.graph.buffers.get(name));
        let dtype = original.map_or(Dtype::F32, |leaf| leaf.dtype);
        Ok((name.clone(), array(var.as_tensor(), dtype)?))
    })
    .collect()
}

/// A node's output as a constant in its place.
fn constant(node: NodeProto, mean: &Mean) -> Result<NodeProto> {
    let value = array(&narrow(&[mean.value], &[], DType::F64)?, mean.dtype)?;
    let attribute = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor.into()),
        t: Some(tensor_proto("", &value)),
        ..AttributeProto::default()
    };
    Ok(NodeProto {
        op_type: Some("Constant".into()),
        input: Vec::new(),
        attribute: vec![attribute],
        ..node
    })
}

/// A tensor's values in an element type of files.
pub(super) fn array(tensor: &Tensor, dtype: Dtype) -> Result<Array> {
    let flat = tensor.flatten_all()?;
    let values = match dtype {
        Dtype::F64 => Values::F64(flat.to_dtype(candle_core::DType::F64)?.to_vec1()?),
        Dtype::F16 => Values::F16(
            flat.to_dtype(candle_core::DType::F32)?
                .to_vec1::<f32>()?
                .into_iter()
                .map(f16::from_f32)
                .collect(),
        ),
        _ => Values::F32(flat.to_dtype(candle_core::DType::F32)?.to_vec1()?),
    };
    Array::new(tensor.dims().to_vec(), values)
}

/// Removes nodes whose outputs nothing reads (a bypassed Dropout's ratio, a replaced Constant).
fn drop_unread(nodes: &mut Vec<NodeProto>, outputs: &BTreeSet<String>) {
    let mut read: BTreeSet<String> = outputs.clone();
    let mut kept: Vec<NodeProto> = Vec::with_capacity(nodes.len());
    for node in std::mem::take(nodes).into_iter().rev() {
        if node.output.iter().any(|o| read.contains(o)) {
            read.extend(node.input.iter().filter(|i| !i.is_empty()).cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    *nodes = kept;
}

/// Gives the first axis of an input or output a name in place of a size.
fn open_batch(value: &mut ValueInfoProto) {
    let tensor = value.r#type.as_mut().and_then(|t| t.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = tensor
        && let Some(first) = tensor.shape.as_mut().and_then(|s| s.dim.first_mut())
    {
        first.value = Some(tensor_shape_proto::dimension::Value::DimParam(BATCH.into()));
    }
}

/// Who wrote the file, and what it says about itself: nothing that depends on where or when.
fn identify(proto: &mut ModelProto, told: &[(String, String)]) {
    let is_torch = proto.producer_name() == metadata::PYTORCH;
    proto.producer_name = Some("nst-cache".into());
    proto.producer_version = Some(env!("CARGO_PKG_VERSION").into());
    proto.doc_string = None;
    let mut entries: BTreeMap<String, String> =
        proto.metadata_props.iter().map(|e| (e.key().to_owned(), e.value().to_owned())).collect();
    entries.extend(told.iter().cloned());
    if is_torch {
        entries.insert(metadata::PRODUCER.into(), metadata::PYTORCH.into());
    }
    proto.metadata_props = entries
        .into_iter()
        .map(|(key, value)| StringStringEntryProto { key: Some(key), value: Some(value) })
        .collect();
}
