//! `MaxPool`, `AveragePool` and `GlobalMaxPool`. On a GPU the largest of numbers and NaN is the
//! number: a NaN shows in the layers around.

use super::conv::windows;
use super::sum::middle_sum;
use super::table::{Adjoint, IndexTable, joined_parts};
use super::{Lower, Lowered, Target, truth};
use crate::error::Result;
use crate::kernel::pool::{PoolWindow, factors};
use crate::student::op::pool::Pool as HostPool;
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

/// A pool over one window.
#[derive(Debug)]
struct Pool {
    maximum: bool,
    table: IndexTable,
    back: Adjoint,
    taps: usize,
    /// Input and output positions of a plane.
    area: [usize; 2],
    /// Where a tap lies in the padding, `[taps, output area]`: −∞ there, 0 elsewhere; nothing
    /// where none does.
    padding: Option<Tensor>,
    /// From the number of taps for the first one to 1 for the last, `[taps]`.
    rank: Tensor,
    /// One over the size of each window, `[output area]`.
    factors: Tensor,
    /// The tap by which each reader of the adjoint reads.
    reading: Tensor,
    shapes: [Vec<usize>; 2],
}

impl Pool {
    #[allow(clippy::cast_precision_loss, reason = "taps of a window")]
    fn new(
        maximum: bool,
        w: &PoolWindow,
        shapes: [&[usize]; 2],
        target: &Target,
    ) -> Result<Option<Self>> {
        if shapes.iter().any(|shape| shape.contains(&0)) {
            return Ok(None);
        }
        let area = [w.input[0] * w.input[1], w.output[0] * w.output[1]];
        let places = windows([w.input, w.output, w.kernel], w.stride, w.dilation, w.before);
        let (back, readers) =
            Adjoint::with_readers(&places, area[0], |reader| reader % area[1], &target.device)?;
        let taps = w.kernel[0] * w.kernel[1];
        let reading: Vec<f64> =
            readers.iter().map(|r| r.map_or(-1.0, |r| (r / area[1]) as f64)).collect();
        let padding: Vec<f64> =
            places.iter().map(|p| if p.is_some() { 0.0 } else { f64::NEG_INFINITY }).collect();
        let padding = places
            .contains(&None)
            .then(|| target.tensor(&padding, &[1, taps, area[1]]))
            .transpose()?;
        let rank: Vec<f64> = (0..taps).map(|tap| (taps - tap) as f64).collect();
        Ok(Some(Self {
            maximum,
            table: IndexTable::new(places, &target.device)?,
            taps,
            area,
            padding,
            rank: target.tensor(&rank, &[1, taps, 1])?,
            factors: target.tensor(&factors::<f64>(*w), &[1, area[1]])?,
            reading: target.tensor(&reading, &[1, back.count, area[0]])?,
            back,
            shapes: shapes.map(<[usize]>::to_vec),
        }))
    }

    fn planes(&self) -> usize {
        self.shapes[0][0] * self.shapes[0][1]
    }

    /// Elements that a plane's windows take, there and back.
    fn size(&self) -> usize {
        (self.taps * self.area[1]).max(self.back.count * self.area[0])
    }

    /// Each window's elements, `[planes, taps, output area]`.
    fn windows(&self, x: &Tensor, first: usize, count: usize) -> Result<Tensor> {
        Ok(self.table.gather(&x.narrow(0, first, count)?)?.reshape((
            count,
            self.taps,
            self.area[1],
        ))?)
    }

    /// The largest elements, and by which tap they are read: the first of equals.
    #[allow(clippy::cast_precision_loss, reason = "taps of a window")]
    fn maxima(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        // values and places of a plane stand in one row
        let both = joined_parts(self.planes(), self.size(), |first, count| {
            let mut values = self.windows(x, first, count)?;
            if let Some(padding) = &self.padding {
                values = values.broadcast_add(padding)?;
            }
            let largest = values.max_keepdim(1)?;
            let hits = truth(&values.broadcast_eq(&largest)?, x.dtype())?;
            let place =
                hits.broadcast_mul(&self.rank)?.max_keepdim(1)?.affine(-1.0, self.taps as f64)?;
            Ok(Tensor::cat(&[largest, place], 1)?)
        })?;
        Ok([both.narrow(1, 0, 1)?.contiguous()?, both.narrow(1, 1, 1)?.contiguous()?])
    }
}

impl Lower for HostPool {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        if operator.depth.is_some() {
            return Ok(None);
        }
        let shapes: [&[usize]; 2] = [&operator.input, &operator.output];
        Ok(Pool::new(operator.maximum, &operator.window, shapes, target)?.map(any))
    }
}

impl Operator for Pool {
    type Kept = Option<Tensor>;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0].reshape((self.planes(), self.area[0]))?;
        let output = self.shapes[1].as_slice();
        if self.maximum {
            let [y, places] = self.maxima(&x)?;
            return Ok(OpOutput::one(
                y.reshape(output)?,
                Some(places.reshape((self.planes(), self.area[1]))?),
            ));
        }
        let sums = joined_parts(self.planes(), self.size(), |first, count| {
            middle_sum(&self.windows(&x, first, count)?)
        })?;
        let y = sums.broadcast_mul(&self.factors)?;
        Ok(OpOutput::one(y.reshape(output)?, None))
    }

    fn backward(
        &self,
        places: Option<Tensor>,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?.reshape((self.planes(), self.area[1]))?;
        let dx = if let Some(places) = places {
            joined_parts(self.planes(), self.size(), |first, count| {
                let part = |t: &Tensor| self.back.spread(&t.narrow(0, first, count)?);
                let chosen = truth(&part(&places)?.broadcast_eq(&self.reading)?, dy.dtype())?;
                middle_sum(&(part(&dy)? * chosen)?)
            })?
        } else {
            let shares = dy.broadcast_mul(&self.factors)?;
            joined_parts(self.planes(), self.size(), |first, count| {
                self.back.apply(&shares.narrow(0, first, count)?)
            })?
        };
        Ok(vec![Some(dx.reshape(self.shapes[0].as_slice())?)])
    }
}
