//! What is drawn from the generator; it stands by itself, since the fuzz test has no use for these.

use super::Random;

impl Random {
    /// In 0..1.
    #[allow(clippy::cast_precision_loss, reason = "24 bits")]
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 40) as f64 / f64::from(1u32 << 24)
    }

    /// In low..high.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Numbers of float32 precision, never within 0.02 of 0, where functions have kinks.
    pub fn numbers(&mut self, count: usize, low: f64, high: f64) -> Vec<f64> {
        let number = |_| {
            let v = self.between(low, high);
            f64::from((if v.abs() < 0.02 { v + 0.05 } else { v }) as f32)
        };
        (0..count).map(number).collect()
    }
}
