//! Finds the batch normalization before an activation, if the export kept it.

use super::Model;
use super::flow::Flow;
use super::operator::Class;
use super::proto::NodeProto;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Scale γ and shift β of a batch normalization, by channel: its output has mean β and standard
/// deviation |γ| over the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// γ, one value per channel.
    pub scale: Vec<f32>,
    /// β, one value per channel.
    pub bias: Vec<f32>,
}

impl BatchNorm {
    /// The normalization right before an activation that reads `tensor`: the node that computes the
    /// tensor, or the one to which a shortcut is added. `None` if no activation reads the tensor,
    /// if its normalization is folded into a convolution, or if both branches of a sum have one.
    ///
    /// # Errors
    /// If the model's weights cannot be read.
    pub fn before_activation(model: &Model, tensor: &str) -> Result<Option<Self>> {
        let flow = Flow::new(model);
        let reads = |inputs: &[String]| inputs.iter().any(|input| input == tensor);
        if !model
            .graph()
            .node
            .iter()
            .any(|node| node.operator().class == Class::Activation && reads(&node.input))
        {
            return Ok(None);
        }
        let norm_of = |tensor: &str| {
            flow.producer(tensor).filter(|node| !node.operator().statistics.is_empty())
        };
        let norm = match flow.producer(tensor) {
            Some(sum) if sum.op_type() == "Add" => {
                let norms: Vec<_> = sum.input.iter().filter_map(|input| norm_of(input)).collect();
                if let [norm] = norms.as_slice() { Some(*norm) } else { None }
            }
            _ => norm_of(tensor),
        };
        let Some([_, scale, bias, ..]) = norm.map(|node| node.input.as_slice()) else {
            return Ok(None);
        };
        let values = |name: &str| {
            Ok::<_, crate::error::Error>(model.initializer(name)?.map(|array| array.to_f32()))
        };
        let (Some(scale), Some(bias)) = (values(scale)?, values(bias)?) else { return Ok(None) };
        let is_sound =
            scale.len() == bias.len() && scale.iter().chain(&bias).all(|value| value.is_finite());
        Ok(is_sound.then_some(Self { scale, bias }))
    }
}

/// The first opset where an attribute, rather than the number of outputs, tells that a batch
/// normalization trains.
const OPSET_TRAINING_MODE: i64 = 14;

/// Whether a batch normalization takes its statistics from the batch, according to its graph.
#[must_use]
pub fn trains_as_written(node: &NodeProto, opset: i64) -> bool {
    if opset < OPSET_TRAINING_MODE {
        return node.output.iter().filter(|name| !name.is_empty()).count() > 1;
    }
    node.attribute.iter().any(|a| a.name() == "training_mode" && a.i() != 0)
}

#[cfg(test)]
mod tests;
