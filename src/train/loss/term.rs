//! A term of the loss: which criterion is computed of which tensors.

use super::super::pairing::Pair;
use super::super::source::Batch;
use super::chosen::Chosen;
use super::site::{Site, Stored, Teacher};
use super::state::State;
use crate::criterion::autograd::Evaluation;
use crate::criterion::cross_entropy::{cross_entropy, mixed_cross_entropy};
use crate::criterion::module::{Module, regressor_between};
use crate::criterion::nst::{NstOptions, Statistics, nst_from, nst_weighted};
use crate::criterion::{
    ab, at, cc, crd, dist, dkd, fitnet, fsp, ft, gan, kd, ofd, pkt, reviewkd, rkd, sakd, sp, vid,
};
use crate::error::{Error, Result};
use crate::recipe::{CriterionRecipe, Method};
use candle_core::Tensor;

/// A term of the loss, resolved: nothing is looked up by name in a step.
#[derive(Debug, Clone)]
pub struct Term {
    /// The name under which metrics list it.
    pub name: String,
    /// What it is.
    pub recipe: CriterionRecipe,
    /// The tensors that it brings together, for people and for the shapes of what it learns; empty
    /// for what compares logits.
    pub pairs: Vec<Pair>,
    pub(super) smoothing: f64,
    /// The student's tensors that it reads, each with what it is compared with.
    pub(super) sites: Vec<Site>,
}

/// Which samples a criterion sees.
struct Samples<'a> {
    rows: &'a [usize],
    labels: &'a [i64],
    step: usize,
}

/// What a term came to.
#[derive(Debug)]
pub(super) struct Found {
    /// The sum over the sites, unweighted.
    pub value: f64,
    /// Gradients of the weighted sum, by site.
    pub inputs: Vec<Tensor>,
    /// Gradients of the weighted sum by what is learnt, by module.
    pub weights: Vec<Vec<(String, Tensor)>>,
}

impl Term {
    /// The term with the gradients of `weight` times it. `students`: the values of the sites'
    /// tensors, on the host. With `chosen`, each site's criterion sees the samples that its spot
    /// selects, and counts by their share of the batch.
    ///
    /// # Errors
    /// When shapes disagree, or the batch lacks what it needs.
    pub(super) fn evaluate(
        &self,
        weight: f64,
        students: &[Tensor],
        batch: &Batch,
        step: usize,
        state: &mut State,
        chosen: Option<&Chosen>,
    ) -> Result<Found> {
        if let Method::Ce(_) = self.recipe.method {
            return self.labelled(weight, &students[..1], batch);
        }
        let of_site = |index: usize| self.teacher(index, batch);
        let gate = |site: &Site| chosen.and_then(|chosen| chosen.at(site.student));
        if self.joins_layers() {
            let teachers = (0..students.len()).map(of_site).collect::<Result<Vec<_>>>()?;
            // one formula over several layers: the deepest spot decides for all
            let found = match self.sites.last().and_then(gate) {
                None => self.together(students, &teachers, state)?,
                Some(gate) => sakd::gated_layers(students, &teachers, gate, |s, t| {
                    self.together(s, &t.iter().collect::<Vec<_>>(), state)
                })?,
            };
            let value = found.value;
            let Evaluation { inputs, weights, .. } = found.scaled(weight)?;
            return Ok(Found { value, inputs, weights: vec![weights] });
        }
        let labels = batch.main_labels();
        let mut found = Found { value: 0.0, inputs: Vec::new(), weights: Vec::new() };
        for (index, (student, site)) in students.iter().zip(&self.sites).enumerate() {
            if let Teacher::Statistics(stored) = &site.teacher {
                let evaluation = self.of_statistics(weight, student, stored, batch, gate(site))?;
                found.value += evaluation.value;
                found.inputs.extend(evaluation.inputs);
                found.weights.push(evaluation.weights);
                continue;
            }
            let teacher = of_site(index)?;
            let evaluation = match gate(site) {
                None => self.alone(
                    index,
                    weight,
                    student,
                    teacher,
                    &Samples { rows: &batch.rows, labels: &labels, step },
                    state,
                )?,
                Some(gate) => sakd::gated(student, teacher, gate, |student, teacher, selected| {
                    let rows: Vec<usize> =
                        selected.iter().map(|&i| batch.rows[i as usize]).collect();
                    let labels: Vec<i64> = selected.iter().map(|&i| labels[i as usize]).collect();
                    self.alone(
                        index,
                        weight,
                        student,
                        teacher,
                        &Samples { rows: &rows, labels: &labels, step },
                        state,
                    )
                })?,
            };
            found.value += evaluation.value;
            found.inputs.extend(evaluation.inputs);
            found.weights.push(evaluation.weights);
        }
        Ok(found)
    }

