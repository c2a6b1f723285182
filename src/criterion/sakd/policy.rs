//! The policy, and how it is trained without routes, from only what a cache holds of the teacher.

use super::{gates, policy_loss, weighted};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::relu;
use crate::criterion::math::init::Init;
use crate::criterion::math::module::{Layer, Module};
use crate::criterion::papers::cross_entropy::cross_entropy;
use crate::error::Result;
use candle_core::{DType, Tensor};
use candle_nn::Module as _;

/// Temperature and γ of the policy's training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyOptions {
    /// Temperature of the gates.
    pub temperature: f64,
    /// γ of [`policy_loss`].
    pub gamma: f64,
}

/// An untrained policy of two layers, `policy.0` and `policy.2`, from the two networks' vectors to
/// two logits per spot, with linear probes `probe_s.{spot}` and `probe_t.{spot}` for the spots that
/// are not the logits themselves.
///
/// `widths`: of the student's and the teacher's vector; `channels`: of both networks at each spot,
/// `None` at the logits.
///
/// # Errors
/// When a tensor cannot be created.
pub fn policy(
    widths: [usize; 2],
    hidden: usize,
    channels: &[Option<[usize; 2]>],
    classes: usize,
    seed: u64,
) -> Result<Module> {
    let mut init = Init::new(seed);
    init.layer("policy.0", &[hidden, widths[0] + widths[1]], Some(hidden))?;
    init.layer("policy.2", &[2 * channels.len(), hidden], Some(2 * channels.len()))?;
    for (spot, [student, teacher]) in
        channels.iter().enumerate().filter_map(|(spot, channels)| Some((spot, (*channels)?)))
    {
        init.layer(&format!("probe_s.{spot}"), &[classes, student], Some(classes))?;
        init.layer(&format!("probe_t.{spot}"), &[classes, teacher], Some(classes))?;
    }
    init.finish()
}

/// The policy's logits.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`; result `[batch, spots, 2]`.
///
/// # Errors
/// When the module does not fit.
pub fn policy_scores(module: &Module, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let both = Tensor::cat(
        &[student.flatten_from(1)?, teacher.to_dtype(student.dtype())?.flatten_from(1)?],
        1,
    )?;
    let hidden = relu(&module.at("policy.0").linear(&both)?.forward(&both)?)?;
    let scores = module.at("policy.2").linear(&hidden)?.forward(&hidden)?;
    Ok(scores.reshape((both.dim(0)?, (), 2))?)
}

/// The gradients of `Σ upstream · gates` with respect to the module: how a policy learns from the
/// routes that its gates chose.
///
/// # Shapes
/// `vectors` of student and teacher, `[batch, …]`; `noise` `[batch, spots, 2]`; `upstream`
/// `[batch, spots]`.
///
/// # Errors
/// When shapes disagree.
pub fn policy_pullback(
    module: &Module,
    vectors: &[Tensor; 2],
    noise: &Tensor,
    temperature: f64,
    upstream: &Tensor,
) -> Result<Evaluation> {
    differentiate(&[], Some(module), |_| {
        weighted(
            &gates(&policy_scores(module, &vectors[0], &vectors[1])?, noise, temperature)?,
            upstream,
        )
    })
}

/// Trains a policy where no network can be routed through: the mean over the spots of
/// [`policy_loss`], with linear probes of the pooled maps in place of the rest of either network,
/// plus the probes' own cross-entropy. At the logits, which have no probes, this is the published
/// loss. Gradients are with respect to the module alone; the value is that of the policy.
///
/// # Shapes
/// `vectors` and each of `spots` of student and teacher, `[batch, …]`; `noise`
/// `[batch, spots, 2]`; `labels` one per sample.
///
/// # Errors
/// When shapes disagree or a label is outside the classes.
pub fn policy_step(
    module: &Module,
    vectors: &[Tensor; 2],
    spots: &[[Tensor; 2]],
    noise: &Tensor,
    labels: &[i64],
    options: PolicyOptions,
) -> Result<Evaluation> {
    let mut value = 0.0;
    let mut found = differentiate(&[], Some(module), |_| {
        let gate =
            gates(&policy_scores(module, &vectors[0], &vectors[1])?, noise, options.temperature)?;
        let mut sum = Tensor::zeros((), DType::F64, gate.device())?;
        for (spot, [student, teacher]) in spots.iter().enumerate() {
            let [s, t] = [("probe_s", student), ("probe_t", teacher)]
                .map(|(side, x)| probed(&module.at(format!("{side}.{spot}")), x));
            let (s, t) = (s?, t?);
            let column = gate.narrow(1, spot, 1)?.flatten_all()?;
            let (plain_s, plain_t) = (s.detach(), t.detach());
            let routed = policy_loss(
                [&plain_s, &plain_t, &plain_s],
                &column.detach(),
                labels,
                options.gamma,
            )?;
            value += routed.value / count(spots.len());
            sum = (sum + (weighted(&column, &routed.inputs[2])? * (1.0 / count(spots.len())))?)?;
            for logits in [&s, &t] {
                let loss = cross_entropy(&logits.detach(), labels, 0.0)?;
                sum = (sum + weighted(logits, &loss.gradient)?)?;
            }
        }
        Ok(sum)
    })?;
    found.value = value;
    Ok(found)
}

