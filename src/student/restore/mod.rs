//! Restores what an exporter's optimizer removed from a student that is to be trained: parameters
//! that it merged with others of equal value, biases of zero that it dropped, weights that it
//! transposed, batch norms that it folded into convolutions.
//!
//! `torch.export` records which call of the module a node comes from and which tensors of the state
//! dict that call takes ([`signature`]). So the tensor at an input of a node is known by name,
//! whatever the optimizer put there. The parameters keep their names in the state dict.

mod norms;
mod reads;

pub(super) use norms::guessed;

use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto};
use crate::onnx::signature::{self, Call, Signature, TensorKind};
use crate::onnx::{Model, tensor_proto};
use crate::student::FoldedNorms;
use reads::Reads;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A student with everything restored that its exporter records about it.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) model: Model,
    /// What the exporter calls parameters and buffers; `None` where it does not say.
    pub(super) signature: Option<Signature>,
    /// What was restored, in one line.
    pub(super) note: Option<String>,
    /// What cannot be restored, and what to do about it.
    pub(super) refusal: Option<Error>,
}

/// How many of each kind were restored.
#[derive(Debug, Default)]
struct Counts {
    merged: usize,
    biases: usize,
    norms: usize,
    /// Norms for which the file does not show whether they had learned anything.
    untold: usize,
}

impl Counts {
    fn note(&self) -> Option<String> {
        let some = |n: usize, [one, many]: [&str; 2], how: &str| {
            (n > 0).then(|| format!("{n} {} {how}", if n == 1 { one } else { many }))
        };
        let folded = "folded into convolutions (as new ones, of scale 1)";
        let parts: Vec<String> = [
            some(self.merged, ["parameter", "parameters"], "merged with others of equal value"),
            some(self.biases, ["bias", "biases"], "of zero left out"),
            some(self.norms, ["batch norm", "batch norms"], folded),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| {
            let untold = if self.untold > 0 {
                "; whether those norms had learned anything cannot be told"
            } else {
                ""
            };
            format!(
                "what the exporter's optimizer took out is put back: {}{untold}",
                parts.join(", ")
            )
        })
    }
}

/// The hint for everything that cannot be restored.
const EXPORT_WHOLE: &str = "export it with torch.onnx.export(model.train(), (x,), f, dynamo=True, \
                            optimize=False, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), \
                            which keeps all";

/// Restores what the exporter's optimizer removed.
///
/// # Errors
/// When weights cannot be read.
pub(super) fn restore(model: &Model, norms: FoldedNorms) -> Result<Restored> {
    let Some(signature) = Signature::of(model.graph()) else {
        return norms::without_signature(model, norms);
    };
    let mut restoration = Restoration::new(model, &signature);
    restoration.name_reads()?;
    restoration.add_biases()?;
    let folded = restoration.add_norms(norms)?;
    let mut refusal = folded;
    if refusal.is_none() && norms != FoldedNorms::Leave && signature::is_optimized(model.graph()) {
        refusal = restoration.lost();
    }
    let note = restoration.counts.note();
    let biases = if norms == FoldedNorms::Leave { restoration.folded_biases() } else { Vec::new() };
    let model = match restoration.finished() {
        Some(graph) => model.with_graph(graph)?,
        None => model.clone(),
    };
    let has_calls = model.graph().node.iter().any(|node| Call::of(node).is_some());
    let mut signature = signature;
    signature.is_whole = has_calls && norms != FoldedNorms::Leave;
    signature.tensors.extend(biases.into_iter().map(|name| (name, TensorKind::Parameter)));
    Ok(Restored { model, note, refusal, signature: Some(signature) })
}

/// A graph that is being restored.
struct Restoration<'a> {
    model: &'a Model,
    signature: &'a Signature,
    graph: GraphProto,
    /// Initializers by name.
    leaves: HashMap<String, usize>,
    /// Initializers that have been given their names in the state dict.
    renamed: HashSet<String>,
    /// Matrices that a node transposes.
    turned: HashSet<String>,
    /// How many values further copies may have.
    room: usize,
    /// Whether batch norms are restored in training form.
    norms_train: bool,
    counts: Counts,
    changed: bool,
    /// New nodes before all others.
    front: Vec<NodeProto>,
    /// New nodes right after one of the graph's, by its number.
    behind: BTreeMap<usize, NodeProto>,
}

