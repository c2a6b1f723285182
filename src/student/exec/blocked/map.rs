//! Channel maps and their gradients as operators exchange them: a batch norm or an activation is
//! recorded with the stored map and applied by the operator that reads it.

use super::buffer::{Arena, Buffer};
use crate::error::{Error, Result};
use crate::kernel::blocked::{
    self, Gradient, LANES, Lanes, Map, MapView, Through, convert, elementwise,
};
use crate::tensor::{data, tensor};
use candle_core::Tensor;
use std::sync::Arc;

/// `[factor, shift]` of each block of channels.
pub(super) type Affine = Arc<Vec<[Lanes; 2]>>;
/// `[scale, slope, offset]` of each block of channels.
pub(super) type Terms = Arc<Vec<[Lanes; 3]>>;

/// A map of the values `clamp(factor · data + shift)`.
#[derive(Debug, Clone)]
pub(super) struct Lazy {
    pub(super) map: Map,
    pub(super) data: Arc<Buffer>,
    pub(super) affine: Option<Affine>,
    pub(super) clamp: Option<[f32; 2]>,
    /// Mean and variance by channel of the stored map, where the operator that stored it computed
    /// them.
    pub(super) moments: Option<Arc<Vec<(f64, f64)>>>,
}

impl Lazy {
    /// A stored map to which nothing is to be applied.
    pub(super) fn stored(map: Map, data: Buffer) -> Self {
        Self { map, data: Arc::new(data), affine: None, clamp: None, moments: None }
    }

    /// A dense tensor converted to blocks.
    pub(super) fn from_tensor(x: &Tensor, arena: &Arc<Arena>) -> Result<Self> {
        let map = of_shape(x.dims())?;
        let mut to = arena.take(map.len());
        convert::from_plain(&map, data(x)?.of::<f32>()?, &mut to);
        Ok(Self::stored(map, to))
    }

    pub(super) fn to_tensor(&self) -> Result<Tensor> {
        let m = &self.map;
        let mut to = vec![0.0; m.images * m.channels * m.area()];
        convert::to_plain(m, self.view(), &mut to);
        tensor(to, &[m.images, m.channels, m.height, m.width])
    }

    pub(super) fn view(&self) -> MapView<'_> {
        MapView {
            data: &self.data,
            affine: self.affine.as_ref().map(|a| a.as_slice()),
            clamp: self.clamp,
        }
    }

    /// The same map with everything applied.
    pub(super) fn written(&self, arena: &Arc<Arena>) -> Self {
        if self.affine.is_none() && self.clamp.is_none() {
            return self.clone();
        }
        let mut to = arena.take(self.map.len());
        elementwise::write(&self.map, self.view(), &mut to);
        Self::stored(self.map, to)
    }
}

/// The sizes of `[images, channels, height, width]`.
pub(super) fn of_shape(shape: &[usize]) -> Result<Map> {
    let &[images, channels, height, width] = shape else {
        return Err(Error::input(format!("channel map: expected 4 axes, found shape {shape:?}")));
    };
    Ok(Map { images, channels, height, width })
}

/// The backward pass of a batch norm and an activation, as in [`Through`].
#[derive(Debug, Clone)]
pub(super) struct Back {
    pub(super) z: Arc<Buffer>,
    pub(super) affine: Affine,
    pub(super) clamp: Option<[f32; 2]>,
    /// `None`: the mask of the clamp alone.
    pub(super) terms: Option<Terms>,
}

impl Back {
    fn with<R>(&self, map: &Map, f: impl FnOnce(Through<'_>) -> R) -> R {
        let mask;
        let terms = if let Some(terms) = &self.terms {
            terms.as_slice()
        } else {
            mask = vec![[Lanes([1.0; LANES]), Lanes::ZERO, Lanes::ZERO]; map.blocks()];
            mask.as_slice()
        };
        f(Through { z: &self.z, affine: &self.affine, clamp: self.clamp, terms })
    }
}

/// The gradient of a map, as in [`Gradient`].
#[derive(Debug, Clone)]
pub(super) struct MapGradient {
    pub(super) map: Map,
    pub(super) dy: Arc<Buffer>,
    pub(super) back: Option<Back>,
}

impl MapGradient {
    /// A stored gradient to which nothing is to be applied.
    pub(super) fn stored(map: Map, dy: Buffer) -> Self {
        Self { map, dy: Arc::new(dy), back: None }
    }

