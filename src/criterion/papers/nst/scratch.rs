//! Memory that the samples of a batch reuse.

use super::NstOptions;
use super::count;
use super::kernel::{Kernel, Sigma};
use super::maps::Maps;
use crate::kernel::elementwise::dot;
use crate::tensor::Element;
use std::sync::{Mutex, PoisonError};

/// As many scratches as samples run at once.
#[derive(Debug)]
pub(super) struct Spare<T>(Mutex<Vec<Scratch<T>>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T: Element> Spare<T> {
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Scratch<T>) -> R) -> R {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = taken.unwrap_or_default();
        let result = f(&mut scratch);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result
    }
}

/// One sample's memory.
#[derive(Debug, Default)]
pub(super) struct Scratch<T> {
    unit: Vec<T>,
    factors: Vec<T>,
    gradient: Vec<T>,
    plane: Vec<T>,
    products: Vec<T>,
}

/// The sides of a pair.
pub(super) const STUDENT: usize = 0;
pub(super) const TEACHER: usize = 1;

/// One sample of both sides.
pub(super) struct SamplePair<'a, T> {
    /// Channels of student and teacher; 0 for a teacher whose maps are missing.
    pub(super) channels: [usize; 2],
    /// Positions of a map.
    pub(super) positions: usize,
    /// The unit maps `[channels[0] + channels[1], positions]`: the student's, then the teacher's.
    pub(super) unit: &'a [T],
    /// The factor that each of the student's maps was multiplied by.
    factors: &'a [T],
    /// Room for the gradient with respect to the student's unit maps `[channels[0], positions]`;
    /// the initial content is arbitrary.
    pub(super) gradient: &'a mut [T],
    /// Room for products, of any length.
    pub(super) products: &'a mut Vec<T>,
}

impl<T: Element> Scratch<T> {
    /// Reads and normalizes a sample.
    pub(super) fn load(
        &mut self,
        s: &Maps<'_, T>,
        t: Option<&Maps<'_, T>>,
        sample: usize,
        options: &NstOptions,
    ) -> SamplePair<'_, T> {
        let positions = s.positions();
        let channels = [s.channels, t.map_or(0, |t| t.channels)];
        self.unit.resize((channels[0] + channels[1]) * positions, T::zero());
        self.factors.resize(channels[0] + channels[1], T::zero());
        self.gradient.resize(channels[0] * positions, T::zero());
        let (student, teacher) = self.unit.split_at_mut(channels[0] * positions);
        let (factors, others) = self.factors.split_at_mut(channels[0]);
        s.normalize(sample, options.normalization, student, factors, &mut self.plane);
        if let Some(t) = t {
            t.normalize(sample, options.normalization, teacher, others, &mut self.plane);
        }
        SamplePair {
            channels,
            positions,
            unit: &self.unit,
            factors,
            gradient: &mut self.gradient,
            products: &mut self.products,
        }
    }
}

impl<T: Element> SamplePair<'_, T> {
    /// The student's and the teacher's unit maps.
    pub(super) fn sides(&self) -> [&[T]; 2] {
        let (student, teacher) = self.unit.split_at(self.channels[0] * self.positions);
        [student, teacher]
    }

    /// The mean map of a side in f64.
    pub(super) fn mean(&self, side: usize) -> Vec<f64> {
        let mut mean = vec![0.0; self.positions];
        for map in self.sides()[side].chunks_exact(self.positions) {
            for (m, v) in mean.iter_mut().zip(map) {
                *m += v.wide();
            }
        }
        let channels = count(self.channels[side]);
        for m in &mut mean {
            *m /= channels;
        }
        mean
    }

    /// ‖y‖² of each map, the student's first: 1, or less for a dead one.
    pub(super) fn squares(&self) -> Vec<f64> {
        self.unit.chunks_exact(self.positions).map(|map| dot(map, map)).collect()
    }

    /// `mean_ij ‖t_i − s_j‖² = mean ‖t_i‖² + mean ‖s_j‖² − 2 m_t·m_s`: σ² of
    /// the automatic widths.
    pub(super) fn variance(&self) -> f64 {
        let squares = self.squares();
        let (student, teacher) = squares.split_at(self.channels[0]);
        let mean = |squares: &[f64]| squares.iter().sum::<f64>() / count(squares.len());
        let (mean_s, mean_t) = (self.mean(STUDENT), self.mean(TEACHER));
        (mean(student) + mean(teacher) - 2.0 * dot(&mean_s, &mean_t)).max(0.0)
    }

    /// Takes the gradient with respect to the unit maps to the gradient with respect to the maps:
    /// g ← (g − y (y·g)) · factor, which is the derivative of both x/‖x‖ and
    /// x/√(‖x‖² + ε).
    pub(super) fn through_normalization(&mut self) {
        let maps = self
            .gradient
            .chunks_exact_mut(self.positions)
            .zip(self.unit.chunks_exact(self.positions));
        for ((g, y), &factor) in maps.zip(self.factors) {
            if factor == T::zero() {
                g.fill(T::zero());
                continue;
            }
            let along = T::of(dot(g, y));
            for (g, &y) in g.iter_mut().zip(y) {
                *g = (*g - y * along) * factor;
            }
        }
    }
}

/// σ² of a Gaussian kernel: fixed, computed from this sample, or from the whole batch if `batch`
/// gives it.
pub(super) fn variance<T: Element>(
    kernel: Kernel,
    pair: &SamplePair<'_, T>,
    batch: Option<f64>,
) -> f64 {
    match kernel {
        Kernel::Gauss { sigma: Sigma::Fixed(sigma) } => sigma * sigma,
        Kernel::Gauss { .. } => batch.unwrap_or_else(|| pair.variance()),
        Kernel::Linear | Kernel::Poly { .. } => 1.0,
    }
}
