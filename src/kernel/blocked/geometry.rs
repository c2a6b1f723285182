//! A convolution's geometry with strides resolved: offsets of taps in packed planes.

use super::pack::Reach;
use super::product::Area;
use crate::kernel::conv::Conv;
use std::ops::Range;

/// The forward direction along one axis. The padded input is split into phases by position modulo
/// the stride; then tap `k` of output `o` reads position `o + shift` of a phase, for any stride and
/// dilation.
#[derive(Debug, Clone)]
pub(super) struct ForwardAxis {
    stride: usize,
    before: usize,
    input: usize,
    /// Packed positions from one output to the next: 1, or the stride where phases are not split.
    pub(super) pace: usize,
    /// The phases that taps read.
    pub(super) phases: Vec<usize>,
    /// For each tap: which of `phases`, and the shift.
    pub(super) taps: Vec<(usize, usize)>,
    /// The largest shift.
    pub(super) reach: usize,
}

impl ForwardAxis {
    fn new(c: &Conv, axis: usize, split: bool) -> Self {
        let (stride, dilation) = (c.stride[axis], c.dilation[axis]);
        if !split {
            let taps: Vec<_> = (0..c.kernel[axis]).map(|k| (0, k * dilation)).collect();
            let reach = (c.kernel[axis].max(1) - 1) * dilation;
            return Self {
                stride,
                before: c.before[axis],
                input: c.input[axis],
                pace: stride,
                phases: vec![0],
                taps,
                reach,
            };
        }
        let mut phases: Vec<usize> = (0..c.kernel[axis]).map(|k| k * dilation % stride).collect();
        phases.sort_unstable();
        phases.dedup();
        let place = |k: usize| {
            (phases.partition_point(|&p| p < k * dilation % stride), k * dilation / stride)
        };
        let taps: Vec<_> = (0..c.kernel[axis]).map(place).collect();
        let reach = taps.iter().map(|t| t.1).max().unwrap_or(0);
        Self { stride, before: c.before[axis], input: c.input[axis], pace: 1, phases, taps, reach }
    }

    /// The source positions of a phase for outputs `first .. first + count`.
    pub(super) fn phase(&self, phase: usize, first: usize, count: usize) -> Reach {
        let first = (first * self.stride + phase).cast_signed() - self.before.cast_signed();
        Reach { first, step: self.stride / self.pace, count: self.span(count), size: self.input }
    }

    /// Packed positions that `count` outputs reach.
    fn span(&self, count: usize) -> usize {
        count.saturating_sub(1) * self.pace + 1 + self.reach
    }
}

/// The input gradient along one axis. Inputs are split into classes by position modulo the stride;
/// input `q` of a class gathers outputs `q + shift - lead`.
#[derive(Debug, Clone)]
pub(super) struct BackwardAxis {
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

impl BackwardAxis {
    pub(super) fn new(c: &Conv, axis: usize) -> Self {
        let (stride, dilation, before) = (c.stride[axis], c.dilation[axis], c.before[axis]);
        // output o reads input o * stride + k * dilation - before through tap k
        let offset = |class: usize, k: usize| {
            let distance = (class + before).cast_signed() - (k * dilation).cast_signed();
            let stride = stride.cast_signed();
            (distance % stride == 0).then_some(distance / stride)
        };
        let all =
            (0..stride).flat_map(|class| (0..c.kernel[axis]).filter_map(move |k| offset(class, k)));
        let lead = all.clone().min().unwrap_or(0).min(0).unsigned_abs();
        let shift = |o: isize| o.wrapping_add_unsigned(lead).cast_unsigned();
        let reach = all.max().map_or(lead, shift).max(lead);
        let classes = (0..stride)
            .map(|class| Class {
                count: c.input[axis].saturating_sub(class).div_ceil(stride),
                taps: (0..c.kernel[axis])
                    .filter_map(|k| Some((k, shift(offset(class, k)?))))
                    .collect(),
            })
            .collect();
        Self { output: c.output[axis], classes, lead, reach }
    }

    /// The output positions that are packed for inputs (of each class) and outputs
    /// `first .. first + count`.
    pub(super) fn packed(&self, first: usize, count: usize) -> Reach {
        Reach {
            first: first.cast_signed() - self.lead.cast_signed(),
            step: 1,
            count: count + self.reach,
            size: self.output,
        }
    }
}

/// Both axes, both directions. Packed planes hold a band of `rows` rows.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) forward: [ForwardAxis; 2],
    pub(super) backward: [BackwardAxis; 2],
    /// Output rows, or input rows of a class if those are more.
    pub(super) rows: usize,
    /// The same of columns.
    pub(super) columns: usize,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    stride: [usize; 2],
}

/// Input pixels of one residue of rows and of columns.
pub(super) struct Parity {
    /// The taps that reach them.
    pub(super) taps: Vec<usize>,
    /// Where each starts in the packed gradient.
    pub(super) offsets: Vec<usize>,
    /// Their positions in the input map.
    pub(super) area: Area,
}

impl Geometry {
    /// With phases split, so that the inner kernels read consecutive pixels.
    pub(super) fn new(c: &Conv) -> Self {
        Self::with(c, true)
    }

