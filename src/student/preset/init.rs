//! Initial values of parameters: the laws that PyTorch's networks start from, drawn from a
//! generator of our own.
//!
//! Each parameter has its own stream, keyed by (seed, parameter name): its values depend on nothing
//! else, not on the order in which a network is built.

use crate::random::{fnv1a, keyed};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// How a layer's weight and bias start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Init {
    /// Weight and bias uniform in ±1/√`fan_in`: what PyTorch's convolutions and linear layers do
    /// by themselves.
    Uniform,
    /// Weight normal with variance 2 / `fan_out` (He et al. 2015, arXiv:1502.01852), bias 0.
    FanOut,
    /// Weight normal with this standard deviation, bias 0.
    Normal(f64),
}

/// What one parameter's values follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Law {
    /// All the same.
    Constant(f32),
    /// Uniform in ± this bound.
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

impl Init {
    /// The laws of weight and bias for a weight of `shape`, output features first, then input
    /// features of one group, then the kernel.
    #[allow(clippy::cast_precision_loss, reason = "fans are far below 2^52")]
    pub(super) fn laws(self, shape: &[usize]) -> (Law, Law) {
        let fan_in: usize = shape.iter().skip(1).product();
        let fan_out = shape.iter().take(1).chain(shape.iter().skip(2)).product::<usize>();
        match self {
            Self::Uniform => {
                let law = Law::Uniform(1.0 / (fan_in as f64).sqrt());
                (law, law)
            }
            Self::FanOut => (Law::Normal((2.0 / fan_out as f64).sqrt()), Law::Constant(0.0)),
            Self::Normal(deviation) => (Law::Normal(deviation), Law::Constant(0.0)),
        }
    }
}

impl Law {
    /// `count` values for the parameter of this name. Drawn in f64, rounded once.
    #[allow(clippy::cast_possible_truncation, reason = "parameters are f32")]
    pub(super) fn values(self, count: usize, seed: u64, name: &str) -> Vec<f32> {
        let mut random = stream(seed, name);
        match self {
            Self::Constant(value) => vec![value; count],
            Self::Uniform(bound) => {
                (0..count).map(|_| (bound * (2.0 * random.random::<f64>() - 1.0)) as f32).collect()
            }
            Self::Normal(deviation) => StandardNormal
                .sample_iter(random)
                .take(count)
                .map(|x: f64| (deviation * x) as f32)
                .collect(),
        }
    }
}

/// The generator of one parameter: the seed is its key, a hash of the name its stream.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut random = keyed([seed, 0, 0, 0]);
    random.set_stream(fnv1a(name.bytes()));
    random
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "counts of samples")]
mod tests {
    use super::*;

    /// Mean, standard deviation, minimum and maximum.
    fn moments(values: &[f32]) -> (f64, f64, f64, f64) {
        let n = values.len() as f64;
        let wide = || values.iter().map(|&x| f64::from(x));
        let mean = wide().sum::<f64>() / n;
        let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        (
            mean,
            variance.sqrt(),
            wide().fold(f64::INFINITY, f64::min),
            wide().fold(f64::NEG_INFINITY, f64::max),
        )
    }

    #[test]
    fn laws_have_their_moments() {
        let n = 200_000;
        let (mean, deviation, _, _) = moments(&Law::Normal(0.25).values(n, 3, "w"));
        assert!(mean.abs() < 0.25 * 5.0 / (n as f64).sqrt(), "{mean}");
        assert!((deviation / 0.25 - 1.0).abs() < 0.01, "{deviation}");
        let (mean, deviation, low, high) = moments(&Law::Uniform(0.5).values(n, 3, "w"));
        assert!(mean.abs() < 0.005, "{mean}");
        assert!((deviation - 0.5 / 3f64.sqrt()).abs() < 0.002, "{deviation}");
        assert!((-0.5..-0.499).contains(&low) && (0.499..=0.5).contains(&high), "{low} {high}");
    }

    #[test]
    fn fans_count_one_group() {
        // 32 filters of 3×3 over 16 maps
        assert_eq!(Init::FanOut.laws(&[32, 16, 3, 3]).0, Law::Normal((2.0f64 / 288.0).sqrt()));
        assert_eq!(Init::Uniform.laws(&[32, 16, 3, 3]).0, Law::Uniform(1.0 / 12.0));
        // depthwise: PyTorch's fan_out does not divide by the groups
        assert_eq!(Init::FanOut.laws(&[32, 1, 3, 3]).0, Law::Normal((2.0f64 / 288.0).sqrt()));
        assert_eq!(Init::Uniform.laws(&[10, 64]), (Law::Uniform(0.125), Law::Uniform(0.125)));
        assert_eq!(Init::Normal(0.01).laws(&[10, 64]), (Law::Normal(0.01), Law::Constant(0.0)));
    }

    #[test]
    fn streams_depend_on_seed_and_name_alone() {
        let draw = |seed, name| Law::Normal(1.0).values(4, seed, name);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        // a prefix of a longer draw: nothing depends on the count
        assert_eq!(draw(1, "a"), Law::Normal(1.0).values(9, 1, "a")[..4]);
    }
}
