//! The state of a run's criteria besides the student: regressors, embeddings, paraphrasers,
//! discriminators, memories.
//!
//! All initial values depend on (seed, term, layer, name) alone. The modules are trained by an
//! optimizer of the same kind as the student's, with the student's learning rate but separate
//! state, and their gradients are clipped by their own norm: a regressor that is far off must not
//! slow the student. All of it is saved in checkpoints, none in the exported student.

use super::super::clip;
use super::super::optimizer::Optimizer;
use super::super::pairing::Pair;
use super::super::source::Source;
use super::data::TermData;
use super::pretraining;
use super::{Objective, Term};
use crate::criterion::math::module::Module;
use crate::criterion::math::projector;
use crate::criterion::{Running, Setup, Shapes};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::tap;
use crate::random::fnv1a;
use crate::recipe::Train;
use crate::student::{Projection, Student};
use candle_core::{DType, Tensor, Var};
use std::collections::HashSet;

/// The state of a run's criteria.
#[derive(Debug)]
pub struct Learnable {
    /// One per term, in the objective's order.
    terms: Vec<Learned>,
    policy: Policy,
    optimizer: Optimizer,
}

/// The state of one term.
#[derive(Debug)]
struct Learned {
    name: String,
    running: Box<dyn Running>,
}

/// The policy of spot-adaptive distillation, and the adapters of its routes; no modules if it is
/// off.
#[derive(Debug)]
pub(super) struct Policy {
    /// The run's seed.
    pub(super) seed: u64,
    pub(super) modules: Vec<Module>,
}

impl Policy {
    pub(super) fn module(&self, index: usize) -> Result<&Module> {
        self.modules.get(index).ok_or_else(|| Error::internal("sakd: has no such module"))
    }
}

impl Learnable {
    /// The initial state of an objective.
    ///
    /// # Errors
    /// When a criterion can't be built between the shapes of a pair, or needs something that the
    /// source lacks.
    pub fn new(
        objective: &Objective,
        recipe: &Train,
        source: &Source<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let start = |term: &Term| {
            let data = TermData { term, objective, source, monitor };
            Ok(Learned { name: term.name.clone(), running: start(term, recipe.seed, &data)? })
        };
        let terms = objective.terms.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut policy = Policy { seed: recipe.seed, modules: Vec::new() };
        if let Some(spots) = &objective.spots {
            let seed = |part: usize| match part {
                0 => seed_of(recipe.seed, POLICY),
                _ => seed_of(recipe.seed, &format!("{POLICY}/{part}")),
            };
            policy.modules = spots.modules(source, seed)?;
        }
        let variables = named_modules(&terms, &policy)
            .flat_map(|(_, modules)| modules)
            .flat_map(|module| module.variables().map(|(_, var)| var).collect::<Vec<_>>());
        let optimizer = Optimizer::create(variables.collect(), recipe.optimizer.rule.clone())?;
        Ok(Self { terms, policy, optimizer })
    }

    /// The trained variables, by name, in the order of the optimizer.
    fn variables(&self) -> impl Iterator<Item = (String, Var)> {
        named_modules(&self.terms, &self.policy)
            .flat_map(|(name, modules)| variables(name, modules))
    }

