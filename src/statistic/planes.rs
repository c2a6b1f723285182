//! One sample's channel maps in f64.

use super::{DEAD_NORM, pool};
use crate::array::Layout;
use crate::statistic::form::MapShape;

/// Maps as a teacher yields them, and the size at which their statistics are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps {
    /// The order of a sample's axes.
    pub layout: Layout,
    /// Channels.
    pub channels: usize,
    /// Height and width as given.
    pub from: [usize; 2],
    /// Height and width after adaptive average pooling; neither is larger than as given.
    pub size: [usize; 2],
}

impl Maps {
    /// The map that the statistics describe.
    #[must_use]
    pub fn stored(&self) -> MapShape {
        MapShape {
            layout: self.layout,
            channels: self.channels,
            height: self.size[0],
            width: self.size[1],
        }
    }

    /// Activations per sample as given.
    pub(super) fn activations(&self) -> Option<usize> {
        MapShape {
            layout: self.layout,
            channels: self.channels,
            height: self.from[0],
            width: self.from[1],
        }
        .activations()
    }
}

/// Channel maps `[channels, positions]`, and scratch buffers.
#[derive(Debug, Default)]
pub(super) struct Planes {
    pub(super) values: Vec<f64>,
    pub(super) channels: usize,
    pub(super) positions: usize,
    whole: Vec<f64>,
    /// Scratch of any length and content.
    pub(super) turned: Vec<f64>,
    /// Scratch of any length and content.
    pub(super) products: Vec<f64>,
}

impl Planes {
    /// Loads a sample's values.
    pub(super) fn load(&mut self, sample: &[f32], maps: &Maps) {
        let area = maps.from[0] * maps.from[1];
        (self.channels, self.positions) = (maps.channels, maps.size[0] * maps.size[1]);
        let pooled = maps.from != maps.size;
        let whole = if pooled { &mut self.whole } else { &mut self.values };
        whole.clear();
        match maps.layout {
            Layout::Nchw => whole.extend(sample.iter().map(|&x| f64::from(x))),
            Layout::Nhwc => {
                let channel =
                    |c: usize| sample.iter().skip(c).step_by(maps.channels).map(|&x| f64::from(x));
                whole.extend((0..maps.channels).flat_map(channel));
            }
        }
        if pooled {
            self.values.clear();
            for plane in self.whole.chunks_exact(area) {
                pool::average(plane, maps.from, maps.size, &mut self.values);
            }
        }
    }

    /// The map of each channel.
    pub(super) fn maps(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.positions)
    }

    /// Divides each map by its norm, as the criteria do.
    pub(super) fn normalize(&mut self) {
        for map in self.values.chunks_exact_mut(self.positions) {
            let norm = map.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scale = 1.0 / norm.max(DEAD_NORM);
            for x in map {
                *x *= scale;
            }
        }
    }
}