impl<'a> Restoration<'a> {
    fn new(model: &'a Model, signature: &'a Signature) -> Self {
        let graph = model.graph().clone();
        let leaves = graph
            .initializer
            .iter()
            .enumerate()
            .map(|(number, leaf)| (leaf.name().to_owned(), number))
            .collect();
        let values = graph.initializer.iter().map(elements).fold(0, usize::saturating_add);
        let room = values.saturating_mul(4).saturating_add(COPIES);
        Self {
            model,
            signature,
            graph,
            leaves,
            renamed: HashSet::new(),
            turned: HashSet::new(),
            room,
            norms_train: norms::train(model),
            counts: Counts::default(),
            changed: false,
            front: Vec::new(),
            behind: BTreeMap::new(),
        }
    }

    /// The graph, if anything was restored.
    fn finished(mut self) -> Option<GraphProto> {
        if !self.changed {
            return None;
        }
        let mut nodes = self.front;
        for (number, node) in self.graph.node.into_iter().enumerate() {
            nodes.push(node);
            nodes.extend(self.behind.remove(&number));
        }
        Some(GraphProto { node: nodes, ..self.graph })
    }

    /// Gives every input that reads a tensor of the module that tensor's name, and each tensor a
    /// value of its own.
    fn name_reads(&mut self) -> Result<()> {
        let reads = Reads::of(self.model.graph(), self.signature);
        for read in &reads.named {
            let stands = self.input(read.node, read.slot).to_owned();
            if stands == read.name {
                continue;
            }
            if read.is_turned && self.is_held() {
                self.turn(read.node, read.slot, &read.name)?;
            } else {
                self.share(&stands, &read.name)?;
                self.set_input(read.node, read.slot, &read.name);
            }
        }
        // a constant that has a parameter's value is not that parameter
        for &(node, slot) in &reads.constants {
            let stands = self.input(node, slot).to_owned();
            if self.signature.tensors.contains_key(&stands) {
                let own = format!("{stands}.constant");
                self.share(&stands, &own)?;
                self.set_input(node, slot, &own);
            }
        }
        Ok(())
    }

    /// Whether weights are in memory: inspecting a file does not read weights to change them.
    fn is_held(&self) -> bool {
        self.model.folder().is_none()
    }

    fn input(&self, node: usize, slot: usize) -> &str {
        self.graph.node.get(node).and_then(|n| n.input.get(slot)).map_or("", String::as_str)
    }

    fn set_input(&mut self, node: usize, slot: usize, name: &str) {
        if let Some(node) = self.graph.node.get_mut(node) {
            while node.input.len() <= slot {
                node.input.push(String::new());
            }
            if let Some(input) = node.input.get_mut(slot) {
                name.clone_into(input);
            }
            self.changed = true;
        }
    }

    /// Adds an initializer's value under another name.
    fn share(&mut self, from: &str, to: &str) -> Result<()> {
        let tensor = self.leaves.get(from).and_then(|&n| self.graph.initializer.get(n)).cloned();
        if let Some(tensor) = tensor.filter(|_| !self.leaves.contains_key(to)) {
            let is_second =
                self.signature.tensors.contains_key(from) || !self.renamed.insert(from.to_owned());
            self.counts.merged += usize::from(is_second && self.signature.is_parameter(to));
            self.room = self.room.checked_sub(elements(&tensor)).ok_or_else(|| {
                Error::input(format!("parameters of the value of {from} fill the memory"))
            })?;
            self.add(TensorProto { name: Some(to.to_owned()), ..tensor });
        }
        Ok(())
    }

    fn add(&mut self, tensor: TensorProto) {
        self.leaves.insert(tensor.name().to_owned(), self.graph.initializer.len());
        self.graph.initializer.push(tensor);
        self.changed = true;
    }

    fn value(&self, name: &str) -> Result<Option<Array>> {
        let tensor = self.leaves.get(name).and_then(|&n| self.graph.initializer.get(n));
        tensor.map(|tensor| self.model.tensor(tensor)).transpose()
    }

    fn replace(&mut self, name: &str, value: &Array) {
        let place = self.leaves.get(name).and_then(|&n| self.graph.initializer.get_mut(n));
        if let Some(place) = place {
            *place = tensor_proto(name, value);
            self.changed = true;
        }
    }

    /// Stores a matrix as the module has it, `[out, in]`, and transposes it in the graph.
    fn turn(&mut self, node: usize, slot: usize, name: &str) -> Result<()> {
        let stands = self.input(node, slot).to_owned();
        let turned = format!("{name}.turned");
        if !self.leaves.contains_key(name) {
            let Some(value) = self.value(&stands)? else { return Ok(()) };
            let Some(value) = transposed(&value)? else { return Ok(()) };
            self.add(tensor_proto(name, &value));
        }
        if self.turned.insert(name.to_owned()) {
            self.front.push(NodeProto {
                op_type: Some("Transpose".into()),
                name: Some(turned.clone()),
                input: vec![name.to_owned()],
                output: vec![turned.clone()],
                attribute: vec![ints("perm", &[1, 0])],
                ..NodeProto::default()
            });
        }
        self.set_input(node, slot, &turned);
        Ok(())
    }

