//! A convolution along one axis, once strides are sorted out.

use super::pack::Reach;
use crate::kernel::conv::Conv;

/// The forward direction. The padded input is split into phases by position modulo the stride; then tap `k` of output `o` reads position
/// `o + shift` of a phase, for any stride and dilation.
#[derive(Debug, Clone)]
pub(super) struct Forward {
    stride: usize,
    before: usize,
    input: usize,
    /// The phases that taps read.
    pub(super) phases: Vec<usize>,
    /// For each tap: which of `phases`, and the shift.
    pub(super) taps: Vec<(usize, usize)>,
    /// The largest shift.
    pub(super) reach: usize,
}

impl Forward {
    pub(super) fn new(c: &Conv, axis: usize) -> Self {
        let (stride, dilation) = (c.stride[axis], c.dilation[axis]);
        let mut phases: Vec<usize> = (0..c.kernel[axis]).map(|k| k * dilation % stride).collect();
        phases.sort_unstable();
        phases.dedup();
        let place = |k: usize| (phases.partition_point(|&p| p < k * dilation % stride), k * dilation / stride);
        let taps: Vec<_> = (0..c.kernel[axis]).map(place).collect();
        let reach = taps.iter().map(|t| t.1).max().unwrap_or(0);
        Self { stride, before: c.before[axis], input: c.input[axis], phases, taps, reach }
    }

    /// What a phase holds for outputs `first .. first + count`.
    pub(super) fn phase(&self, phase: usize, first: usize, count: usize) -> Reach {
        let first = (first * self.stride + phase).cast_signed() - self.before.cast_signed();
        Reach { first, step: self.stride, count: count + self.reach, size: self.input }
    }
}

/// The input gradient. Inputs are split into classes by position modulo the stride; input `q` of a class gathers outputs `q + shift - lead`.
#[derive(Debug, Clone)]
pub(super) struct Backward {
    output: usize,
    pub(super) classes: Vec<Class>,
    /// Outputs before the first input's that are packed, so that shifts are not negative.
    pub(super) lead: usize,
    /// The largest shift.
    pub(super) reach: usize,
}

/// Inputs of one residue modulo the stride.
#[derive(Debug, Clone)]
pub(super) struct Class {
    /// How many there are.
    pub(super) count: usize,
    /// Tap and shift.
    pub(super) taps: Vec<(usize, usize)>,
}

impl Backward {
    pub(super) fn new(c: &Conv, axis: usize) -> Self {
        let (stride, dilation, before) = (c.stride[axis], c.dilation[axis], c.before[axis]);
        // output o of tap k lies on input o * stride + k * dilation - before
        let offset = |class: usize, k: usize| {
            let distance = (class + before).cast_signed() - (k * dilation).cast_signed();
            let stride = stride.cast_signed();
            (distance % stride == 0).then_some(distance / stride)
        };
        let all = (0..stride).flat_map(|class| (0..c.kernel[axis]).filter_map(move |k| offset(class, k)));
        let lead = all.clone().min().unwrap_or(0).min(0).unsigned_abs();
        let shift = |o: isize| o.wrapping_add_unsigned(lead).cast_unsigned();
        let reach = all.max().map_or(lead, shift).max(lead);
        let classes = (0..stride)
            .map(|class| Class {
                count: c.input[axis].saturating_sub(class).div_ceil(stride),
                taps: (0..c.kernel[axis]).filter_map(|k| Some((k, shift(offset(class, k)?)))).collect(),
            })
            .collect();
        Self { output: c.output[axis], classes, lead, reach }
    }

    /// What is packed for inputs (of each class) and outputs `first .. first + count`.
    pub(super) fn packed(&self, first: usize, count: usize) -> Reach {
        Reach { first: first.cast_signed() - self.lead.cast_signed(), step: 1, count: count + self.reach, size: self.output }
    }
}
