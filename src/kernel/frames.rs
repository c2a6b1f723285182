//! A third spatial axis for two-dimensional convolutions: the frames that a filter reads at one
//! place along the depth become channels side by side, so that a volume is convolved as images.

use super::Float;
use rayon::prelude::*;

/// How a convolution reads the depth of `[volumes, channels, depth, plane]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    /// Volumes.
    pub volumes: usize,
    /// Input channels.
    pub channels: usize,
    /// Input depth.
    pub input: usize,
    /// Output depth.
    pub output: usize,
    /// Filter depth.
    pub kernel: usize,
    /// Steps along the depth.
    pub stride: usize,
    /// Steps within the filter.
    pub dilation: usize,
    /// Padding before the first frame.
    pub before: usize,
}

impl Frames {
    /// The frame that output `o` reads through tap `k`; `None` in the padding.
    fn frame(&self, o: usize, k: usize) -> Option<usize> {
        (o * self.stride + k * self.dilation).checked_sub(self.before).filter(|&i| i < self.input)
    }

    /// The frames of each place side by side; zero in the padding.
    ///
    /// # Shapes
    /// `x`: `[volumes, channels, depth, plane]`; result: `[volumes · output depth, channels ·
    /// filter depth, plane]`.
    #[must_use]
    pub fn unfold<T: Float>(&self, x: &[T], plane: usize) -> Vec<T> {
        let image = self.channels * self.kernel * plane;
        let volume = self.channels * self.input * plane;
        let mut images = vec![T::zero(); self.volumes * self.output * image];
        images.par_chunks_mut(image.max(1)).enumerate().for_each(|(i, image)| {
            let x = &x[i / self.output * volume..][..volume];
            for (row, to) in image.chunks_exact_mut(plane.max(1)).enumerate() {
                if let Some(frame) = self.frame(i % self.output, row % self.kernel) {
                    let from = (row / self.kernel * self.input + frame) * plane;
                    to.copy_from_slice(&x[from..from + plane]);
                }
            }
        });
        images
    }

    /// The adjoint of [`Frames::unfold`]: adds the images back into the frames they came from.
    #[must_use]
    pub fn fold<T: Float>(&self, images: &[T], plane: usize) -> Vec<T> {
        let image = self.channels * self.kernel * plane;
        let volume = self.channels * self.input * plane;
        let mut x = vec![T::zero(); self.volumes * volume];
        x.par_chunks_mut(volume.max(1))
            .zip(images.par_chunks((self.output * image).max(1)))
            .for_each(|(x, images)| {
                for (o, image) in images.chunks_exact(image.max(1)).enumerate() {
                    for (row, from) in image.chunks_exact(plane.max(1)).enumerate() {
                        if let Some(frame) = self.frame(o, row % self.kernel) {
                            let to = (row / self.kernel * self.input + frame) * plane;
                            x[to..to + plane].iter_mut().zip(from).for_each(|(x, &d)| *x += d);
                        }
                    }
                }
            });
        x
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[test]
    fn folding_is_the_adjoint_of_unfolding() {
        let frames = Frames {
            volumes: 2,
            channels: 3,
            input: 5,
            output: 3,
            kernel: 2,
            stride: 2,
            dilation: 3,
            before: 2,
        };
        let x: Vec<f64> = (0..2 * 3 * 5 * 4).map(|i| f64::from(i * i % 13)).collect();
        let images = frames.unfold(&x, 4);
        assert_eq!(images.len(), 2 * 3 * (3 * 2) * 4);
        let d: Vec<f64> = (0..2 * 3 * 3 * 2 * 4).map(|i| f64::from(i * 5 % 11)).collect();
        let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!((inner(&images, &d) - inner(&x, &frames.fold(&d, 4))).abs() < 1e-9);
        // the first place reads the padding and frame 1
        assert_eq!((&images[..4], &images[4..8]), (&[0.0; 4][..], &x[4..8]));
    }
}
