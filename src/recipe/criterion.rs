//! Criteria as a recipe names them: `nst`, `nst:kernel=gauss,weight=25,pair=stage2>/layer2/Relu_output_0`, or a `[[criterion]]` table.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The kernel of the squared maximum mean discrepancy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// k(x, y) = x·y.
    Linear,
    /// k(x, y) = (x·y + c)^d.
    Poly {
        /// The exponent d.
        degree: u32,
        /// The constant c.
        constant: f64,
    },
    /// k(x, y) = exp(−‖x−y‖² / (2σ²)).
    Gauss {
        /// σ², or how it is found.
        sigma: Sigma,
    },
}

/// The width of the Gaussian kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Sigma {
    /// `σ² = mean ‖t_i − s_j‖²` over the teacher–student pairs of a sample, without gradient.
    #[default]
    AutoSample,
    /// The same mean over all samples of the batch.
    AutoBatch,
    /// σ itself.
    #[serde(untagged)]
    Fixed(f64),
}

/// How a channel map becomes a unit vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// x / max(‖x‖, 1e-12), as `RepDistiller` does.
    #[default]
    Clamped,
    /// x / √(‖x‖² + 1e-10), as the paper's own code does.
    Rsqrt,
}

/// One pair of taps to bring together: the cache's alias and the student's tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRecipe {
    /// Alias (or tensor name) of the teacher's tap in the cache.
    pub teacher: String,
    /// Name of the student's tensor.
    pub student: String,
}

/// What a criterion computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Cross-entropy with the labels.
    Ce,
    /// Hinton's knowledge distillation on the logits.
    Kd {
        /// The temperature T.
        temperature: f64,
    },
    /// Neuron selectivity transfer: squared MMD between channel maps.
    Nst {
        /// The kernel.
        kernel: Kernel,
        /// How channel maps are normalised.
        normalization: Normalization,
        /// The taps to pair; empty: the suggested pairs.
        pairs: Vec<PairRecipe>,
    },
}

/// One weighted term of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct CriterionRecipe {
    /// The factor of this term in the total.
    pub weight: f64,
    /// What is computed.
    pub method: Method,
}

impl CriterionRecipe {
    /// Cross-entropy with weight 1.
    pub const CE: Self = Self { weight: 1.0, method: Method::Ce };

    /// Fifty times NST with the squared kernel on the suggested pairs: what a run with a cache adds by default.
    #[must_use]
    pub fn default_nst() -> Self {
        let kernel = Kernel::Poly { degree: 2, constant: 0.0 };
        Self { weight: 50.0, method: Method::Nst { kernel, normalization: Normalization::default(), pairs: Vec::new() } }
    }

