//! Spot-adaptive distillation: which samples each criterion sees at each spot, and the policy that
//! decides this.
//!
//! A spot is a tensor of the student that criteria compare, or the logits. The policy reads the
//! vectors before both classifiers. As published, it is trained by the loss of routes through both
//! networks (`route`). With only a cache there is no network to route through, and a linear probe
//! of the pooled map replaces the rest of either network (`criterion::sakd::policy_step`); at the
//! logits this is exact. The policy's noise has its own stream.

mod route;

use super::chosen::Chosen;
use super::learnable::Policy;
use super::site::{Compared, Site};
use super::{Objective, index_of};
use crate::cache::Manifest;
use crate::criterion::math::module::Module;
use crate::criterion::{Target, sakd};
use crate::error::{Error, Result};
use crate::random::keyed;
use crate::recipe::{Gates, Sakd};
use crate::statistic::Statistic;
use crate::student::{Pass, Student};
use crate::trainer::pairing::Pair;
use crate::trainer::schedule::dropout_seed;
use crate::trainer::source::{Batch, Source};
use candle_core::{D, DType, Device, Tensor};
use rand_chacha::rand_core::Rng as _;
use route::{Judge, Route};
use std::sync::Arc;

/// Gradients with respect to the weights of each module, by name.
pub(super) type Gradients = Vec<Vec<(String, Tensor)>>;

/// The spots of an objective.
#[derive(Debug, Clone)]
pub(super) struct Spots {
    settings: Sakd,
    /// The vectors before the classifiers, and their widths.
    vectors: Site,
    widths: [usize; 2],
    all: Vec<Spot>,
    /// Both networks from spot to spot; `None` if the policy learns from the cache alone.
    route: Option<Arc<Route>>,
}

#[derive(Debug, Clone)]
struct Spot {
    name: String,
    site: Site,
    /// The pair compared there; `None` at the logits.
    pair: Option<Pair>,
}

impl Spots {
    /// The spots of the terms; the policy decides from the `vectors` before the classifiers.
    pub(super) fn new(
        objective: &mut Objective,
        settings: &Sakd,
        vectors: &Pair,
        student: &Student,
    ) -> Result<Self> {
        let mut all: Vec<Spot> = Vec::new();
        for term in &objective.terms {
            for (index, site) in term.sites.iter().enumerate() {
                let known = all.iter().any(|spot| spot.site.student == site.student);
                if known || matches!(site.teacher, Compared::Labels) {
                    continue;
                }
                let pair = term.pairs.get(index).cloned();
                if let Some(pair) = pair.as_ref().filter(|pair| pair.student_channels_last) {
                    return Err(Error::input(format!(
                        "sakd: expected a map of the student with its channels first, found `{}`",
                        pair.student
                    ))
                    .hint("name the map that it transposes: pair=TEACHER>STUDENT"));
                }
                let name =
                    pair.as_ref().map_or_else(|| "logits".to_owned(), |pair| pair.student.clone());
                all.push(Spot { name, site: *site, pair });
            }
        }
        if all.is_empty() {
            return Err(Error::input(
                "sakd: expected a criterion that compares with the teacher, found none",
            )
            .hint("add --criterion kd or nst"));
        }
        let id = student.tensor(&vectors.student).ok_or_else(|| {
            Error::input(format!("student's tensor `{}`: not in the graph", vectors.student))
        })?;
        index_of(&mut objective.keep, id);
        let tap = index_of(&mut objective.taps, Statistic::Features.path(&vectors.teacher));
        let widths =
            [vectors.student_shape.iter().product(), vectors.teacher_shape.iter().product()];
        Ok(Self {
            settings: settings.clone(),
            vectors: Site { teacher: Compared::Tap(tap), student: id },
            widths,
            all,
            route: None,
        })
    }

    /// Requests the maps that the probes read, for a policy that learns from the cache.
    pub(super) fn probed(mut self, objective: &mut Objective) -> Result<Self> {
        if self.settings.gates == Gates::Learned {
            self.all.iter_mut().try_for_each(|spot| spot.read_features(objective))?;
        }
        Ok(self)
    }

