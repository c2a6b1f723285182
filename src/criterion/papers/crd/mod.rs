//! Contrastive representation distillation (Tian, Krishnan & Isola 2020, arXiv:1910.10699), in the
//! form of `RepDistiller`.
//!
//! It learns the embeddings `embed_s.linear` and `embed_t.linear`, and keeps two memories with one
//! embedding per training sample: 2 · 4 · width bytes per sample.
//!
//! The scores and their gradient are hand-written: autograd would gather
//! `[batch, negatives + 1, width]` from each memory.

mod negatives;

use crate::criterion::contract::{Comparison, Criterion, Memory, Setup, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{Guard, rows, same_batch, unit_rows};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::math::tensor::{same_shape, values};
use crate::criterion::settings::{ABOVE_0, POSITIVE, SHARE, settings};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use candle_nn::Module as _;
use negatives::Negatives;
use rayon::prelude::*;

settings! {
    /// Contrastive representation distillation.
    Crd {
        /// The width of an embedding.
        width: usize = 128, POSITIVE;
        /// The number of negatives: samples of other classes that each sample is contrasted with.
        negatives: usize = 16_384, POSITIVE;
        /// The divisor of the scores.
        temperature: f64 = 0.07, ABOVE_0;
        /// The share of its old embedding that a sample's memory keeps.
        momentum: f64 = 0.5, SHARE;
    }
}

impl Criterion for Crd {
    type Memory = Contrast;

    const SPEC: &'static Spec = &Spec {
        name: "crd",
        title: "Contrastive representation distillation",
        paper: "Tian, Krishnan & Isola 2020, arXiv:1910.10699",
        note: "the memory bank takes 8 · width bytes a training sample",
        weight: 0.8,
        learnable: Some("two linear embeddings; a memory bank"),
        ..Spec::VECTORS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Contrast> {
        let embeddings = setup.modules(|shapes, seed| {
            let [student, teacher] = shapes.widths();
            embeddings(student, teacher, self.width, seed)
        })?;
        let negatives = Negatives::new(setup.data.labels(), setup.run_seed)?;
        let samples = negatives.samples();
        let banks = (0..setup.layers.len())
            .map(|layer| Bank::new(samples, self.width, (setup.layer_seed)(layer)))
            .collect::<Result<_>>()?;
        Ok(Contrast { embeddings, banks, negatives })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, contrast: &mut Contrast) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        let Contrast { embeddings, banks, negatives } = contrast;
        let indices = negatives.draw(inputs.samples.rows, inputs.samples.step, self.negatives)?;
        let embeddings = inputs.of_layer(embeddings)?;
        let bank = banks.get_mut(inputs.layer);
        let bank = bank.ok_or_else(|| Error::internal("crd: expected a bank of its layer"))?;
        crd(student, &teacher, embeddings, bank, &indices, self.into())
    }
}

/// CRD's state.
#[derive(Debug)]
pub struct Contrast {
    /// One module per layer.
    embeddings: Vec<Module>,
    /// One memory bank per layer.
    banks: Vec<Bank>,
    negatives: Negatives,
}

impl Memory for Contrast {
    fn modules(&self) -> &[Module] {
        &self.embeddings
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for (layer, bank) in self.banks.iter().enumerate() {
            let [student, teacher] = bank.tensors()?;
            let normalizers = bank.log_normalizers.unwrap_or([f64::NAN; 2]);
            all.extend([
                (format!("{layer}/memory.student"), student),
                (format!("{layer}/memory.teacher"), teacher),
                (
                    format!("{layer}/memory.log-normalizers"),
                    Tensor::new(normalizers.as_slice(), &Device::Cpu)?,
                ),
            ]);
        }
        Ok(all)
    }

    fn restore(&mut self, tensors: Vec<Tensor>) -> Result<()> {
        if tensors.len() != 3 * self.banks.len() {
            return Err(Error::internal("crd: expected three tensors of each bank"));
        }
        for (bank, tensors) in self.banks.iter_mut().zip(tensors.chunks_exact(3)) {
            *bank = Bank::of(&tensors[0], &tensors[1])?;
            bank.log_normalizers = match tensors[2].to_vec1::<f64>()?[..] {
                [student, teacher] if !student.is_nan() => Some([student, teacher]),
                _ => None,
            };
        }
        Ok(())
    }
}

