//! The three criteria of neuron selectivity transfer, by kernel.

use super::kernel::{Kernel, Normalization, Sigma};
use super::statistics::nst_from;
use super::{NstOptions, nst_weighted};
use crate::criterion::contract::{Comparison, Criterion, Setup, Spec, Target};
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::settings::{ABOVE_0, ANY, DEGREE, NUMBER, settings};
use crate::error::Result;
use crate::statistic::Statistic;

settings! {
    /// Neuron selectivity transfer with the linear kernel.
    NstLinear {
        /// How channel maps are normalized.
        normalization: Normalization = Normalization::default(), ANY;
    }
}

settings! {
    /// Neuron selectivity transfer with the polynomial kernel.
    NstPoly {
        /// The exponent d.
        degree: u32 = 2, DEGREE;
        /// The constant c.
        constant: f64 = 0.0, NUMBER;
        /// How channel maps are normalized.
        normalization: Normalization = Normalization::default(), ANY;
    }
}

settings! {
    /// Neuron selectivity transfer with the Gaussian kernel.
    NstGauss {
        /// The kernel's width σ.
        sigma: Sigma = Sigma::default(), ABOVE_0;
        /// How channel maps are normalized.
        normalization: Normalization = Normalization::default(), ANY;
    }
}

const PAPER: &str = "Huang & Wang 2017, arXiv:1707.01219";

impl NstLinear {
    fn options(&self) -> NstOptions {
        options(Kernel::Linear, self.normalization)
    }
}

impl NstPoly {
    fn options(&self) -> NstOptions {
        let Self { degree, constant, normalization } = *self;
        options(Kernel::Poly { degree, constant }, normalization)
    }
}

impl NstGauss {
    fn options(&self) -> NstOptions {
        options(Kernel::Gauss { sigma: self.sigma }, self.normalization)
    }
}

/// Keeps the teacher's term: it is constant, but without it the value is not a distance and tells
/// the reader nothing.
fn options(kernel: Kernel, normalization: Normalization) -> NstOptions {
    NstOptions { kernel, normalization, teacher_term: true }
}

/// Folds in the weight: maps are large, and it is free where the gradient is computed.
fn compare(options: &NstOptions, weight: f64, inputs: &Comparison<'_>) -> Result<Evaluation> {
    if let Target::Statistics(teacher) = inputs.target()? {
        return Ok(nst_from(inputs.student()?, &teacher, options, weight)?.into());
    }
    // half-precision maps are widened as they are read
    let (student, teacher) = inputs.stored_pair()?;
    Ok(nst_weighted(student, teacher, options, weight)?.into())
}

macro_rules! nst {
    ($settings:ty, $spec:expr) => {
        impl Criterion for $settings {
            type Memory = ();

            const SPEC: &'static Spec = &$spec;

            /// MMD² of the linear kernel is `‖m_t − m_s‖²`, that of the polynomial kernel
            /// of degree 2 `‖G_t − G_s‖² + 2c ‖m_t − m_s‖²` (docs/statistics.md),
            /// both over maps normalized by their clamped norm.
            fn ways(&self) -> Vec<Vec<Statistic>> {
                self.options().ways()
            }

            fn start(&self, _: &Setup<'_>) -> Result<()> {
                Ok(())
            }

            fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
                compare(&self.options(), 1.0, inputs)
            }

            fn weighted(
                &self,
                weight: f64,
                inputs: &Comparison<'_>,
                (): &mut (),
            ) -> Result<Evaluation> {
                compare(&self.options(), weight, inputs)
            }
        }
    };
}

nst!(
    NstLinear,
    Spec {
        name: "nst-linear",
        title: "Neuron selectivity transfer, linear kernel",
        paper: PAPER,
        weight: 50.0,
        statistics: &[Statistic::Mean, Statistic::Features],
        ..Spec::MAPS
    }
);
nst!(
    NstPoly,
    Spec {
        name: "nst-poly",
        title: "Neuron selectivity transfer, polynomial kernel",
        paper: PAPER,
        note: "the Gram matrix suffices at degree 2 and constant 0; with a constant the mean is \
               needed too",
        weight: 50.0,
        statistics: &[Statistic::Gram, Statistic::Features],
        ..Spec::MAPS
    }
);
nst!(
    NstGauss,
    Spec {
        name: "nst-gauss",
        title: "Neuron selectivity transfer, Gaussian kernel",
        paper: PAPER,
        weight: 50.0,
        ..Spec::MAPS
    }
);
