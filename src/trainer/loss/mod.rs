//! The loss of a step: the weighted sum of its criteria, and the student's tensors that each needs.
//!
//! An [`Objective`] is fixed for a run; the state of its criteria is [`Learnable`].

mod chosen;
mod data;
mod learnable;
mod positions;
mod pretraining;
mod site;
mod spots;
mod term;

pub use learnable::Learnable;
pub use term::Term;

use super::pairing::Pair;
use super::schedule::Clock;
use super::source::Batch;
use crate::cache::Manifest;
use crate::criterion::Subject;
use crate::error::{Error, Result};
use crate::recipe::{CriterionRecipe, Sakd};
use crate::statistic::Statistic;
use crate::student::{Pass, Student, TensorId};
use candle_core::{Device, Tensor};
use site::{Compared, Site, Stored};
use spots::Spots;
use std::collections::BTreeMap;

/// The loss of a recipe.
#[derive(Debug, Clone)]
pub struct Objective {
    /// The terms of the sum.
    pub terms: Vec<Term>,
    /// Paths of the cache's tap arrays that a batch must contain, in this order.
    pub taps: Vec<String>,
    /// Student tensors that a pass must keep, besides the logits.
    pub keep: Vec<TensorId>,
    /// Whether a batch must contain the teacher's logits.
    pub teacher_logits: bool,
    spots: Option<Spots>,
}

/// The loss of one step.
#[derive(Debug)]
pub struct Value {
    /// The weighted sum.
    pub total: f64,
    /// Each term, unweighted; `None` for one that is off at this step.
    pub parts: Vec<Option<f64>>,
    /// Gradients of the total with respect to the student's tensors.
    pub seeds: Vec<(TensorId, Tensor)>,
    /// The number of samples distilled at each spot, in the order of [`Objective::spots`].
    pub selected: Vec<f64>,
    /// Gradients of the criteria's modules, in the order of their variables; `None` where the total
    /// does not depend on one.
    pub learnable: Vec<Option<Tensor>>,
}

impl Objective {
    /// Resolves terms against a student. `pairs`: the pairs of each term, empty for terms without
    /// any.
    ///
    /// # Errors
    /// When the student has no tensor of the name in a pair.
    pub fn new(
        terms: &[CriterionRecipe],
        pairs: &[Vec<Pair>],
        smoothing: f64,
        student: &Student,
    ) -> Result<Self> {
        let mut objective = Self {
            terms: Vec::new(),
            taps: Vec::new(),
            keep: Vec::new(),
            teacher_logits: false,
            spots: None,
        };
        for (recipe, pairs) in terms.iter().zip(pairs) {
            let mut sites = Vec::new();
            match recipe.method.spec().subject {
                Subject::Labels => {
                    sites.push(Site { teacher: Compared::Labels, student: student.logits() });
                }
                Subject::Logits if pairs.is_empty() => {
                    objective.teacher_logits = true;
                    sites.push(Site { teacher: Compared::Logits, student: student.logits() });
                }
                Subject::Maps | Subject::Vectors | Subject::Tensors | Subject::Logits => {
                    for pair in pairs {
                        let id = student.tensor(&pair.student).ok_or_else(|| {
                            Error::input(format!(
                                "student's tensor `{}`: not in the graph",
                                pair.student
                            ))
                        })?;
                        index_of(&mut objective.keep, id);
                        sites.push(Site { teacher: objective.teacher(recipe, pair)?, student: id });
                    }
                }
            }
            let same = objective
                .terms
                .iter()
                .filter(|t| t.name.split('#').next() == Some(recipe.name()))
                .count();
            let name = if same == 0 {
                recipe.name().to_owned()
            } else {
                format!("{}#{}", recipe.name(), same + 1)
            };
            let (recipe, pairs) = (recipe.clone(), pairs.clone());
            objective.terms.push(Term { name, recipe, pairs, smoothing, sites });
        }
        Ok(objective)
    }

    /// Requests the arrays of a pair's teacher from which a criterion is computed.
    fn teacher(&mut self, criterion: &CriterionRecipe, pair: &Pair) -> Result<Compared> {
        // the class logits are no tap
        if pair.is_logits() {
            self.teacher_logits = true;
            return Ok(Compared::Logits);
        }
        let statistics = pair.read(criterion)?;
        let mut of = |statistic| {
            statistics
                .contains(&statistic)
                .then(|| index_of(&mut self.taps, statistic.path(&pair.teacher)))
        };
        Ok(match (of(Statistic::Features), pair.teacher_shape.as_slice()) {
            (None, &[_, height, width]) => Compared::Statistics(Stored {
                size: [height, width],
                gram: of(Statistic::Gram),
                mean: of(Statistic::Mean),
                attention: of(Statistic::Attention),
            }),
            (tap, _) => Compared::Tap(tap.ok_or_else(|| {
                Error::input(format!("tap {}: expected its features", pair.teacher))
            })?),
        })
    }

