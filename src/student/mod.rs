//! The student: an ONNX graph imported as a trainable model, executed forward and backward, and
//! exported again.
//!
//! `import` reads the graph and decides what trains; `plan` orders it once; `op/` holds one ONNX
//! operator a file with its forward and backward; `exec` runs a plan, in host memory or on a
//! device; `stage` is a part of a graph between two tensors; `preset` writes untrained networks;
//! `export` writes trained ones.

mod batch;
mod chance;
mod check;
mod exec;
mod export;
mod fold;
mod host;
mod import;
mod leaf;
mod op;
mod pass;
mod pattern;
mod plan;
pub mod preset;
mod projection;
mod restore;
mod select;
mod sequences;
mod settings;
mod stage;
mod trains;
mod trial;

#[doc(hidden)]
pub use exec::blocked::StepCost;
pub use pass::Pass;
pub use projection::Projection;
pub use settings::{FoldedNorms, Precision};
pub use stage::{Stage, StagePass};
pub use trains::Decision;

use crate::error::{Context, Error, Result};
use crate::onnx::feed::{self, BatchPosition};
use crate::onnx::operator::Class;
use crate::onnx::{Feeding, Model, Value, logits, tap, tap::Tap, trains_as_written};
use crate::tensor;
use batch::{BatchSupport, FixedBatch};
use candle_core::{DType, Device, Tensor, Var};
use exec::blocked::{Arena, BlockedPlan, step_cost};
use exec::device;
use host::Host;
use import::{Graph, TensorSource};
use pass::Planned;
use plan::GraphPlan;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// How a graph is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// f32, or f64 for the oracle of tests.
    pub dtype: DType,
    /// Where parameters, running statistics and activations live.
    pub device: Device,
    /// Glob patterns of initializers that do not train.
    pub freeze: Vec<String>,
    /// Glob patterns of initializers that train although they would not by themselves.
    pub train: Vec<String>,
    /// Batch normalization by running statistics in training too.
    pub freeze_batchnorm: bool,
    /// How many classes the data has, which helps to tell class logits from other outputs; 0 if
    /// unknown.
    pub classes: usize,
    /// What becomes of batch norms that the exporter folded away.
    pub folded_norms: FoldedNorms,
    /// Who runs the graph; by default in the precision that reference values ask for, which is not
    /// what training asks for.
    pub executor: Executor,
}

/// Who runs a student's graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// Every operator on dense tensors in host memory, in any float type: the reference
    /// implementation.
    Reference,
    /// Channel maps in blocks of sixteen channels; float32 only, the reference executor runs other
    /// types.
    Blocked(Precision),
    /// Every operator in candle's tensor operations, on any device. A student on a device other
    /// than the CPU runs here whatever is asked for.
    Device,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            device: Device::Cpu,
            freeze: Vec::new(),
            train: Vec::new(),
            freeze_batchnorm: false,
            classes: 0,
            folded_norms: FoldedNorms::default(),
            executor: Executor::Blocked(Precision::Strict),
        }
    }
}

/// A tensor that the optimizer moves. Named by the tensor at the consuming node's input (un-shared
/// where an exporter merged equal ones).
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub var: Var,
}

/// A running mean or variance.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Its name.
    pub name: String,
    /// Its value.
    pub var: Var,
}

/// Whether a graph can be trained, and why not.
#[derive(Debug, Clone, Serialize)]
pub struct Trainability {
    /// Every float tensor that it holds, and whether it would train, in graph order.
    pub tensors: Vec<Decision>,
    /// Nodes that stop it: node name, operator, reason.
    pub blockers: Vec<(String, String, String)>,
    /// What an expert would warn of (batch normalization folded away, no parameters …).
    pub warnings: Vec<String>,
}

/// What running statistics and random draws do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; running statistics are updated by the forward pass.
    Train,
    /// Running statistics; nothing is dropped, and what is drawn is its mean.
    Eval,
    /// The graph as it stands: its own `training_mode` attributes (for references).
    AsWritten,
}

