//! The learning rate and the criteria's weights as pure functions of the step.

use crate::recipe::{Course, ScheduleRecipe};

/// A step's position in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The step, counted from 0 over the whole run.
    pub step: usize,
    /// Steps per epoch.
    pub steps_per_epoch: usize,
    /// Steps in the run.
    pub total_steps: usize,
}

impl Clock {
    /// A criterion's weight at this step, if its full weight is `full`; `None` while it is off.
    ///
    /// Warm-up rises linearly: step k of w has (k+1)/w of the weight; after it, a decay falls
    /// linearly to its final value.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "numbers of steps")]
    pub fn weight(&self, full: f64, course: &Course) -> Option<f64> {
        let (k, total) = (self.step as f64, self.total_steps as f64);
        let steps = |epochs: f64| (epochs * self.steps_per_epoch as f64).round();
        let (start, end) = (course.from.map_or(0.0, steps), course.until.map(steps));
        if k < start || end.is_some_and(|end| k >= end) {
            return None;
        }
        let warm = start + course.warmup_epochs.map_or(0.0, steps);
        if k < warm {
            return Some(full * (k - start + 1.0) / (warm - start));
        }
        let end = end.unwrap_or(total).min(total);
        let share = (k - warm) / (end - warm).max(1.0);
        Some(course.decay_to.map_or(full, |to| full + (to - full) * share))
    }
}

/// The key of a step's dropout masks.
pub(super) fn dropout_seed(seed: u64, step: usize) -> u64 {
    // the multiplier spreads consecutive seeds far apart, so that no two runs share masks step by
    // step
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(step as u64)
}

/// A learning-rate schedule over a run of known length.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    recipe: ScheduleRecipe,
    peak: f64,
    steps_per_epoch: usize,
    total_steps: usize,
}

impl Schedule {
    /// A schedule for `epochs` epochs of `steps_per_epoch` steps with the peak rate `peak`.
    #[must_use]
    pub fn new(recipe: ScheduleRecipe, peak: f64, steps_per_epoch: usize, epochs: usize) -> Self {
        Self { recipe, peak, steps_per_epoch, total_steps: steps_per_epoch.saturating_mul(epochs) }
    }

    /// The learning rate of step `step`, counted from 0 over the whole run.
    ///
    /// Warm-up rises linearly: step k of w gets (k+1)/w of the schedule's initial rate. The
    /// remaining n steps follow the schedule: constant; peak·½(1 + cos(πk/n)) down to the
    /// minimum; or peak·gamma^(milestones passed), with milestones counted from the run's start.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "numbers of steps")]
    pub fn rate(&self, step: usize) -> f64 {
        let warmup_epochs = match self.recipe {
            ScheduleRecipe::Constant { warmup_epochs }
            | ScheduleRecipe::Cosine { warmup_epochs, .. }
            | ScheduleRecipe::Multistep { warmup_epochs, .. } => warmup_epochs,
        };
        let (k, per_epoch) = (step as f64, self.steps_per_epoch as f64);
        let warmup = (warmup_epochs * per_epoch).round();
        if k < warmup {
            return self.peak * (k + 1.0) / warmup;
        }
        match &self.recipe {
            ScheduleRecipe::Constant { .. } => self.peak,
            ScheduleRecipe::Cosine { min_lr, .. } => {
                let share = (k - warmup) / (self.total_steps as f64 - warmup).max(1.0);
                min_lr
                    + (self.peak - min_lr)
                        * 0.5
                        * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos())
            }
            ScheduleRecipe::Multistep { milestones, gamma, .. } => milestones
                .iter()
                .filter(|&&m| k >= (m * per_epoch).round())
                .fold(self.peak, |rate, _| rate * gamma),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-15, "{a} {b}");
    }

    #[test]
    fn cosine_is_half_a_cosine_over_all_steps() {
        let schedule =
            Schedule::new(ScheduleRecipe::Cosine { warmup_epochs: 0.0, min_lr: 0.0 }, 0.05, 156, 4);
        for k in [0usize, 1, 155, 312, 623] {
            #[allow(clippy::cast_precision_loss)]
            let expected = 0.05 * 0.5 * (1.0 + (std::f64::consts::PI * k as f64 / 624.0).cos());
            close(schedule.rate(k), expected);
        }
        close(schedule.rate(0), 0.05);
        close(schedule.rate(312), 0.025);
    }

    #[test]
    fn warm_up_rises_to_the_peak() {
        let schedule =
            Schedule::new(ScheduleRecipe::Cosine { warmup_epochs: 0.5, min_lr: 0.01 }, 0.1, 8, 2);
        close(schedule.rate(0), 0.025);
        close(schedule.rate(3), 0.1);
        close(schedule.rate(4), 0.1);
        close(schedule.rate(10), 0.055);
        close(schedule.rate(16), 0.01);
    }

    #[test]
    fn a_weight_follows_its_course() {
        let weight = |course: Course, step| {
            Clock { step, steps_per_epoch: 10, total_steps: 40 }.weight(2.0, &course)
        };
        assert_eq!([0, 39].map(|k| weight(Course::default(), k)), [Some(2.0); 2]);
        let part = Course { from: Some(1.0), until: Some(2.5), ..Course::default() };
        assert_eq!([9, 10, 24, 25].map(|k| weight(part, k)), [None, Some(2.0), Some(2.0), None]);
        let warm = Course { from: Some(1.0), warmup_epochs: Some(0.5), ..Course::default() };
        assert_eq!(
            [9, 10, 14, 15].map(|k| weight(warm, k)),
            [None, Some(0.4), Some(2.0), Some(2.0)]
        );
        let decay = Course { warmup_epochs: Some(1.0), decay_to: Some(0.5), ..Course::default() };
        assert_eq!([9, 10, 20].map(|k| weight(decay, k)), [Some(2.0), Some(2.0), Some(1.5)]);
        let short = Course { until: Some(2.0), decay_to: Some(0.0), ..Course::default() };
        assert_eq!([0, 10, 20].map(|k| weight(short, k)), [Some(2.0), Some(1.0), None]);
    }

    #[test]
    fn milestones_are_epochs() {
        let recipe = ScheduleRecipe::Multistep {
            milestones: vec![1.0, 1.5],
            gamma: 0.1,
            warmup_epochs: 0.0,
        };
        let schedule = Schedule::new(recipe, 1.0, 10, 3);
        close(schedule.rate(9), 1.0);
        close(schedule.rate(10), 0.1);
        close(schedule.rate(15), 0.01);
        close(schedule.rate(29), 0.01);
        close(
            Schedule::new(ScheduleRecipe::Constant { warmup_epochs: 0.0 }, 0.3, 10, 3).rate(29),
            0.3,
        );
    }
}
