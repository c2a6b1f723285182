//! The loss of a step: the weighted sum of its criteria, and what each asks of the student's tensors.

use super::pairing::Pair;
use super::source::Batch;
use crate::criterion::Loss;
use crate::criterion::cross_entropy::{cross_entropy, mixed_cross_entropy};
use crate::criterion::kd::kd;
use crate::criterion::nst::{NstOptions, Statistics, nst_from, nst_weighted};
use crate::error::{Error, Result};
use crate::recipe::{CriterionRecipe, Method, Statistic};
use crate::student::{Pass, Student, TensorId};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// A term of the loss, resolved: nothing is looked up by name in a step.
#[derive(Debug, Clone)]
pub struct Term {
    /// The name under which metrics list it.
    pub name: String,
    /// Its factor in the total.
    pub weight: f64,
    criterion: Criterion,
}

#[derive(Debug, Clone)]
enum Criterion {
    Ce {
        smoothing: f64,
    },
    Kd {
        temperature: f64,
    },
    /// Each pair: the teacher's side, and the student's tensor. The value is the sum over pairs.
    Nst {
        options: NstOptions,
        pairs: Vec<(Teacher, TensorId)>,
    },
}

/// The teacher's side of a pair: indices into the batch's taps.
#[derive(Debug, Clone, Copy)]
enum Teacher {
    /// Its maps.
    Maps(usize),
    /// Statistics of maps of this height and width.
    Statistics { size: [usize; 2], gram: Option<usize>, mean: Option<usize> },
}

/// The loss of a recipe.
#[derive(Debug, Clone)]
pub struct Objective {
    /// Its terms.
    pub terms: Vec<Term>,
    /// Paths of the cache's arrays of taps that a batch has to bring, in this order.
    pub taps: Vec<String>,
    /// Student tensors that a pass has to keep, beside the logits.
    pub keep: Vec<TensorId>,
    /// Whether a batch has to bring the teacher's logits.
    pub teacher_logits: bool,
}

/// What one step's loss came to.
#[derive(Debug)]
pub struct Value {
    /// The weighted sum.
    pub total: f64,
    /// Each term, unweighted.
    pub parts: Vec<f64>,
    /// Gradients of the total with respect to the student's tensors.
    pub seeds: Vec<(TensorId, Tensor)>,
}

impl Objective {
    /// Resolves terms against a student. `pairs`: those of each term, empty for terms without.
    ///
    /// # Errors
    /// When a student has no tensor of a pair's name.
    pub fn new(terms: &[CriterionRecipe], pairs: &[Vec<Pair>], smoothing: f64, student: &Student) -> Result<Self> {
        let mut objective = Self { terms: Vec::new(), taps: Vec::new(), keep: Vec::new(), teacher_logits: false };
        for (recipe, pairs) in terms.iter().zip(pairs) {
            let criterion = match &recipe.method {
                Method::Ce => Criterion::Ce { smoothing },
                Method::Kd { temperature } => {
                    objective.teacher_logits = true;
                    Criterion::Kd { temperature: *temperature }
                }
                Method::Nst { kernel, normalization, .. } => {
                    let mut resolved = Vec::new();
                    for pair in pairs {
                        let id = student
                            .tensor(&pair.student)
                            .ok_or_else(|| Error::input(format!("student's tensor `{}`: not in the graph", pair.student)))?;
                        resolved.push((objective.teacher(recipe, pair)?, id));
                        index_of(&mut objective.keep, id);
                    }
                    // the teacher's term is constant, but without it the value is no distance and says nothing to the reader
                    let options = NstOptions { kernel: *kernel, normalization: *normalization, teacher_term: true };
                    Criterion::Nst { options, pairs: resolved }
                }
            };
            let same = objective.terms.iter().filter(|t| t.name.split('#').next() == Some(recipe.name())).count();
            let name = if same == 0 { recipe.name().to_owned() } else { format!("{}#{}", recipe.name(), same + 1) };
            objective.terms.push(Term { name, weight: recipe.weight, criterion });
        }
        Ok(objective)
    }

    /// Asks for the statistics of a pair's teacher that a criterion is computed from.
    fn teacher(&mut self, criterion: &CriterionRecipe, pair: &Pair) -> Result<Teacher> {
        let statistics = pair.read(criterion)?;
        let mut of = |statistic| statistics.contains(&statistic).then(|| index_of(&mut self.taps, statistic.path(&pair.teacher)));
        let [_, height, width] = pair.teacher_shape;
        Ok(match of(Statistic::Features) {
            Some(maps) => Teacher::Maps(maps),
            None => Teacher::Statistics { size: [height, width], gram: of(Statistic::Gram), mean: of(Statistic::Mean) },
        })
    }

    /// Computes every term on a forward pass.
    ///
    /// # Errors
    /// When shapes disagree, or the batch lacks what a term needs.
    pub fn evaluate(&self, pass: &Pass<'_>, logits: TensorId, batch: &Batch) -> Result<Value> {
        let mut value = Value { total: 0.0, parts: Vec::with_capacity(self.terms.len()), seeds: Vec::new() };
        let mut seeds = BTreeMap::new();
        for term in &self.terms {
            let mut part = 0.0;
            let weight = term.weight;
            let mut take = |id: TensorId, loss: Loss, weight: f64| -> Result<()> {
                part += loss.value;
                add(&mut seeds, id, &loss.gradient, weight)
            };
            match &term.criterion {
                Criterion::Ce { smoothing } => {
                    let (scores, labels) = (pass.value(logits)?, &batch.labels);
                    let loss = match &batch.mixed {
                        Some(mixed) => mixed_cross_entropy(scores, labels, &mixed.labels, &mixed.weights, *smoothing)?,
                        None => cross_entropy(scores, labels, *smoothing)?,
                    };
                    take(logits, loss, weight)?;
                }
                Criterion::Kd { temperature } => {
                    let teacher = batch.logits.as_ref().ok_or_else(|| Error::input("kd: the batch has no teacher logits"))?;
                    take(logits, kd(pass.value(logits)?, teacher, *temperature)?, weight)?;
                }
                Criterion::Nst { options, pairs } => {
                    for &(teacher, id) in pairs {
                        // maps are large: the weight is in their gradient already
                        take(id, nst(pass.value(id)?, teacher, batch, options, weight)?, 1.0)?;
                    }
                }
            }
            value.total += term.weight * part;
            value.parts.push(part);
        }
        value.seeds = seeds.into_iter().collect();
        Ok(value)
    }
}

/// NST of a pair, from whichever form of the teacher's map the batch brings.
fn nst(student: &Tensor, teacher: Teacher, batch: &Batch, options: &NstOptions, weight: f64) -> Result<Loss> {
    let tap = |at: usize| batch.taps.get(at).ok_or_else(|| Error::input("nst: the batch lacks a teacher's map"));
    match teacher {
        Teacher::Maps(at) => nst_weighted(student, tap(at)?, options, weight),
        Teacher::Statistics { size, gram, mean } => {
            let known = Statistics { size, gram: gram.map(tap).transpose()?, mean: mean.map(tap).transpose()? };
            nst_from(student, &known, options, weight)
        }
    }
}

fn add(seeds: &mut BTreeMap<TensorId, Tensor>, id: TensorId, gradient: &Tensor, weight: f64) -> Result<()> {
    // most weights are 1 and most tensors have one term: nothing is copied then
    let scaled = if weight.to_bits() == 1f64.to_bits() { gradient.clone() } else { (gradient * weight)? };
    let sum = match seeds.remove(&id) {
        Some(before) => (before + scaled)?,
        None => scaled,
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
