//! What the criteria of a run learn and remember beside the student: regressors, embeddings,
//! paraphrasers, discriminators, memories.
//!
//! Everything starts from (seed, term, layer, name) alone. What trains is moved by an optimiser of
//! the student's kind with the student's learning rate and a state of its own, along gradients that
//! are clipped by their own norm: a regressor that is far off must not slow the student. All of it
//! stands in checkpoints, none in the exported student.

use super::super::clip;
use super::super::optimizer::Optimizer;
use super::super::pairing::Pair;
use super::super::source::Source;
use super::negatives::Negatives;
use super::paraphraser;
use super::state::State;
use super::{Objective, Term};
use crate::criterion::module::Module;
use crate::criterion::{ab, cc, crd, fitnet, ft, gan, ofd, reviewkd, vid};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::{Ft, Method, Train};
use crate::statistic::Statistic;
use candle_core::{DType, Device, Tensor};

/// Rows from which OFD's margins are estimated.
const MARGIN_ROWS: usize = 256;

/// What the criteria of a run learn and remember.
#[derive(Debug)]
pub struct Learnable {
    states: Vec<State>,
    optimizer: Optimizer,
}

impl Learnable {
    /// The untrained state of an objective. Margins are estimated from the source's first batch,
    /// which is said.
    ///
    /// # Errors
    /// When a criterion cannot be built between the shapes of a pair, or lacks something that the
    /// source does not have.
    pub fn new(
        objective: &Objective,
        recipe: &Train,
        source: &Source<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let mut states = Vec::new();
        for term in &objective.terms {
            states.push(State::new(term, objective, recipe, source, monitor)?);
        }
        if let Some(spots) = &objective.spots {
            let seed = |part: usize| {
                if part == 0 {
                    seed_of(recipe.seed, SPOTS)
                } else {
                    seed_of(recipe.seed, &format!("{SPOTS}/{part}"))
                }
            };
            let modules = spots.modules(source, seed)?;
            states.push(State {
                name: SPOTS.to_owned(),
                seed: recipe.seed,
                modules,
                ..State::default()
            });
        }
        let variables = states
            .iter()
            .flat_map(|s| &s.modules)
            .flat_map(|m| m.variables().map(|(_, v)| v.clone()))
            .collect();
        Ok(Self { states, optimizer: Optimizer::create(variables, recipe.optimizer.rule.clone())? })
    }

    /// The names of what trains, in the order of the optimiser.
    fn names(&self) -> Vec<String> {
        let of_state = |s: &State| {
            s.modules
                .iter()
                .enumerate()
                .flat_map(|(i, m)| s.named(i, m))
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        self.states.iter().flat_map(of_state).collect()
    }

    /// How many numbers train beside the student.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.states
            .iter()
            .flat_map(|s| &s.modules)
            .flat_map(Module::variables)
            .map(|(_, v)| v.elem_count())
            .sum()
    }

    pub(super) fn state(&mut self, term: usize) -> Result<&mut State> {
        self.states.get_mut(term).ok_or_else(|| {
            Error::input("loss: expected what its criteria learn of the same objective")
        })
    }

    /// Appends a term's gradients to those of the terms before it.
    pub(super) fn collect(
        &self,
        term: usize,
        found: Vec<Vec<(String, Tensor)>>,
        into: &mut Vec<Option<Tensor>>,
    ) -> Result<()> {
        let mut found = found.into_iter();
        for module in &self.states[term].modules {
            let gradients = found.next().unwrap_or_default();
            // a layer that no sample was compared at has no gradients
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

    /// Appends a term that is off.
    pub(super) fn skip(&self, term: usize, into: &mut Vec<Option<Tensor>>) {
        let count: usize = self.states[term].modules.iter().map(|m| m.variables().count()).sum();
        into.extend(std::iter::repeat_n(None, count));
    }

    /// One step along the gradients that [`Objective::evaluate`] found.
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
            let bad = |g: &Option<Tensor>| {
                g.as_ref().is_some_and(|g| {
                    !clip::global_norm(&[Some(g.clone())]).is_ok_and(f64::is_finite)
                })
            };
            let at = gradients
                .iter()
                .position(bad)
                .and_then(|i| self.names().into_iter().nth(i))
                .unwrap_or_default();
            return Err(Error::check(format!(
                "gradient of {at}: expected a finite norm, found {norm}"
            ))
            .hint("lower --lr, or set clip in the recipe"));
        }
        self.optimizer.update(gradients, lr, clip::factor(norm, limit))
    }

    /// Trains what has to be trained before the student.
    ///
    /// # Errors
    /// When the source cannot be read, or the user asks to stop.
    pub fn prepare(
        &self,
        objective: &Objective,
        recipe: &Train,
        source: &Source<'_>,
        threads: usize,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        for (term, state) in objective.terms.iter().zip(&self.states) {
            if let Method::Ft(settings) = &term.recipe.method {
                paraphraser::train(
                    term,
                    &state.paraphrasers,
                    settings,
                    recipe,
                    source,
                    threads,
                    monitor,
                )?;
            }
        }
        Ok(())
    }

