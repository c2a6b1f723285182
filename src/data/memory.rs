//! Images of one size held in memory, as the small binary formats are.

use super::{Dataset, Fingerprint, Image, Sample, UPRIGHT};
use crate::error::{Error, Result};

/// Images of one size, with labels.
pub(super) struct InMemory {
    /// `[height, width, channels]` of an image.
    pub shape: [usize; 3],
    /// Whether images are `[channel, row, column]` rather than `[row, column, channel]`.
    pub planar: bool,
    /// All images, one after another.
    pub pixels: Vec<u8>,
    /// One label per image.
    pub labels: Vec<u8>,
    pub classes: Vec<String>,
    pub fingerprint: Fingerprint,
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let [height, width, channels] = self.shape;
        let bytes = height * width * channels;
        let stored = self.pixels.chunks_exact(bytes.max(1)).nth(index).ok_or_else(|| {
            Error::input(format!("row {index}: expected an index below {}", self.len()))
        })?;
        let pixels = if self.planar && channels > 1 {
            let plane = height * width;
            (0..bytes).map(|i| stored[(i % channels) * plane + i / channels]).collect()
        } else {
            stored.to_vec()
        };
        Ok(Sample::Image(Image { height, width, channels, pixels, orientation: UPRIGHT }))
    }

    fn label(&self, index: usize) -> i64 {
        self.labels.get(index).map_or(-1, |&label| i64::from(label))
    }

    fn name(&self, index: usize) -> String {
        format!("row {index}")
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn image_size(&self, index: usize) -> Option<[usize; 2]> {
        (index < self.len()).then_some([self.shape[0], self.shape[1]])
    }
}

/// Class names for labels without names: the numbers from 0.
pub(super) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|class| class.to_string()).collect()
}
