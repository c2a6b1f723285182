//! Distances of single values: mean squared error, mean absolute error, smooth L1.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::module::Module;
use crate::criterion::math::pointwise::pointwise;
use crate::criterion::math::projector::{compare, projectors};
use crate::criterion::settings::{ABOVE_0, ANY, settings};
use crate::error::Result;
use candle_core::Tensor;

settings! {
    /// Mean squared error.
    Mse {
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

settings! {
    /// Mean absolute error.
    L1 {
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

settings! {
    /// Smooth L1.
    SmoothL1 {
        /// The distance from which on the loss is linear.
        beta: f64 = 1.0, ABOVE_0;
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

macro_rules! distance {
    ($settings:ty, $spec:expr, $loss:expr) => {
        impl Criterion for $settings {
            type Memory = Vec<Module>;

            const SPEC: &'static Spec = &$spec;

            fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
                projectors(setup, self.projector)
            }

            fn evaluate(
                &self,
                inputs: &Comparison<'_>,
                modules: &mut Vec<Module>,
            ) -> Result<Evaluation> {
                let (student, teacher) = inputs.stored_pair()?;
                $loss(self, student, teacher, inputs.of_layer(modules)?)
            }
        }
    };
}

distance!(
    Mse,
    Spec {
        name: "mse",
        title: "Mean squared error",
        paper: "Ba & Caruana 2014, arXiv:1312.6184",
        note: "projector=true learns a linear layer to the teacher's channels",
        ..Spec::TENSORS
    },
    |_: &Mse, s, t, module| mse(s, t, module)
);
distance!(
    L1,
    Spec {
        name: "l1",
        title: "Mean absolute error",
        paper: "none",
        note: "projector=true learns a linear layer to the teacher's channels",
        ..Spec::TENSORS
    },
    |_: &L1, s, t, module| l1(s, t, module)
);
distance!(
    SmoothL1,
    Spec {
        name: "smooth-l1",
        title: "Smooth L1",
        paper: "Girshick 2015, arXiv:1504.08083",
        note: "projector=true learns a linear layer to the teacher's channels",
        ..Spec::TENSORS
    },
    |settings: &SmoothL1, s, t, module| smooth_l1(s, t, settings.beta, module)
);

/// `L = mean (s − t)²`; maps of different sizes are first adaptively average-pooled, each axis to
/// the smaller of both.
///
/// # Shapes
/// `student` and `teacher` of any one shape, but for the sizes of maps
/// `[batch, channels, height, width]`, and the channels if the module is a projector.
///
/// # Errors
/// When the shapes disagree.
pub fn mse(student: &Tensor, teacher: &Tensor, module: &Module) -> Result<Evaluation> {
    let loss = |s: f64, t: f64| ((s - t) * (s - t), 2.0 * (s - t));
    compare(student, teacher, module, "mse", |s, t| pointwise(s, t, "mse", loss))
}

/// `L = mean |s − t|`, with derivative 0 where s = t; sizes as in [`mse`].
///
/// # Shapes
/// As [`mse`].
///
/// # Errors
/// When the shapes disagree.
pub fn l1(student: &Tensor, teacher: &Tensor, module: &Module) -> Result<Evaluation> {
    let loss = |s: f64, t: f64| ((s - t).abs(), sign(s - t));
    compare(student, teacher, module, "l1", |s, t| pointwise(s, t, "l1", loss))
}

/// `L = mean h(s − t)`, `h(d) = d²/(2β)` where `|d| < β`, else `|d| − β/2`; sizes as in [`mse`].
///
/// # Shapes
/// As [`mse`].
///
/// # Errors
/// When the shapes disagree.
pub fn smooth_l1(
    student: &Tensor,
    teacher: &Tensor,
    beta: f64,
    module: &Module,
) -> Result<Evaluation> {
    let loss = |s: f64, t: f64| {
        let d = s - t;
        if d.abs() < beta {
            (d * d / (2.0 * beta), d / beta)
        } else {
            (d.abs() - beta / 2.0, sign(d))
        }
    };
    compare(student, teacher, module, "smooth-l1", |s, t| pointwise(s, t, "smooth-l1", loss))
}

/// −1, 0 or 1; NaN of NaN.
fn sign(d: f64) -> f64 {
    if d == 0.0 { 0.0 } else { d.signum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::init::Init;
    use candle_core::Device;

    #[test]
    fn gradients_match_finite_differences() {
        // one side is larger in height, the other in width
        for (student, teacher) in [
            (&[5, 3][..], &[5, 3][..]),
            (&[2, 4, 3], &[2, 4, 3]),
            (&[2, 3, 5, 3], &[2, 3, 3, 4]),
            (&[1, 2, 2, 2, 3], &[1, 2, 2, 2, 3]),
        ] {
            let (s, t) = (tensor(student, 1), tensor(teacher, 2));
            let none = Module::default();
            assert_gradients(&[&s], &none, |x, m| mse(x[0], &t, m));
            assert_gradients(&[&s], &none, |x, m| l1(x[0], &t, m));
            assert_gradients(&[&s], &none, |x, m| smooth_l1(x[0], &t, 0.3, m));
        }
        let mut init = Init::new(1);
        init.layer("projector", &[4, 3], Some(4)).unwrap();
        let (s, t) = (tensor(&[2, 3, 3, 2], 1), tensor(&[2, 4, 2, 3], 2));
        assert_gradients(&[&s], &init.finish().unwrap(), |x, m| smooth_l1(x[0], &t, 0.3, m));
    }

    #[test]
    fn values_by_hand() {
        let s = Tensor::new(&[[1.0, 2.0, -3.0, 0.5]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[[1.0, 2.5, 1.0, -0.5]], &Device::Cpu).unwrap();
        let of = |found: Evaluation| {
            (found.value, found.inputs[0].flatten_all().unwrap().to_vec1::<f64>().unwrap())
        };
        let none = Module::default();
        assert_eq!(of(mse(&s, &t, &none).unwrap()), (4.3125, vec![0.0, -0.25, -2.0, 0.5]));
        assert_eq!(of(l1(&s, &t, &none).unwrap()), (1.375, vec![0.0, -0.25, -0.25, 0.25]));
        // at |d| = beta both pieces agree
        assert_eq!(
            of(smooth_l1(&s, &t, 1.0, &none).unwrap()),
            (1.03125, vec![0.0, -0.125, -0.25, 0.25])
        );
    }

    #[test]
    fn equal_huge_and_misfitting_tensors() {
        let none = Module::default();
        let s = tensor(&[2, 3, 4, 4], 1).to_dtype(candle_core::DType::F32).unwrap();
        let huge = (&s * 1e30).unwrap();
        for x in [&s, &huge] {
            assert_zero(&mse(x, x, &none).unwrap(), 0.0);
            assert_zero(&l1(x, x, &none).unwrap(), 0.0);
            assert_zero(&smooth_l1(x, x, 1.0, &none).unwrap(), 0.0);
            assert_finite(&mse(&huge, &s, &none).unwrap());
        }
        // pooled, constant maps still tie
        let flat = |size: usize| Tensor::full(0.1f32, (1, 2, size, size), &Device::Cpu).unwrap();
        assert_zero(&l1(&flat(7), &flat(3), &none).unwrap(), 0.0);
        for other in [&[2, 4, 4, 4][..], &[3, 3, 4, 4], &[2, 3, 4], &[6]] {
            let error = mse(&s, &tensor(other, 1), &none).unwrap_err().to_string();
            assert!(error.starts_with("mse: expected") && !error.contains('\n'), "{error}");
        }
    }
}