    /// Steps that the optimiser has taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Everything that a checkpoint has to hold, by name.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all: Vec<(String, Tensor)> = Vec::new();
        for state in &self.states {
            all.extend(state.variables().map(|(name, var)| (name, var.as_tensor().clone())));
            for (i, memory) in state.memories.iter().enumerate() {
                let [student, teacher] = memory.tensors()?;
                let normalizers = Tensor::new(
                    memory.log_normalizers.unwrap_or([f64::NAN; 2]).as_slice(),
                    &Device::Cpu,
                )?;
                for (what, tensor) in MEMORY.into_iter().zip([student, teacher, normalizers]) {
                    all.push((state.path(i, what), tensor));
                }
            }
        }
        all.extend(
            self.optimizer.state().into_iter().map(|(name, var)| {
                (format!("criterion-optimizer/{name}"), var.as_tensor().clone())
            }),
        );
        Ok(all)
    }

    /// Takes up what [`Learnable::tensors`] gave, and the optimiser's steps. `stored` gives a
    /// tensor by name, of a given shape and type.
    ///
    /// # Errors
    /// When `stored` lacks a tensor.
    pub fn restore(
        &mut self,
        steps: u64,
        mut stored: impl FnMut(&str, &[usize], DType) -> Result<Tensor>,
    ) -> Result<()> {
        for state in &mut self.states {
            for (name, var) in state.variables() {
                var.set(&stored(&name, var.dims(), var.dtype())?)?;
            }
            for i in 0..state.memories.len() {
                let shape = state.memories[i].tensors()?[0].dims().to_vec();
                let mut embeddings = Vec::new();
                for what in &MEMORY[..2] {
                    embeddings.push(stored(&state.path(i, what), &shape, DType::F32)?);
                }
                let mut memory = crd::Memory::of(&embeddings[0], &embeddings[1])?;
                let normalizers =
                    stored(&state.path(i, MEMORY[2]), &[2], DType::F64)?.to_vec1::<f64>()?;
                memory.log_normalizers = match normalizers[..] {
                    [student, teacher] if !student.is_nan() => Some([student, teacher]),
                    _ => None,
                };
                state.memories[i] = memory;
            }
        }
        for (name, var) in self.optimizer.state() {
            var.set(&stored(&format!("criterion-optimizer/{name}"), var.dims(), var.dtype())?)?;
        }
        self.optimizer.set_steps(steps);
        Ok(())
    }
}

/// What a checkpoint calls the policy of spot-adaptive distillation.
const SPOTS: &str = "sakd";
/// What a checkpoint calls the parts of a memory.
const MEMORY: [&str; 3] = ["memory.student", "memory.teacher", "memory.log-normalizers"];

/// An error of a term that cannot be built.
fn refused(term: &Term, error: Error) -> Error {
    let shapes: Vec<String> = term
        .pairs
        .iter()
        .map(|p| {
            format!("{} {:?} with {} {:?}", p.teacher, p.teacher_shape, p.student, p.student_shape)
        })
        .collect();
    let error =
        Error::input(format!("criterion {}: cannot compare {}", term.name, shapes.join(", ")))
            .because(error);
    error.hint(format!(
        "name other pairs: --criterion '{}:pair=TEACHER>STUDENT'",
        term.recipe.name()
    ))
}

impl State {
    fn new(
        term: &Term,
        objective: &Objective,
        recipe: &Train,
        source: &Source<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let seed = |layer: usize| seed_of(recipe.seed, &format!("{}/{layer}", term.name));
        let mut state = Self { name: term.name.clone(), seed: recipe.seed, ..Self::default() };
        state.build(term, seed).map_err(|e| refused(term, e))?;
        match &term.recipe.method {
            Method::Ofd(_) => {
                state.margins = margins(term, objective, source, monitor)?;
            }
            Method::Crd(settings) => {
                let negatives = Negatives::new(source.labels(), recipe.seed)?;
                for layer in 0..term.pairs.len() {
                    state.memories.push(crd::Memory::new(
                        negatives.samples(),
                        settings.width,
                        seed(layer),
                    )?);
                }
                state.negatives = Some((negatives, settings.negatives));
            }
            _ => {}
        }
        Ok(state)
    }