/// The ε added in both denominators.
const EPS: f64 = 1e-7;

/// Temperature and momentum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrdOptions {
    /// The divisor of the scores.
    pub temperature: f64,
    /// The share of its old embedding that a memory keeps in an update.
    pub momentum: f64,
}

impl Default for CrdOptions {
    fn default() -> Self {
        (&Crd::default()).into()
    }
}

impl From<&Crd> for CrdOptions {
    fn from(recipe: &Crd) -> Self {
        Self { temperature: recipe.temperature, momentum: recipe.momentum }
    }
}

/// The student's and the teacher's embeddings of all training samples, as of each sample's last
/// use.
#[derive(Debug, Clone, PartialEq)]
pub struct Bank {
    /// The width of an embedding.
    width: usize,
    /// The student's, then the teacher's embeddings, each `[samples, width]`.
    embeddings: [Vec<f32>; 2],
    /// ln Z of the student's and the teacher's scores, set by the first batch.
    pub log_normalizers: Option<[f64; 2]>,
}

impl Bank {
    /// Memories of `samples` samples, uniform within ±√(3/width).
    ///
    /// # Errors
    /// When there are no samples, or the width is 0.
    pub fn new(samples: usize, width: usize, seed: u64) -> Result<Self> {
        let mut init = Init::new(seed);
        let bound = (3.0 / count(width)).sqrt();
        for name in ["memory_s", "memory_t"] {
            init.uniform(name, &[samples, width], bound)?;
        }
        let module = init.finish()?;
        Self::of(&module.get("memory_s")?, &module.get("memory_t")?)
    }

    /// A bank of the given memories.
    ///
    /// # Shapes
    /// `student`, `teacher` `[samples, width]`.
    ///
    /// # Errors
    /// When the shapes disagree or are empty.
    pub fn of(student: &Tensor, teacher: &Tensor) -> Result<Self> {
        same_shape(student, teacher, "crd: memories")?;
        match *student.dims() {
            [samples, width] if samples > 0 && width > 0 => Ok(Self {
                width,
                embeddings: [values(student)?, values(teacher)?],
                log_normalizers: None,
            }),
            ref other => Err(Error::input(format!(
                "crd: expected a memory [samples, width], found {other:?}"
            ))),
        }
    }

    /// The number of samples in the bank.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.embeddings[0].len() / self.width
    }

    /// The student's and the teacher's embeddings, each `[samples, width]`.
    ///
    /// # Errors
    /// When a tensor cannot be created.
    pub fn tensors(&self) -> Result<[Tensor; 2]> {
        let tensor = |values: &Vec<f32>| {
            Ok::<_, Error>(Tensor::from_slice(values, (self.samples(), self.width), &Device::Cpu)?)
        };
        Ok([tensor(&self.embeddings[0])?, tensor(&self.embeddings[1])?])
    }

    /// `M[y] ← normalize(m·M[y] + (1−m)·f)`.
    #[allow(clippy::cast_possible_truncation, reason = "memories are f32")]
    fn update(&mut self, side: usize, sample: usize, embedded: &[f64], momentum: f64) {
        let row = &mut self.embeddings[side][sample * self.width..(sample + 1) * self.width];
        let mixed: Vec<f64> = row
            .iter()
            .zip(embedded)
            .map(|(m, f)| momentum * f64::from(*m) + (1.0 - momentum) * f)
            .collect();
        let norm = mixed.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().zip(mixed).for_each(|(m, x)| *m = (x / norm) as f32);
        }
    }
}