    /// The number of parameters trained alongside the student.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.variables().map(|(_, var)| var.elem_count()).sum()
    }

    /// The criterion of a term.
    pub(super) fn running(&mut self, term: usize) -> Result<&mut dyn Running> {
        match self.terms.get_mut(term) {
            Some(learned) => Ok(learned.running.as_mut()),
            None => Err(Error::internal("loss: expected what its criteria learn")),
        }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Appends the gradients of a term, by module, to those of the previous terms.
    pub(super) fn collect(
        &self,
        term: usize,
        found: Vec<Vec<(String, Tensor)>>,
        into: &mut Vec<Option<Tensor>>,
    ) -> Result<()> {
        let modules = self.terms.get(term).map_or(&[][..], |learned| learned.running.modules());
        gradients(modules, found, into)
    }

    /// Appends the gradients of the policy, by module.
    pub(super) fn collect_policy(
        &self,
        found: Vec<Vec<(String, Tensor)>>,
        into: &mut Vec<Option<Tensor>>,
    ) -> Result<()> {
        gradients(&self.policy.modules, found, into)
    }

    /// The linear layers that criteria learned between tensors of the student and the teacher's,
    /// as outputs named for the teacher's tensors.
    ///
    /// # Errors
    /// When a weight is missing.
    pub fn projections(&self, objective: &Objective, student: &Student) -> Result<Vec<Projection>> {
        let mut taken: HashSet<String> = student.names().map(str::to_ascii_lowercase).collect();
        let mut found = Vec::new();
        for (term, learned) in objective.terms.iter().zip(&self.terms) {
            for (pair, module) in term.pairs.iter().zip(learned.running.modules()) {
                let layer = module.at(projector::NAME);
                if !layer.has("weight") {
                    continue;
                }
                if pair.student_channels_last {
                    return Err(Error::input(format!(
                        "export-projector: expected a map of the student with its channels first, \
                         found `{}`",
                        pair.student
                    ))
                    .hint("name the map that it transposes: pair=TEACHER>STUDENT"));
                }
                let get = |part: &str| module.get(&format!("{}.{part}", projector::NAME));
                found.push(Projection {
                    tensor: pair.student.clone(),
                    shape: pair.student_shape.clone(),
                    output: tap::free(pair.teacher.clone(), &mut taken),
                    weight: get("weight")?,
                    bias: get("bias")?,
                });
            }
        }
        Ok(found)
    }

    /// Takes one step along the gradients that [`Objective::evaluate`] computed.
    ///
    /// # Errors
    /// When a gradient is not finite.
    pub fn update(
        &mut self,
        gradients: &[Option<Tensor>],
        lr: f64,
        limit: Option<f64>,
    ) -> Result<()> {
        if gradients.is_empty() {
            return Ok(());
        }
        let norm = clip::global_norm(gradients)?;
        if !norm.is_finite() {
            let is_finite =
                |g: &Tensor| clip::global_norm(&[Some(g.clone())]).is_ok_and(f64::is_finite);
            let bad = gradients.iter().position(|g| g.as_ref().is_some_and(|g| !is_finite(g)));
            let name = bad.and_then(|i| self.variables().nth(i)).map(|(name, _)| name);
            return Err(Error::check(format!(
                "gradient of {}: expected a finite norm, found {norm}",
                name.unwrap_or_default()
            ))
            .hint("lower --lr, or set clip in the recipe"));
        }
        self.optimizer.update(gradients, lr, clip::factor(norm, limit))
    }

    /// Runs the pretraining that precedes the student's training.
    ///
    /// # Errors
    /// When the source can't be read, or the user asks to stop.
    pub fn pretrain(
        &self,
        objective: &Objective,
        recipe: &Train,
        source: &Source<'_>,
        threads: usize,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        for (term, learned) in objective.terms.iter().zip(&self.terms) {
            if let Some(first) = learned.running.pretraining() {
                pretraining::train(term, &first, recipe, source, threads, monitor)?;
            }
        }
        Ok(())
    }

    /// Steps that the optimizer has taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Everything that a checkpoint must hold, by name.
    ///
    /// # Errors
    /// When a tensor can't be created.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let value = |(name, var): (String, Var)| (name, var.as_tensor().clone());
        let mut all: Vec<(String, Tensor)> = Vec::new();
        for Learned { name, running } in &self.terms {
            all.extend(variables(name, running.modules()).map(value));
            let remembered = running.tensors()?.into_iter();
            all.extend(remembered.map(|(path, tensor)| (path_of(name, &path), tensor)));
        }
        all.extend(variables(POLICY, &self.policy.modules).map(value));
        let state = self.optimizer.state().into_iter();
        all.extend(
            state.map(|(name, var)| value((format!("criterion-optimizer/{name}"), var.clone()))),
        );
        Ok(all)
    }

    /// Restores the values of [`Learnable::tensors`] and the optimizer's steps. `stored` returns a
    /// tensor by name, for a given shape and type.
    ///
    /// # Errors
    /// When `stored` lacks a tensor.
    pub fn restore(
        &mut self,
        steps: u64,
        mut stored: impl FnMut(&str, &[usize], DType) -> Result<Tensor>,
    ) -> Result<()> {
        for (name, var) in self.variables() {
            var.set(&stored(&name, var.dims(), var.dtype())?)?;
        }
        for Learned { name, running } in &mut self.terms {
            let remembered = running.tensors()?.into_iter();
            let found = remembered
                .map(|(path, like)| stored(&path_of(name, &path), like.dims(), like.dtype()))
                .collect::<Result<_>>()?;
            running.restore(found)?;
        }
        for (name, var) in self.optimizer.state() {
            var.set(&stored(&format!("criterion-optimizer/{name}"), var.dims(), var.dtype())?)?;
        }
        self.optimizer.set_steps(steps);
        Ok(())
    }
}