    /// Cuts both networks into routes, for a policy that learns from them; the cache's manifest
    /// names the teacher's tensors. The logits are always the last spot.
    pub(super) fn routed(
        mut self,
        objective: &mut Objective,
        student: &Student,
        teacher: &Student,
        manifest: &Manifest,
    ) -> Result<Self> {
        // tensors are numbered in graph order
        self.all.sort_by_key(|spot| (spot.pair.is_none(), spot.site.student));
        if self.all.last().is_some_and(|spot| spot.pair.is_some()) {
            let site = Site { teacher: Compared::Logits, student: student.logits() };
            self.all.push(Spot { name: "logits".to_owned(), site, pair: None });
        }
        let pairs: Vec<&Pair> = self.all.iter().filter_map(|spot| spot.pair.as_ref()).collect();
        self.route = Some(Arc::new(Route::new(&pairs, student, teacher, manifest)?));
        match self.all.first_mut() {
            // the teacher's first map is in the cache: the stages before it never run
            Some(first) if first.pair.is_some() => first.read_features(objective)?,
            _ => objective.teacher_logits = true,
        }
        Ok(self)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|spot| spot.name.as_str())
    }

    /// The untrained modules: the policy, and the adapters of the routes at each map. Empty if the
    /// gates are always open.
    pub(super) fn modules(
        &self,
        source: &Source<'_>,
        seed: impl Fn(usize) -> u64,
    ) -> Result<Vec<Module>> {
        if self.settings.gates == Gates::Always {
            return Ok(Vec::new());
        }
        let classes = source
            .labels()
            .iter()
            .map(|&(_, label)| label + 1)
            .max()
            .and_then(|n| usize::try_from(n).ok());
        let classes = classes.filter(|&n| n > 1).ok_or_else(|| {
            Error::input("sakd: expected labels of two classes or more to train its policy by")
                .hint("gates = \"always\" needs none")
        })?;
        let is_routed = self.route.is_some();
        // routes need no probes
        let channels: Vec<Option<[usize; 2]>> = self
            .all
            .iter()
            .map(|spot| spot.pair.as_ref().filter(|_| !is_routed).map(channels))
            .collect();
        let mut modules =
            vec![sakd::policy(self.widths, self.settings.width, &channels, classes, seed(0))?];
        for pair in self.all.iter().filter_map(|spot| spot.pair.as_ref()).filter(|_| is_routed) {
            modules.push(
                sakd::adapters(&pair.student_shape, &pair.teacher_shape, seed(modules.len()))
                    .map_err(|e| {
                        let error = Error::input(format!(
                            "sakd exact: spot {}: no adapter between {:?} and {} {:?}",
                            pair.student, pair.student_shape, pair.teacher, pair.teacher_shape
                        ));
                        error
                            .because(e)
                            .hint("name other pairs: --criterion 'nst:pair=TEACHER>STUDENT'")
                    })?,
            );
        }
        Ok(modules)
    }

    /// Chooses the gates for a batch.
    pub(super) fn choose(
        &self,
        pass: &Pass<'_>,
        batch: &Batch,
        step: usize,
        policy: &Policy,
    ) -> Result<Chosen> {
        let rows = batch.labels.len();
        let ids = self.all.iter().map(|spot| spot.site.student);
        if self.settings.gates == Gates::Always {
            let all = Tensor::ones(rows, DType::F64, &Device::Cpu)?;
            return Ok(Chosen { gates: ids.map(|id| (id, all.clone())).collect(), noise: None });
        }
        let noise = sakd::gumbel(&uniform(policy.seed, step, &[rows, self.all.len(), 2])?)?;
        let [student, teacher] = both(&self.vectors, pass, batch)?;
        let scores = sakd::policy_scores(policy.module(0)?, &student, &teacher)?;
        let gates =
            sakd::gates(&scores, &noise, self.settings.temperature)?.to_dtype(DType::F64)?;
        // straight-through gates are 0 or 1 up to rounding
        let gates = gates.gt(0.5)?.to_dtype(DType::F64)?;
        let of_spot = |(spot, id)| Ok((id, gates.narrow(D::Minus1, spot, 1)?.flatten_all()?));
        Ok(Chosen {
            gates: ids.enumerate().map(of_spot).collect::<Result<_>>()?,
            noise: Some(noise),
        })
    }

    /// The policy's and the adapters' gradients for a batch; empty if the gates are always open.
    pub(super) fn learn(
        &self,
        pass: &Pass<'_>,
        batch: &Batch,
        chosen: &Chosen,
        step: usize,
        policy: &Policy,
    ) -> Result<Gradients> {
        let Some(noise) = &chosen.noise else { return Ok(Vec::new()) };
        let vectors = both(&self.vectors, pass, batch)?;
        let labels = batch.main_labels();
        let Sakd { temperature, gamma, .. } = self.settings;
        let Some(route) = &self.route else {
            let spots = self
                .all
                .iter()
                .map(|spot| both(&spot.site, pass, batch))
                .collect::<Result<Vec<_>>>()?;
            let options = sakd::PolicyOptions { temperature, gamma };
            return Ok(vec![
                sakd::policy_step(policy.module(0)?, &vectors, &spots, noise, &labels, options)?
                    .weights,
            ]);
        };
        let (Some(first), Some(last)) = (self.all.first(), self.all.last()) else {
            return Ok(Vec::new());
        };
        let adapters =
            (1..self.all.len()).map(|spot| policy.module(spot)).collect::<Result<Vec<_>>>()?;
        let gates: Vec<&Tensor> = chosen.gates.iter().map(|(_, gate)| gate).collect();
        let plain = pass.value(last.site.student)?.to_device(&Device::Cpu)?;
        let judge = Judge { plain: &plain, labels: &labels, gamma };
        let routed = route.run(
            both(&first.site, pass, batch)?,
            &gates,
            &adapters,
            judge,
            dropout_seed(policy.seed, step),
        )?;
        if !routed.value.is_finite() {
            return Err(Error::check(format!(
                "training: step {step}: the routed loss of sakd is {}",
                routed.value
            ))
            .hint("lower --lr, or set clip in the recipe"));
        }
        let upstream = Tensor::stack(&routed.gates, 1)?;
        let learned =
            sakd::policy_pullback(policy.module(0)?, &vectors, noise, temperature, &upstream)?;
        Ok(std::iter::once(learned.weights).chain(routed.adapters).collect())
    }
}