    /// The same objective, with a policy that learns from the cache and chooses, for each sample,
    /// the spots at which it is distilled. `vectors`: the pair of vectors before the classifiers.
    ///
    /// # Errors
    /// When no term compares with a teacher, or the cache lacks the features of a spot.
    pub fn with_spots(
        mut self,
        settings: &Sakd,
        vectors: &Pair,
        student: &Student,
    ) -> Result<Self> {
        let spots = Spots::new(&mut self, settings, vectors, student)?.probed(&mut self)?;
        self.spots = Some(spots);
        Ok(self)
    }

    /// The same with a policy that learns from routes through both networks. `teacher`: the graph
    /// that produced the cache of this manifest.
    ///
    /// # Errors
    /// When no term compares with a teacher, or a network cannot be cut at a spot; names what
    /// bypasses it.
    pub fn with_routes(
        mut self,
        settings: &Sakd,
        vectors: &Pair,
        student: &Student,
        teacher: &Student,
        manifest: &Manifest,
    ) -> Result<Self> {
        let spots = Spots::new(&mut self, settings, vectors, student)?
            .routed(&mut self, student, teacher, manifest)?;
        self.spots = Some(spots);
        Ok(self)
    }

    /// The names of the spots: the student's tensors, or `logits`. Empty without spot selection.
    #[must_use]
    pub fn spots(&self) -> Vec<String> {
        self.spots.iter().flat_map(Spots::names).map(str::to_owned).collect()
    }

    /// Computes, on a forward pass, every term that is on at this step.
    ///
    /// # Errors
    /// When shapes disagree, or the batch lacks what a term needs.
    pub fn evaluate(
        &self,
        pass: &Pass<'_>,
        batch: &Batch,
        clock: Clock,
        learnable: &mut Learnable,
    ) -> Result<Value> {
        let mut value = Value {
            total: 0.0,
            parts: Vec::new(),
            seeds: Vec::new(),
            selected: Vec::new(),
            learnable: Vec::new(),
        };
        let mut seeds = BTreeMap::new();
        let chosen = match &self.spots {
            Some(spots) => Some(spots.choose(pass, batch, clock.step, learnable.policy())?),
            None => None,
        };
        for (index, term) in self.terms.iter().enumerate() {
            let Some(weight) = clock.weight(term.recipe.weight, &term.recipe.course) else {
                value.parts.push(None);
                learnable.collect(index, Vec::new(), &mut value.learnable)?;
                continue;
            };
            let students = term
                .sites
                .iter()
                .enumerate()
                .map(|(at, site)| {
                    let value = pass.value(site.student)?.to_device(&Device::Cpu)?;
                    term.of_student(at, &value)
                })
                .collect::<Result<Vec<_>>>()?;
            let found = term.evaluate(
                weight,
                &students,
                batch,
                clock.step,
                learnable.running(index)?,
                chosen.as_ref(),
            )?;
            for (at, (site, gradient)) in term.sites.iter().zip(found.inputs).enumerate() {
                let shape = pass.value(site.student)?.dims();
                let gradient = term.to_student(at, &gradient, shape)?;
                add(&mut seeds, site.student, gradient)?;
            }
            learnable.collect(index, found.weights, &mut value.learnable)?;
            value.total += weight * found.value;
            value.parts.push(Some(found.value));
        }
        if let (Some(spots), Some(chosen)) = (&self.spots, &chosen) {
            let found = spots.learn(pass, batch, chosen, clock.step, learnable.policy())?;
            learnable.collect_policy(found, &mut value.learnable)?;
            value.selected = chosen.counts()?;
        }
        value.seeds = seeds.into_iter().collect();
        Ok(value)
    }
}

fn add(seeds: &mut BTreeMap<TensorId, Tensor>, id: TensorId, gradient: Tensor) -> Result<()> {
    let sum = match seeds.remove(&id) {
        Some(before) => (before + gradient)?,
        None => gradient,
    };
    seeds.insert(id, sum);
    Ok(())
}

fn index_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|i| *i == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}
