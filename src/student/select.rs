//! Which parameters a recipe selects.

use super::pattern::matches;
use super::{Student, TensorId};
use crate::onnx::operator::{Class, Movement};
use std::collections::HashSet;

/// The word for scale and bias of normalizations.
const NORM: &str = "norm";

impl Student {
    /// Which of [`Student::parameters`] a glob pattern names, in their order; the word `norm` means
    /// scale and bias of every normalization, whatever their names.
    #[must_use]
    pub fn select(&self, pattern: &str) -> Vec<bool> {
        let names = self.parameters.iter().map(|parameter| parameter.name.as_str());
        if pattern == NORM {
            let of_norms = self.norm_parameters();
            return names.map(|name| of_norms.contains(name)).collect();
        }
        names.map(|name| matches(pattern, name)).collect()
    }

    fn norm_parameters(&self) -> HashSet<&str> {
        let graph = &self.graph;
        let parameter = |id: &TensorId| {
            let name = graph.names.get(id.0)?;
            graph.parameters.contains_key(name).then_some(name.as_str())
        };
        let mut found = HashSet::new();
        for norm in &graph.nodes {
            let operator = norm.proto.operator();
            if operator.class != Class::Normalization {
                continue;
            }
            let slots = operator.parameters.iter().filter_map(|&slot| norm.inputs.get(slot));
            let own: Vec<&str> = slots.flatten().filter_map(parameter).collect();
            if !own.is_empty() {
                found.extend(own);
                continue;
            }
            // a group normalization as exporters write it: the normalization in another shape, then
            // a product with its scale and a sum with its bias
            let mut behind = norm.outputs.first().copied().flatten();
            while let Some(tensor) = behind {
                let mut readers = graph.nodes.iter().filter(|n| n.inputs.contains(&Some(tensor)));
                let (Some(reader), None) = (readers.next(), readers.next()) else { break };
                let learned: Vec<&str> =
                    reader.inputs.iter().flatten().filter_map(parameter).collect();
                let affine = matches!(reader.proto.op_type(), "Mul" | "Add") && !learned.is_empty();
                if !affine && !reader.proto.operator().moves(Movement::Reshape) {
                    break;
                }
                found.extend(learned);
                behind = reader.outputs.first().copied().flatten();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ImportOptions, preset};
    use super::*;
    use crate::array::{Array, Values};
    use crate::onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
        ValueInfoProto, tensor_shape_proto, type_proto,
    };
    use crate::onnx::{Model, tensor_proto};

    fn selected(student: &Student, pattern: &str) -> Vec<String> {
        let names = student.parameters().iter().map(|p| p.name.clone());
        names.zip(student.select(pattern)).filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }

    #[test]
    fn norms_are_known_by_their_place_and_others_by_their_name() {
        let model = preset::build("resnet8", 10, [3, 32, 32], 0).unwrap();
        let student = Student::import(&model, &ImportOptions::default()).unwrap();
        let norms = selected(&student, NORM);
        let of_graph = |op: &str, slot: usize| {
            let nodes = model.graph().node.iter().filter(move |n| n.op_type() == op);
            nodes.map(move |n| n.input[slot].clone()).collect::<Vec<_>>()
        };
        let mut expected =
            [of_graph("BatchNormalization", 1), of_graph("BatchNormalization", 2)].concat();
        expected.sort();
        assert!(!norms.is_empty() && norms == expected, "{norms:?}");
        let weights = of_graph("Gemm", 1);
        assert_eq!(selected(&student, &weights[0]), weights);
        assert!(selected(&student, "none*").is_empty());
    }

    #[test]
    fn a_group_normalization_in_parts_is_a_norm() {
        let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let held = |name: &str, shape: &[usize], values: Values| {
            tensor_proto(name, &Array::new(shape.to_vec(), values).unwrap())
        };
        let floats = |value: f32, count: usize| Values::F32(vec![value; count]);
        let dims = |sizes: &[i64]| TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(1),
                shape: Some(TensorShapeProto {
                    dim: sizes
                        .iter()
                        .map(|&n| tensor_shape_proto::Dimension {
                            value: Some(tensor_shape_proto::dimension::Value::DimValue(n)),
                            ..Default::default()
                        })
                        .collect(),
                }),
            })),
            ..Default::default()
        };
        let value = |name: &str, sizes: &[i64]| ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(dims(sizes)),
            ..Default::default()
        };
        let graph = GraphProto {
            node: vec![
                node("Conv", &["x", "conv.weight"], "convolved"),
                node("Reshape", &["convolved", "apart"], "groups"),
                node("InstanceNormalization", &["groups", "one", "zero"], "normal"),
                node("Reshape", &["normal", "together"], "map"),
                node("Mul", &["map", "gn.weight"], "scaled"),
                node("Add", &["scaled", "gn.bias"], "shifted"),
                node("Flatten", &["shifted"], "flat"),
                node("Gemm", &["flat", "fc.weight"], "logits"),
            ],
            initializer: vec![
                held("apart", &[3], Values::I64(vec![0, 2, -1])),
                held("together", &[4], Values::I64(vec![0, 4, 2, 2])),
                held("conv.weight", &[4, 4, 1, 1], floats(0.1, 16)),
                held("one", &[2], floats(1.0, 2)),
                held("zero", &[2], floats(0.0, 2)),
                held("gn.weight", &[4, 1, 1], floats(1.0, 4)),
                held("gn.bias", &[4, 1, 1], floats(0.0, 4)),
                held("fc.weight", &[16, 3], floats(0.1, 48)),
            ],
            input: vec![value("x", &[2, 4, 2, 2])],
            output: vec![value("logits", &[2, 3])],
            ..Default::default()
        };
        let opset = OperatorSetIdProto { version: Some(17), ..Default::default() };
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![opset],
            graph: Some(graph),
            ..Default::default()
        };
        let model = Model::from_proto(model).unwrap();
        let student = Student::import(&model, &ImportOptions::default()).unwrap();
        assert_eq!(selected(&student, NORM), ["gn.bias", "gn.weight"]);
    }
}