    /// Cross-entropy with the labels.
    fn labelled(&self, weight: f64, students: &[Tensor], batch: &Batch) -> Result<Found> {
        let mut found = Found { value: 0.0, inputs: Vec::new(), weights: Vec::new() };
        for logits in students {
            let loss = match &batch.mixed {
                Some(mixed) => mixed_cross_entropy(
                    logits,
                    &batch.labels,
                    &mixed.labels,
                    &mixed.weights,
                    self.smoothing,
                )?,
                None => cross_entropy(logits, &batch.labels, self.smoothing)?,
            };
            found.value += loss.value;
            found.inputs.extend(Evaluation::from(loss).scaled(weight)?.inputs);
        }
        Ok(found)
    }

    /// What the batch holds of the teacher at a site.
    fn teacher<'a>(&self, index: usize, batch: &'a Batch) -> Result<&'a Tensor> {
        let missing = |what: &str| {
            Error::input(format!("criterion {}: the batch has no {what} of the teacher", self.name))
        };
        match self.sites.get(index).map(|site| site.teacher) {
            Some(Teacher::Logits) => batch.logits.as_ref().ok_or_else(|| missing("logits")),
            Some(Teacher::Tap(tap)) => batch.taps.get(tap).ok_or_else(|| missing("tap")),
            _ => Err(missing("tensor")),
        }
    }

    /// Whether the criterion joins its layers by a formula of its own.
    fn joins_layers(&self) -> bool {
        matches!(
            self.recipe.method,
            Method::Ab(_) | Method::Fsp(_) | Method::Ofd(_) | Method::Reviewkd(_)
        )
    }

    /// A criterion that joins its layers.
    fn together(
        &self,
        students: &[Tensor],
        teachers: &[&Tensor],
        state: &State,
    ) -> Result<Evaluation> {
        let teachers = students
            .iter()
            .zip(teachers)
            .map(|(s, t)| Ok(t.to_dtype(s.dtype())?))
            .collect::<Result<Vec<_>>>()?;
        let (s, t): (Vec<&Tensor>, Vec<&Tensor>) =
            (students.iter().collect(), teachers.iter().collect());
        match &self.recipe.method {
            Method::Ab(settings) => ab::ab(&s, &t, state.module(0)?, settings.margin),
            Method::Ofd(_) => {
                ofd::ofd(&s, &t, &state.margins.iter().collect::<Vec<_>>(), state.module(0)?)
            }
            Method::Reviewkd(_) => reviewed(&s, &t, state.module(0)?),
            _ => fsp::fsp(&s, &t),
        }
    }

    /// The criterion at one site: its value, with the gradients of `weight` times it.
    fn alone(
        &self,
        index: usize,
        weight: f64,
        student: &Tensor,
        teacher: &Tensor,
        samples: &Samples<'_>,
        state: &mut State,
    ) -> Result<Evaluation> {
        if let Some((kernel, normalization)) = self.recipe.method.nst() {
            // the teacher's term is constant, but without it the value is no distance and says
            // nothing to the reader; maps are large, and the weight is free where the gradient is
            // made
            let options = NstOptions { kernel, normalization, teacher_term: true };
            return Ok(nst_weighted(student, teacher, &options, weight)?.into());
        }
        let teacher = &teacher.to_dtype(student.dtype())?;
        let evaluation: Evaluation = match &self.recipe.method {
            Method::Kd(settings) => kd::kd(student, teacher, settings.temperature)?.into(),
            Method::Dkd(settings) => dkd::dkd(
                student,
                teacher,
                samples.labels,
                settings.alpha,
                settings.beta,
                settings.temperature,
            )?,
            Method::Dist(settings) => {
                dist::dist(student, teacher, settings.beta, settings.gamma, settings.tau)?
            }
            Method::Fitnet(_) => {
                let size = |x: &Tensor| -> Result<[usize; 2]> { Ok([x.dim(2)?, x.dim(3)?]) };
                let (_, geometry) = regressor_between(size(student)?, size(teacher)?)?;
                fitnet::fitnet(student, teacher, state.module(index)?, geometry)?
            }
            Method::At(settings) => at::at(student, teacher, settings.p)?,
            Method::Vid(settings) => {
                vid::vid(student, teacher, state.module(index)?, settings.eps)?
            }
            Method::Sp(_) => sp::sp(student, teacher)?,
            Method::Cc(_) => cc::embedded(student, teacher, state.module(index)?)?,
            Method::Rkd(settings) => rkd::rkd(student, teacher, settings.distance, settings.angle)?,
            Method::Pkt(_) => pkt::pkt(student, teacher)?,
            Method::Crd(settings) => {
                let (indices, module, memory) =
                    state.contrast(index, samples.rows, samples.step)?;
                crd::crd(student, teacher, module, memory, &indices, settings.into())?
            }
            Method::Ft(settings) => {
                let powers = [settings.p1, settings.p2];
                ft::ft(
                    student,
                    teacher,
                    state.module(index)?,
                    state.paraphraser(index)?,
                    powers,
                    ft::SLOPE,
                )?
            }
            Method::Gan(_) => return adversarial(student, teacher, state.module(index)?, weight),
            other => {
                return Err(Error::input(format!(
                    "criterion {}: does not compare single layers",
                    other.name()
                )));
            }
        };
        let value = evaluation.value;
        Ok(Evaluation { value, ..evaluation.scaled(weight)? })
    }
}

