//! Spot-adaptive distillation from a cache: which samples each criterion sees at each spot, and the policy that decides it.
//!
//! A spot is a tensor of the student that criteria compare, or the logits. The policy reads the vectors before both classifiers. As published it
//! is trained by the loss of routes through both networks; a cache has no network to route through, so here a linear probe of the pooled map
//! stands for what follows a spot in either network (`criterion::sakd::policy_step`); at the logits it is exact. Its noise has a stream of its own.

use super::learnable::State;
use super::term::{Site, Teacher};
use super::{Objective, index_of};
use crate::criterion::autograd::Evaluation;
use crate::criterion::module::Module;
use crate::criterion::sakd;
use crate::error::{Error, Result};
use crate::recipe::{Gates, Sakd, Statistic};
use crate::student::{Pass, Student, TensorId};
use crate::train::pairing::Pair;
use crate::train::source::{Batch, Source};
use candle_core::{D, DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The spots of an objective.
#[derive(Debug, Clone)]
pub(super) struct Spots {
    settings: Sakd,
    /// The vectors before the classifiers, and their widths.
    vectors: Site,
    widths: [usize; 2],
    all: Vec<Spot>,
}

#[derive(Debug, Clone)]
struct Spot {
    name: String,
    site: Site,
    /// Channels of both sides; `None` at the logits, which need no probe.
    channels: Option<[usize; 2]>,
}

/// What was decided at one step.
#[derive(Debug)]
pub(super) struct Chosen {
    /// A gate a sample, by spot.
    gates: Vec<(TensorId, Tensor)>,
    /// The noise of the decision, `[batch, spots, 2]`.
    noise: Option<Tensor>,
}

impl Chosen {
    /// The gates at a student's tensor.
    pub(super) fn at(&self, tensor: TensorId) -> Option<&Tensor> {
        self.gates.iter().find(|(id, _)| *id == tensor).map(|(_, gate)| gate)
    }

    /// How many samples each spot selects.
    pub(super) fn counts(&self) -> Result<Vec<f64>> {
        self.gates.iter().map(|(_, gate)| Ok(gate.sum_all()?.to_scalar::<f64>()?)).collect()
    }
}

impl Spots {
    /// The spots of the terms, decided from the `vectors` before the classifiers.
    pub(super) fn new(objective: &mut Objective, settings: &Sakd, vectors: &Pair, student: &Student) -> Result<Self> {
        let mut spots: Vec<Spot> = Vec::new();
        for term in &objective.terms {
            for (index, site) in term.sites.iter().enumerate() {
                let known = spots.iter().any(|spot| spot.site.student == site.student);
                if known || matches!(site.teacher, Teacher::None) {
                    continue;
                }
                let first = |shape: &Vec<usize>| shape.first().copied().unwrap_or(0);
                let (name, channels) = match term.pairs.get(index) {
                    Some(pair) => (pair.student.clone(), Some([first(&pair.student_shape), first(&pair.teacher_shape)])),
                    None => ("logits".to_owned(), None),
                };
                spots.push(Spot { name, site: *site, channels });
            }
        }
        if spots.is_empty() {
            return Err(
                Error::input("sakd: expected a criterion that compares with the teacher, found none").hint("add --criterion kd or nst")
            );
        }
        let id = student
            .tensor(&vectors.student)
            .ok_or_else(|| Error::input(format!("student's tensor `{}`: not in the graph", vectors.student)))?;
        index_of(&mut objective.keep, id);
        let tap = index_of(&mut objective.taps, Statistic::Features.path(&vectors.teacher));
        let widths = [vectors.student_shape.iter().product(), vectors.teacher_shape.iter().product()];
        Ok(Self { settings: settings.clone(), vectors: Site { teacher: Teacher::Tap(tap), student: id }, widths, all: spots })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|spot| spot.name.as_str())
    }

    /// The untrained policy; `None` where nothing is to be learnt.
    pub(super) fn module(&self, source: &Source<'_>, seed: u64) -> Result<Option<Module>> {
        if self.settings.gates == Gates::Always {
            return Ok(None);
        }
        let classes = source.labels().iter().map(|&(_, label)| label + 1).max().and_then(|n| usize::try_from(n).ok());
        let classes = classes.filter(|&n| n > 1).ok_or_else(|| {
            Error::input("sakd: expected labels of two classes or more to train its policy by").hint("gates = \"always\" needs none")
        })?;
        let channels: Vec<Option<[usize; 2]>> = self.all.iter().map(|spot| spot.channels).collect();
        sakd::policy(self.widths, self.settings.width, &channels, classes, seed).map(Some)
    }

    /// Decides for a batch.
    pub(super) fn choose(&self, pass: &Pass<'_>, batch: &Batch, step: usize, state: &State) -> Result<Chosen> {
        let rows = batch.labels.len();
        let ids = self.all.iter().map(|spot| spot.site.student);
        if self.settings.gates == Gates::Always {
            let all = Tensor::ones(rows, DType::F64, &Device::Cpu)?;
            return Ok(Chosen { gates: ids.map(|id| (id, all.clone())).collect(), noise: None });
        }
        let noise = sakd::gumbel(&uniform(state.seed(), step, &[rows, self.all.len(), 2])?)?;
        let [student, teacher] = self.pair(&self.vectors, pass, batch)?;
        let scores = sakd::policy_scores(state.module(0)?, &student, &teacher)?;
        let gates = sakd::gates(&scores, &noise, self.settings.temperature)?.to_dtype(DType::F64)?;
        // straight-through gates are 0 or 1 up to rounding
        let gates = gates.gt(0.5)?.to_dtype(DType::F64)?;
        let of_spot = |(spot, id)| Ok((id, gates.narrow(D::Minus1, spot, 1)?.flatten_all()?));
        Ok(Chosen { gates: ids.enumerate().map(of_spot).collect::<Result<_>>()?, noise: Some(noise) })
    }

    /// What the policy learns of a batch; `None` where nothing is to be learnt.
    pub(super) fn learn(&self, pass: &Pass<'_>, batch: &Batch, chosen: &Chosen, state: &State) -> Result<Option<Evaluation>> {
        let Some(noise) = &chosen.noise else { return Ok(None) };
        let vectors = self.pair(&self.vectors, pass, batch)?;
        let spots = self.all.iter().map(|spot| self.pair(&spot.site, pass, batch)).collect::<Result<Vec<_>>>()?;
        let labels = batch.main_labels();
        let options = sakd::PolicyOptions { temperature: self.settings.temperature, gamma: self.settings.gamma };
        sakd::policy_step(state.module(0)?, &vectors, &spots, noise, &labels, options).map(Some)
    }

    /// Student's and teacher's tensor of a site.
    #[allow(clippy::unused_self, reason = "reads as a part of the spots")]
    fn pair(&self, site: &Site, pass: &Pass<'_>, batch: &Batch) -> Result<[Tensor; 2]> {
        let teacher = match site.teacher {
            Teacher::Tap(tap) => batch.taps.get(tap),
            _ => batch.logits.as_ref(),
        };
        let teacher = teacher.ok_or_else(|| Error::input("sakd: the batch lacks a tensor of the teacher"))?;
        let student = pass.value(site.student)?.to_device(&Device::Cpu)?;
        let teacher = teacher.to_dtype(student.dtype())?;
        Ok([student, teacher])
    }
}

/// Uniform numbers of [0, 1) that follow from seed and step alone.
#[allow(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
fn uniform(seed: u64, step: usize, shape: &[usize]) -> Result<Tensor> {
    let mut key = [0; 32];
    for (slot, value) in key.chunks_exact_mut(8).zip([seed, step as u64, 0, u64::from_le_bytes(*b"spotgate")]) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    let mut random = ChaCha8Rng::from_seed(key);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
