//! Factor transfer (Kim, Park & Kwak 2018, arXiv:1802.04977), in the form of `RepDistiller`.
//!
//! It learns the paraphraser, which is first trained to reconstruct the teacher's cached features
//! and then frozen, and the translator, which is trained with the student.

use crate::criterion::contract::{Comparison, Criterion, Memory, Pairs, Pretraining, Setup, Spec};
use crate::criterion::math::attention::{attention, attention_gradient};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{
    Guard, common_size, magnitude, map_dims, mean, power, unit_rows,
};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::math::operator::adaptive_pool_gradient;
use crate::criterion::papers::at::EPS;
use crate::criterion::papers::fitnet::hint;
use crate::criterion::settings::{ABOVE_0, ANY, DEGREE, settings};
use crate::error::Result;
use candle_core::{Tensor, Var};

settings! {
    /// Factor transfer.
    Ft {
        /// The channels of the factors, as a share of the teacher's.
        k: f64 = 0.5, ABOVE_0;
        /// The power of the factors.
        p1: u32 = 2, DEGREE;
        /// The power of the distance between factors.
        p2: u32 = 1, DEGREE;
        /// The number of epochs for which the paraphraser is pretrained.
        paraphraser_epochs: usize = 30, ANY;
    }
}

impl Criterion for Ft {
    type Memory = Factors;

    const SPEC: &'static Spec = &Spec {
        name: "ft",
        title: "Factor transfer",
        paper: "Kim, Park & Kwak 2018, arXiv:1802.04977",
        weight: 200.0,
        pairs: Pairs::Deepest,
        learnable: Some("translator; paraphraser, trained first on the cached features"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Factors> {
        let translators = setup.modules(|shapes, seed| {
            let [[student, ..], [teacher, ..]] = shapes.maps()?;
            translator(student, self.factors(teacher), seed)
        })?;
        let paraphrasers = setup.modules(|shapes, seed| {
            let [_, [teacher, ..]] = shapes.maps()?;
            paraphraser(teacher, self.factors(teacher), seed)
        })?;
        Ok(Factors { translators, paraphrasers })
    }

    fn pretraining<'a>(&self, factors: &'a Factors) -> Option<Pretraining<'a>> {
        Some(Pretraining {
            what: "paraphraser",
            modules: &factors.paraphrasers,
            epochs: self.paraphraser_epochs,
            loss: |teacher, paraphraser| paraphrase(teacher, paraphraser, SLOPE),
        })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, factors: &mut Factors) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        let Factors { translators, paraphrasers } = factors;
        let (translator, paraphraser) =
            (inputs.of_layer(translators)?, inputs.of_layer(paraphrasers)?);
        ft(student, &teacher, translator, paraphraser, [self.p1, self.p2], SLOPE)
    }
}

impl Ft {
    /// The channels of the factors of a teacher's map.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of channels"
    )]
    fn factors(&self, channels: usize) -> usize {
        ((channels as f64 * self.k) as usize).max(1)
    }
}

/// What factor transfer learns, by layer.
#[derive(Debug)]
pub struct Factors {
    translators: Vec<Module>,
    /// Trained first, then frozen.
    paraphrasers: Vec<Module>,
}

impl Factors {
    fn fixed(&self) -> impl Iterator<Item = (String, Var)> {
        self.paraphrasers.iter().enumerate().flat_map(|(layer, module)| {
            let name = move |name: &str| format!("{layer}/paraphraser.{name}");
            module.variables().map(move |(weight, var)| (name(weight), var))
        })
    }
}

impl Memory for Factors {
    fn modules(&self) -> &[Module] {
        &self.translators
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.fixed().map(|(name, var)| (name, var.as_tensor().clone())).collect())
    }

    fn restore(&mut self, tensors: Vec<Tensor>) -> Result<()> {
        for ((_, var), tensor) in self.fixed().zip(tensors) {
            var.set(&tensor)?;
        }
        Ok(())
    }
}

/// The indices of the three convolutions in `RepDistiller`'s sequential modules.
const CONVOLUTIONS: [usize; 3] = [0, 3, 6];
/// The slope of the leaky ReLU below 0.
pub const SLOPE: f64 = 0.1;

/// `L = mean_{b,hw} |q(f_s)_b − q(f_t)_b|^p2`, `q(F)_b = v_b / max(‖v_b‖, 1e-12)`,
/// `v_b = mean_c F_bc^p1`; the larger map is first adaptively average-pooled, per axis.
///
/// # Shapes
/// The factors: `student` `[batch, channels_s, height_s, width_s]`, `teacher`
/// `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When batches disagree, or a power is 0.
pub fn factors(student: &Tensor, teacher: &Tensor, p1: u32, p2: u32) -> Result<Evaluation> {
    let [_, _, h, w] = map_dims(student, "ft")?;
    let (s, t) = common_size(&student.detach(), teacher, "ft")?;
    let unit = |x: &Tensor| unit_rows(x, Guard::AtLeast(EPS));
    let (attended, t) = (attention(&s, p1)?, unit(&attention(&t, p1)?)?);
    differentiate(&[&attended], None, |s| mean(&power(&magnitude(&(unit(&s[0])? - &t)?)?, p2)?))?
        .through(|g| Ok(adaptive_pool_gradient(&attention_gradient(&s, p1, g)?, [h, w])?))
}

