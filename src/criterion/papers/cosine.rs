//! Cosine distance of feature vectors.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::columns::column_mean;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::module::Module;
use crate::criterion::math::projector::{channel_axis, compare, projectors};
use crate::criterion::settings::{ANY, settings};
use crate::error::{Error, Result};
use crate::kernel::norm::NormShape;
use candle_core::Tensor;

settings! {
    /// Cosine distance.
    Cosine {
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

impl Criterion for Cosine {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "cosine",
        title: "Cosine distance",
        paper: "none",
        note: "of the channels at every position: axis 1 of vectors and maps, the last of tokens; \
               projector=true learns a linear layer to the teacher's channels",
        ..Spec::TENSORS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        for shapes in setup.layers {
            let axis = channel_axis(shapes.teacher.len() + 1) - 1;
            if shapes.teacher.get(axis) == Some(&1) {
                let error = Error::input("cosine: expected 2 channels or more, found 1: a sign");
                return Err((setup.refuse)(error.hint("compare the values: mse or smooth-l1")));
            }
        }
        projectors(setup, self.projector)
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.stored_pair()?;
        cosine(student, teacher, channel_axis(student.rank()), inputs.of_layer(modules)?)
    }
}

/// `L = 1 − mean over batch and positions of ⟨s, t⟩/(‖s‖‖t‖)`, of the vectors along `axis`. A pair
/// with a zero vector counts as 0 and has no gradient. Maps of different sizes are first adaptively
/// average-pooled, each axis to the smaller of both.
///
/// # Shapes
/// `student` and `teacher` of one shape, but for the sizes of maps
/// `[batch, channels, height, width]`, and the channels if the module is a projector.
///
/// # Errors
/// When the shapes disagree, or have no such axis.
pub fn cosine(
    student: &Tensor,
    teacher: &Tensor,
    axis: usize,
    module: &Module,
) -> Result<Evaluation> {
    compare(student, teacher, module, "cosine", |s, t| {
        let Some(&channels) = s.dims().get(axis) else {
            return Err(Error::input(format!(
                "cosine: expected [batch, channels, …], found {:?}",
                s.dims()
            )));
        };
        let product = |dims: &[usize]| dims.iter().product();
        let (outer, inner) = (product(&s.dims()[..axis]), product(&s.dims()[axis + 1..]));
        column_mean(s, t, NormShape { outer, channels, inner }, "cosine", distance)
    })
}

/// `1 − cos`; its gradient takes the place of s.
fn distance(s: &mut [f64], t: &mut [f64]) -> f64 {
    let (mut own, mut other, mut both) = (0.0, 0.0, 0.0);
    for (s, t) in s.iter().zip(t.iter()) {
        own += s * s;
        other += t * t;
        both += s * t;
    }
    let norms = own.sqrt() * other.sqrt();
    if norms == 0.0 {
        s.fill(0.0);
        return 1.0;
    }
    // d(1 − cos)/ds = cos/‖s‖² · s − 1/(‖s‖‖t‖) · t
    let cos = both / norms;
    let (along_s, along_t) = (cos / own, 1.0 / norms);
    for (s, t) in s.iter_mut().zip(t.iter()) {
        *s = along_s * *s - along_t * t;
    }
    1.0 - cos
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
        for (student, teacher, axis) in [
            (&[5, 3][..], &[5, 3][..], 1),
            (&[2, 4, 3], &[2, 4, 3], 1),
            (&[2, 4, 3], &[2, 4, 3], 2),
            (&[2, 3, 5, 3], &[2, 3, 3, 4], 1),
            // more positions than are read at a time
            (&[1, 2, 10, 13], &[1, 2, 10, 13], 1),
        ] {
            let (s, t) = (tensor(student, 1), tensor(teacher, 2));
            assert_gradients(&[&s], &Module::default(), |x, m| cosine(x[0], &t, axis, m));
        }
        let mut init = Init::new(1);
        init.layer("projector", &[4, 3], Some(4)).unwrap();
        let (s, t) = (tensor(&[2, 5, 3], 1), tensor(&[2, 5, 4], 2));
        assert_gradients(&[&s], &init.finish().unwrap(), |x, m| cosine(x[0], &t, 2, m));
    }

    #[test]
    fn angles_and_zero_vectors_by_hand() {
        let s = Tensor::new(&[[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[[4.0, 3.0], [1.0, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let found = cosine(&s, &t, 1, &Module::default()).unwrap();
        assert!((found.value - (3.0 - 0.96) / 3.0).abs() < 1e-15, "{}", found.value);
        let gradient = found.inputs[0].to_vec2::<f64>().unwrap();
        // (0.96·(3, 4) − (4, 3))/25/3
        assert!((gradient[0][0] + 1.12 / 75.0).abs() < 1e-15, "{gradient:?}");
        assert_eq!(gradient[1..], [[0.0; 2], [0.0; 2]]);
    }

    #[test]
    fn equal_large_and_small_vectors_are_finite() {
        let none = Module::default();
        let s = tensor(&[2, 3, 4, 4], 1).to_dtype(DType::F32).unwrap();
        assert_zero(&cosine(&s, &s, 1, &none).unwrap(), 1e-7);
        for factor in [0.0, 1e-25, 1e25] {
            let scaled = (&s * factor).unwrap();
            assert_finite(&cosine(&scaled, &s, 1, &none).unwrap());
            assert_finite(&cosine(&s, &scaled, 1, &none).unwrap());
        }
        assert!(cosine(&s, &s, 4, &none).is_err());
        assert!(cosine(&s, &tensor(&[2, 4, 4, 4], 1), 1, &none).is_err());
    }
}