/// A tensor of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) usize);

/// An output of a student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name in the file.
    pub name: String,
    /// The tensor.
    pub tensor: TensorId,
}

/// A student ready to train: graph, plan, parameters and running statistics (sorted by name).
#[derive(Debug)]
pub struct Student {
    model: Arc<Model>,
    graph: Graph,
    /// What was done to the file to make it train.
    notes: Vec<String>,
    /// The batch that it is bound to.
    fixed_batch: Option<FixedBatch>,
    dtype: DType,
    device: Device,
    freeze_batchnorm: bool,
    executor: Executor,
    arena: Arc<Arena>,
    inputs: Vec<Value>,
    parameters: Vec<Parameter>,
    buffers: Vec<Buffer>,
    outputs: Vec<Output>,
    logits: TensorId,
    /// How many classes the data has; 0 if unknown.
    classes: usize,
    /// The value attribute of each `ConstantOfShape` node.
    fills: HashMap<usize, Host>,
    /// Plans by input shapes: the last batch of an epoch is smaller than the others.
    plans: Mutex<HashMap<Vec<Vec<usize>>, Arc<Planned>>>,
}

impl Student {
    /// Looks at a graph without importing it.
    ///
    /// # Errors
    /// When the graph's constants cannot be read.
    pub fn check(model: &Model) -> Result<Trainability> {
        check::check(model)
    }

    /// Imports a graph. What it computes from shapes is resolved when the first batch of a shape
    /// arrives.
    ///
    /// # Errors
    /// Lists every operator that is not supported, with its nodes; when samples do not stand along
    /// the first axis of an input.
    pub fn import(model: &Model, options: &ImportOptions) -> Result<Self> {
        // what the student is made of stays as it is while it trains
        let model = sequences::unrolled(&model.held()?)?;
        let restored = restore::restore(&model, options.folded_norms)?;
        if let Some(refusal) = restored.refusal {
            return Err(refusal);
        }
        let read =
            |model: &Model| import::read(model, restored.signature.as_ref(), options, usize::MAX);
        let notes: Vec<String> = restored.note.into_iter().collect();
        let graph = read(&restored.model)?;
        let student = Self::of(&restored.model, graph, notes, options)?;
        let (placed, _) = feed::place(&student.inputs, &Feeding::default())?;
        if let Some(placed) =
            placed.iter().find(|placed| matches!(placed.place, BatchPosition::At(1..)))
        {
            let Value { name, shape, .. } = &placed.input;
            return Err(Error::input(format!(
                "model cannot be trained, input `{name}`: expected samples along the first axis, \
                 found {}",
                feed::axes(shape)
            )));
        }
        student.refuse_unsupported()?;
        let mut student = student;
        match batch::open_batch(&student.model, &student.graph, read)? {
            BatchSupport::Free => {}
            BatchSupport::Fixed(fixed) => student.fixed_batch = Some(fixed),
            BatchSupport::Opened(open) => {
                let (model, graph) = *open;
                let mut notes = student.notes.clone();
                notes.push("the batch that its exporter wrote into its shapes is taken out".into());
                let open = Self::of(&model, graph, notes, options)?;
                match batch::compare(&student, &open)? {
                    None => return Ok(open),
                    fixed => student.fixed_batch = fixed,
                }
            }
        }
        Ok(student)
    }

    /// Checks that it takes batches of any size, as a run has them.
    ///
    /// # Errors
    /// When its file is for one batch size alone: says how to export it with an open one.
    pub fn check_batch(&self) -> Result<()> {
        self.fixed_batch.as_ref().map_or(Ok(()), |fixed| Err(fixed.refusal()))
    }

