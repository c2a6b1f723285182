//! The sizes of a convolution in blocks of channels, and how its blocks are cut into chunks.

use super::simd::Level;
use super::{LANES, Precision};
use crate::kernel::conv::Conv;

/// Partial sums of a weight gradient, and fewer where there are so many weights that clearing,
/// transforming and adding the sums takes noticeable time.
pub(super) const PARTIAL_SUMS: usize = 8;
pub(super) const FEW_PARTIAL_SUMS: usize = 4;
/// Weights per tap from which on there are fewer partial sums.
const MANY: usize = 1 << 12;
/// Weights per tap from which on work is split by blocks.
const BIG: usize = 1 << 16;

/// Sizes that every algorithm needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) filters: usize,
    pub(super) groups: usize,
    pub(super) taps: usize,
    pub(super) blocks_in: usize,
    pub(super) blocks_out: usize,
    pub(super) area_in: usize,
    pub(super) area_out: usize,
    /// See [`super::product::Product::chain`].
    pub(super) chain: usize,
}

/// Taps of sixteen channels that are added up in one chain, by precision.
const CHAIN: usize = 72;
const STRICT_CHAIN: usize = 3;

impl Sizes {
    /// Those of a convolution; `None` if its groups are not made of whole blocks.
    pub(super) fn of(c: &Conv) -> Option<Self> {
        let whole = |n: usize| {
            n.is_multiple_of(c.groups) && (c.groups == 1 || (n / c.groups).is_multiple_of(LANES))
        };
        let some =
            c.channels > 0 && c.filters > 0 && c.kernel.iter().chain(&c.stride).all(|&n| n > 0);
        (c.groups > 0 && some && whole(c.channels) && whole(c.filters)).then(|| Self::unchecked(c))
    }

    /// Those of any convolution.
    pub(super) fn unchecked(c: &Conv) -> Self {
        Self {
            images: c.images,
            channels: c.channels,
            filters: c.filters,
            groups: c.groups,
            taps: c.kernel[0] * c.kernel[1],
            blocks_in: c.channels.div_ceil(LANES),
            blocks_out: c.filters.div_ceil(LANES),
            area_in: c.input[0] * c.input[1],
            area_out: c.output[0] * c.output[1],
            chain: CHAIN,
        }
    }

    /// The same with chains as short as a precision requires.
    pub(super) fn with(self, precision: Precision) -> Self {
        match precision {
            Precision::Fast => self,
            Precision::Strict => Self { chain: STRICT_CHAIN, ..self },
        }
    }

    pub(super) fn check(&self, x: usize, weight: usize, y: usize) {
        assert_eq!(x, self.images * self.blocks_in * self.area_in, "input of {self:?}");
        assert_eq!(weight, self.filters * self.depth(), "weight of {self:?}");
        assert_eq!(y, self.images * self.blocks_out * self.area_out, "output of {self:?}");
    }

    pub(super) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    pub(super) fn group_blocks_in(&self) -> usize {
        self.blocks_in / self.groups
    }

    pub(super) fn group_blocks_out(&self) -> usize {
        self.blocks_out / self.groups
    }

    /// Weights of a filter.
    pub(super) fn depth(&self) -> usize {
        self.group_channels() * self.taps
    }

    /// Elements of the packed weight gradient for one block of filters.
    pub(super) fn sums_len(&self) -> usize {
        self.group_blocks_in() * self.taps * LANES
    }

    pub(super) fn image_in(&self) -> usize {
        self.blocks_in * self.area_in
    }

    pub(super) fn image_out(&self) -> usize {
        self.blocks_out * self.area_out
    }

    pub(super) fn partial_sums(&self) -> usize {
        if self.channels * self.filters / self.groups < MANY {
            PARTIAL_SUMS
        } else {
            FEW_PARTIAL_SUMS
        }
    }

    pub(super) fn big(&self) -> bool {
        self.channels * self.filters / self.groups >= BIG
    }
}

/// Blocks of output channels that are computed together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) first: usize,
    pub(super) len: usize,
}

/// Blocks cut into chunks, none across groups.
pub(super) struct Chunks {
    /// Blocks per chunk; the last may have fewer.
    pub(super) each: usize,
    pub(super) all: Vec<Chunk>,
}

impl Chunks {
    pub(super) fn new(level: Level, blocks: usize, groups: usize) -> Self {
        let each = if groups == 1 || (blocks / groups).is_multiple_of(level.chunk()) {
            level.chunk()
        } else {
            1
        };
        let all = (0..blocks)
            .step_by(each)
            .map(|first| Chunk { first, len: each.min(blocks - first) })
            .collect();
        Self { each, all }
    }
}
