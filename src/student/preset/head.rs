//! A new last layer: a student that tells other classes apart.

use super::init::Init;
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, tensor_shape_proto::dimension::Value as Size, type_proto,
};
use crate::onnx::{Model, logits, tensor_proto};
use std::collections::HashMap;

/// The model with a new last layer of `classes` outputs, drawn as PyTorch draws a linear layer
/// (uniform in ±1/√`fan_in`) from `seed`, and a line about it. Its weights keep their names.
///
/// # Errors
/// When the logits do not come from a layer whose weights stand in the file.
pub fn with_head(model: &Model, classes: usize, seed: u64) -> Result<(Model, String)> {
    if classes == 0 {
        return Err(Error::input("head: expected at least 1 class, found 0"));
    }
    let name = logits::of_student(model, 0)
        .ok_or_else(|| Error::input("head: expected an output [batch, classes], found none"))?;
    let layer = Layer::of(model.graph(), &name).ok_or_else(|| {
        Error::input(format!(
            "head: expected `{name}` to come from a linear layer or a convolution with weights of \
             its own in the file, found another"
        ))
        .hint("export the student with the classes that it is to tell apart")
    })?;
    let mut graph = model.graph().clone();
    let place = |name: &str| graph.initializer.iter().position(|t| t.name() == name);
    let (Some(weight), bias) = (place(&layer.weight), layer.bias.as_deref().and_then(place)) else {
        return Err(Error::input(format!("head: weight {} is not in the file", layer.weight)));
    };
    let (dtype, old) = model.head(&graph.initializer[weight])?;
    let outputs = old.get(layer.axis).copied().unwrap_or(0);
    if old.len() < 2 || outputs == 0 {
        return Err(Error::input(format!("head: weight {} has shape {old:?}", layer.weight)));
    }
    let mut shape = old.clone();
    shape[layer.axis] = classes;
    let fan_in: usize =
        old.iter().enumerate().filter(|(axis, _)| *axis != layer.axis).map(|(_, n)| n).product();
    let (law, _) = Init::Uniform.laws(&[classes, fan_in]);
    let draw = |shape: Vec<usize>, name: &str| {
        let count = shape.iter().product();
        Array::new(shape, Values::F32(law.values(count, seed, name)))
            .and_then(|array| array.converted(dtype))
            .map(|array| tensor_proto(name, &array))
    };
    graph.initializer[weight] = draw(shape.clone(), &layer.weight)?;
    if let (Some(place), Some(name)) = (bias, &layer.bias) {
        graph.initializer[place] = draw(vec![classes], name)?;
    }
    widen(&mut graph, outputs, classes);
    let note = format!(
        "new head of `{name}`: {} {shape:?} in place of {old:?}, drawn from seed {seed}",
        layer.weight
    );
    Ok((model.with_graph(graph)?, note))
}

/// The layer that gives the logits.
struct Layer {
    weight: String,
    bias: Option<String>,
    /// The axis of its weight that counts outputs.
    axis: usize,
}

impl Layer {
    fn of(graph: &GraphProto, logits: &str) -> Option<Self> {
        let makers: HashMap<&str, &NodeProto> = graph
            .node
            .iter()
            .flat_map(|node| node.output.iter().map(move |output| (output.as_str(), node)))
            .collect();
        let held = |name: &String| graph.initializer.iter().any(|t| t.name() == name);
        let readers = |name: &str| {
            graph.node.iter().filter(|n| n.input.iter().any(|input| input == name)).count()
        };
        let mut bias = None;
        let mut name = logits;
        // a layer, an addition of its bias, and what only moves values between them
        for _ in 0..graph.node.len() {
            let node = *makers.get(name)?;
            let int = |key: &str| {
                node.attribute.iter().find(|a| a.name() == key).map_or(0, AttributeProto::i)
            };
            let axis = match node.op_type() {
                "Gemm" => Some(usize::from(int("transB") == 0)),
                "MatMul" => Some(1),
                "Conv" => Some(0),
                "Add" => {
                    bias = Some(node.input.iter().find(|input| held(input))?.clone());
                    name = node.input.iter().find(|input| !held(input))?;
                    continue;
                }
                "Identity" | "Flatten" | "Reshape" | "Squeeze" | "GlobalAveragePool"
                | "ReduceMean" | "Cast" => None,
                _ => return None,
            };
            let Some(axis) = axis else {
                name = node.input.first()?;
                continue;
            };
            let weight = node.input.get(1).filter(|name| held(name))?.clone();
            let bias = bias.or_else(|| node.input.get(2).filter(|name| held(name)).cloned());
            let is_shared =
                readers(&weight) > 1 || bias.as_deref().is_some_and(|bias| readers(bias) > 1);
            return (!is_shared).then_some(Self { weight, bias, axis });
        }
        None
    }
}

/// Gives the outputs that counted the old classes the new number.
fn widen(graph: &mut GraphProto, old: usize, classes: usize) {
    let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    for output in &mut graph.output {
        let tensor = output.r#type.as_mut().and_then(|t| t.value.as_mut());
        if let Some(type_proto::Value::TensorType(tensor)) = tensor
            && let Some(last) = tensor.shape.as_mut().and_then(|s| s.dim.last_mut())
            && last.value == Some(Size::DimValue(size(old)))
        {
            last.value = Some(Size::DimValue(size(classes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::student::preset;

    fn dims<'a>(graph: &'a GraphProto, name: &str) -> &'a [i64] {
        graph.initializer.iter().find(|t| t.name() == name).map_or(&[], |tensor| &tensor.dims)
    }

    #[test]
    fn a_presets_head_takes_other_classes() {
        let model = preset::build("resnet8", 100, [3, 32, 32], 0).unwrap();
        let (changed, note) = with_head(&model, 7, 3).unwrap();
        assert!(note.contains("[7, 64] in place of [100, 64]"), "{note}");
        assert_eq!(dims(changed.graph(), "fc.weight"), [7, 64]);
        assert_eq!(dims(changed.graph(), "fc.bias"), [7]);
        let again = with_head(&model, 7, 3).unwrap().0;
        assert_eq!(changed.bytes(), again.bytes());
        assert_ne!(changed.bytes(), with_head(&model, 7, 4).unwrap().0.bytes());
        assert!(with_head(&model, 0, 0).is_err());
    }
}