    /// The name under which metrics list this term: `ce`, `kd`, `nst-poly`, …
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.method {
            Method::Ce => "ce",
            Method::Kd { .. } => "kd",
            Method::Nst { kernel: Kernel::Linear, .. } => "nst-linear",
            Method::Nst { kernel: Kernel::Poly { .. }, .. } => "nst-poly",
            Method::Nst { kernel: Kernel::Gauss { .. }, .. } => "nst-gauss",
        }
    }

    /// Checks weights, temperature, degree, constant and width.
    ///
    /// # Errors
    /// When a value is outside its range.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: &str, expected: &str, found: f64| {
            Err(Error::input(format!("criterion {}: {what}: expected {expected}, found {found}", self.name())))
        };
        if !self.weight.is_finite() || self.weight < 0.0 {
            return bad("weight", "a finite value of 0 or more", self.weight);
        }
        match &self.method {
            Method::Kd { temperature } if !(temperature.is_finite() && *temperature > 0.0) => {
                bad("temperature", "a value above 0", *temperature)
            }
            Method::Nst { kernel: Kernel::Poly { degree, .. }, .. } if !(1..=8).contains(degree) => {
                bad("degree", "1 to 8", f64::from(*degree))
            }
            Method::Nst { kernel: Kernel::Poly { constant, .. }, .. } if !constant.is_finite() => {
                bad("constant", "a finite value", *constant)
            }
            Method::Nst { kernel: Kernel::Gauss { sigma: Sigma::Fixed(s) }, .. } if !(s.is_finite() && *s > 0.0) => {
                bad("sigma", "a value above 0", *s)
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for CriterionRecipe {
    type Err = Error;

    /// `METHOD[:key=value,…]`, METHOD one of ce, kd, nst, nst-linear, nst-poly, nst-gauss.
    /// Keys: weight; temperature (kd); kernel, degree, constant, sigma, normalization, pair=TEACHER>STUDENT, which may be repeated (nst).
    fn from_str(text: &str) -> Result<Self> {
        let (method, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut table = Table { method: method.to_owned(), ..Table::default() };
        for setting in rest.split(',').filter(|s| !s.is_empty()) {
            let wrong = |expected: &str| Error::input(format!("criterion `{text}`: `{setting}`: expected {expected}"));
            let (key, value) = setting.split_once('=').ok_or_else(|| wrong("key=value"))?;
            let number = || value.parse::<f64>().map_err(|_| wrong("a number"));
            match key {
                "weight" => table.weight = Some(number()?),
                "temperature" => table.temperature = Some(number()?),
                "kernel" => table.kernel = Some(value.to_owned()),
                "degree" => table.degree = Some(value.parse().map_err(|_| wrong("a whole number"))?),
                "constant" => table.constant = Some(number()?),
                "sigma" => {
                    table.sigma = Some(match value {
                        "auto-sample" => Sigma::AutoSample,
                        "auto-batch" => Sigma::AutoBatch,
                        _ => Sigma::Fixed(value.parse().map_err(|_| wrong("auto-sample, auto-batch or a number"))?),
                    });
                }
                "normalization" => {
                    table.normalization = Some(match value {
                        "clamped" => Normalization::Clamped,
                        "rsqrt" => Normalization::Rsqrt,
                        _ => return Err(wrong("clamped or rsqrt")),
                    });
                }
                "pair" => {
                    let (teacher, student) = value.split_once('>').ok_or_else(|| wrong("pair=TEACHER>STUDENT"))?;
                    let pair = PairRecipe { teacher: teacher.to_owned(), student: student.to_owned() };
                    table.pairs.get_or_insert_default().push(pair);
                }
                _ => return Err(unknown_key(&table.method, key)),
            }
        }
        table.try_into()
    }
}

/// A criterion as it stands in TOML: every key of every method, so that serde refuses the others by name (it cannot with a flattened enum).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    degree: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constant: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma: Option<Sigma>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalization: Option<Normalization>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs: Option<Vec<PairRecipe>>,
}

/// The error for a key that a method does not take.
fn unknown_key(method: &str, key: &str) -> Error {
    Error::input(format!("criterion {method}: unknown key `{key}`"))
}

impl TryFrom<Table> for CriterionRecipe {
    type Error = Error;

    fn try_from(mut table: Table) -> Result<Self> {
        let method = std::mem::take(&mut table.method);
        let weight = table.weight.take();
        let (default_weight, what) = match method.as_str() {
            "ce" => (1.0, Method::Ce),
            "kd" => (1.0, Method::Kd { temperature: table.temperature.take().unwrap_or(4.0) }),
            "nst" | "nst-linear" | "nst-poly" | "nst-gauss" => {
                let named = method.strip_prefix("nst-");
                let given = table.kernel.take();
                if let (Some(named), Some(given)) = (named, given.as_deref())
                    && named != given
                {
                    return Err(Error::input(format!("criterion {method}: kernel: expected {named}, found {given}")));
                }
                let kernel = match given.as_deref().or(named).unwrap_or("poly") {
                    "linear" => Kernel::Linear,
                    "poly" => Kernel::Poly { degree: table.degree.take().unwrap_or(2), constant: table.constant.take().unwrap_or(0.0) },
                    "gauss" => Kernel::Gauss { sigma: table.sigma.take().unwrap_or_default() },
                    other => {
                        return Err(Error::input(format!("criterion {method}: kernel: expected linear, poly or gauss, found {other}")));
                    }
                };
                let normalization = table.normalization.take().unwrap_or_default();
                (50.0, Method::Nst { kernel, normalization, pairs: table.pairs.take().unwrap_or_default() })
            }
            other => {
                return Err(Error::input(format!("criterion `{other}`: expected ce, kd, nst, nst-linear, nst-poly or nst-gauss")));
            }
        };
        // what the method took is gone; a key that is left belongs to another
        let Table { method: _, weight: _, temperature, kernel, degree, constant, sigma, normalization, pairs } = table;
        let left = [
            ("temperature", temperature.is_some()),
            ("kernel", kernel.is_some()),
            ("degree", degree.is_some()),
            ("constant", constant.is_some()),
            ("sigma", sigma.is_some()),
            ("normalization", normalization.is_some()),
            ("pairs", pairs.is_some()),
        ];
        if let Some((key, _)) = left.iter().find(|(_, there)| *there) {
            return Err(unknown_key(&method, key));
        }
        let recipe = Self { weight: weight.unwrap_or(default_weight), method: what };
        recipe.validate()?;
        Ok(recipe)
    }
}

impl From<CriterionRecipe> for Table {
    fn from(recipe: CriterionRecipe) -> Self {
        let mut table = Self { weight: Some(recipe.weight), ..Self::default() };
        match recipe.method {
            Method::Ce => "ce".clone_into(&mut table.method),
            Method::Kd { temperature } => {
                "kd".clone_into(&mut table.method);
                table.temperature = Some(temperature);
            }
            Method::Nst { kernel, normalization, pairs } => {
                "nst".clone_into(&mut table.method);
                let name = match kernel {
                    Kernel::Linear => "linear",
                    Kernel::Poly { degree, constant } => {
                        (table.degree, table.constant) = (Some(degree), Some(constant));
                        "poly"
                    }
                    Kernel::Gauss { sigma } => {
                        table.sigma = Some(sigma);
                        "gauss"
                    }
                };
                table.kernel = Some(name.to_owned());
                table.normalization = Some(normalization);
                table.pairs = Some(pairs);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CriterionRecipe> {
        text.parse()
    }

    #[test]
    fn short_forms() {
        assert_eq!(parse("ce").unwrap(), CriterionRecipe::CE);
        assert_eq!(parse("nst").unwrap(), CriterionRecipe::default_nst());
        assert_eq!(parse("nst-poly").unwrap(), CriterionRecipe::default_nst());
        assert_eq!(parse("kd:weight=0.9").unwrap(), CriterionRecipe { weight: 0.9, method: Method::Kd { temperature: 4.0 } });
        let gauss = parse("nst:kernel=gauss,sigma=0.5,weight=25,pair=stage1>/a/Relu,pair=stage2>/b").unwrap();
        let Method::Nst { kernel, pairs, .. } = gauss.method else { panic!() };
        assert_eq!(kernel, Kernel::Gauss { sigma: Sigma::Fixed(0.5) });
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[1], PairRecipe { teacher: "stage2".into(), student: "/b".into() });
    }

    #[test]
    fn wrong_forms_name_what_is_wrong() {
        for (text, part) in [
            ("mse", "`mse`"),
            ("nst:kernel=cubic", "cubic"),
            ("ce:temperature=4", "unknown key `temperature`"),
            ("nst-linear:degree=3", "unknown key `degree`"),
            ("nst-linear:kernel=poly", "expected linear"),
            ("nst:colour=red", "unknown key `colour`"),
            ("kd:temperature=0", "above 0"),
            ("kd:temperature=warm", "a number"),
            ("nst:degree=9", "1 to 8"),
            ("nst:pair=a", "TEACHER>STUDENT"),
            ("nst:weight=-1", "0 or more"),
            ("nst:weight", "key=value"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn records_read_back() {
        for text in ["ce", "kd:temperature=2", "nst-linear", "nst:degree=3,constant=1", "nst-gauss:sigma=auto-batch", "nst-gauss:sigma=2"] {
            let recipe = parse(text).unwrap();
            let json = serde_json::to_string(&recipe).unwrap();
            assert_eq!(serde_json::from_str::<CriterionRecipe>(&json).unwrap(), recipe, "{json}");
            let toml = toml::to_string(&recipe).unwrap();
            assert_eq!(toml::from_str::<CriterionRecipe>(&toml).unwrap(), recipe, "{toml}");
        }
    }
}
