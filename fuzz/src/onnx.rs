//! Models: what `inspect`, `extract` and `train` do with one before it runs.

use super::read_or_refused;
use nst_cache::onnx::{Dim, Model, cost, tap, values};
use nst_cache::student::{ImportOptions, Student};
use std::collections::HashMap;

/// Reads a model's bytes, lists its taps as if every tensor were a map, imports it as a student and
/// plans it.
pub fn model(bytes: &[u8]) {
    let Some(model) = read_or_refused(Model::from_bytes(bytes.to_vec(), None)) else { return };
    for tensor in &model.graph().initializer {
        read_or_refused(model.initializer(tensor.name()));
    }
    let _ = (model.opset(), model.outputs(), model.metadata("classes"), cost::parameters(&model));
    let names: Vec<String> =
        model.graph().node.iter().flat_map(values).map(str::to_owned).collect();
    read_or_refused(model.with_outputs(&names));

    let sizes = |shape: &[Dim]| {
        shape
            .iter()
            .map(|dim| if let Dim::Fixed(n) = dim { Some(*n) } else { None })
            .collect::<Vec<_>>()
    };
    let mut shapes: HashMap<String, Vec<Option<usize>>> =
        names.into_iter().map(|name| (name, vec![None, Some(8), Some(4), Some(4)])).collect();
    shapes.extend(model.outputs().into_iter().map(|value| (value.name, sizes(&value.shape))));
    let _ = tap::candidates(&model, &shapes, None);
    let known = shapes
        .into_iter()
        .map(|(name, shape)| (name, shape.into_iter().map(|n| n.unwrap_or(2)).collect()))
        .collect();
    let _ = cost::macs(&model, &known, 2);

    read_or_refused(Student::check(&model));
    if let Some(student) = read_or_refused(Student::import(&model, &ImportOptions::default())) {
        read_or_refused(student.export(&[]));
    }
}
