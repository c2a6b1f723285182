//! The learning rate as a pure function of the step.

use crate::recipe::ScheduleRecipe;

/// A schedule over a run of known length.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    recipe: ScheduleRecipe,
    peak: f64,
    steps_per_epoch: usize,
    total_steps: usize,
}

impl Schedule {
    /// A schedule for `epochs` of `steps_per_epoch` steps with the peak rate `peak`.
    #[must_use]
    pub fn new(recipe: ScheduleRecipe, peak: f64, steps_per_epoch: usize, epochs: usize) -> Self {
        Self { recipe, peak, steps_per_epoch, total_steps: steps_per_epoch.saturating_mul(epochs) }
    }

    /// The rate of step `step`, counted from 0 over the whole run.
    ///
    /// Warm-up rises linearly: step k of w gets (k+1)/w of what the schedule would give at its own start. The rest follows over the steps that
    /// are left: constant; peak·½(1 + cos(πk/n)) down to the minimum; or peak·gamma^(milestones passed), milestones counted from the run's start.
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
                min_lr + (self.peak - min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos())
            }
            ScheduleRecipe::Multistep { milestones, gamma, .. } => {
                milestones.iter().filter(|&&m| k >= (m * per_epoch).round()).fold(self.peak, |rate, _| rate * gamma)
            }
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
        let schedule = Schedule::new(ScheduleRecipe::Cosine { warmup_epochs: 0.0, min_lr: 0.0 }, 0.05, 156, 4);
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
        let schedule = Schedule::new(ScheduleRecipe::Cosine { warmup_epochs: 0.5, min_lr: 0.01 }, 0.1, 8, 2);
        close(schedule.rate(0), 0.025);
        close(schedule.rate(3), 0.1);
        close(schedule.rate(4), 0.1);
        close(schedule.rate(10), 0.055);
        close(schedule.rate(16), 0.01);
    }

    #[test]
    fn milestones_are_epochs() {
        let recipe = ScheduleRecipe::Multistep { milestones: vec![1.0, 1.5], gamma: 0.1, warmup_epochs: 0.0 };
        let schedule = Schedule::new(recipe, 1.0, 10, 3);
        close(schedule.rate(9), 1.0);
        close(schedule.rate(10), 0.1);
        close(schedule.rate(15), 0.01);
        close(schedule.rate(29), 0.01);
        close(Schedule::new(ScheduleRecipe::Constant { warmup_epochs: 0.0 }, 0.3, 10, 3).rate(29), 0.3);
    }
}
