//! A term of the loss: a criterion and the tensors it is computed from.

use super::super::pairing::Pair;
use super::super::source::Batch;
use super::chosen::Chosen;
use super::positions::Positions;
use super::site::{Compared, Site};
use crate::criterion::{
    Comparison, Evaluation, Layers, MixedLabels, Running, Samples, Statistics, Subject, Target,
    sakd,
};
use crate::error::{Error, Result};
use crate::recipe::CriterionRecipe;
use candle_core::Tensor;

/// A term of the loss, resolved, so that no step looks anything up by name.
#[derive(Debug, Clone)]
pub struct Term {
    /// The name under which metrics list it.
    pub name: String,
    /// Its criterion, weight and weight schedule.
    pub recipe: CriterionRecipe,
    /// The pairs that it compares, for display and for the shapes of its modules; empty for a term
    /// that compares logits.
    pub pairs: Vec<Pair>,
    pub(super) smoothing: f64,
    /// The student's tensors that it reads, each with what it is compared with.
    pub(super) sites: Vec<Site>,
}

/// A term's loss and gradients.
#[derive(Debug)]
pub(super) struct TermLoss {
    /// The sum over the sites, unweighted.
    pub value: f64,
    /// Gradients of the weighted sum, by site.
    pub inputs: Vec<Tensor>,
    /// Gradients of the weighted sum with respect to its state, by module.
    pub weights: Vec<Vec<(String, Tensor)>>,
}

impl Term {
    /// The student's tensor of a site as its pair compares it.
    pub(super) fn of_student(&self, site: usize, value: &Tensor) -> Result<Tensor> {
        self.pairs.get(site).map_or_else(|| Ok(value.clone()), |pair| pair.of_student(value))
    }

    /// The gradient of [`Term::of_student`]'s tensor as that of the student's tensor of this shape.
    pub(super) fn to_student(
        &self,
        site: usize,
        gradient: &Tensor,
        shape: &[usize],
    ) -> Result<Tensor> {
        match self.pairs.get(site) {
            Some(pair) => pair.to_student(gradient, shape),
            None => Ok(gradient.reshape(shape)?),
        }
    }

    /// Evaluates the term, with the gradients of `weight` times the loss. `students`: the values of
    /// the sites' tensors, on the host. With `chosen`, each site's criterion sees the samples that
    /// its spot selects, and is weighted by their share of the batch.
    ///
    /// # Errors
    /// When shapes disagree, or the batch lacks required data.
    pub(super) fn evaluate(
        &self,
        weight: f64,
        students: &[Tensor],
        batch: &Batch,
        step: usize,
        running: &mut dyn Running,
        chosen: Option<&Chosen>,
    ) -> Result<TermLoss> {
        let labels = batch.main_labels();
        let samples = Samples {
            rows: &batch.rows,
            labels: &labels,
            mixed: batch.mixed.as_ref().map(|mixed| MixedLabels {
                first: &batch.labels,
                second: &mixed.labels,
                share: &mixed.weights,
            }),
            smoothing: self.smoothing,
            step,
        };
        let spec = self.recipe.method.spec();
        if spec.subject == Subject::Labels {
            let inputs = Comparison { students, targets: &[], layer: 0, samples };
            let Evaluation { value, inputs, weights } = running.weighted(weight, &inputs)?;
            return Ok(TermLoss { value, inputs, weights: vec![weights] });
        }
        let targets = self.targets(batch)?;
        match spec.layers {
            Layers::Joined => self.joined(weight, students, &targets, samples, running, chosen),
            Layers::Each => {
                let mask = batch.logits_mask.as_deref();
                self.each(weight, students, &targets, mask, samples, running, chosen)
            }
        }
    }

