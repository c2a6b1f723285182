//! `ScatterElements`, `ScatterND` and the older `Scatter`: updates written to the places that
//! indices name, known ones or data. Of several updates of one place the last stays, and has the
//! gradient; equal extremes share it, as in `PyTorch`.

use super::places::Places;
use super::{Built, Forward, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::student::value::{Element, data, tensor, typed};
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

    /// The gradients of data and updates. `held`: data, updates and result.
    fn gradients<T: Element>(
        &self,
        held: Option<[&[T]; 3]>,
        starts: &[u32],
        dy: &[T],
    ) -> [Vec<T>; 2] {
        let count = starts.len() * self.places.run();
        let mut updates = vec![T::zero(); count];
        let mut data = dy.to_vec();
        match (self.reduction, held) {
            (Reduction::Max | Reduction::Min, Some([x, u, y])) => {
                let hit = |a: T, b: T| if a == b { T::one() } else { T::zero() };
                let mut equal: Vec<T> = x.iter().zip(y).map(|(&x, &y)| hit(x, y)).collect();
                let own = equal.clone();
                self.pairs(starts, |to, from| equal[to] += hit(u[from], y[to]));
                self.pairs(starts, |to, from| {
                    updates[from] = hit(u[from], y[to]) * dy[to] / equal[to];
                });
                data.iter_mut().zip(own.iter().zip(&equal)).for_each(|(d, (&own, &equal))| {
                    *d = if own == T::zero() { own } else { *d / equal };
                });
            }
            (Reduction::Last, _) => {
                let mut last = vec![usize::MAX; dy.len()];
                self.pairs(starts, |to, from| last[to] = from);
                self.pairs(starts, |to, from| {
                    if last[to] == from {
                        updates[from] = dy[to];
                    }
                    data[to] = T::zero();
                });
            }
            _ => self.pairs(starts, |to, from| updates[from] = dy[to]),
        }
        [data, updates]
    }
}

impl Operator for Scatter {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let [first, .., last] = inputs else { return Err(Error::internal("updates are missing")) };
        let indices = inputs.get(1).copied().filter(|_| self.places.vary());
        let starts = self.places.starts(indices)?;
        let (x, updates) = (data(first)?, data(last)?);
        let y = typed!(first.dtype(), |T| tensor(
            self.values(x.of::<T>()?, updates.of::<T>()?, &starts),
            self.places.data()
        ))?;
        let kept = match self.reduction {
            Reduction::Last | Reduction::Add => Vec::new(),
            Reduction::Max | Reduction::Min => {
                vec![(*first).clone(), (*last).clone(), y.clone()]
            }
        };
        let mut forward = Forward::one(y, kept);
        forward.saved.places = starts;
        Ok(forward)
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let d = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let tensors = (0..kept.tensors.len())
                .map(|i| data(saved(&kept, i)?))
                .collect::<Result<Vec<_>>>()?;
            let slices = tensors.iter().map(|t| t.of::<T>()).collect::<Result<Vec<_>>>()?;
            let held = <[&[T]; 3]>::try_from(slices).ok();
            let [dx, du] = self.gradients(held, &kept.places, d.of::<T>()?);
            let mut result = vec![None; wanted.len()];
            result[0] = Some(tensor(dx, self.places.data())?);
            if let Some(last) = result.last_mut() {
                *last = Some(tensor(du, &self.places.runs())?);
            }
            Ok(result)
        })
    }
}
