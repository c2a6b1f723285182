//! A stage: what a graph computes between two of its tensors, with the parameters of today held
//! fixed and the gradient asked of its input.
//!
//! It shares the parameters of the graph that it is of, which may go on training; its own passes
//! move neither them nor running statistics.

use super::import::{Graph, TensorSource};
use super::{Mode, Output, Pass, Student, TensorId};
use crate::error::{Error, Result};
use crate::onnx::Value;
use candle_core::Tensor;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;

/// What lies between two tensors of a graph.
#[derive(Debug)]
pub struct Stage {
    part: Student,
    from: TensorId,
}

/// One forward pass of a stage.
#[derive(Debug)]
pub struct StagePass<'a> {
    pass: Pass<'a>,
    from: TensorId,
    to: TensorId,
}

impl Student {
    /// The stage from one tensor to another, through which everything that the second depends on
    /// has to pass: what shapes alone decide is taken from the first one's.
    ///
    /// # Errors
    /// When the second does not follow from the first, or not from it alone: names the value that
    /// goes around it and the node that reads it.
    pub fn stage(&self, from: TensorId, to: TensorId) -> Result<Stage> {
        let kept = cut(&self.graph, from, to)?;
        let nodes: Vec<_> = kept.iter().map(|&node| self.graph.nodes[node].clone()).collect();
        let fills = kept
            .iter()
            .enumerate()
            .filter_map(|(new, old)| Some((new, self.fills.get(old)?.clone())))
            .collect();
        let read: HashSet<TensorId> =
            nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied()).collect();
        let mut sources: Vec<TensorSource> = self.graph.sources.clone();
        for source in sources.iter_mut().filter(|source| matches!(source, TensorSource::Input(_))) {
            *source = TensorSource::Computed;
        }
        sources[from.0] = TensorSource::Input(0);
        let graph = Graph {
            opset: self.graph.opset,
            nodes,
            names: self.graph.names.clone(),
            sources,
            integers: vec![false; self.graph.names.len()],
            index: self.graph.index.clone(),
            parameters: BTreeMap::new(),
            buffers: BTreeMap::new(),
            decisions: Vec::new(),
            constants: self
                .graph
                .constants
                .iter()
                .filter(|(id, _)| read.contains(id))
                .map(|(id, host)| (*id, host.clone()))
                .collect(),
            lacks_constants: false,
            unsupported: Vec::new(),
            frozen: self.graph.frozen.clone(),
            chance: self.graph.chance.clone(),
            is_stage: true,
        };
        let part = Student {
            model: self.model.clone(),
            graph,
            notes: Vec::new(),
            fixed_batch: None,
            dtype: self.dtype,
            device: self.device.clone(),
            freeze_batchnorm: self.freeze_batchnorm,
            executor: self.executor,
            arena: self.arena.clone(),
            inputs: vec![Value {
                name: self.graph.names[from.0].clone(),
                dtype: None,
                shape: Vec::new(),
                kind: String::new(),
                has_shape: false,
            }],
            parameters: self.parameters.clone(),
            buffers: self.buffers.clone(),
            outputs: vec![Output { name: self.graph.names[to.0].clone(), tensor: to }],
            logits: to,
            classes: self.classes,
            fills,
            plans: Mutex::default(),
        };
        Ok(Stage { part, from })
    }
}

impl Stage {
    /// Runs the stage. With [`Mode::Train`] batch normalization takes the batch's own statistics
    /// and dropout its masks, those that a pass of the whole graph has for the same seed; the
    /// running statistics stay.
    ///
    /// # Errors
    /// When the stage cannot run on such an input.
    pub fn forward(&self, x: &Tensor, mode: Mode, dropout_seed: u64) -> Result<StagePass<'_>> {
        let pass = self.part.forward(std::slice::from_ref(x), mode, &[], dropout_seed)?;
        Ok(StagePass { pass, from: self.from, to: self.part.logits })
    }
}

impl StagePass<'_> {
    /// What the stage computed.
    ///
    /// # Errors
    /// Never, once the pass was made.
    pub fn output(&self) -> Result<&Tensor> {
        self.pass.value(self.to)
    }

    /// The gradient of the stage's input from that of its output.
    ///
    /// # Errors
    /// When the gradient has another shape than the output.
    pub fn backward(self, gradient: Tensor) -> Result<Tensor> {
        let found = self.pass.input_gradient(self.from, vec![(self.to, gradient)])?;
        found.ok_or_else(|| Error::input("stage: its output has no slope by its input"))
    }
}

/// The nodes that `to` takes, with `from` given; in order.
fn cut(graph: &Graph, from: TensorId, to: TensorId) -> Result<Vec<usize>> {
    let name = |id: TensorId| graph.names[id.0].as_str();
    // what follows from a tensor of `roots`, shapes that are read of it included
    let followers = |roots: HashSet<TensorId>| {
        let mut found = roots;
        for node in &graph.nodes {
            if node.inputs.iter().flatten().any(|id| found.contains(id)) {
                found.extend(node.outputs.iter().flatten());
            }
        }
        found
    };
    let inputs = graph
        .sources
        .iter()
        .enumerate()
        .filter(|(_, source)| matches!(source, TensorSource::Input(_)));
    let (fed, below) =
        (followers(inputs.map(|(id, _)| TensorId(id)).collect()), followers(HashSet::from([from])));
    if from == to || !below.contains(&to) {
        return Err(Error::input(format!(
            "tensor {}: expected one that follows from {}, found one that does not",
            name(to),
            name(from)
        )));
    }

    let producers: HashMap<TensorId, usize> = graph
        .nodes
        .iter()
        .enumerate()
        .flat_map(|(i, node)| node.outputs.iter().flatten().map(move |id| (*id, i)))
        .collect();
    let (mut needed, mut open) = (vec![false; graph.nodes.len()], vec![to]);
    while let Some(id) = open.pop() {
        if let Some(&node) = producers.get(&id).filter(|_| id != from)
            && !std::mem::replace(&mut needed[node], true)
        {
            open.extend(graph.nodes[node].inputs.iter().flatten());
        }
    }
    let needed: Vec<usize> = (0..graph.nodes.len()).filter(|&node| needed[node]).collect();
    for &number in &needed {
        let inputs = || graph.nodes[number].inputs.iter().flatten().copied();
        if let (true, Some(around)) = (
            inputs().any(|id| below.contains(&id)),
            inputs().find(|id| fed.contains(id) && !below.contains(id)),
        ) {
            let (node, operator) = graph.label(number);
            return Err(Error::input(format!(
                "tensor {}: expected every way to {} to lead through it, found {} around it, read \
                 by node {node} ({operator})",
                name(from),
                name(to),
                name(around)
            )));
        }
    }
    Ok(needed)
}
