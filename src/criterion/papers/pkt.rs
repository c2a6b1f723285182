//! Probabilistic knowledge transfer (Passalis & Tefas 2018, arXiv:1803.10837), in the form of
//! `RepDistiller`.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{Guard, mean, rows, same_batch, unit_rows};
use crate::criterion::settings::settings;
use crate::error::Result;
use candle_core::{D, Tensor};

settings! {
    /// Probabilistic knowledge transfer.
    Pkt {}
}

impl Criterion for Pkt {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "pkt",
        title: "Probabilistic knowledge transfer",
        paper: "Passalis & Tefas 2018, arXiv:1803.10837",
        note: "compares samples of a batch with each other",
        weight: 30_000.0,
        ..Spec::VECTORS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        pkt(student, &teacher)
    }
}

/// The ε added to the norms and within the logarithm.
const EPS: f64 = 1e-7;

/// `L = mean_ij P_ij ln((P_ij + ε)/(Q_ij + ε))`, P from the teacher, Q from the student:
/// `K_ij = (1 + ⟨x_i, x_j⟩/((‖x_i‖ + ε)(‖x_j‖ + ε)))/2` with rows divided by their
/// sums, ε = 1e-7. Computed in double precision. An all-zero sample has no gradient.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`.
///
/// # Errors
/// When batches disagree.
pub fn pkt(student: &Tensor, teacher: &Tensor) -> Result<Evaluation> {
    same_batch(student, teacher, "pkt")?;
    differentiate(&[student], None, |x| {
        let (q, p) = (neighborhood(&x[0])?, neighborhood(teacher)?);
        mean(&(&p * ((&p + EPS)?.log()? - (q + EPS)?.log()?)?)?)
    })
}

fn neighborhood(x: &Tensor) -> Result<Tensor> {
    let unit = unit_rows(&rows(x, "pkt")?, Guard::Plus(EPS))?;
    let kernel = ((unit.matmul(&unit.t()?)? + 1.0)? * 0.5)?;
    Ok(kernel.broadcast_div(&kernel.sum_keepdim(D::Minus1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;

    #[test]
    fn gradients_match_finite_differences() {
        let t = tensor(&[4, 7], 2);
        // the values are small, so the differences are of a scaled loss
        assert_gradients(&[&tensor(&[4, 3], 1)], &Module::default(), |x, _| {
            pkt(x[0], &t)?.scaled(100.0)
        });
    }

    #[test]
    fn dead_coincident_and_lone_samples_are_finite() {
        let t = tensor(&[3, 4], 1);
        let first = t.narrow(0, 0, 1).unwrap();
        let dead = first.zeros_like().unwrap();
        let found = pkt(&Tensor::cat(&[&first, &first, &dead], 0).unwrap(), &t).unwrap();
        assert_finite(&found);
        assert_eq!(found.inputs[0].to_vec2::<f64>().unwrap()[2], [0.0; 4]);
        assert_finite(&pkt(&(&t * 1e9).unwrap(), &t).unwrap());
        // opposite samples have weight 0
        assert_finite(
            &pkt(
                &Tensor::cat(&[&first, &first.neg().unwrap()], 0).unwrap(),
                &t.narrow(0, 0, 2).unwrap(),
            )
            .unwrap(),
        );
        assert_zero(&pkt(&first, &dead).unwrap(), 1e-7);
        // the ε in the logarithm keeps the gradient slightly off 0
        assert_zero(&pkt(&t, &t).unwrap(), 1e-6);
    }
}