    /// Lists the nodes that cannot run.
    fn refuse_unsupported(&self) -> Result<()> {
        if self.graph.unsupported.is_empty() {
            return Ok(());
        }
        let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut refused = Vec::new();
        for (node, reason) in &self.graph.unsupported {
            let (name, operator) = self.graph.label(*node);
            if reason == op::UNKNOWN {
                missing.entry(operator).or_default().push(name);
            } else {
                refused.push(format!("node {name} ({operator}): {reason}"));
            }
        }
        let missing: Vec<String> = missing
            .iter()
            .map(|(operator, names)| format!("{operator} ({})", names.join(", ")))
            .collect();
        let missing = (!missing.is_empty())
            .then(|| format!("operators not supported: {}", missing.join("; ")));
        let reasons: Vec<String> = missing.into_iter().chain(refused).collect();
        Err(Error::input(format!("model cannot be trained, {}", reasons.join("; "))))
    }

    /// A student of a graph that was read, whether or not all of it can run.
    fn of(
        model: &Model,
        graph: Graph,
        notes: Vec<String>,
        options: &ImportOptions,
    ) -> Result<Self> {
        let fills = graph.fills(model)?;
        let var = |leaf: &leaf::Leaf| -> Result<Var> {
            let host = Host::from_array(&leaf.value(model)?);
            Ok(Var::from_tensor(
                &tensor::narrow(&host.floats(), &host.shape, options.dtype)?
                    .to_device(&options.device)?,
            )?)
        };
        let parameters = graph
            .parameters
            .iter()
            .map(|(name, leaf)| Ok(Parameter { name: name.clone(), var: var(leaf)? }))
            .collect::<Result<Vec<_>>>()?;
        let buffers = graph
            .buffers
            .iter()
            .map(|(name, leaf)| Ok(Buffer { name: name.clone(), var: var(leaf)? }))
            .collect::<Result<Vec<_>>>()?;
        let outputs = graph.outputs(model);
        let first = outputs.first().ok_or_else(|| Error::input(check::NO_OUTPUT))?.tensor;
        let logits = logits::of_student(model, options.classes);
        let logits = logits.and_then(|name| graph.index.get(&name).copied());
        Ok(Self {
            model: Arc::new(model.clone()),
            graph,
            notes,
            fixed_batch: None,
            dtype: options.dtype,
            device: options.device.clone(),
            freeze_batchnorm: options.freeze_batchnorm,
            executor: if options.device.is_cpu() { options.executor } else { Executor::Device },
            arena: Arc::default(),
            inputs: model.inputs(),
            parameters,
            buffers,
            outputs,
            logits: logits.unwrap_or(first),
            classes: options.classes,
            fills,
            plans: Mutex::default(),
        })
    }

    /// The inputs to feed, in the order that [`Student::forward`] takes them.
    #[must_use]
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// What trains, sorted by name.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Running statistics, sorted by name.
    #[must_use]
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Where the student lives. Inputs and gradients of another device are moved there; what a pass
    /// keeps stays there.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The outputs that the graph computes from floats, in the file's order; at least one.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The tensor that a loss of class logits applies to: an output, by default the first, or what
    /// the softmax reads that it ends in.
    #[must_use]
    pub fn logits(&self) -> TensorId {
        self.logits
    }

