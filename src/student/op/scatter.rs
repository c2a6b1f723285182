//! `ScatterElements`, `ScatterND` and the older `Scatter`: updates written to the places that
//! indices name, known ones or data. Of several updates of one place the last stays, and has the
//! gradient; equal extremes share it, as in `PyTorch`.

use super::places::Places;
use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Last,
    Add,
    Max,
    Min,
}

#[derive(Debug)]
struct Scatter {
    places: Places,
    reduction: Reduction,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let places =
        if site.operator() == "ScatterND" { Places::rows(site)? } else { Places::elements(site)? };
    let reduction = match site.text("reduction").as_deref() {
        None | Some("none") => Reduction::Last,
        Some("add") => Reduction::Add,
        Some("max") => Reduction::Max,
        Some("min") => Reduction::Min,
        Some(other) => {
            return Err(Error::input(format!(
                "reduction: expected none, add, max or min, found {other}"
            )));
        }
    };
    if site.shape(2)? != places.runs() {
        return Err(Error::input(format!(
            "updates: expected shape {:?}, found {:?}",
            places.runs(),
            site.shape(2)?
        )));
    }
    let inputs: &[usize] = if places.vary() { &[0, 1, 2] } else { &[0, 2] };
    let output = places.data().to_vec();
    Ok(Built::new(Scatter { places, reduction }, inputs, output))
}

/// What the backward pass takes.
#[derive(Debug)]
struct ScatterKept {
    /// Where each run of updates is written.
    starts: Vec<u32>,
    /// Data, updates and result, of extremes alone.
    compared: Option<[Tensor; 3]>,
}

impl Scatter {
    /// Calls `f(element of the data, element of the updates)` in order.
    fn pairs(&self, starts: &[u32], mut f: impl FnMut(usize, usize)) {
        let run = self.places.run();
        for (update, &start) in starts.iter().enumerate() {
            for i in 0..run {
                f(start as usize + i, update * run + i);
            }
        }
    }

    fn values<T: Element>(&self, x: &[T], updates: &[T], starts: &[u32]) -> Vec<T> {
        let mut out = x.to_vec();
        self.pairs(starts, |to, from| {
            let (old, new) = (out[to], updates[from]);
            out[to] = match self.reduction {
                Reduction::Last => new,
                Reduction::Add => old + new,
                Reduction::Max if new > old || new.is_nan() => new,
                Reduction::Min if new < old || new.is_nan() => new,
                Reduction::Max | Reduction::Min => old,
            };
        });
        out
    }

    /// The gradients of data and updates where extremes share them. `held`: data, updates and
    /// result.
    fn shared<T: Element>(&self, held: [&[T]; 3], starts: &[u32], dy: &[T]) -> [Vec<T>; 2] {
        let [x, u, y] = held;
        let hit = |a: T, b: T| if a == b { T::one() } else { T::zero() };
        let own: Vec<T> = x.iter().zip(y).map(|(&x, &y)| hit(x, y)).collect();
        let mut equal = own.clone();
        self.pairs(starts, |to, from| equal[to] += hit(u[from], y[to]));
        let mut updates = vec![T::zero(); starts.len() * self.places.run()];
        self.pairs(starts, |to, from| {
            updates[from] = hit(u[from], y[to]) * dy[to] / equal[to];
        });
        let mut data = dy.to_vec();
        data.iter_mut().zip(own.iter().zip(&equal)).for_each(|(d, (&own, &equal))| {
            *d = if own == T::zero() { own } else { *d / equal };
        });
        [data, updates]
    }

    /// The gradients of data and updates where updates are written or added.
    fn gradients<T: Element>(&self, starts: &[u32], dy: &[T]) -> [Vec<T>; 2] {
        let mut updates = vec![T::zero(); starts.len() * self.places.run()];
        let mut data = dy.to_vec();
        if self.reduction == Reduction::Last {
            let mut last = vec![usize::MAX; dy.len()];
            self.pairs(starts, |to, from| last[to] = from);
            self.pairs(starts, |to, from| {
                if last[to] == from {
                    updates[from] = dy[to];
                }
                data[to] = T::zero();
            });
        } else {
            self.pairs(starts, |to, from| updates[from] = dy[to]);
        }
        [data, updates]
    }
}

impl Operator for Scatter {
    type Kept = ScatterKept;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let [first, .., last] = inputs else { return Err(Error::internal("updates are missing")) };
        let indices = inputs.get(1).copied().filter(|_| self.places.vary());
        let starts = self.places.starts(indices)?;
        let (x, updates) = (data(first)?, data(last)?);
        let y = typed!(first.dtype(), |T| tensor(
            self.values(x.of::<T>()?, updates.of::<T>()?, &starts),
            self.places.data()
        ))?;
        let compared = match self.reduction {
            Reduction::Last | Reduction::Add => None,
            Reduction::Max | Reduction::Min => Some([(*first).clone(), (*last).clone(), y.clone()]),
        };
        Ok(OpOutput::one(y, ScatterKept { starts, compared }))
    }

    fn backward(
        &self,
        kept: ScatterKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let d = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let d = d.of::<T>()?;
            let [dx, du] = match &kept.compared {
                Some([x, updates, y]) => {
                    let (x, updates, y) = (data(x)?, data(updates)?, data(y)?);
                    let held = [x.of::<T>()?, updates.of::<T>()?, y.of::<T>()?];
                    self.shared(held, &kept.starts, d)
                }
                None => self.gradients(&kept.starts, d),
            };
            let mut result = vec![None; wanted.len()];
            result[0] = Some(tensor(dx, self.places.data())?);
            if let Some(last) = result.last_mut() {
                *last = Some(tensor(du, &self.places.runs())?);
            }
            Ok(result)
        })
    }
}
