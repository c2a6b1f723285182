//! Initial weights of a criterion's module: PyTorch's distributions, drawn from our own generator.

use super::elements::count;
use super::module::{Module, join, regressor_between};
use crate::error::Result;
use crate::random::{fnv1a, keyed};
use candle_core::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Draws the weights of a module, each from its own stream of (seed, name), so a weight does not
/// depend on what else the module has.
#[derive(Debug)]
pub struct Init {
    seed: u64,
    weights: Vec<(String, Tensor)>,
}

impl Init {
    /// An empty module.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, weights: Vec::new() }
    }

    /// The finished module.
    ///
    /// # Errors
    /// As [`Module::new`].
    pub fn finish(self) -> Result<Module> {
        Module::new(self.weights)
    }

    /// ChaCha8 with the seed as its key and FNV-1a of the name as its stream.
    fn stream(&self, name: &str) -> ChaCha8Rng {
        let mut random = keyed([self.seed, u64::from_le_bytes(*b"criteria"), 0, 0]);
        random.set_stream(fnv1a(name.bytes()));
        random
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "drawn in f64, rounded once to the weights' f32"
    )]
    fn push(
        &mut self,
        name: String,
        shape: &[usize],
        values: impl Iterator<Item = f64>,
    ) -> Result<()> {
        let values: Vec<f32> = values.take(shape.iter().product()).map(|v| v as f32).collect();
        self.weights.push((name, Tensor::from_vec(values, shape, &Device::Cpu)?));
        Ok(())
    }

    /// A constant weight.
    ///
    /// # Errors
    /// When the tensor cannot be created.
    pub fn constant(&mut self, name: impl Into<String>, shape: &[usize], value: f64) -> Result<()> {
        self.push(name.into(), shape, std::iter::repeat(value))
    }

    /// Uniform within ±`bound`.
    ///
    /// # Errors
    /// When the tensor cannot be created.
    pub fn uniform(&mut self, name: impl Into<String>, shape: &[usize], bound: f64) -> Result<()> {
        let name = name.into();
        let mut random = self.stream(&name);
        self.push(
            name,
            shape,
            std::iter::repeat_with(move || bound * (2.0 * random.random::<f64>() - 1.0)),
        )
    }

    /// Normal with mean 0.
    ///
    /// # Errors
    /// When the tensor cannot be created.
    pub fn normal(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        deviation: f64,
    ) -> Result<()> {
        let name = name.into();
        let random = self.stream(&name);
        self.push(name, shape, StandardNormal.sample_iter(random).map(move |x: f64| deviation * x))
    }

    /// PyTorch's initialization of a convolution or linear layer: weight and bias uniform within
    /// ±1/√`fan_in`, where `fan_in` is the product of all axes but the first (also for a
    /// transposed convolution).
    ///
    /// # Errors
    /// When a tensor cannot be created.
    pub fn layer(&mut self, name: &str, shape: &[usize], bias: Option<usize>) -> Result<()> {
        let bound = 1.0 / count(shape.iter().skip(1).product()).sqrt();
        self.uniform(format!("{name}.weight"), shape, bound)?;
        bias.map_or(Ok(()), |filters| self.uniform(format!("{name}.bias"), &[filters], bound))
    }

    /// Batch norm: weight 1, bias 0.
    ///
    /// # Errors
    /// When a tensor cannot be created.
    pub fn norm(&mut self, name: &str, channels: usize) -> Result<()> {
        self.constant(format!("{name}.weight"), &[channels], 1.0)?;
        self.constant(format!("{name}.bias"), &[channels], 0.0)
    }

    /// The regressor of [`regressor_between`] from `[channels, height, width]` to
    /// `[channels, height, width]`, under `name` (`""`: at the top).
    ///
    /// # Errors
    /// As [`regressor_between`].
    pub fn regressor(&mut self, name: &str, from: [usize; 3], to: [usize; 3]) -> Result<()> {
        let ([kh, kw], geometry) = regressor_between([from[1], from[2]], [to[1], to[2]])?;
        let shape =
            if geometry.transposed { [from[0], to[0], kh, kw] } else { [to[0], from[0], kh, kw] };
        self.layer(&join(name, "conv"), &shape, Some(to[0]))?;
        self.norm(&join(name, "bn"), to[0])
    }
}