    /// A tensor of the graph by its ONNX name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorId> {
        self.graph.index.get(name).copied()
    }

    /// The names of all tensors of the graph.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.graph.names.iter().map(String::as_str)
    }

    /// A line about batch norms that seem to be folded into convolutions.
    #[must_use]
    pub fn folded_norms(&self) -> Option<String> {
        check::folded_norms(&self.model)
    }

    /// Every float tensor that the graph holds, and whether it trains, in graph order.
    #[must_use]
    pub fn tensors(&self) -> &[Decision] {
        &self.graph.decisions
    }

    /// What a user should know of how the file was read, a line each: what was put back, what was
    /// guessed, which batch norms keep their statistics.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let decisions = &self.graph.decisions;
        let guesses: Vec<&str> =
            decisions.iter().filter(|d| d.guessed).map(|d| d.name.as_str()).collect();
        let guessed = guesses.first().map(|first| {
            let others = match guesses.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            format!(
                "whether {first}{others} trains is a guess (inspect --parameters says why; \
                 --train and --freeze decide)"
            )
        });
        self.notes.iter().cloned().chain(guessed).chain(self.describe_norms()).collect()
    }

    /// One line about batch norms that the file has in inference form; `None` where there are none.
    fn describe_norms(&self) -> Option<String> {
        let norms =
            || self.graph.nodes.iter().filter(|n| !n.proto.operator().statistics.is_empty());
        let written = norms().filter(|n| !trains_as_written(&n.proto, self.graph.opset)).count();
        let all = norms().count();
        match (self.graph.frozen.len(), written) {
            _ if self.freeze_batchnorm => None,
            (0, 0) => None,
            (0, _) => Some(format!(
                "all {all} batch norms of the file are in inference form: they train all the same \
                 (--freeze-batchnorm keeps their statistics)"
            )),
            (frozen, _) => Some(format!(
                "{frozen} of {all} batch norms are in inference form: they keep their statistics"
            )),
        }
    }

    /// The tensor that an activation function makes this one of; `None` where it is no activation's
    /// output.
    #[must_use]
    pub fn before_activation(&self, name: &str) -> Option<&str> {
        let id = self.tensor(name)?;
        let node = self.graph.nodes.iter().find(|node| node.outputs.first() == Some(&Some(id)))?;
        let input = node
            .inputs
            .first()
            .copied()
            .flatten()
            .filter(|_| node.proto.operator().class == Class::Activation)?;
        self.graph.names.get(input.0).map(String::as_str)
    }

    /// Candidate taps with their shapes for inputs of these shapes (batch axis first). Planning
    /// knows every shape: nothing is run.
    ///
    /// # Errors
    /// When the graph cannot run on such inputs.
    pub fn taps(&self, input_shapes: &[Vec<usize>]) -> Result<Vec<Tap>> {
        let planned = self.plan(input_shapes.to_vec())?;
        let plan = &planned.plan;
        let computed = plan.steps.iter().flat_map(|step| step.outputs.iter().flatten());
        let shapes = computed
            .filter_map(|id| {
                Some((
                    self.graph.names[id.0].clone(),
                    plan.shapes.get(id)?.iter().map(|&n| Some(n)).collect(),
                ))
            })
            .collect();
        let logits = logits::find(&self.model, &shapes, self.classes);
        let logits = logits.ok().map(|logits| logits.tensor);
        Ok(tap::candidates(&self.model, &shapes, logits.as_deref()))
    }

    /// Whether a step computes a tensor from inputs of these shapes: others are constant.
    ///
    /// # Errors
    /// When the graph cannot run on such inputs.
    pub fn is_computed(&self, tensor: TensorId, input_shapes: &[Vec<usize>]) -> Result<bool> {
        let planned = self.plan(input_shapes.to_vec())?;
        Ok(planned.plan.steps.iter().any(|step| step.outputs.contains(&Some(tensor))))
    }

    /// The shape of a tensor for inputs of these shapes (batch axis first); `None` where the plan
    /// does without it.
    ///
    /// # Errors
    /// When the graph cannot run on such inputs.
    pub fn shape(
        &self,
        tensor: TensorId,
        input_shapes: &[Vec<usize>],
    ) -> Result<Option<Vec<usize>>> {
        Ok(self.plan(input_shapes.to_vec())?.plan.shapes.get(&tensor).cloned())
    }

    /// What a training step on inputs of these shapes has to do at least; `None` where another
    /// executor runs it.
    ///
    /// # Errors
    /// When the graph cannot run on such inputs.
    #[doc(hidden)] // for benchmarks
    pub fn step_cost(&self, input_shapes: &[Vec<usize>]) -> Result<Option<StepCost>> {
        let planned = self.plan(input_shapes.to_vec())?;
        let cost = |blocked: &Arc<BlockedPlan>| step_cost(&self.graph, &planned.plan, blocked);
        Ok(planned.blocked.as_ref().map(cost))
    }

    /// Runs the graph. `keep`: tensors to be read from the pass (outputs and logits always are).
    /// [`Mode::Train`] updates running statistics. `dropout_seed` keys the random draws of
    /// this pass.
    ///
    /// # Errors
    /// When an input has another shape or type than the graph takes.
    pub fn forward(
        &self,
        inputs: &[Tensor],
        mode: Mode,
        keep: &[TensorId],
        dropout_seed: u64,
    ) -> Result<Pass<'_>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::input(format!(
                "student: expected {} inputs, found {}",
                self.inputs.len(),
                inputs.len()
            )));
        }
        let inputs = inputs
            .iter()
            .map(|x| Ok(x.to_device(&self.device)?.to_dtype(self.dtype)?.contiguous()?))
            .collect::<Result<Vec<_>>>()?;
        for (value, x) in self.inputs.iter().zip(&inputs) {
            check::fits(value, x.dims())?;
        }
        let plan = self.plan(inputs.iter().map(|x| x.dims().to_vec()).collect())?;
        let options =
            op::PassOptions { mode, freeze_batchnorm: self.freeze_batchnorm, seed: dropout_seed };
        let outputs = self.outputs.iter().map(|output| output.tensor);
        let keep: HashSet<TensorId> =
            keep.iter().copied().chain(outputs).chain([self.logits]).collect();
        pass::forward(self, plan, &inputs, &options, &keep)
    }

    /// Writes the graph with today's weights in inference form: `training_mode` 0, first outputs
    /// only, dropout bypassed, random masks at their mean, dynamic batch; weights are the same
    /// initializers with new values; `metadata` goes into `metadata_props` (sorted by key). Same
    /// bytes for the same weights.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn export(&self, metadata: &[(String, String)]) -> Result<Model> {
        export::export(self, metadata, &[])
    }

    /// The same with linear layers behind some tensors as further outputs.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn export_projected(
        &self,
        metadata: &[(String, String)],
        projections: &[Projection],
    ) -> Result<Model> {
        export::export(self, metadata, projections)
    }

    /// The plan for inputs of these shapes.
    fn plan(&self, inputs: Vec<Vec<usize>>) -> Result<Arc<Planned>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&inputs) {
            return Ok(plan.clone());
        }
        let plan = self.try_plan(&inputs);
        let plan = plan.map_err(|refusal| (self.describe(refusal.node), refusal.reason));
        let mut plan = plan.or_else(|(node, reason)| Err(reason).context(|| node))?;
        if self.executor == Executor::Device {
            let target = device::Target { device: self.device.clone(), dtype: self.dtype };
            plan = device::lowered(plan, &target)?;
        }
        let blocked = match self.executor {
            Executor::Blocked(precision) if self.dtype == DType::F32 => {
                Some(Arc::new(BlockedPlan::new(&plan, precision)))
            }
            _ => None,
        };
        let planned = Arc::new(Planned { plan, blocked });
        plans.insert(inputs, planned.clone());
        Ok(planned)
    }

    fn try_plan(&self, inputs: &[Vec<usize>]) -> Result<GraphPlan, plan::Refusal> {
        let mut held = HashMap::new();
        for (id, source) in self.graph.sources.iter().enumerate() {
            if let Some(value) = self.held(*source, &[]) {
                held.insert(TensorId(id), value.dims().to_vec());
            }
        }
        plan::plan(&self.graph, inputs, &held, &self.fills, self.dtype)
    }

    /// The value of a tensor that no node computes.
    fn held(&self, source: TensorSource, inputs: &[Tensor]) -> Option<Tensor> {
        match source {
            TensorSource::Input(i) => inputs.get(i).cloned(),
            TensorSource::Parameter(i) => {
                self.parameters.get(i).map(|p| p.var.as_detached_tensor())
            }
            TensorSource::Buffer(i) => self.buffers.get(i).map(|b| b.var.as_detached_tensor()),
            TensorSource::Constant | TensorSource::Computed => None,
        }
    }

    /// A node for messages.
    fn describe(&self, node: usize) -> String {
        let (name, operator) = self.graph.label(node);
        format!("node {name} ({operator})")
    }
}