/// [`factors`] of `translator(s)` and of the paraphraser's encoding of t; the paraphraser is not
/// trained here.
///
/// # Shapes
/// As [`factors`], for the features.
///
/// # Errors
/// As [`factors`], or when a module does not fit.
pub fn ft(
    student: &Tensor,
    teacher: &Tensor,
    translator: &Module,
    paraphraser: &Module,
    [p1, p2]: [u32; 2],
    slope: f64,
) -> Result<Evaluation> {
    let (encoder, translator_links) = (
        stack(paraphraser, "encoder", Geometry::padded(1), slope),
        stack(translator, "translator.encoder", Geometry::padded(1), slope),
    );
    let teacher = chain::run(paraphraser, &encoder, teacher)?;
    chain::differentiate(translator, &translator_links, student, true, |factor| {
        factors(factor, &teacher, p1, p2)
    })
}

/// The paraphraser's training loss: `L = mean (decoder(encoder(t)) − t)²`.
///
/// # Shapes
/// `teacher` `[batch, channels, height, width]`.
///
/// # Errors
/// When the module does not fit.
pub fn paraphrase(teacher: &Tensor, paraphraser: &Module, slope: f64) -> Result<Evaluation> {
    let mut links = stack(paraphraser, "encoder", Geometry::padded(1), slope);
    links.extend(stack(paraphraser, "decoder", Geometry::transposed(1), slope));
    chain::differentiate(paraphraser, &links, teacher, false, |back| hint(back, teacher))
}

/// Three 3×3 convolutions, each followed by batch norm if the module has it, and by a leaky ReLU.
fn stack(module: &Module, name: &str, geometry: Geometry, slope: f64) -> Vec<Link> {
    let mut links = Vec::new();
    for place in CONVOLUTIONS {
        links.push(Link::Convolution(format!("{name}.{place}"), geometry));
        let norm = format!("{name}.{}", place + 1);
        if module.at(&norm).has("weight") {
            links.push(Link::BatchNorm(norm));
        }
        links.push(Link::LeakyRelu(slope));
    }
    links
}

/// An untrained paraphraser from maps of `channels` channels to `factors` channels.
///
/// # Errors
/// When a tensor cannot be created.
pub fn paraphraser(channels: usize, factors: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    let (c, f) = (channels, factors);
    for (place, [from, to]) in CONVOLUTIONS.into_iter().zip([[c, c], [c, f], [f, f]]) {
        init.layer(&format!("encoder.{place}"), &[to, from, 3, 3], Some(to))?;
    }
    for (place, [from, to]) in CONVOLUTIONS.into_iter().zip([[f, f], [f, c], [c, c]]) {
        init.layer(&format!("decoder.{place}"), &[from, to, 3, 3], Some(to))?;
    }
    init.finish()
}

/// An untrained translator from maps of `channels` channels to `factors` channels.
///
/// # Errors
/// When a tensor cannot be created.
pub fn translator(channels: usize, factors: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    let (c, f) = (channels, factors);
    for (place, [from, to]) in CONVOLUTIONS.into_iter().zip([[c, c], [c, f], [f, f]]) {
        init.layer(&format!("translator.encoder.{place}"), &[to, from, 3, 3], Some(to))?;
        init.norm(&format!("translator.encoder.{}", place + 1), to)?;
    }
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[2, 2, 5, 3], 1), tensor(&[2, 4, 3, 4], 2));
        for (p1, p2) in [(2, 1), (2, 2), (1, 3)] {
            assert_gradients(&[&s], &Module::default(), |x, _| factors(x[0], &t, p1, p2));
        }
        let paraphraser = paraphraser(4, 2, 1).unwrap();
        let fixed = paraphraser.to_dtype(candle_core::DType::F64).unwrap();
        assert_gradients(&[&s], &translator(2, 2, 2).unwrap(), |x, m| {
            ft(x[0], &t, m, &fixed, [2, 1], SLOPE)
        });
        assert_gradients(&[], &paraphraser, |_, m| paraphrase(&t, m, SLOPE));
    }

    #[test]
    fn dead_and_identical_factors() {
        let s = tensor(&[1, 2, 3, 3], 1);
        assert_zero(&factors(&s, &s, 2, 1).unwrap(), 0.0);
        for factor in [0.0, 1e-9, 1e9] {
            assert_finite(
                &factors(&(&s * factor).unwrap(), &tensor(&[1, 2, 3, 3], 2), 2, 1).unwrap(),
            );
        }
    }
}