    /// Makes what trains, untrained, for the shapes of the term's pairs.
    fn build(&mut self, term: &Term, seed: impl Fn(usize) -> u64) -> Result<()> {
        let channels = |of: fn(&Pair) -> &Vec<usize>| {
            term.pairs.iter().map(|p| of(p).first().copied().unwrap_or(0)).collect::<Vec<_>>()
        };
        let (students, teachers) = (channels(|p| &p.student_shape), channels(|p| &p.teacher_shape));
        let method = &term.recipe.method;
        match method {
            Method::Ab(_) => {
                let maps = |of: fn(&Pair) -> &Vec<usize>| {
                    term.pairs.iter().map(|p| map(of(p))).collect::<Result<Vec<_>>>()
                };
                self.modules = vec![ab::connectors(
                    &maps(|p| &p.student_shape)?,
                    &maps(|p| &p.teacher_shape)?,
                    seed(0),
                )?];
            }
            Method::Ofd(settings) => {
                self.modules =
                    vec![ofd::connectors(&students, &teachers, settings.kernel, seed(0))?];
            }
            Method::Reviewkd(settings) => {
                let deepest = students.last().copied().unwrap_or(1);
                self.modules = vec![reviewkd::module(
                    &students,
                    &teachers,
                    settings.middle.min(deepest),
                    seed(0),
                )?];
            }
            Method::Fsp(_) if term.pairs.len() < 2 || students != teachers => {
                return Err(Error::input(format!(
                    "fsp: expected two layers or more with the same channels, found teacher \
                     {teachers:?} and student {students:?}"
                )));
            }
            _ => {
                for (layer, pair) in term.pairs.iter().enumerate() {
                    self.add(method, pair, seed(layer))?;
                }
            }
        }
        Ok(())
    }

    /// What a criterion learns at one layer.
    fn add(&mut self, method: &Method, pair: &Pair, seed: u64) -> Result<()> {
        let (student, teacher) = (&pair.student_shape, &pair.teacher_shape);
        let widths = || (student.iter().product::<usize>(), teacher.iter().product::<usize>());
        match method {
            Method::Fitnet(_) => {
                self.modules.push(fitnet::regressor(map(student)?, map(teacher)?, seed)?.0);
            }
            Method::Gan(_) => self.modules.push(gan::module(map(student)?, map(teacher)?, seed)?),
            Method::Vid(settings) => {
                self.modules.push(vid::module(
                    map(student)?[0],
                    map(teacher)?[0],
                    settings.variance,
                    settings.eps,
                    seed,
                )?);
            }
            Method::Cc(settings) => {
                self.modules.push(cc::embeddings(widths().0, widths().1, settings.width, seed)?);
            }
            Method::Crd(settings) => {
                self.modules.push(crd::embeddings(widths().0, widths().1, settings.width, seed)?);
            }
            Method::Ft(settings) => {
                let factors = factors(settings, map(teacher)?[0]);
                self.modules.push(ft::translator(map(student)?[0], factors, seed)?);
                self.paraphrasers.push(ft::paraphraser(map(teacher)?[0], factors, seed)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The channels of FT's factors.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of channels"
)]
fn factors(settings: &Ft, channels: usize) -> usize {
    ((channels as f64 * settings.k) as usize).max(1)
}

/// A map's channels, height, width.
fn map(shape: &[usize]) -> Result<[usize; 3]> {
    shape.try_into().map_err(|_| {
        Error::input(format!("expected a map [channels, height, width], found {shape:?}"))
    })
}

/// OFD's margins of each layer: from the batch norm before the teacher's activation, or, where that
/// is folded, estimated from the source's first rows. Says which.
fn margins(
    term: &Term,
    objective: &Objective,
    source: &Source<'_>,
    monitor: &dyn Monitor,
) -> Result<Vec<Tensor>> {
    let (all, rows) = (term.pairs.len(), MARGIN_ROWS.min(source.len()));
    let known = term.pairs.iter().filter(|pair| source.batch_norm(&pair.teacher).is_some()).count();
    let taps = if known < all { source.batch(0, 0..rows)?.taps } else { Vec::new() };
    let of_pair = |pair: &Pair| {
        if let Some(norm) = source.batch_norm(&pair.teacher) {
            let list = |values: &[f32]| Tensor::new(values, &Device::Cpu);
            return ofd::margins(&list(&norm.scale)?, &list(&norm.bias)?);
        }
        let tap = objective
            .taps
            .iter()
            .position(|path| *path == Statistic::Features.path(&pair.teacher))
            .and_then(|tap| taps.get(tap));
        ofd::estimated_margins(
            tap.ok_or_else(|| Error::input(format!("tap {}: not in the batch", pair.teacher)))?,
        )
    };
    let from = match known {
        0 => format!("estimated from {rows} cached maps"),
        _ if known == all => "from the teacher's batch norm".to_owned(),
        _ => format!(
            "{known} from the teacher's batch norm, {} estimated from {rows} cached maps",
            all - known
        ),
    };
    monitor.note(&format!("{}: margins of {all} layers {from}", term.name));
    term.pairs.iter().map(of_pair).collect()
}

/// A seed of this name: FNV-1a over both.
fn seed_of(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes();
    bytes.iter().copied().chain(name.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
