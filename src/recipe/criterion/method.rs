//! The methods of distillation with their settings, each stated once: name, default weight, what is
//! compared, settings with default and range.

use super::nst::{Kernel, Normalization, Sigma};
use super::setting::{ABOVE_0, ANY, DEGREE, NOT_NEGATIVE, NUMBER, POSITIVE, SHARE, Setting, check};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// What a method compares of teacher and student.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The student's logits with the labels.
    Labels,
    /// The logits.
    Logits,
    /// Pairs of feature maps.
    Maps,
    /// Pairs of vectors, by default those before the classifiers.
    Vectors,
}

/// Declares a method's settings: each with its type, default and range.
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr, $range:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        impl $name {
            fn check(&self, method: &str) -> Result<()> {
                $(check(method, stringify!($field), self.$field.number(), &$range)?;)*
                Ok(())
            }
        }
    };
}

/// A method without settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

impl NoSettings {
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "has the form of the other settings"
    )]
    fn check(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

settings! {
    /// Settings of knowledge distillation.
    Kd {
        /// T.
        temperature: f64 = 4.0, ABOVE_0;
    }
}

settings! {
    /// Settings of decoupled knowledge distillation.
    Dkd {
        /// Weight of the target class's part.
        alpha: f64 = 1.0, NOT_NEGATIVE;
        /// Weight of the other classes' part.
        beta: f64 = 8.0, NOT_NEGATIVE;
        /// T.
        temperature: f64 = 4.0, ABOVE_0;
    }
}

settings! {
    /// Settings of distillation by correlation.
    Dist {
        /// Weight of the part between classes.
        beta: f64 = 1.0, NOT_NEGATIVE;
        /// Weight of the part between samples.
        gamma: f64 = 1.0, NOT_NEGATIVE;
        /// The temperature τ.
        tau: f64 = 1.0, ABOVE_0;
    }
}

settings! {
    /// Settings of neuron selectivity transfer with the linear kernel.
    NstLinear {
        /// How channel maps are normalised.
        normalization: Normalization = Normalization::default(), ANY;
    }
}

settings! {
    /// Settings of neuron selectivity transfer with the polynomial kernel.
    NstPoly {
        /// d.
        degree: u32 = 2, DEGREE;
        /// c.
        constant: f64 = 0.0, NUMBER;
        /// How channel maps are normalised.
        normalization: Normalization = Normalization::default(), ANY;
    }
}

settings! {
    /// Settings of neuron selectivity transfer with the Gaussian kernel.
    NstGauss {
        /// σ.
        sigma: Sigma = Sigma::default(), ABOVE_0;
        /// How channel maps are normalised.
        normalization: Normalization = Normalization::default(), ANY;
    }
}

settings! {
    /// Settings of attention transfer.
    At {
        /// The power p of the activations.
        p: u32 = 2, DEGREE;
    }
}

settings! {
    /// Settings of variational information distillation.
    Vid {
        /// The variance at the start.
        variance: f64 = 5.0, ABOVE_0;
        /// The least variance.
        eps: f64 = 1e-5, ABOVE_0;
    }
}

settings! {
    /// Settings of correlation congruence.
    Cc {
        /// Values of an embedding.
        width: usize = 128, POSITIVE;
    }
}

settings! {
    /// Settings of relational knowledge distillation.
    Rkd {
        /// Weight of the distances.
        distance: f64 = 25.0, NOT_NEGATIVE;
        /// Weight of the angles.
        angle: f64 = 50.0, NOT_NEGATIVE;
    }
}

settings! {
    /// Settings of contrastive representation distillation.
    Crd {
        /// Values of an embedding.
        width: usize = 128, POSITIVE;
        /// Samples of other classes that a sample is held against.
        negatives: usize = 16_384, POSITIVE;
        /// What scores are divided by.
        temperature: f64 = 0.07, ABOVE_0;
        /// The share of its old embedding that a sample's memory keeps.
        momentum: f64 = 0.5, SHARE;
    }
}

settings! {
    /// Settings of activation boundaries.
    Ab {
        /// The margin around 0.
        margin: f64 = 1.0, NOT_NEGATIVE;
    }
}

settings! {
    /// Settings of factor transfer.
    Ft {
        /// The factors' channels, as a share of the teacher's.
        k: f64 = 0.5, ABOVE_0;
        /// The power of the factors.
        p1: u32 = 2, DEGREE;
        /// The power of their distance.
        p2: u32 = 1, DEGREE;
        /// Epochs over which the paraphraser is trained first.
        paraphraser_epochs: usize = 30, ANY;
    }
}

settings! {
    /// Settings of the overhaul of feature distillation.
    Ofd {
        /// Side of the connectors' convolutions.
        kernel: usize = 1, POSITIVE;
    }
}

settings! {
    /// Settings of knowledge review.
    Reviewkd {
        /// Channels within the fusion modules, at most those of the student's deepest stage.
        middle: usize = 512, POSITIVE;
    }
}

/// Declares the methods: variant, settings, name, default weight, what is compared.
macro_rules! methods {
    ($(
        $(#[$doc:meta])*
        $variant:ident($settings:ty) = $name:literal, $weight:literal, $subject:ident;
    )*) => {
        /// What a criterion computes.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Method {
            $($(#[$doc])* $variant($settings),)*
        }

        impl Method {
            /// Every method's name.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The name that recipes, the command line and metrics use.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The weight of a criterion that states none.
            #[must_use]
            pub fn default_weight(&self) -> f64 {
                match self { $(Self::$variant(_) => $weight,)* }
            }

            /// What is compared.
            #[must_use]
            pub fn subject(&self) -> Subject {
                match self { $(Self::$variant(_) => Subject::$subject,)* }
            }

            /// The method of this name with these settings, the others at their defaults; `None`
            /// when there is no such method.
            pub(super) fn read(
                name: &str,
                settings: serde_json::Value,
            ) -> Option<serde_json::Result<Self>> {
                match name {
                    $($name => Some(serde_json::from_value(settings).map(Self::$variant)),)*
                    _ => None,
                }
            }

            /// The settings as a table.
            ///
            /// # Errors
            /// When they cannot be written.
            pub(super) fn write(&self) -> serde_json::Result<serde_json::Value> {
                match self { $(Self::$variant(settings) => serde_json::to_value(settings),)* }
            }

            /// Checks every setting's range.
            pub(super) fn check(&self) -> Result<()> {
                match self { $(Self::$variant(settings) => settings.check($name),)* }
            }
        }
    };
}

methods! {
    /// Cross-entropy with the labels.
    Ce(NoSettings) = "ce", 1.0, Labels;
    /// Knowledge distillation (Hinton et al. 2015).
    Kd(Kd) = "kd", 1.0, Logits;
    /// Decoupled knowledge distillation (Zhao et al. 2022).
    Dkd(Dkd) = "dkd", 1.0, Logits;
    /// Distillation by correlation (Huang et al. 2022).
    Dist(Dist) = "dist", 1.0, Logits;
    /// Neuron selectivity transfer (Huang & Wang 2017) with the linear kernel.
    NstLinear(NstLinear) = "nst-linear", 50.0, Maps;
    /// The same with the polynomial kernel.
    NstPoly(NstPoly) = "nst-poly", 50.0, Maps;
    /// The same with the Gaussian kernel.
    NstGauss(NstGauss) = "nst-gauss", 50.0, Maps;
    /// Hints (Romero et al. 2015).
    Fitnet(NoSettings) = "fitnet", 100.0, Maps;
    /// Attention transfer (Zagoruyko & Komodakis 2017).
    At(At) = "at", 1000.0, Maps;
    /// Variational information distillation (Ahn et al. 2019).
    Vid(Vid) = "vid", 1.0, Maps;
    /// Similarity-preserving distillation (Tung & Mori 2019).
    Sp(NoSettings) = "sp", 3000.0, Maps;
    /// Correlation congruence (Peng et al. 2019).
    Cc(Cc) = "cc", 0.02, Vectors;
    /// Relational knowledge distillation (Park et al. 2019).
    Rkd(Rkd) = "rkd", 1.0, Vectors;
    /// Probabilistic knowledge transfer (Passalis & Tefas 2018).
    Pkt(NoSettings) = "pkt", 30_000.0, Vectors;
    /// Contrastive representation distillation (Tian et al. 2020).
    Crd(Crd) = "crd", 0.8, Vectors;
    /// Activation boundaries (Heo et al. 2019).
    Ab(Ab) = "ab", 1.0, Maps;
    /// Factor transfer (Kim et al. 2018).
    Ft(Ft) = "ft", 200.0, Maps;
    /// Flow of solution procedure (Yim et al. 2017).
    Fsp(NoSettings) = "fsp", 50.0, Maps;
    /// Overhaul of feature distillation (Heo et al. 2019).
    Ofd(Ofd) = "ofd", 0.001, Maps;
    /// Knowledge review (Chen et al. 2021).
    Reviewkd(Reviewkd) = "reviewkd", 1.0, Maps;
    /// Adversarial matching of feature maps (Chung et al. 2020).
    Gan(NoSettings) = "gan", 1.0, Maps;
}

impl Method {
    /// Whether pairs of taps are compared.
    #[must_use]
    pub fn compares_taps(&self) -> bool {
        matches!(self.subject(), Subject::Maps | Subject::Vectors)
    }

    /// Kernel and normalisation of neuron selectivity transfer; `None` for the other methods.
    #[must_use]
    pub fn nst(&self) -> Option<(Kernel, Normalization)> {
        match *self {
            Self::NstLinear(NstLinear { normalization }) => Some((Kernel::Linear, normalization)),
            Self::NstPoly(NstPoly { degree, constant, normalization }) => {
                Some((Kernel::Poly { degree, constant }, normalization))
            }
            Self::NstGauss(NstGauss { sigma, normalization }) => {
                Some((Kernel::Gauss { sigma }, normalization))
            }
            _ => None,
        }
    }
}