impl Term {
    /// The criterion from what the cache holds in place of the teacher's maps, in which the samples
    /// are those of the gate, if there is one.
    fn of_statistics(
        &self,
        weight: f64,
        student: &Tensor,
        stored: &Stored,
        batch: &Batch,
        gate: Option<&Tensor>,
    ) -> Result<Evaluation> {
        let missing = || {
            Error::input(format!(
                "criterion {}: the batch has no statistics of the teacher's map",
                self.name
            ))
        };
        let of =
            |at: Option<usize>| at.map(|at| batch.taps.get(at).ok_or_else(missing)).transpose();
        let known = [of(stored.gram)?, of(stored.mean)?, of(stored.attention)?];
        let Some(gate) = gate else { return self.computed(weight, student, stored.size, known) };
        let first = known.into_iter().flatten().next().ok_or_else(missing)?;
        sakd::gated(student, first, gate, |student, _, selected| {
            let index = Tensor::new(selected, first.device())?;
            let select = |tensor: Option<&Tensor>| {
                Ok::<_, Error>(tensor.map(|tensor| tensor.index_select(&index, 0)).transpose()?)
            };
            let [gram, mean, attention] = known.map(select);
            let (gram, mean, attention) = (gram?, mean?, attention?);
            self.computed(
                weight,
                student,
                stored.size,
                [gram.as_ref(), mean.as_ref(), attention.as_ref()],
            )
        })
    }

    /// The criterion from the Gram matrices, means or attention maps of maps of this size.
    fn computed(
        &self,
        weight: f64,
        student: &Tensor,
        size: [usize; 2],
        [gram, mean, attention]: [Option<&Tensor>; 3],
    ) -> Result<Evaluation> {
        if let Some((kernel, normalization)) = self.recipe.method.nst() {
            let options = NstOptions { kernel, normalization, teacher_term: true };
            return Ok(
                nst_from(student, &Statistics { size, gram, mean }, &options, weight)?.into()
            );
        }
        let attention = attention.ok_or_else(|| {
            Error::input(format!("criterion {}: needs the teacher's maps", self.name))
        })?;
        let evaluation = at::at_from(student, attention)?;
        let value = evaluation.value;
        Ok(Evaluation { value, ..evaluation.scaled(weight)? })
    }
}

/// Knowledge review, vectors taking part as maps of one pixel.
fn reviewed(students: &[&Tensor], teachers: &[&Tensor], module: &Module) -> Result<Evaluation> {
    let map = |x: &&Tensor| -> Result<Tensor> {
        if x.rank() == 2 { Ok(x.unsqueeze(2)?.unsqueeze(3)?) } else { Ok((*x).clone()) }
    };
    let (s, t) = (
        students.iter().map(map).collect::<Result<Vec<_>>>()?,
        teachers.iter().map(map).collect::<Result<Vec<_>>>()?,
    );
    let mut found =
        reviewkd::reviewkd(&s.iter().collect::<Vec<_>>(), &t.iter().collect::<Vec<_>>(), module)?;
    for (gradient, student) in found.inputs.iter_mut().zip(students) {
        *gradient = gradient.reshape(student.shape())?;
    }
    Ok(found)
}

/// The student's side of the game is weighted; the discriminator plays its own, in which the weight
/// means nothing.
fn adversarial(
    student: &Tensor,
    teacher: &Tensor,
    module: &Module,
    weight: f64,
) -> Result<Evaluation> {
    let evaluation = gan::gan(student, teacher, module)?.evaluation;
    let (value, own) = (evaluation.value, evaluation.weights.clone());
    let mut evaluation = evaluation.scaled(weight)?;
    for (weighted, own) in evaluation.weights.iter_mut().zip(own) {
        if own.0.starts_with(gan::DISCRIMINATOR) {
            *weighted = own;
        }
    }
    Ok(Evaluation { value, ..evaluation })
}
