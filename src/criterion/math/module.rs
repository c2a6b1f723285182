//! Learnable parts of criteria: named weights, their initialization, and the layers that several
//! papers share.
//!
//! The names are those of the reference implementation's PyTorch modules, so that its weights load
//! unchanged. The weights are trained alongside the student's, saved in checkpoints, and left out
//! of the exported student.

use super::convolution::{Geometry, convolution};
use super::operator::{add_bias, batch_norm};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor, Var};
use candle_nn::{Linear, VarMap};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

/// A name within a layer, which may be the module itself (`""`).
pub(crate) fn join(layer: &str, name: &str) -> String {
    if layer.is_empty() { name.to_owned() } else { format!("{layer}.{name}") }
}

/// The weights of a criterion, by name, held as candle-nn holds those of a network.
#[derive(Clone)]
pub struct Module {
    map: VarMap,
    /// Sorted.
    names: Vec<String>,
}

impl Default for Module {
    /// A module without weights.
    fn default() -> Self {
        Self { map: VarMap::new(), names: Vec::new() }
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Module").field(&self.names).finish()
    }
}

impl Module {
    /// A module of these weights.
    ///
    /// # Errors
    /// When a weight cannot be made a variable.
    pub fn new(weights: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        let weights = weights
            .into_iter()
            .map(|(name, w)| Ok((name, Var::from_tensor(&w.detach())?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let (map, names) = (VarMap::new(), weights.keys().cloned().collect());
        map.data().lock().unwrap_or_else(PoisonError::into_inner).extend(weights);
        Ok(Self { map, names })
    }

    /// The weights, sorted by name.
    pub fn weights(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.variables().map(|(name, var)| (name, var.as_tensor().clone()))
    }

    /// The weights as variables, sorted by name, for the optimizer and checkpoints.
    pub fn variables(&self) -> impl Iterator<Item = (&str, Var)> {
        self.names.iter().filter_map(|name| Some((name.as_str(), self.find(name)?)))
    }

    /// The weight of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let found = self.find(name).map(|var| var.as_tensor().clone());
        found.ok_or_else(|| Error::input(format!("criterion's module: no weight `{name}`")))
    }

    fn find(&self, name: &str) -> Option<Var> {
        self.map.data().lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The same weights in another type.
    ///
    /// # Errors
    /// When a weight cannot be converted.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Self::new(
            self.weights()
                .map(|(name, w)| Ok((name.to_owned(), w.to_dtype(dtype)?)))
                .collect::<Result<Vec<_>>>()?,
        )
    }

    /// The layer of this name.
    #[must_use]
    pub fn at(&self, name: impl Into<String>) -> Layer<'_> {
        Layer { module: self, name: name.into() }
    }
}

/// A layer of a module: the weights under a name.
#[derive(Debug, Clone)]
pub struct Layer<'a> {
    module: &'a Module,
    name: String,
}

impl Layer<'_> {
    /// The layer `name` within this one.
    #[must_use]
    pub fn at(&self, name: &str) -> Self {
        Self { module: self.module, name: join(&self.name, name) }
    }

    /// Whether the layer has a weight of this name.
    #[must_use]
    pub fn has(&self, weight: &str) -> bool {
        self.module.find(&join(&self.name, weight)).is_some()
    }

    /// The weight of this name, in the type of `like`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, weight: &str, like: &Tensor) -> Result<Tensor> {
        Ok(self.module.get(&join(&self.name, weight))?.to_dtype(like.dtype())?)
    }

    fn bias(&self, like: &Tensor) -> Result<Option<Tensor>> {
        self.has("bias").then(|| self.get("bias", like)).transpose()
    }

    /// The convolution by `weight`, plus `bias` if there is one.
    ///
    /// # Shapes
    /// As [`convolution`]; `bias` `[filters]`.
    ///
    /// # Errors
    /// When there is no weight, or it does not fit.
    pub fn convolve(&self, x: &Tensor, geometry: Geometry) -> Result<Tensor> {
        let y = convolution(x, &self.get("weight", x)?, geometry)?;
        match self.bias(x)? {
            Some(bias) => add_bias(&y, &bias),
            None => Ok(y),
        }
    }

    /// Batch normalization with batch statistics.
    ///
    /// # Errors
    /// When weight and bias are missing or do not fit.
    pub fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        batch_norm(x, &self.get("weight", x)?, &self.get("bias", x)?)
    }

    /// The linear layer `x Wᵀ + b` in the type of `like`.
    ///
    /// # Shapes
    /// `weight` `[out, in]`; `bias` `[out]`; the layer takes `[batch, in]` to `[batch, out]`.
    ///
    /// # Errors
    /// When there is no weight.
    pub fn linear(&self, like: &Tensor) -> Result<Linear> {
        Ok(Linear::new(self.get("weight", like)?, self.bias(like)?))
    }

    /// `FitNet`'s regressor: convolution `conv`, batch norm `bn`.
    ///
    /// # Errors
    /// As [`convolve`](Self::convolve) and [`normalize`](Self::normalize).
    pub fn regress(&self, x: &Tensor, geometry: Geometry) -> Result<Tensor> {
        self.at("bn").normalize(&self.at("conv").convolve(x, geometry)?)
    }
}

/// The regressor between two sizes, per axis: width 3 and stride 2 from twice the size, transposed
/// with width 4 and stride 2 to twice the size, "valid" with width `1 + from − to` from any other
/// larger size, else transposed with stride q = ⌊to/from⌋ and width `to − q(from − 1)`.
/// This is `RepDistiller`'s `ConvReg`, with the last case from Spot-Adaptive KD.
///
/// Returns kernel and geometry.
///
/// # Errors
/// When one axis grows and the other shrinks.
pub fn regressor_between(from: [usize; 2], to: [usize; 2]) -> Result<([usize; 2], Geometry)> {
    let transposed = from[0] < to[0] || from[1] < to[1];
    let (mut kernel, mut stride, mut padding) = ([0; 2], [0; 2], [0; 2]);
    for axis in 0..2 {
        let (i, o) = (from[axis], to[axis]);
        if i == 0 || o == 0 || (transposed && o < i) {
            return Err(Error::input(format!(
                "regressor: {from:?} to {to:?}: expected both sides to grow, or both to shrink"
            )));
        }
        (kernel[axis], stride[axis], padding[axis]) = match () {
            () if transposed && o == 2 * i => (4, 2, 1),
            () if transposed => (o - o / i * (i - 1), o / i, 0),
            () if i == 2 * o => (3, 2, 1),
            () => (1 + i - o, 1, 0),
        };
    }
    Ok((kernel, Geometry { transposed, stride, padding }))
}
