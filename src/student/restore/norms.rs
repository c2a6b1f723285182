//! Finds batch norms that an exporter folded into convolutions, and inserts new ones that do not
//! change what the student computes.

use super::{EXPORT_WHOLE, Restoration, Restored, filled, reads};
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::onnx::operator::Class;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, attribute_proto};
use crate::onnx::signature::{Call, Signature, forget_call};
use crate::onnx::{Model, tensor_proto, trains_as_written};
use crate::student::FoldedNorms;
use std::collections::{HashMap, HashSet};

/// The defaults of `torch.nn.BatchNorm2d`.
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;
/// A network of at least so many convolutions and no normalization has lost its batch norms.
const DEEP: usize = 5;

/// A folded batch norm: its convolution, its names and its numbers.
struct Folded {
    node: usize,
    /// Scale, bias, mean and variance.
    names: [String; 4],
    epsilon: f64,
    /// The share of a new value in a running statistic.
    momentum: f64,
    /// The convolution's own bias, if it had one.
    bias: Option<String>,
}

/// The other choices for a student without batch norms.
const OTHERWISE: &str = "; or put new ones in their place with --insert-batchnorm, or train it as \
                         it is with --leave-folded";

impl Restoration<'_> {
    /// Restores the batch norms that calls of the module name and that have no node. Those of a
    /// trained student are refused, since their statistics are lost, unless new ones are requested.
    pub(super) fn add_norms(&mut self, norms: FoldedNorms) -> Result<Option<Error>> {
        let folded = named(self.model.graph(), self.signature);
        let Some(first) = folded.first() else {
            return Ok((norms == FoldedNorms::Insert).then(nothing_to_insert));
        };
        if norms == FoldedNorms::Leave {
            return Ok(None);
        }
        let mut seen = HashSet::new();
        if let Some(norm) = folded.iter().find(|norm| !seen.insert(self.input(norm.node, 1))) {
            return Ok(Some(shared(self.input(norm.node, 1))));
        }
        if norms == FoldedNorms::Ask && self.is_trained(&folded)? {
            return Ok(Some(
                Error::input(format!(
                    "the exporter folded {} batch norms with all that they had learned into \
                     convolutions, the first into {}: without them it does not train as it was \
                     written",
                    folded.len(),
                    self.input(first.node, 1)
                ))
                .hint(format!("{EXPORT_WHOLE}{OTHERWISE}")),
            ));
        }
        if norms == FoldedNorms::Ask {
            for norm in &folded {
                let weight = self.input(norm.node, 1);
                if self.value(weight)?.is_some_and(|value| has_zero_rows(&value)) {
                    return Ok(Some(
                        Error::input(format!(
                            "the exporter folded a batch norm of scale 0 into {weight}, of which \
                             nothing is left"
                        ))
                        .hint(format!("{EXPORT_WHOLE}{OTHERWISE}")),
                    ));
                }
            }
        }
        self.counts.norms = folded.len();
        for norm in &folded {
            // the convolution's own bias hides what the norm had learned
            let bias = self.value(self.input(norm.node, 2))?.filter(|_| norm.bias.is_some());
            self.counts.untold += usize::from(bias.is_some_and(|bias| !is_zero(&bias)));
            self.add_norm(norm)?;
        }
        Ok(None)
    }

    /// The biases that replace norms which stay folded: they train.
    pub(super) fn folded_biases(&self) -> Vec<String> {
        let folded = named(self.model.graph(), self.signature);
        let biases = folded.iter().map(|norm| self.input(norm.node, 2).to_owned());
        biases.filter(|name| self.leaves.contains_key(name)).collect()
    }

    /// Whether the norms were trained: a convolution that had no bias has one now.
    fn is_trained(&self, folded: &[Folded]) -> Result<bool> {
        for norm in folded.iter().filter(|norm| norm.bias.is_none()) {
            let bias = self.value(self.input(norm.node, 2))?;
            if bias.is_some_and(|bias| !is_zero(&bias)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Inserts a norm after its convolution, whose weights are multiplied by what the norm divides
    /// by: √(1 + ε), since its variance is 1.
    fn add_norm(&mut self, norm: &Folded) -> Result<()> {
        let weight = self.input(norm.node, 1).to_owned();
        let place = self.leaves.get(&weight).and_then(|&n| self.graph.initializer.get(n));
        let Some(tensor) = place.cloned() else { return Ok(()) };
        let value = self.model.tensor(&tensor)?;
        let dtype = value.dtype();
        let Some(channels) = self.graph.node.get(norm.node).and_then(|node| {
            reads::channels(node, &HashMap::new(), &HashMap::from([(weight.as_str(), &tensor)]))
        }) else {
            return Ok(());
        };
        let factor = (1.0 + norm.epsilon).sqrt();
        if self.is_held() {
            self.replace(&weight, &scaled(&value, factor)?);
        }
        let old = self.input(norm.node, 2).to_owned();
        let shift = match self.value(&old)? {
            Some(bias) => bias,
            None => filled(channels, 0.0, dtype)?,
        };
        let [scale, bias, mean, variance] = &norm.names;
        let beta = if let Some(own) = &norm.bias {
            self.put(own, &scaled(&shift, factor)?);
            self.set_input(norm.node, 2, own);
            filled(channels, 0.0, dtype)?
        } else {
            if let Some(node) = self.graph.node.get_mut(norm.node) {
                node.input.truncate(2);
            }
            shift
        };
        let (ones, zeros) = (filled(channels, 1.0, dtype)?, filled(channels, 0.0, dtype)?);
        for (name, value) in [(scale, &ones), (bias, &beta), (mean, &zeros), (variance, &ones)] {
            self.put(name, value);
        }
        let mut attributes =
            vec![number("epsilon", norm.epsilon), number("momentum", 1.0 - norm.momentum)];
        if self.norms_train {
            attributes.push(AttributeProto {
                name: Some("training_mode".into()),
                r#type: Some(attribute_proto::AttributeType::Int as i32),
                i: Some(1),
                ..AttributeProto::default()
            });
        }
        if let Some(node) = self.graph.node.get_mut(norm.node) {
            // when the trained student is read again, it has its norm
            forget_call(node);
        }
        let beside = [scale.as_str(), bias, mean, variance];
        self.follow(norm.node, "BatchNormalization", ".folded", &beside, attributes);
        Ok(())
    }

    fn put(&mut self, name: &str, value: &Array) {
        if self.leaves.contains_key(name) {
            self.replace(name, value);
        } else {
            self.add(tensor_proto(name, value));
        }
    }
}

/// Whether a file has its batch norms in training form, if it has any: restored ones train as the
/// others do.
pub(super) fn train(model: &Model) -> bool {
    let nodes = &model.graph().node;
    let mut norms = nodes.iter().filter(|n| !n.operator().statistics.is_empty()).peekable();
    norms.peek().is_none() || norms.any(|norm| trains_as_written(norm, model.opset()))
}

fn is_zero(array: &Array) -> bool {
    array.to_f32().iter().all(|v| v.abs() == 0.0)
}

/// Whether all weights of some output are zero.
fn has_zero_rows(weight: &Array) -> bool {
    let rows = weight.shape().first().copied().unwrap_or(0).max(1);
    let values = weight.to_f32();
    let row = (values.len() / rows).max(1);
    values.chunks(row).any(|row| row.iter().all(|v| v.abs() == 0.0))
}

/// An array of floats times a number.
#[allow(clippy::cast_possible_truncation, reason = "weights are single precision")]
fn scaled(array: &Array, factor: f64) -> Result<Array> {
    let values = array.to_f32().iter().map(|&v| (f64::from(v) * factor) as f32).collect();
    Array::new(array.shape().to_vec(), Values::F32(values))?.converted(array.dtype())
}

#[allow(clippy::cast_possible_truncation, reason = "attributes are single precision")]
fn number(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(attribute_proto::AttributeType::Float as i32),
        f: Some(value as f32),
        ..AttributeProto::default()
    }
}

/// The batch norms that calls name and that are folded into convolutions.
fn named(graph: &GraphProto, signature: &Signature) -> Vec<Folded> {
    let mut folded = Vec::new();
    for (number, node) in graph.node.iter().enumerate() {
        let Some(call) = Call::of(node).filter(|call| call.function().contains("batch_norm"))
        else {
            continue;
        };
        // the first axis of the weight is that of the outputs
        let turned = node.attribute.iter().any(|a| a.name() == "transB" && a.i() != 0);
        let is_layer = node.op_type() == "Conv" || (node.op_type() == "Gemm" && turned);
        let Some(weight) = node.input.get(1).filter(|_| is_layer) else { continue };
        let name = |place: usize, role: &str| {
            signature
                .argument(&call, place)
                .map_or_else(|| format!("{weight}.norm.{role}"), str::to_owned)
        };
        let mut numbers = call.numbers().into_iter().rev();
        let bias = weight.strip_suffix("weight").map(|module| format!("{module}bias"));
        folded.push(Folded {
            node: number,
            names: [
                name(1, "weight"),
                name(2, "bias"),
                name(3, "running_mean"),
                name(4, "running_var"),
            ],
            epsilon: numbers.next().unwrap_or(EPSILON),
            momentum: numbers.next().unwrap_or(MOMENTUM),
            bias: bias.filter(|name| signature.is_parameter(name)),
        });
    }
    folded
}

/// The convolutions that seem to have had a batch norm, in a student whose exporter records
/// nothing: those that `TorchScript` gave new weights, or all of many without any normalization.
pub(in crate::student) fn guessed(graph: &GraphProto) -> Vec<usize> {
    if Signature::of(graph).is_some() {
        return Vec::new();
    }
    let is_float = |n: &NodeProto| n.operator().is_convolution() && n.operator().scale.is_none();
    let convolutions: Vec<usize> = (0..graph.node.len())
        .filter(|&n| graph.node.get(n).is_some_and(|n| n.op_type() == "Conv" && is_float(n)))
        .collect();
    let has = |n: usize, slot: usize, prefix: &str| {
        let input = graph.node.get(n).and_then(|n| n.input.get(slot));
        input.is_some_and(|name| !name.is_empty() && name.starts_with(prefix))
    };
    let renamed: Vec<usize> = convolutions
        .iter()
        .copied()
        .filter(|&n| has(n, 1, "onnx::Conv_") && has(n, 2, "onnx::Conv_"))
        .collect();
    if !renamed.is_empty() {
        return renamed;
    }
    let biased = convolutions.iter().filter(|&&n| has(n, 2, "")).count();
    let normalizes = graph.node.iter().any(|n| n.operator().class == Class::Normalization);
    let is_uniform = biased == 0 || biased == convolutions.len();
    if convolutions.len() >= DEEP && is_uniform && !normalizes { convolutions } else { Vec::new() }
}

fn nothing_to_insert() -> Error {
    Error::input(
        "--insert-batchnorm: expected convolutions that a batch norm was folded into, found none",
    )
    .hint("leave it out: the student trains as it is")
}

fn shared(weight: &str) -> Error {
    Error::input(format!(
        "batch norms are folded into the weight {weight}, which several convolutions share: they \
         cannot be told apart"
    ))
    .hint(format!("{EXPORT_WHOLE}; or train it as it is with --leave-folded"))
}

/// A student whose exporter records nothing: norms are inserted after convolutions on request.
pub(super) fn without_signature(model: &Model, norms: FoldedNorms) -> Result<Restored> {
    let whole = |model: Model, note| Restored { model, signature: None, note, refusal: None };
    if norms != FoldedNorms::Insert {
        return Ok(whole(model.clone(), None));
    }
    let nodes = guessed(model.graph());
    if nodes.is_empty() {
        return Err(nothing_to_insert());
    }
    let signature = Signature::default();
    let mut restoration = Restoration::new(model, &signature);
    let mut seen = HashSet::new();
    for node in nodes {
        let weight = restoration.input(node, 1).to_owned();
        // the norms of two convolutions would scale a shared weight twice
        if !seen.insert(weight.clone()) {
            return Err(shared(&weight));
        }
        let name = |role: &str| format!("{weight}.norm.{role}");
        restoration.add_norm(&Folded {
            node,
            names: [name("weight"), name("bias"), name("running_mean"), name("running_var")],
            epsilon: EPSILON,
            momentum: MOMENTUM,
            bias: None,
        })?;
        restoration.counts.norms += 1;
    }
    let note = format!("{} batch norms put behind convolutions", restoration.counts.norms);
    match restoration.finished() {
        Some(graph) => Ok(whole(model.with_graph(graph)?, Some(note))),
        None => Ok(whole(model.clone(), None)),
    }
}
