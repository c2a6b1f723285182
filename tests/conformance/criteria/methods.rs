//! Each method of the references, computed by our criteria: dispatch on the header's method and
//! hyperparameters.

use super::{Case, Failure};
use candle_core::{DType, Tensor};
use nst_cache::array::{Layout, Values};
use nst_cache::criterion::Evaluation;
use nst_cache::criterion::Statistics;
use nst_cache::criterion::math::convolution::Geometry;
use nst_cache::criterion::math::module::{Module, regressor_between};
use nst_cache::criterion::papers::cross_entropy::{
    cross_entropy, mixed_cross_entropy, soft_cross_entropy,
};
use nst_cache::criterion::papers::lightly::v1::lightly_v1;
use nst_cache::criterion::papers::lightly::v3::{LightlyV3, lightly_v3};
use nst_cache::criterion::papers::lightly::{Queue, QueueSize};
use nst_cache::criterion::papers::nst::{
    Kernel, Normalization, NstOptions, Sigma, nst_from, nst_with,
};
use nst_cache::criterion::papers::{
    ab, at, cc, cosine::cosine, crd, cwd::cwd, dist, dkd, fitnet, fsp, ft, kd::kd,
    kd_binary::kd_binary, lskd::lskd, mgd, ofd, pkd::pkd, pkt, pointwise, reviewkd, rkd, sp, vid,
};
use nst_cache::criterion::sakd;
use nst_cache::error::Error;
use nst_cache::statistic::{Maps, Statistic, compute};
use serde_json::Value;

type Result<T, E = Failure> = std::result::Result<T, E>;

/// A loss, the gradients of the tensors that it names, and intermediate values under the names that
/// the file has them by.
pub struct Computed {
    pub loss: f64,
    pub gradients: Vec<(String, Tensor)>,
    pub outputs: Vec<(String, Tensor)>,
}

impl Computed {
    /// An evaluation whose inputs have these names in the file.
    fn new(names: &[&str], evaluation: Evaluation) -> Self {
        let inputs = names.iter().map(|n| (*n).to_owned()).zip(evaluation.inputs);
        let weights = evaluation.weights.into_iter().map(|(name, g)| (format!("w.{name}"), g));
        Self {
            loss: evaluation.value,
            gradients: inputs.chain(weights).collect(),
            outputs: Vec::new(),
        }
    }

    fn output(mut self, name: &str, tensor: Tensor) -> Self {
        self.outputs.push((name.to_owned(), tensor));
        self
    }
}

/// A case in one element type.
pub struct Run<'a> {
    pub case: &'a Case,
    pub dtype: DType,
}

/// The layers `t.0`, `s.0`, … or the one layer `t`, `s`.
struct Layers {
    names: Vec<String>,
    students: Vec<Tensor>,
    teachers: Vec<Tensor>,
}