    /// Without splitting phases: packing is a plain copy of rows, which suits kernels that spend as
    /// long on packing as on reading.
    pub(super) fn whole(c: &Conv) -> Self {
        Self::with(c, false)
    }

    fn with(c: &Conv, split: bool) -> Self {
        let backward = [BackwardAxis::new(c, 0), BackwardAxis::new(c, 1)];
        let extent = |axis: usize| {
            backward[axis].classes.iter().map(|c| c.count).max().unwrap_or(0).max(c.output[axis])
        };
        let (rows, columns) = (extent(0), extent(1));
        Self {
            forward: [ForwardAxis::new(c, 0, split), ForwardAxis::new(c, 1, split)],
            backward,
            rows,
            columns,
            input: c.input,
            output: c.output,
            stride: c.stride,
        }
    }

    /// Rows and columns of a packed phase of the input.
    pub(super) fn input_plane(&self, rows: usize) -> [usize; 2] {
        [self.forward[0].span(rows), self.forward[1].span(self.output[1])]
    }

    /// Elements of all packed phases.
    pub(super) fn input_len(&self, rows: usize) -> usize {
        let [rows, columns] = self.input_plane(rows);
        self.forward[0].phases.len() * self.forward[1].phases.len() * rows * columns
    }

    /// The rows and columns of each phase for a band.
    pub(super) fn phases(&self, band: &Range<usize>) -> impl Iterator<Item = (Reach, Reach)> {
        let [down, across] = &self.forward;
        let (first, count, columns) = (band.start, band.len(), self.output[1]);
        let row = move |r: usize| {
            across
                .phases
                .iter()
                .map(move |&c| (down.phase(r, first, count), across.phase(c, 0, columns)))
        };
        down.phases.iter().copied().flat_map(row)
    }

    /// Where each tap starts in the packed phases.
    pub(super) fn taps(&self, rows: usize) -> Vec<usize> {
        let ([rows, columns], [down, across]) = (self.input_plane(rows), &self.forward);
        let tap = |&(phase, shift): &(usize, usize)| {
            let place = move |&(p, s): &(usize, usize)| {
                ((phase * across.phases.len() + p) * rows + shift) * columns + s
            };
            across.taps.iter().map(place)
        };
        down.taps.iter().flat_map(tap).collect()
    }

    /// Output positions of a band.
    pub(super) fn outputs(&self, band: &Range<usize>) -> Area {
        let rows = band.len().min(self.output[0].saturating_sub(band.start));
        Area {
            rows,
            columns: self.output[1],
            first: band.start * self.output[1],
            step: [self.output[1], 1],
        }
    }

    /// The rows and columns of the output gradient that are packed for a band.
    pub(super) fn gradient(&self, band: &Range<usize>) -> [Reach; 2] {
        [self.backward[0].packed(band.start, band.len()), self.backward[1].packed(0, self.columns)]
    }

    /// Elements of the packed gradient.
    pub(super) fn gradient_len(&self, rows: usize) -> usize {
        let [rows, columns] = self.gradient(&(0..rows));
        rows.count * columns.count
    }

    /// The offset of the band's first output in the packed gradient, and its row pitch.
    pub(super) fn gradient_start(&self) -> (usize, usize) {
        let pitch = self.columns + self.backward[1].reach;
        (self.backward[0].lead * pitch + self.backward[1].lead, pitch)
    }

    /// The input gradient of a band as convolutions of the packed gradient: one for each residue of
    /// input rows and columns modulo the strides. The taps do not depend on the band.
    pub(super) fn parities(&self, band: &Range<usize>) -> Vec<Parity> {
        let ([down, across], (_, pitch)) = (&self.backward, self.gradient_start());
        let columns = self.forward[1].taps.len();
        let parity = |r: usize, c: usize| {
            let across_taps = &across.classes[c].taps;
            let pairs = || {
                down.classes[r]
                    .taps
                    .iter()
                    .flat_map(move |&down| across_taps.iter().map(move |&across| (down, across)))
            };
            Parity {
                taps: pairs().map(|((k, _), (l, _))| k * columns + l).collect(),
                offsets: pairs().map(|((_, s), (_, t))| s * pitch + t).collect(),
                area: Area {
                    rows: band.len().min(down.classes[r].count.saturating_sub(band.start)),
                    columns: across.classes[c].count,
                    first: (band.start * self.stride[0] + r) * self.input[1] + c,
                    step: [self.stride[0] * self.input[1], self.stride[1]],
                },
            }
        };
        (0..down.classes.len())
            .flat_map(|r| (0..across.classes.len()).map(move |c| (r, c)))
            .map(|(r, c)| parity(r, c))
            .collect()
    }

    /// Whether planes need no packing: a pointwise convolution.
    pub(super) fn in_place(&self) -> bool {
        let still = |f: &ForwardAxis, b: &BackwardAxis| {
            f.phases.len() == 1 && b.classes.len() == 1 && f.reach == 0 && b.reach == 0
        };
        self.input == self.output
            && still(&self.forward[0], &self.backward[0])
            && still(&self.forward[1], &self.backward[1])
    }
}