    /// Restores the biases that were dropped because they were zero.
    fn add_biases(&mut self) -> Result<()> {
        for lost in Reads::lost_biases(self.model.graph(), self.signature) {
            if !self.leaves.contains_key(&lost.name) {
                let weight = self.value(self.input(lost.node, 1))?;
                let dtype = weight.map_or(Dtype::F32, |weight| weight.dtype());
                self.add(tensor_proto(&lost.name, &filled(lost.channels, 0.0, dtype)?));
                self.counts.biases += 1;
            }
            let Some(node) = self.graph.node.get(lost.node) else { continue };
            if node.op_type() == "MatMul" {
                self.follow(lost.node, "Add", ".product", &[&lost.name], Vec::new());
            } else {
                self.set_input(lost.node, 2, &lost.name);
            }
        }
        Ok(())
    }

    /// Inserts a node after another one and gives its output the name of the other's.
    fn follow(
        &mut self,
        node: usize,
        operator: &str,
        suffix: &str,
        beside: &[&str],
        attribute: Vec<AttributeProto>,
    ) {
        let Some(output) = self.graph.node.get_mut(node).and_then(|n| n.output.first_mut()) else {
            return;
        };
        let name = output.clone();
        let inner = format!("{name}{suffix}");
        inner.clone_into(output);
        let inputs = std::iter::once(inner).chain(beside.iter().map(|&name| name.to_owned()));
        let follower = NodeProto {
            op_type: Some(operator.to_owned()),
            name: Some(format!("{name}.{operator}")),
            input: inputs.collect(),
            output: vec![name],
            attribute,
            ..NodeProto::default()
        };
        self.behind.insert(node, follower);
        self.changed = true;
    }

    /// The parameters that a tensor of another module replaces within their own module: the
    /// exporter keeps only one name for tied weights.
    fn tied(&self) -> HashSet<String> {
        let mut tied = HashSet::new();
        for node in &self.graph.node {
            let Some(module) = signature::modules(node).into_iter().next() else { continue };
            let taken = Call::of(node).map_or_else(Vec::new, |c| self.signature.taken_by(&c));
            for read in node.input.iter().filter(|read| self.signature.is_parameter(read)) {
                let part = read.rsplit_once('.').map_or(read.as_str(), |(_, part)| part);
                let own = format!("{module}.{part}");
                // a call that takes the module's own tensor reads that
                if own != *read && !taken.contains(&own.as_str()) {
                    tied.insert(own);
                }
            }
        }
        tied
    }

    /// Why the student differs from the module: parameters that are missing from the file.
    fn lost(&self) -> Option<Error> {
        let nodes = self.front.iter().chain(&self.graph.node).chain(self.behind.values());
        let read: HashSet<&str> = nodes.flat_map(|n| &n.input).map(String::as_str).collect();
        let tied = self.tied();
        let lost: Vec<&str> = self
            .signature
            .tensors
            .keys()
            .map(String::as_str)
            .filter(|name| self.signature.is_parameter(name) && !read.contains(name))
            .filter(|name| !tied.contains(*name))
            .collect();
        let first = lost.first()?;
        let others = match lost.len() - 1 {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        Some(
            Error::input(format!(
                "the exporter's optimizer folded parameters into others, or dropped them as \
                 unused: {first}{others}"
            ))
            .hint(format!("{EXPORT_WHOLE}; or train it as it is with --leave-folded")),
        )
    }
}

/// How many values copies of initializers may have beyond four times all of them.
const COPIES: usize = 1 << 24;

/// The number of a tensor's values, as declared in its file.
fn elements(tensor: &TensorProto) -> usize {
    let size = |&d: &i64| usize::try_from(d).unwrap_or(usize::MAX);
    tensor.dims.iter().map(size).fold(1, usize::saturating_mul)
}

/// The transpose of a matrix; `None` if the array is not a matrix.
fn transposed(value: &Array) -> Result<Option<Array>> {
    let &[rows, columns] = value.shape() else { return Ok(None) };
    let size = value.dtype().size();
    let old = value.as_bytes();
    let mut bytes = Vec::with_capacity(old.len());
    for place in (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column)) {
        bytes.extend_from_slice(old.get(place * size..(place + 1) * size).unwrap_or_default());
    }
    Array::from_bytes(value.dtype(), vec![columns, rows], &bytes).map(Some)
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(attribute_proto::AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

fn filled(length: usize, value: f32, dtype: Dtype) -> Result<Array> {
    Array::new(vec![length], Values::F32(vec![value; length]))?.converted(dtype)
}

#[cfg(test)]
mod tests;