impl Run<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        Ok(self.case.tensor(name)?.to_dtype(self.dtype)?)
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.case.number(key)
    }

    fn power(&self, key: &str) -> Result<u32> {
        let p = self.number(key)?;
        if p.fract() == 0.0 && (1.0..=16.0).contains(&p) {
            Ok(p as u32)
        } else {
            Err(format!("{key}: expected a whole power, found {p}").into())
        }
    }

    fn layers(&self) -> Result<Layers> {
        let names: Vec<(String, String)> = if self.case.has("s") {
            vec![("s".into(), "t".into())]
        } else {
            (0..self.case.tensors.len())
                .map(|i| (format!("s.{i}"), format!("t.{i}")))
                .take_while(|(s, _)| self.case.has(s))
                .collect()
        };
        let students = names.iter().map(|(s, _)| self.tensor(s)).collect::<Result<_>>()?;
        let teachers = names.iter().map(|(_, t)| self.tensor(t)).collect::<Result<_>>()?;
        Ok(Layers { names: names.into_iter().map(|(s, _)| s).collect(), students, teachers })
    }

    /// The sum of a criterion over the layers.
    fn each(
        &self,
        criterion: impl Fn(&Tensor, &Tensor) -> Result<Evaluation, Error>,
    ) -> Result<Computed> {
        let layers = self.layers()?;
        let mut sum = Computed { loss: 0.0, gradients: Vec::new(), outputs: Vec::new() };
        for ((name, s), t) in layers.names.iter().zip(&layers.students).zip(&layers.teachers) {
            let part = Computed::new(&[name], criterion(s, t)?);
            sum.loss += part.loss;
            sum.gradients.extend(part.gradients);
        }
        Ok(sum)
    }

    /// A criterion over all layers at once.
    fn together(
        &self,
        criterion: impl FnOnce(&[&Tensor], &[&Tensor]) -> Result<Evaluation, Error>,
    ) -> Result<Computed> {
        let layers = self.layers()?;
        let (s, t): (Vec<&Tensor>, Vec<&Tensor>) =
            (layers.students.iter().collect(), layers.teachers.iter().collect());
        let names: Vec<&str> = layers.names.iter().map(String::as_str).collect();
        Ok(Computed::new(&names, criterion(&s, &t)?))
    }

    /// The module of the tensors under a prefix.
    fn module(&self, prefix: &str) -> Result<Module> {
        let named =
            self.case.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?, t)));
        Ok(Module::new(
            named
                .map(|(name, t)| Ok((name.to_owned(), t.to_dtype(self.dtype)?)))
                .collect::<Result<Vec<_>>>()?,
        )?)
    }

    /// The loss and gradients; `None` for a method, or a form of one, that is not built.
    pub fn compute(&self) -> Result<Option<Computed>> {
        let alone = |evaluation: Evaluation| Computed::new(&["s"], evaluation);
        let method = self.case.entry("method")?;
        Ok(Some(match method {
            "kd" | "kl_soft" | "kd_dense" => {
                let temperature = self.number("T")?;
                self.each(|s, t| kd(s, t, temperature))?
            }
            "ce_smooth" => alone(
                cross_entropy(
                    &self.tensor("s")?,
                    &self.case.labels("labels")?,
                    self.number("label_smoothing")?,
                )?
                .into(),
            ),
            "ce_mixup" => {
                let (a, b) = (self.case.labels("labels")?, self.case.labels("labels.b")?);
                alone(
                    mixed_cross_entropy(
                        &self.tensor("s")?,
                        &a,
                        &b,
                        &vec![self.number("lam")?; a.len()],
                        0.0,
                    )?
                    .into(),
                )
            }
            "ce_soft_target" => {
                alone(soft_cross_entropy(&self.tensor("s")?, &self.tensor("target")?)?.into())
            }
            "dkd" | "dkd_logspace" => {
                let [alpha, beta, temperature] =
                    [self.number("alpha")?, self.number("beta")?, self.number("T")?];
                alone(dkd::dkd(
                    &self.tensor("s")?,
                    &self.tensor("t")?,
                    &self.case.labels("labels")?,
                    alpha,
                    beta,
                    temperature,
                )?)
            }
            "dist" => {
                let [beta, gamma, tau] =
                    [self.number("beta")?, self.number("gamma")?, self.number("tau")?];
                self.each(|s, t| dist::dist(s, t, beta, gamma, tau))?
            }
            "fitnet_mse" => self.each(fitnet::hint)?,
            "fitnet" => return self.fitnet(),
            "at" => {
                let p = self.power("p")?;
                self.each(|s, t| at::at(s, t, p))?
            }
            "sp" => self.each(sp::sp)?,
            "cc" => self.each(cc::cc)?,
            "cc_embed" => {
                alone(cc::embedded(&self.tensor("s")?, &self.tensor("t")?, &self.module("w.")?)?)
            }
            "vid" => alone(vid::vid(
                &self.tensor("s")?,
                &self.tensor("t")?,
                &self.module("w.")?,
                self.number("eps")?,
            )?),
            "rkd" => {
                let (distance, angle) = (self.number("w_d")?, self.number("w_a")?);
                self.each(|s, t| rkd::rkd(s, t, distance, angle))?
            }
            "pkt" => self.each(pkt::pkt)?,
            "ft" => {
                let (p1, p2) = (self.power("p1")?, self.power("p2")?);
                self.each(|s, t| ft::factors(s, t, p1, p2))?
            }
            "ft_full" => {
                let (powers, slope) =
                    ([self.power("p1")?, self.power("p2")?], self.number("leaky")?);
                let (translator, paraphraser) =
                    (self.module("w.")?, self.module("c.paraphraser.")?);
                alone(ft::ft(
                    &self.tensor("s")?,
                    &self.tensor("t")?,
                    &translator,
                    &paraphraser,
                    powers,
                    slope,
                )?)
            }
            "ft_paraphraser" => Computed::new(
                &[],
                ft::paraphrase(&self.tensor("t")?, &self.module("w.")?, self.number("leaky")?)?,
            ),
            "ab" | "ab_connect" => {
                let (connectors, margin) = (self.module("w.")?, self.number("margin")?);
                self.together(|s, t| ab::ab(s, t, &connectors, margin))?
            }
            "fsp" => self.together(fsp::fsp)?,
            "crd" => self.crd()?,
            "reviewkd" => {
                let (module, weight) = (
                    self.module("w.")?,
                    self.number("reviewkd_weight")? * self.number("warmup_factor")?,
                );
                self.together(|s, t| reviewkd::reviewkd(s, t, &module)?.scaled(weight))?
            }
            "ofd" => self.ofd()?,
            "sakd_gate" => self.gates()?,
            "sakd_route" | "sakd_route_linear" => self.route()?,
            "sakd_policy" => {
                let outputs = [&self.tensor("s")?, &self.tensor("t")?, &self.tensor("plain")?];
                let gamma = self.number("gamma")?;
                Computed::new(
                    &["s", "t", "a"],
                    sakd::policy_loss(
                        outputs,
                        &self.tensor("a")?,
                        &self.case.labels("labels")?,
                        gamma,
                    )?,
                )
            }
            "sakd_student_nst" => self.spots()?,
            _ => match self.nst_options(method)? {
                Some(options) => self.each(|s, t| Ok(nst_with(s, t, &options)?.into()))?,
                None => return self.of_tensors(method),
            },
        }))
    }

    /// The same of the criteria of dense prediction, embeddings and multi-label outputs.
    fn of_tensors(&self, method: &str) -> Result<Option<Computed>> {
        let none = Module::default();
        Ok(Some(match method {
            "kd_binary" => {
                let temperature = self.number("T")?;
                self.each(|s, t| kd_binary(s, t, temperature, &none))?
            }
            "lskd" => {
                let temperature = self.number("T")?;
                self.each(|s, t| lskd(s, t, temperature))?
            }
            "mse" => self.each(|s, t| pointwise::mse(s, t, &none))?,
            "l1" => self.each(|s, t| pointwise::l1(s, t, &none))?,
            "smooth_l1" => {
                let beta = self.number("beta")?;
                self.each(|s, t| pointwise::smooth_l1(s, t, beta, &none))?
            }
            // the references' channels are axis 1, whatever the rank
            "cosine" => self.each(|s, t| cosine(s, t, 1, &none))?,
            "cwd" => {
                let tau = self.number("tau")?;
                self.each(|s, t| cwd(s, t, tau, &none))?
            }
            "pkd" => self.each(|s, t| pkd(s, t, &none))?,
            "mgd" => self.mgd()?,
            "lightly_v1" => self.lightly_v1()?,
            "lightly_v3" => self.lightly_v3()?,
            _ => return Ok(None),
        }))
    }

    /// The loss and gradients from f32 statistics of the teacher's maps; `None` where they do not
    /// suffice.
    pub fn by_statistics(&self) -> Result<Option<Computed>> {
        let method = self.case.entry("method")?;
        if method == "at" && (self.number("p")? - 2.0).abs() < f64::EPSILON {
            return Ok(Some(
                self.each(|s, t| at::at_from(s, &Self::statistic(Statistic::Attention, s, t)?))?,
            ));
        }
        let Some(options) = self.nst_options(method)? else { return Ok(None) };
        let suffices = matches!(options.kernel, Kernel::Linear | Kernel::Poly { degree: 2, .. });
        if !suffices || options.normalization != Normalization::Clamped {
            return Ok(None);
        }
        let of_layer = |s: &Tensor, t: &Tensor| {
            let (gram, mean) =
                (Self::statistic(Statistic::Gram, s, t)?, Self::statistic(Statistic::Mean, s, t)?);
            let known = Statistics {
                size: Self::common_size(s, t)?,
                gram: Some(&gram),
                mean: Some(&mean),
                attention: None,
            };
            Ok(nst_from(s, &known, &options, 1.0)?.into())
        };
        Ok(Some(self.each(of_layer)?))
    }

    fn common_size(s: &Tensor, t: &Tensor) -> Result<[usize; 2], Error> {
        Ok([s.dim(2)?.min(t.dim(2)?), s.dim(3)?.min(t.dim(3)?)])
    }

    /// A statistic as an extraction takes it for this student: of f32 maps, at its size where that
    /// is smaller.
    fn statistic(statistic: Statistic, s: &Tensor, t: &Tensor) -> Result<Tensor, Error> {
        let (batch, channels, height, width) = t.dims4()?;
        let maps = Maps {
            layout: Layout::Nchw,
            channels,
            from: [height, width],
            size: Self::common_size(s, t)?,
        };
        let values = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let shape = maps.stored().row(statistic).map(|(shape, _)| shape).unwrap_or_default();
        match compute(statistic, &values, &maps)? {
            Values::F32(values) => {
                Ok(Tensor::from_vec(values, [&[batch], shape.as_slice()].concat(), s.device())?)
            }
            other => Err(Error::input(format!("statistic: expected f32, found {other:?}"))),
        }
    }

    /// How the header says that a regressor moves, which has to be what the law between the two
    /// sizes gives.
    fn geometry(header: &Value, from: &Tensor, to: &Tensor) -> Result<Geometry> {
        let pair =
            |key: &str| -> Result<[usize; 2]> { Ok(serde_json::from_value(header[key].clone())?) };
        let size = |x: &Tensor| -> Result<[usize; 2]> { Ok([x.dim(2)?, x.dim(3)?]) };
        let geometry = Geometry {
            transposed: header["conv"] == "ConvTranspose2d",
            stride: pair("stride")?,
            padding: pair("padding")?,
        };
        let law = regressor_between(size(from)?, size(to)?)?;
        if law == (pair("kernel")?, geometry) {
            Ok(geometry)
        } else {
            Err(format!("regressor: expected {header}, found {law:?}").into())
        }
    }

    fn fitnet(&self) -> Result<Option<Computed>> {
        let header = &self.case.hyperparameters;
        if header["bn_train"] == false {
            return Ok(None);
        }
        let (s, t, module) = (self.tensor("s")?, self.tensor("t")?, self.module("w.")?);
        let geometry = Self::geometry(header, &s, &t)?;
        let regressed = fitnet::regress(&s, &module, geometry)?;
        Ok(Some(
            Computed::new(&["s"], fitnet::fitnet(&s, &t, &module, geometry)?)
                .output("regressed", regressed),
        ))
    }

    fn mgd(&self) -> Result<Computed> {
        let (s, t) = (self.tensor("s")?, self.tensor("t")?);
        let (mask, module) = (self.tensor("c.mask")?, self.module("w.")?);
        let generated = mgd::generate(&s, Self::common_size(&s, &t)?, &mask, &module)?;
        Ok(Computed::new(&["s"], mgd::mgd(&s, &t, &mask, &module)?).output("generated", generated))
    }

    /// The queue before the step, of the size that the header says.
    fn queue(&self) -> Result<Queue> {
        let queue = Queue::of(self.tensor("c.queue")?)?;
        let size = self.number("queue_size")? as usize;
        if queue.rows().dim(0)? == size {
            Ok(queue)
        } else {
            Err(format!("queue: expected {size} rows, found {:?}", queue.rows().dims()).into())
        }
    }

    fn lightly_v1(&self) -> Result<Computed> {
        let (module, mut queue, temperature) =
            (self.module("w.")?, self.queue()?, self.number("temperature")?);
        let (s, t) = (self.tensor("s")?, self.tensor("t")?);
        let found = lightly_v1(&s, &t, &module, &mut queue, temperature)?;
        Ok(Computed::new(&["s"], found).output("queue", queue.rows().clone()))
    }

    fn lightly_v3(&self) -> Result<Computed> {
        let (module, mut queue) = (self.module("w.")?, self.queue()?);
        let settings = LightlyV3 {
            queue_size: QueueSize::Rows(self.number("queue_size")? as usize),
            temperature_global: self.number("temperature_global")?,
            temperature_local: self.number("temperature_local")?,
            loss_local_weight: self.number("loss_local_weight")?,
        };
        let found = self.together(|s, t| {
            lightly_v3([s[0], s[1]], [t[0], t[1]], &module, &mut queue, &settings)
        })?;
        Ok(found.output("queue", queue.rows().clone()))
    }

    fn crd(&self) -> Result<Computed> {
        let mut memory = crd::Bank::of(&self.tensor("c.memory_s")?, &self.tensor("c.memory_t")?)?;
        if self.case.hyperparameters["Z_given"] == true {
            let z: [f64; 2] = serde_json::from_value(self.case.hyperparameters["Z"].clone())?;
            memory.log_normalizers = Some(z.map(f64::ln));
        }
        let indices: Vec<usize> = self
            .case
            .tensor("c.contrast_index")?
            .flatten_all()?
            .to_vec1::<i64>()?
            .into_iter()
            .map(|i| i as usize)
            .collect();
        let options =
            crd::CrdOptions { temperature: self.number("nce_t")?, momentum: self.number("nce_m")? };
        let module = self.module("w.")?;
        let found = crd::crd(
            &self.tensor("s")?,
            &self.tensor("t")?,
            &module,
            &mut memory,
            &indices,
            options,
        )?;
        let [memory_s, memory_t] = memory.tensors()?;
        let z: Vec<f64> = memory.log_normalizers.ok_or("no normalizers")?.map(f64::exp).to_vec();
        let z = Tensor::new(z, &candle_core::Device::Cpu)?;
        Ok(Computed::new(&["s"], found)
            .output("memory_s", memory_s)
            .output("memory_t", memory_t)
            .output("Z", z))
    }

    fn ofd(&self) -> Result<Computed> {
        let layers = self.layers()?.names.len();
        let margins: Vec<Tensor> =
            (0..layers).map(|l| self.tensor(&format!("c.margin.{l}"))).collect::<Result<_>>()?;
        let (module, weight) = (self.module("w.")?, self.number("feat_weight")?);
        let mut found = self.together(|s, t| {
            ofd::ofd(s, t, &margins.iter().collect::<Vec<_>>(), &module)?.scaled(weight)
        })?;
        for l in 0..layers {
            let bn = |what: &str| self.case.tensor(&format!("c.bn_{what}.{l}"));
            found
                .outputs
                .push((format!("c.margin.{l}"), ofd::margins(bn("weight")?, bn("bias")?)?));
        }
        Ok(found)
    }

    fn gates(&self) -> Result<Computed> {
        let (logits, noise, temperature) =
            (self.tensor("s")?, self.tensor("c.gumbel")?, self.number("temperature")?);
        let found =
            sakd::gates_pullback(&logits, &noise, temperature, &self.tensor("c.upstream")?)?;
        let gates = sakd::gates(&logits, &noise, temperature)?;
        let gumbel = sakd::gumbel(self.case.tensor("c.uniform")?)?;
        Ok(Computed::new(&["s"], found).output("gate", gates).output("gumbel_from_uniform", gumbel))
    }

    fn route(&self) -> Result<Computed> {
        let (s, t, a, module) =
            (self.tensor("s")?, self.tensor("t")?, self.tensor("a")?, self.module("w.")?);
        if s.rank() == 4 {
            Self::geometry(&self.case.hyperparameters["hint"], &s, &t)?;
            Self::geometry(&self.case.hyperparameters["anti_hint"], &t, &s)?;
        }
        let upstream = [&self.tensor("c.upstream_s")?, &self.tensor("c.upstream_t")?];
        let [to_s, to_t] = sakd::route(&s, &t, &a, &module)?;
        let found = sakd::route_pullback(&s, &t, &a, &module, upstream)?;
        Ok(Computed::new(&["s", "t", "a"], found).output("to_s", to_s).output("to_t", to_t))
    }

    /// The student's loss under gates: cross-entropy, NST at the maps' spots, KD at the last.
    fn spots(&self) -> Result<Computed> {
        let gates = self.case.tensor("c.gates")?;
        let column = |spot: usize| Ok::<_, Failure>(gates.narrow(1, spot, 1)?.flatten_all()?);
        let logits = self.tensor("s.logits")?;
        let ce: Evaluation = cross_entropy(&logits, &self.case.labels("labels")?, 0.0)?.into();
        let layers = self.layers()?;
        let temperature = self.number("T")?;
        let last = column(layers.names.len())?;
        let kl = sakd::gated(&logits, &self.tensor("t.logits")?, &last, |s, t, _| {
            kd(s, t, temperature)
        })?;
        let kl = kl.scaled(self.number("alpha")?)?;
        let mut found =
            Computed { loss: ce.value + kl.value, gradients: Vec::new(), outputs: Vec::new() };
        found.gradients.push(("s.logits".into(), (&ce.inputs[0] + &kl.inputs[0])?));
        let options = NstOptions::from(Kernel::Poly { degree: 2, constant: 0.0 });
        for (spot, ((name, s), t)) in
            layers.names.iter().zip(&layers.students).zip(&layers.teachers).enumerate()
        {
            let part =
                sakd::gated(s, t, &column(spot)?, |s, t, _| Ok(nst_with(s, t, &options)?.into()))?
                    .scaled(self.number("beta")?)?;
            found.loss += part.value;
            found.gradients.extend(Computed::new(&[name], part).gradients);
        }
        Ok(found)
    }

    fn nst_options(&self, method: &str) -> Result<Option<NstOptions>> {
        let header = &self.case.hyperparameters;
        let squared = Kernel::Poly { degree: 2, constant: 0.0 };
        if method == "nst_repdistiller" {
            return Ok(Some(squared.into()));
        }
        if method.starts_with("nst_rsqrt") {
            let teacher_term =
                header["teacher_term"].as_bool().ok_or("no hyperparameter teacher_term")?;
            return Ok(Some(NstOptions {
                kernel: squared,
                normalization: Normalization::Rsqrt,
                teacher_term,
            }));
        }
        if !method.starts_with("nst_") {
            return Ok(None);
        }
        let kernel = match header["kind"].as_str() {
            Some("linear") => Kernel::Linear,
            Some("poly") => Kernel::Poly { degree: self.power("d")?, constant: self.number("c")? },
            Some("gauss") => Kernel::Gauss {
                sigma: match header["sigma"].as_str() {
                    Some("auto_sample") => Sigma::AutoSample,
                    Some("auto_batch") => Sigma::AutoBatch,
                    Some(_) => return Ok(None),
                    None => Sigma::Fixed(self.number("sigma")?),
                },
            },
            _ => return Ok(None),
        };
        Ok(Some(kernel.into()))
    }
}