/// The logits of a spot: its probe applied to the pooled map, or the spot itself if it has no
/// probe.
fn probed(probe: &Layer<'_>, x: &Tensor) -> Result<Tensor> {
    if !probe.has("weight") {
        return Ok(x.clone());
    }
    let pooled = if x.rank() > 2 { x.flatten_from(2)?.mean(2)? } else { x.clone() };
    Ok(probe.linear(&pooled)?.forward(&pooled)?)
}

#[cfg(test)]
mod tests {
    use super::super::gumbel;
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, tensor};
    use candle_core::Device;

    #[test]
    fn a_policy_learns_where_the_teacher_knows_more() {
        // at spot 0 the teacher's vector determines the class, at spot 1 the student's
        let labels: Vec<i64> = (0..16).map(|i| i % 2).collect();
        let telling: Vec<f64> =
            labels.iter().flat_map(|&y| if y == 0 { [6.0, -6.0] } else { [-6.0, 6.0] }).collect();
        let telling = Tensor::from_vec(telling, (16, 2), &Device::Cpu).unwrap();
        let silent = tensor(&[16, 2], 3);
        let vectors = [tensor(&[16, 3], 1), tensor(&[16, 4], 2)];
        let spots = [[silent.clone(), telling.clone()], [telling, silent]];
        let module = policy([3, 4], 8, &[None, None], 2, 1).unwrap().to_dtype(DType::F64).unwrap();
        let options = PolicyOptions { temperature: 1.0, gamma: 1.0 };
        let rate = |module: &Module| {
            let scores = policy_scores(module, &vectors[0], &vectors[1])
                .unwrap()
                .mean(0)
                .unwrap()
                .to_vec2::<f64>()
                .unwrap();
            [scores[0][0] - scores[0][1], scores[1][0] - scores[1][1]]
        };
        for step in 0..60u32 {
            let noise = gumbel(&(tensor(&[16, 2, 2], 10 + step) + 0.5).unwrap()).unwrap();
            let found = policy_step(&module, &vectors, &spots, &noise, &labels, options).unwrap();
            assert_finite(&found);
            for ((_, variable), (_, gradient)) in module.variables().zip(&found.weights) {
                variable.set(&(variable.as_tensor() - (gradient * 0.2).unwrap()).unwrap()).unwrap();
            }
        }
        let [first, second] = rate(&module);
        assert!(first > second + 0.5, "{first} {second}");
    }

    #[test]
    fn probes_stand_for_what_follows_a_map() {
        let labels = [0, 1, 1, 2];
        let vectors = [tensor(&[4, 3], 1), tensor(&[4, 4], 2)];
        let spots = [
            [tensor(&[4, 5, 2, 2], 3), tensor(&[4, 6, 3, 3], 4)],
            [tensor(&[4, 3], 5), tensor(&[4, 3], 6)],
        ];
        let module =
            policy([3, 4], 8, &[Some([5, 6]), None], 3, 1).unwrap().to_dtype(DType::F64).unwrap();
        let noise = gumbel(&(tensor(&[4, 2, 2], 7) + 0.5).unwrap()).unwrap();
        let options = PolicyOptions { temperature: 5.0, gamma: 2.0 };
        let found = policy_step(&module, &vectors, &spots, &noise, &labels, options).unwrap();
        // the probes learn the labels: their gradients are those of their cross-entropy
        for (name, probe) in [("probe_s.0", &spots[0][0]), ("probe_t.0", &spots[0][1])] {
            let expected = differentiate(&[], Some(&module), |_| {
                let logits = probed(&module.at(name), probe)?;
                let loss = cross_entropy(&logits.detach(), &labels, 0.0)?;
                weighted(&logits, &loss.gradient)
            });
            for ((name_a, a), (_, b)) in found
                .weights
                .iter()
                .zip(&expected.unwrap().weights)
                .filter(|((n, _), _)| n.starts_with(name))
            {
                let off =
                    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(off < 1e-12, "{name_a}: {off}");
            }
        }
        assert!(
            policy_step(&module, &vectors, &spots[..1], &noise, &labels[..2], options).is_err()
        );
    }
}