    pub(super) fn from_tensor(x: &Tensor, arena: &Arc<Arena>) -> Result<Self> {
        let Lazy { map, data, .. } = Lazy::from_tensor(x, arena)?;
        Ok(Self { map, dy: data, back: None })
    }

    pub(super) fn to_tensor(&self, arena: &Arc<Arena>) -> Result<Tensor> {
        let own = self.clone().resolved(arena);
        Lazy { map: own.map, data: own.dy, affine: None, clamp: None, moments: None }.to_tensor()
    }

    /// Calls `f` with the gradient as kernels read it.
    pub(super) fn with<R>(&self, f: impl FnOnce(Gradient<'_>) -> R) -> R {
        match &self.back {
            None => f(Gradient::plain(&self.dy)),
            Some(back) => {
                back.with(&self.map, |through| f(Gradient { dy: &self.dy, through: Some(through) }))
            }
        }
    }

    /// The same gradient with everything applied, in place where its memory is not shared.
    pub(super) fn resolved(self, arena: &Arc<Arena>) -> Self {
        let Self { map, dy, back: Some(back) } = self else { return self };
        let own = match Arc::try_unwrap(dy) {
            Ok(mut own) => {
                back.with(&map, |through| elementwise::resolve_in_place(&map, &mut own, through));
                own
            }
            Err(dy) => {
                let mut to = arena.take(map.len());
                back.with(&map, |through| {
                    elementwise::resolve(
                        &map,
                        Gradient { dy: &dy, through: Some(through) },
                        false,
                        &mut to,
                    );
                });
                to
            }
        };
        Self::stored(map, own)
    }

    /// The sum of two gradients of one map, in the memory of one of them where that is not shared.
    pub(super) fn plus(self, other: Self, arena: &Arc<Arena>) -> Self {
        let (kept, added) =
            if self.is_own() || !other.is_own() { (self, other) } else { (other, self) };
        let map = kept.map;
        let kept = kept.resolved(arena);
        let mut sum = Arc::try_unwrap(kept.dy).unwrap_or_else(|shared| {
            let mut to = arena.take(map.len());
            to.copy_from_slice(&shared);
            to
        });
        added.with(|g| elementwise::resolve(&map, g, true, &mut sum));
        Self::stored(map, sum)
    }

    /// Whether nothing is to be applied to it and its memory is not shared.
    pub(super) fn is_own(&self) -> bool {
        self.back.is_none() && Arc::strong_count(&self.dy) == 1
    }
}

/// Pairs of numbers by channel as `[factor, shift]` of blocks.
pub(super) fn affine(pairs: impl Iterator<Item = [f64; 2]>) -> Affine {
    let (factor, shift): (Vec<f32>, Vec<f32>) = pairs.map(|[a, b]| (narrow(a), narrow(b))).unzip();
    let lanes = |values: Vec<f32>| blocked::sums::lanes(values.into_iter());
    Arc::new(lanes(factor).into_iter().zip(lanes(shift)).map(|(a, b)| [a, b]).collect())
}

/// The identity.
pub(super) fn identity(map: &Map) -> Affine {
    affine((0..map.channels).map(|_| [1.0, 0.0]))
}

/// Triples of numbers by channel as `[scale, slope, offset]` of blocks.
pub(super) fn terms(triples: &[[f64; 3]]) -> Terms {
    let lanes = |n: usize| blocked::sums::lanes(triples.iter().map(|t| narrow(t[n])));
    Arc::new(
        lanes(0).into_iter().zip(lanes(1)).zip(lanes(2)).map(|((a, b), c)| [a, b, c]).collect(),
    )
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the type of maps is intended")]
fn narrow(x: f64) -> f32 {
    x as f32
}