/// `L = L(f_s, M_t, Z_s) + L(f_t, M_s, Z_t)`, where f are the unit embeddings,
/// `o_bk = exp(⟨M[idx_bk], f_b⟩/T)/Z` and `L(f, M, Z) = −1/B Σ_b [ln(o_b0/(o_b0 + K/N +
/// 1e-7)) + Σ_{k=1..K} ln((K/N)/(o_bk + K/N + 1e-7))]`; `idx_b0` is the sample itself, the others
/// are negatives (in the paper's runs, samples of other classes). The first call fixes
/// `Z = N · mean exp(…)`, without gradient. After the scores are read, the batch updates the
/// memories.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`; `indices` `[batch, 1 + K]`, rows of the
/// memory.
///
/// # Errors
/// When shapes disagree, or an index is outside the memory.
pub fn crd(
    student: &Tensor,
    teacher: &Tensor,
    embeddings: &Module,
    memory: &mut Bank,
    indices: &[usize],
    options: CrdOptions,
) -> Result<Evaluation> {
    let batch = same_batch(student, teacher, "crd")?;
    if indices.is_empty()
        || !indices.len().is_multiple_of(batch)
        || indices.iter().any(|&i| i >= memory.samples())
    {
        return Err(Error::input(format!(
            "crd: expected as many indices below {} for each sample",
            memory.samples()
        )));
    }
    let chosen = indices.len() / batch;
    let mut embedded = Vec::new();
    let mut normalizers = [0.0; 2];
    let found = differentiate(&[student], Some(embeddings), |x| {
        let mut loss = None;
        for (side, (name, x)) in [("embed_s", &x[0]), ("embed_t", teacher)].into_iter().enumerate()
        {
            let x = rows(x, "crd")?;
            let f = embeddings.at(name).at("linear").linear(&x)?.forward(&x)?;
            // `RepDistiller` divides by the bare norm, which gives NaN at the zero vector
            let f = unit_rows(&f, Guard::AtLeast(1e-100))?;
            if f.dim(1)? != memory.width {
                return Err(Error::input(format!(
                    "crd: expected embeddings of {} values, found {}",
                    memory.width,
                    f.dim(1)?
                )));
            }
            let values = values::<f64>(&f)?;
            let normalizer = memory.log_normalizers.map(|n| n[side]);
            let scores = Scores {
                memory,
                side: 1 - side,
                indices,
                chosen,
                temperature: options.temperature,
            };
            let (value, gradient, normalizer) = scores.contrast(&values, normalizer);
            // a term of value 0 and gradient df carries the gradient to the embedding
            let carrier = (&f
                * Tensor::from_vec(gradient, f.shape(), &Device::Cpu)?.to_device(f.device())?)?
            .sum_all()?;
            let part = ((&carrier - carrier.detach())? + value)?;
            loss = Some(loss.map_or(Ok(part.clone()), |before: Tensor| before + &part)?);
            embedded.push(values);
            normalizers[side] = normalizer;
        }
        loss.ok_or_else(|| Error::input("crd: no sides"))
    })?;
    memory.log_normalizers.get_or_insert(normalizers);
    for (side, embedded) in embedded.iter().enumerate() {
        for (row, indices) in embedded.chunks_exact(memory.width).zip(indices.chunks_exact(chosen))
        {
            memory.update(side, indices[0], row, options.momentum);
        }
    }
    Ok(found)
}

/// One direction of the loss: embeddings against the other side's memory.
struct Scores<'a> {
    memory: &'a Bank,
    side: usize,
    indices: &'a [usize],
    chosen: usize,
    temperature: f64,
}

impl Scores<'_> {
    fn remembered(&self, index: usize) -> &[f32] {
        &self.memory.embeddings[self.side]
            [index * self.memory.width..(index + 1) * self.memory.width]
    }

    /// The loss, its gradient with respect to the embeddings, and ln Z.
    fn contrast(&self, embedded: &[f64], normalizer: Option<f64>) -> (f64, Vec<f64>, f64) {
        let (width, chosen) = (self.memory.width, self.chosen);
        let batch = count(embedded.len() / width);
        let mut scores = vec![0.0; self.indices.len()];
        let samples = scores
            .par_chunks_mut(chosen)
            .zip(self.indices.par_chunks(chosen))
            .zip(embedded.par_chunks(width));
        samples.for_each(|((scores, indices), f)| {
            for (score, &index) in scores.iter_mut().zip(indices) {
                *score = self
                    .remembered(index)
                    .iter()
                    .zip(f)
                    .map(|(m, f)| f64::from(*m) * f)
                    .sum::<f64>()
                    / self.temperature;
            }
        });
        let normalizer = normalizer.unwrap_or_else(|| {
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mean =
                scores.iter().map(|s| (s - largest).exp()).sum::<f64>() / count(scores.len());
            count(self.memory.samples()).ln() + largest + mean.ln()
        });
        // all in logarithms, so that no score overflows however low the temperature
        let noise = count(chosen - 1) / count(self.memory.samples());
        let (log_noise, log_rest) = (noise.ln(), (noise + EPS).ln());
        let mut gradient = vec![0.0; embedded.len()];
        let values: Vec<f64> = gradient
            .par_chunks_mut(width)
            .zip(scores.par_chunks(chosen).zip(self.indices.par_chunks(chosen)))
            .map(|(gradient, (scores, indices))| {
                let mut value = 0.0;
                for (k, (score, &index)) in scores.iter().zip(indices).enumerate() {
                    let log_o = score - normalizer;
                    let log_sum = log_o.max(log_rest) + (-(log_o - log_rest).abs()).exp().ln_1p();
                    let share = (log_o - log_sum).exp();
                    let (part, slope) = if k == 0 {
                        (log_o - log_sum, share - 1.0)
                    } else {
                        (log_noise - log_sum, share)
                    };
                    value -= part;
                    let pull = slope / (batch * self.temperature);
                    for (g, m) in gradient.iter_mut().zip(self.remembered(index)) {
                        *g += pull * f64::from(*m);
                    }
                }
                value
            })
            .collect();
        (values.iter().sum::<f64>() / batch, gradient, normalizer)
    }
}

