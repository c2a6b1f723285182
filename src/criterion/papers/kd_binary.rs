//! Knowledge distillation of independent binary classes: multi-label classifiers (Yang et al. 2023,
//! arXiv:2308.06453) and detectors' class scores.

use crate::criterion::contract::{Comparison, Criterion, Pairs, Setup, Spec};
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::module::Module;
use crate::criterion::math::pointwise::pointwise;
use crate::criterion::math::projector::{compare, projectors};
use crate::criterion::settings::{ABOVE_0, ANY, settings};
use crate::error::Result;
use candle_core::Tensor;

settings! {
    /// Binary knowledge distillation.
    KdBinary {
        /// The temperature T.
        temperature: f64 = 1.0, ABOVE_0;
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

impl Criterion for KdBinary {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "kd-binary",
        title: "Knowledge distillation of binary classes",
        paper: "Yang et al. 2023, arXiv:2308.06453",
        source: "L2D",
        note: "L2D's weight of 10 is of a sum over classes, which is this times their number; \
               projector=true learns a linear layer to the teacher's channels",
        weight: 10.0,
        pairs: Pairs::ClassLogits,
        ..Spec::TENSORS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        projectors(setup, self.projector)
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.stored_pair()?;
        kd_binary(student, teacher, self.temperature, inputs.of_layer(modules)?)
    }
}

/// `L = T² · mean of p ln(p/q) + (1 − p) ln((1 − p)/(1 − q))`, `p = σ(t/T)`, `q = σ(s/T)`, over all
/// elements; in log space, so that logits of any size are finite. Maps of different sizes are first
/// adaptively average-pooled, each axis to the smaller of both.
///
/// # Shapes
/// `student` and `teacher` of any one shape, but for the sizes of maps
/// `[batch, channels, height, width]`, and the channels if the module is a projector.
///
/// # Errors
/// When the shapes disagree.
pub fn kd_binary(
    student: &Tensor,
    teacher: &Tensor,
    temperature: f64,
    module: &Module,
) -> Result<Evaluation> {
    compare(student, teacher, module, "kd-binary", |s, t| {
        pointwise(s, t, "kd-binary", |s, t| {
            let (value, slope) = divergence(s / temperature, t / temperature);
            (temperature * temperature * value, temperature * slope)
        })
    })
}

/// `KL(σ(t) ‖ σ(s))` of a binary class and its derivative with respect to s, which is `q − p`.
fn divergence(s: f64, t: f64) -> (f64, f64) {
    let (q, p) = (Binary::new(s), Binary::new(t));
    let value = p.yes * (p.log_yes - q.log_yes) + p.no * (p.log_no - q.log_no);
    // the difference of the smaller ones, which have more digits
    (value, if s > 0.0 && t > 0.0 { p.no - q.no } else { q.yes - p.yes })
}

/// The probabilities of a binary class.
struct Binary {
    yes: f64,
    no: f64,
    log_yes: f64,
    log_no: f64,
}

impl Binary {
    fn new(x: f64) -> Self {
        // of the likelier and of the other outcome
        let e = (-x.abs()).exp();
        let (likely, other) = (1.0 / (1.0 + e), e / (1.0 + e));
        let log = -e.ln_1p();
        if x > 0.0 {
            Self { yes: likely, no: other, log_yes: log, log_no: log - x }
        } else {
            Self { yes: other, no: likely, log_yes: log + x, log_no: log }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::init::Init;
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences() {
        for (student, teacher) in
            [(&[5, 3][..], &[5, 3][..]), (&[2, 4, 3], &[2, 4, 3]), (&[2, 3, 5, 3], &[2, 3, 3, 4])]
        {
            let s = (tensor(student, 1) * 8.0).unwrap();
            let t = (tensor(teacher, 2) * 8.0).unwrap();
            for temperature in [1.0, 3.0] {
                let none = Module::default();
                assert_gradients(&[&s], &none, |x, m| kd_binary(x[0], &t, temperature, m));
            }
        }
        let mut init = Init::new(1);
        init.layer("projector", &[4, 3], Some(4)).unwrap();
        let (s, t) = (tensor(&[5, 3], 1), tensor(&[5, 4], 2));
        assert_gradients(&[&s], &init.finish().unwrap(), |x, m| kd_binary(x[0], &t, 2.0, m));
    }

    #[test]
    fn one_class_by_hand() {
        let (s, t) = (
            Tensor::new(&[0.0], &Device::Cpu).unwrap(),
            Tensor::new(&[3f64.ln()], &Device::Cpu).unwrap(),
        );
        let found = kd_binary(&s, &t, 1.0, &Module::default()).unwrap();
        // p = 3/4, q = 1/2
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((found.value - expected).abs() < 1e-15, "{}", found.value);
        assert!((found.inputs[0].to_vec1::<f64>().unwrap()[0] + 0.25).abs() < 1e-15);
    }

    #[test]
    fn logits_of_any_size_are_exact() {
        let none = Module::default();
        for (s, t, expected) in [
            (300.0, -300.0, 300.0),
            (-300.0, 300.0, 300.0),
            (1e30, -1e30, 1e30),
            (700.0, 800.0, 0.0),
            (-700.0, -800.0, 0.0),
        ] {
            let of = |x: f64| Tensor::new(&[x], &Device::Cpu).unwrap();
            let found = kd_binary(&of(s), &of(t), 1.0, &none).unwrap();
            assert!(
                (found.value - expected).abs() <= 1e-15 * expected.max(1e-15),
                "{s} {t} {}",
                found.value
            );
            assert_finite(&found);
        }
        let s = (tensor(&[2, 3], 1) * 1e30).unwrap().to_dtype(DType::F32).unwrap();
        assert_zero(&kd_binary(&s, &s, 4.0, &none).unwrap(), 0.0);
        assert!(kd_binary(&s, &tensor(&[2, 4], 1), 1.0, &none).is_err());
    }
}
