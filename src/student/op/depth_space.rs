//! `DepthToSpace` (pixel shuffle) and `SpaceToDepth`: blocks of channels and blocks of pixels
//! change places.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, gather};
use crate::student::op::view::transposed;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct Blocks {
    /// The input as six axes in the output's order, and the inverse.
    forward: Strided,
    backward: Strided,
    /// Those axes before, and their order.
    pub(in crate::student) shape: [usize; 6],
    pub(in crate::student) order: [usize; 6],
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let [n, c, h, w] = site.shape_of::<4>(0)?;
    let block = usize::try_from(site.int("blocksize", 0)).unwrap_or(0);
    let wrong =
        || Error::input(format!("blocksize {block} does not divide input {:?}", [n, c, h, w]));
    let area = block
        .checked_mul(block)
        .filter(|&a| a > 0 && ![n, c, h, w].contains(&0))
        .ok_or_else(wrong)?;
    let depth_first = match site.text("mode").as_deref() {
        None | Some("DCR") => true,
        Some("CRD") => false,
        Some(other) => {
            return Err(Error::input(format!("mode: expected DCR or CRD, found {other}")));
        }
    };
    let (shape, order, output) = if site.operator() == "DepthToSpace" {
        if !c.is_multiple_of(area) {
            return Err(wrong());
        }
        let depth = c / area;
        let output = vec![n, depth, h * block, w * block];
        if depth_first {
            ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2], output)
        } else {
            ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3], output)
        }
    } else {
        if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
            return Err(wrong());
        }
        let output = vec![n, c.checked_mul(area).ok_or_else(wrong)?, h / block, w / block];
        let shape = [n, c, h / block, block, w / block, block];
        (shape, if depth_first { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] }, output)
    };
    let forward = transposed(&shape, &order);
    let mut inverse = [0; 6];
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    let backward = transposed(&forward.shape, &inverse);
    Ok(Built::new(
        Blocks { forward, backward, shape, order, input: vec![n, c, h, w], output: output.clone() },
        [0],
        output,
    ))
}

impl Operator for Blocks {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| Ok(OpOutput::one(
            tensor(gather(x.of::<T>()?, &self.forward), &self.output)?,
            ()
        )))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| Ok(vec![Some(tensor(
            gather(held.of::<T>()?, &self.backward),
            &self.input
        )?)]))
    }
}