/// Untrained embeddings of vectors of these widths.
///
/// # Errors
/// When a tensor cannot be created.
pub fn embeddings(student: usize, teacher: usize, width: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    init.layer("embed_s.linear", &[width, student], Some(width))?;
    init.layer("embed_t.linear", &[width, teacher], Some(width))?;
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};
    use candle_core::DType;

    const INDICES: [usize; 12] = [3, 0, 1, 6, 5, 2, 2, 1, 0, 4, 6, 5];

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[3, 5], 1), tensor(&[3, 2, 2], 2));
        let mut memory = Bank::new(7, 4, 1).unwrap();
        // Z has no gradient: fixed here, as it is after the first batch
        memory.log_normalizers = Some([2.0, 3.0]);
        let options = CrdOptions { temperature: 0.5, momentum: 0.5 };
        assert_gradients(&[&s], &embeddings(5, 4, 4, 1).unwrap(), |x, m| {
            crd(x[0], &t, m, &mut memory.clone(), &INDICES, options)
        });
    }

    #[test]
    fn a_batch_is_remembered_as_unit_vectors() {
        let (s, t) = (tensor(&[3, 5], 1), tensor(&[3, 4], 2));
        let mut memory = Bank::new(7, 4, 1).unwrap();
        let before = memory.tensors().unwrap();
        crd(&s, &t, &embeddings(5, 4, 4, 1).unwrap(), &mut memory, &INDICES, CrdOptions::default())
            .unwrap();
        assert!(memory.log_normalizers.is_some());
        for (before, after) in before.iter().zip(memory.tensors().unwrap()) {
            let (before, after) =
                (before.to_vec2::<f32>().unwrap(), after.to_vec2::<f32>().unwrap());
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                let norm: f32 = after.iter().map(|x| x * x).sum();
                assert!(
                    if [3, 5, 0].contains(&i) {
                        (norm - 1.0).abs() < 1e-6
                    } else {
                        before == after
                    },
                    "row {i}"
                );
            }
        }
    }

    #[test]
    fn dead_large_and_cold_samples_are_finite() {
        let module = embeddings(5, 4, 4, 1).unwrap();
        let silent = module.weights().map(|(name, w)| (name.to_owned(), w.zeros_like().unwrap()));
        let silent = Module::new(silent.collect::<Vec<_>>()).unwrap();
        let (s, t) = (
            tensor(&[1, 5], 1).to_dtype(DType::F32).unwrap(),
            tensor(&[1, 4], 2).to_dtype(DType::F32).unwrap(),
        );
        for (module, factor, temperature) in
            [(&silent, 1.0, 0.07), (&module, 1e9, 0.07), (&module, 1.0, 1e-4)]
        {
            let mut memory = Bank::new(7, 4, 1).unwrap();
            let options = CrdOptions { temperature, momentum: 0.5 };
            for _ in 0..2 {
                assert_finite(
                    &crd(&(&s * factor).unwrap(), &t, module, &mut memory, &[2, 0, 1], options)
                        .unwrap(),
                );
            }
        }
        let mut memory = Bank::new(7, 4, 1).unwrap();
        assert!(crd(&s, &t, &module, &mut memory, &[7], CrdOptions::default()).is_err());
        assert!(crd(&s, &t, &module, &mut memory, &[], CrdOptions::default()).is_err());
    }
}