impl Spot {
    /// Requests the teacher's features in a batch, whatever the criteria are computed from.
    fn read_features(&mut self, objective: &mut Objective) -> Result<()> {
        let (Some(pair), Compared::Statistics(_)) = (&self.pair, self.site.teacher) else {
            return Ok(());
        };
        if pair.teacher_stored.iter().all(|(statistic, _)| *statistic != Statistic::Features) {
            let stored: Vec<&str> =
                pair.teacher_stored.iter().map(|(statistic, _)| statistic.name()).collect();
            return Err(Error::input(format!(
                "sakd: tap {}: expected its features in the cache, found {}",
                pair.teacher,
                stored.join(" + ")
            ))
            .hint("extract again with --keep features"));
        }
        self.site.teacher =
            Compared::Tap(index_of(&mut objective.taps, Statistic::Features.path(&pair.teacher)));
        Ok(())
    }
}

/// The channel counts of student and teacher.
fn channels(pair: &Pair) -> [usize; 2] {
    [&pair.student_shape, &pair.teacher_shape].map(|shape| shape.first().copied().unwrap_or(0))
}

/// The student's and the teacher's tensor of a site.
fn both(site: &Site, pass: &Pass<'_>, batch: &Batch) -> Result<[Tensor; 2]> {
    let Some(Target::Tensor(teacher)) = site.teacher.of(batch) else {
        return Err(Error::internal("sakd: the batch lacks a tensor of the teacher"));
    };
    let student = pass.value(site.student)?.to_device(&Device::Cpu)?;
    let teacher = teacher.to_dtype(student.dtype())?;
    Ok([student, teacher])
}

/// Uniform numbers in [0, 1) that depend on seed and step alone.
#[allow(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
fn uniform(seed: u64, step: usize, shape: &[usize]) -> Result<Tensor> {
    let mut random = keyed([seed, step as u64, 0, u64::from_le_bytes(*b"spotgate")]);
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