    /// The teacher data of a batch at each site.
    fn targets<'a>(&self, batch: &'a Batch) -> Result<Vec<Target<'a>>> {
        let of_site = |site: &Site| {
            site.teacher.of(batch).ok_or_else(|| {
                Error::internal(format!(
                    "criterion {}: the batch lacks a teacher's tensor",
                    self.name
                ))
            })
        };
        self.sites.iter().map(of_site).collect()
    }

    /// One formula over several layers: the deepest spot decides for all of them.
    fn joined(
        &self,
        weight: f64,
        students: &[Tensor],
        targets: &[Target<'_>],
        samples: Samples<'_>,
        running: &mut dyn Running,
        chosen: Option<&Chosen>,
    ) -> Result<TermLoss> {
        let deepest = self.sites.last();
        let gate = deepest.and_then(|site| chosen.and_then(|chosen| chosen.at(site.student)));
        let found = match gate {
            None => running.evaluate(&Comparison { students, targets, layer: 0, samples })?,
            Some(gate) => {
                let teachers = targets.iter().map(whole).collect::<Result<Vec<_>>>()?;
                sakd::gated_layers(students, &teachers, gate, |students, teachers, selected| {
                    let targets: Vec<Target<'_>> = teachers.iter().map(Target::Tensor).collect();
                    Selected::new(&samples, selected).with(|samples| {
                        let targets = &targets;
                        running.evaluate(&Comparison { students, targets, layer: 0, samples })
                    })
                })?
            }
        };
        let value = found.value;
        let Evaluation { inputs, weights, .. } = found.scaled(weight)?;
        Ok(TermLoss { value, inputs, weights: vec![weights] })
    }

    /// Each layer separately; of logits at positions, those that `mask` keeps.
    #[allow(clippy::too_many_arguments, reason = "what one evaluation consists of")]
    fn each(
        &self,
        weight: f64,
        students: &[Tensor],
        targets: &[Target<'_>],
        mask: Option<&[bool]>,
        samples: Samples<'_>,
        running: &mut dyn Running,
        chosen: Option<&Chosen>,
    ) -> Result<TermLoss> {
        let mut all = TermLoss { value: 0.0, inputs: Vec::new(), weights: Vec::new() };
        for (layer, ((student, target), site)) in
            students.iter().zip(targets).zip(&self.sites).enumerate()
        {
            let mut at = |student: &Tensor, target: Target<'_>, samples: Samples<'_>| {
                let (students, targets) = (std::slice::from_ref(student), &[target]);
                running.weighted(weight, &Comparison { students, targets, layer, samples })
            };
            let is_of_logits = matches!(site.teacher, Compared::Logits)
                && (mask.is_some() || self.recipe.method.spec().subject == Subject::Logits);
            let positions = if is_of_logits { Positions::of(target, mask)? } else { None };
            let found = match chosen.and_then(|chosen| chosen.at(site.student)) {
                None => match positions {
                    Some(positions) => positions.evaluate(student, *target, samples, at)?,
                    None => at(student, *target, samples)?,
                },
                Some(gate) => gated(student, *target, gate, |student, target, selected| {
                    Selected::new(&samples, selected).with(|samples| at(student, target, samples))
                })?,
            };
            all.value += found.value;
            all.inputs.extend(found.inputs);
            all.weights.push(found.weights);
        }
        Ok(all)
    }
}

/// Sparse logits are refused before the first step.
fn sparse() -> Error {
    Error::internal("sakd: expected the logits of all classes, found sparse ones")
}

/// The teacher's whole tensor.
fn whole<'a>(target: &Target<'a>) -> Result<&'a Tensor> {
    match target {
        Target::Tensor(tensor) => Ok(tensor),
        Target::Statistics(_) => {
            Err(Error::internal("sakd: expected the teacher's features, found statistics of them"))
        }
        Target::Sparse(_) => Err(sparse()),
    }
}

/// [`sakd::gated`] for any kind of target.
fn gated(
    student: &Tensor,
    target: Target<'_>,
    gate: &Tensor,
    criterion: impl FnOnce(&Tensor, Target<'_>, &[u32]) -> Result<Evaluation>,
) -> Result<Evaluation> {
    let Statistics { size, gram, mean, attention } = match target {
        Target::Tensor(teacher) => {
            return sakd::gated(student, teacher, gate, |student, teacher, selected| {
                criterion(student, Target::Tensor(teacher), selected)
            });
        }
        Target::Statistics(statistics) => statistics,
        Target::Sparse(_) => return Err(sparse()),
    };
    let first = [gram, mean, attention].into_iter().flatten().next();
    let first =
        first.ok_or_else(|| Error::internal("sakd: the batch lacks the statistics of a map"))?;
    sakd::gated(student, first, gate, |student, _, selected| {
        let index = Tensor::new(selected, first.device())?;
        let select = |tensor: Option<&Tensor>| {
            Ok::<_, Error>(tensor.map(|tensor| tensor.index_select(&index, 0)).transpose()?)
        };
        let (gram, mean, attention) = (select(gram)?, select(mean)?, select(attention)?);
        let statistics = Statistics {
            size,
            gram: gram.as_ref(),
            mean: mean.as_ref(),
            attention: attention.as_ref(),
        };
        criterion(student, Target::Statistics(statistics), selected)
    })
}

/// The samples that a spot selects.
struct Selected<'a> {
    of: &'a Samples<'a>,
    rows: Vec<usize>,
    labels: Vec<i64>,
}

impl<'a> Selected<'a> {
    fn new(of: &'a Samples<'a>, selected: &[u32]) -> Self {
        let rows = selected.iter().map(|&i| of.rows[i as usize]).collect();
        let labels = selected.iter().map(|&i| of.labels[i as usize]).collect();
        Self { of, rows, labels }
    }

    /// Drops the second label of mixed samples: it matters only to criteria of labels, which are
    /// not gated.
    fn with<R>(&self, evaluate: impl FnOnce(Samples<'_>) -> R) -> R {
        evaluate(Samples { rows: &self.rows, labels: &self.labels, mixed: None, ..*self.of })
    }
}