/// The name of the spot-adaptive policy in checkpoints.
const POLICY: &str = "sakd";

/// The name of a tensor in checkpoints, from `LAYER/NAME`.
fn path_of(term: &str, path: &str) -> String {
    format!("criterion/{term}/{path}")
}

/// The modules of each term, followed by those of the policy.
fn named_modules<'a>(
    terms: &'a [Learned],
    policy: &'a Policy,
) -> impl Iterator<Item = (&'a str, &'a [Module])> {
    let of_term = |learned: &'a Learned| (learned.name.as_str(), learned.running.modules());
    terms.iter().map(of_term).chain([(POLICY, policy.modules.as_slice())])
}

fn variables<'a>(term: &'a str, modules: &'a [Module]) -> impl Iterator<Item = (String, Var)> + 'a {
    modules.iter().enumerate().flat_map(move |(layer, module)| {
        let path = move |name: &str| path_of(term, &format!("{layer}/{name}"));
        module.variables().map(move |(name, var)| (path(name), var))
    })
}

/// The gradients of modules in the order of their variables; `None` where the loss does not depend
/// on one, for example at a layer where no sample was compared.
fn gradients(
    modules: &[Module],
    found: Vec<Vec<(String, Tensor)>>,
    into: &mut Vec<Option<Tensor>>,
) -> Result<()> {
    let mut found = found.into_iter();
    for module in modules {
        let gradients = found.next().unwrap_or_default();
        for (name, variable) in module.variables() {
            let gradient = gradients
                .iter()
                .find(|(of, _)| of == name)
                .map(|(_, g)| g.to_dtype(variable.dtype()));
            into.push(gradient.transpose()?);
        }
    }
    Ok(())
}

/// A term's criterion in its initial state.
fn start(term: &Term, seed: u64, data: &TermData<'_>) -> Result<Box<dyn Running>> {
    let shapes = |pair: &Pair| -> [Vec<usize>; 2] {
        [pair.student_shape.clone(), pair.teacher_shape.clone()]
    };
    let shapes: Vec<_> = term.pairs.iter().map(shapes).collect();
    let layers: Vec<Shapes<'_>> =
        shapes.iter().map(|[student, teacher]| Shapes { student, teacher }).collect();
    term.recipe.method.start(&Setup {
        layers: &layers,
        layer_seed: &|layer| seed_of(seed, &format!("{}/{layer}", term.name)),
        run_seed: seed,
        data,
        refuse: &|error| refused(term, error),
    })
}

/// The error of a term that can't be built.
fn refused(term: &Term, error: Error) -> Error {
    let shapes: Vec<String> = term
        .pairs
        .iter()
        .map(|p| {
            format!("{} {:?} with {} {:?}", p.teacher, p.teacher_shape, p.student, p.student_shape)
        })
        .collect();
    // what helps with the cause itself comes first
    let hint = error.find_hint().map_or_else(
        || format!("name other pairs: --criterion '{}:pair=TEACHER>STUDENT'", term.recipe.name()),
        str::to_owned,
    );
    Error::input(format!("criterion {}: cannot compare {}", term.name, shapes.join(", ")))
        .because(error)
        .hint(hint)
}

/// A seed of this name.
fn seed_of(seed: u64, name: &str) -> u64 {
    fnv1a(seed.to_le_bytes().into_iter().chain(name.bytes()))
}
