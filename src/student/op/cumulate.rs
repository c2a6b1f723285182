//! `CumSum` along an axis: positions of tokens are counted with it.

use super::separable::Separable;
use super::{Built, Site};
use crate::error::{Error, Result};
use crate::kernel::resample::Taps;
use crate::student::op::site::axis;

/// Longest axis that is summed: what is read grows with its square.
const LONGEST: usize = 1 << 12;

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let at = site
        .known_ints(1)?
        .and_then(|a| a.first().copied())
        .ok_or_else(|| Error::input("axis is missing"))?;
    let at = axis(at, input.len())?;
    if input[at] > LONGEST {
        return Err(Error::input(format!(
            "axis {at}: expected at most {LONGEST} positions, found {}",
            input[at]
        )));
    }
    let (exclusive, reverse) = (site.int("exclusive", 0) != 0, site.int("reverse", 0) != 0);
    let read = |o: usize| match (reverse, exclusive) {
        (false, false) => 0..o + 1,
        (false, true) => 0..o,
        (true, false) => o..input[at],
        (true, true) => o + 1..input[at],
    };
    let taps: Taps = (0..input[at]).map(|o| read(o).map(|i| (i, 1.0)).collect()).collect();
    let operator = Separable::new(&input, vec![(at, taps)]);
    Ok(Built::new(operator, [0], input))
}
