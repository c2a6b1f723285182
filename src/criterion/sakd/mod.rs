//! Spot-adaptive knowledge distillation (Song et al. 2022, arXiv:2205.02399): the parts that are
//! functions of tensors.
//!
//! A policy gives two logits for each sample and spot; Gumbel noise and a straight-through softmax
//! turn them into a gate. The gates choose which samples a criterion sees, and mix the two
//! networks' maps into the routes by which the policy is trained. In the authors' code the default
//! temperature is 5 and γ is the weight of the label loss.

mod policy;

pub use policy::{PolicyOptions, policy, policy_pullback, policy_scores, policy_step};

use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::{Evaluation, Loss};
use crate::criterion::math::formula::{relu, rows};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::{Layer, Module, regressor_between};
use crate::criterion::math::tensor::{rows_and_classes, same_shape, values};
use crate::error::{Error, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::Module as _;

/// Keeps the noise's logarithms finite.
const EPS: f64 = 1e-20;

/// Gumbel noise `−ln(−ln(u + 1e-20) + 1e-20)`, in double precision.
///
/// # Shapes
/// `uniform`, with values in [0, 1], and the result have the same shape, which can be any.
///
/// # Errors
/// When the result cannot be computed.
pub fn gumbel(uniform: &Tensor) -> Result<Tensor> {
    let inner = (uniform.to_dtype(DType::F64)? + EPS)?.log()?.neg()?;
    Ok((inner + EPS)?.log()?.neg()?)
}

/// The gates: 1 where the first choice of `y = softmax((logits + noise)/T)` is at least as large as
/// the second, else 0; their gradient is that of y₀ (Jang et al. 2017, arXiv:1611.01144).
///
/// # Shapes
/// `logits`, `noise` `[batch, spots, 2]`; result `[batch, spots]`.
///
/// # Errors
/// When the shapes disagree.
pub fn gates(logits: &Tensor, noise: &Tensor, temperature: f64) -> Result<Tensor> {
    same_shape(logits, noise, "sakd gates")?;
    if logits.dims().last() != Some(&2) {
        return Err(Error::input(format!(
            "sakd gates: expected [batch, spots, 2], found {:?}",
            logits.dims()
        )));
    }
    let scores = ((logits + noise.to_dtype(logits.dtype())?)? * (1.0 / temperature))?;
    let odds =
        (scores.narrow(D::Minus1, 0, 1)? - scores.narrow(D::Minus1, 1, 1)?)?.squeeze(D::Minus1)?;
    // a softmax over two is the sigmoid of their difference
    let soft = crate::criterion::math::formula::sigmoid(&odds)?;
    let hard = odds.detach().ge(0.0)?.to_dtype(soft.dtype())?;
    Ok((hard + (&soft - soft.detach())?)?)
}

/// The gradient of `Σ upstream · gates` with respect to the logits.
///
/// # Shapes
/// As [`gates`]; `upstream` `[batch, spots]`.
///
/// # Errors
/// As [`gates`].
pub fn gates_pullback(
    logits: &Tensor,
    noise: &Tensor,
    temperature: f64,
    upstream: &Tensor,
) -> Result<Evaluation> {
    differentiate(&[logits], None, |x| weighted(&gates(&x[0], noise, temperature)?, upstream))
}

/// The inputs of the next stages, `[to the student's, to the teacher's]`:
/// `(1−a)·s + a·anti_hint(t)` and `(1−a)·hint(s) + a·t`. The adapters `hint` and
/// `anti_hint` are regressors with ReLU for maps, applied to the whole batch whatever the gates
/// are, and linear layers for vectors.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]` or `[batch, width_s]`, `teacher` likewise;
/// `gate` `[batch]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn route(
    student: &Tensor,
    teacher: &Tensor,
    gate: &Tensor,
    adapters: &Module,
) -> Result<[Tensor; 2]> {
    let mut axes = vec![1; student.rank()];
    axes[0] = gate.elem_count();
    let gate = gate.to_dtype(student.dtype())?.reshape(axes)?;
    let mix = |own: &Tensor, adapted: &Tensor, share: &Tensor| -> Result<Tensor> {
        same_shape(own, adapted, "sakd route")?;
        // own·share + adapted·(1 − share)
        Ok((own.broadcast_mul(share)? + adapted.broadcast_mul(&share.affine(-1.0, 1.0)?)?)?)
    };
    let to_student = mix(
        student,
        &adapt(&adapters.at("anti_hint"), teacher, student)?,
        &gate.affine(-1.0, 1.0)?,
    )?;
    let to_teacher = mix(teacher, &adapt(&adapters.at("hint"), student, teacher)?, &gate)?;
    Ok([to_student, to_teacher])
}

fn adapt(layer: &Layer<'_>, x: &Tensor, like: &Tensor) -> Result<Tensor> {
    match (x.dims(), like.dims()) {
        (&[_, _, h, w], &[_, _, to_h, to_w]) => {
            relu(&layer.regress(x, regressor_between([h, w], [to_h, to_w])?.1)?)
        }
        (&[_, _], &[_, _]) => Ok(layer.linear(x)?.forward(x)?),
        (from, to) => Err(Error::input(format!(
            "sakd route: expected two maps or two vectors, found {from:?} and {to:?}"
        ))),
    }
}

/// The gradients of `Σ upstream_s · to_student + Σ upstream_t · to_teacher` with respect to
/// student, teacher, gate (in this order) and adapters.
///
/// # Shapes
/// As [`route`]; each upstream has the shape of that network's own tensor.
///
/// # Errors
/// As [`route`].
pub fn route_pullback(
    student: &Tensor,
    teacher: &Tensor,
    gate: &Tensor,
    adapters: &Module,
    [upstream_s, upstream_t]: [&Tensor; 2],
) -> Result<Evaluation> {
    differentiate(&[student, teacher, gate], Some(adapters), |x| {
        let [to_student, to_teacher] = route(&x[0], &x[1], &x[2], adapters)?;
        Ok((weighted(&to_student, upstream_s)? + weighted(&to_teacher, upstream_t)?)?)
    })
}

/// Σ x·weight in double precision.
fn weighted(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    same_shape(x, weight, "sakd: upstream gradient")?;
    crate::criterion::math::formula::total(
        &(x.to_dtype(DType::F64)? * weight.to_dtype(DType::F64)?)?,
    )
}

/// Untrained adapters between tensors `[channels, height, width]` or `[width]`.
///
/// # Errors
/// When there is no adapter between these shapes.
pub fn adapters(student: &[usize], teacher: &[usize], seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    for (name, from, to) in [("hint", student, teacher), ("anti_hint", teacher, student)] {
        match (from, to) {
            (&[c, h, w], &[to_c, to_h, to_w]) => {
                init.regressor(name, [c, h, w], [to_c, to_h, to_w])?;
            }
            (&[from], &[to]) => init.layer(name, &[to, from], Some(to))?,
            _ => {
                return Err(Error::input(format!(
                    "sakd route: expected two maps or two vectors, found {from:?} and {to:?}"
                )));
            }
        }
    }
    init.finish()
}

/// The policy's loss: `l + max(0, B/2 − Σ_b a_b)` with `z_b = (1−a_b) s_b + a_b t_b`,
/// `l = CE(z, y)`, `own = CE(plain, y)`; if l > own then `l ← γ·l`; then, if l < own,
/// `l ← l/γ`. Gradients with respect to student, teacher and gate, in this order. Computed in
/// double precision.
///
/// # Shapes
/// `student`, `teacher` (the routes' last outputs), `plain` (the student's own logits, without
/// gradient) `[batch, classes]`; `gate` `[batch]`.
///
/// # Errors
/// When shapes disagree or a label is outside the classes.
pub fn policy_loss(
    [student, teacher, plain]: [&Tensor; 3],
    gate: &Tensor,
    labels: &[i64],
    gamma: f64,
) -> Result<Evaluation> {
    let (batch, _) = rows_and_classes(student, "sakd policy")?;
    same_shape(student, teacher, "sakd policy")?;
    same_shape(student, plain, "sakd policy")?;
    let own = crate::criterion::papers::cross_entropy::cross_entropy(plain, labels, 0.0)?.value;
    differentiate(&[student, teacher, gate], None, |x| {
        let gate = x[2].to_dtype(DType::F64)?.reshape((batch, 1))?;
        let [s, t] = [rows(&x[0], "sakd policy")?, rows(&x[1], "sakd policy")?];
        let z = (s.broadcast_mul(&gate.affine(-1.0, 1.0)?)? + t.broadcast_mul(&gate)?)?;
        let Loss { value, gradient } =
            crate::criterion::papers::cross_entropy::cross_entropy(&z.detach(), labels, 0.0)?;
        let mut factor = if value > own { gamma } else { 1.0 };
        if value * factor < own {
            factor /= gamma;
        }
        // a term of value 0 carries the label loss's gradient to z
        let carrier = (&z * gradient)?.sum_all()?;
        let routed = ((&carrier - carrier.detach())? + value)?;
        let penalty = relu(&gate.sum_all()?.affine(-1.0, 0.5 * count(batch))?)?;
        Ok(((routed * factor)? + penalty)?)
    })
}

/// A criterion over the samples that a spot selects, times their share of the batch; 0 if it
/// selects none. With every sample selected the result is the criterion's own, bit for bit.
/// `criterion` receives the selected rows of both tensors, and their indices.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`; `gate` one per sample, selecting above ½.
///
/// # Errors
/// When shapes disagree, or the criterion fails.
pub fn gated(
    student: &Tensor,
    teacher: &Tensor,
    gate: &Tensor,
    criterion: impl FnOnce(&Tensor, &Tensor, &[u32]) -> Result<Evaluation>,
) -> Result<Evaluation> {
    let batch = crate::criterion::math::formula::same_batch(student, teacher, "sakd")?;
    let gate = values::<f64>(gate)?;
    if gate.len() != batch {
        return Err(Error::input(format!(
            "sakd: expected a gate a sample of {batch}, found {}",
            gate.len()
        )));
    }
    let selected: Vec<u32> =
        (0u32..).zip(&gate).filter(|(_, g)| **g > 0.5).map(|(i, _)| i).collect();
    if selected.len() == batch {
        return criterion(student, teacher, &selected);
    }
    let zero = student.zeros_like()?;
    if selected.is_empty() {
        return Ok(Evaluation { value: 0.0, inputs: vec![zero], weights: Vec::new() });
    }
    let share = count(selected.len()) / count(batch);
    let rows = Tensor::new(selected.as_slice(), student.device())?;
    let chosen = |x: &Tensor| -> Result<Tensor> { Ok(x.contiguous()?.index_select(&rows, 0)?) };
    let mut found = criterion(&chosen(student)?, &chosen(teacher)?, &selected)?.scaled(share)?;
    for gradient in &mut found.inputs {
        *gradient = zero.index_add(&rows, gradient, 0)?;
    }
    Ok(found)
}

/// [`gated`] for a criterion over several layers.
///
/// # Errors
/// As [`gated`].
pub fn gated_layers(
    students: &[Tensor],
    teachers: &[&Tensor],
    gate: &Tensor,
    criterion: impl FnOnce(&[Tensor], &[Tensor], &[u32]) -> Result<Evaluation>,
) -> Result<Evaluation> {
    let gate = values::<f64>(gate)?;
    let selected: Vec<u32> =
        (0u32..).zip(&gate).filter(|(_, g)| **g > 0.5).map(|(i, _)| i).collect();
    if selected.len() == gate.len() {
        let teachers: Vec<Tensor> = teachers.iter().map(|&t| t.clone()).collect();
        return criterion(students, &teachers, &selected);
    }
    let zeros = students.iter().map(|x| Ok(x.zeros_like()?)).collect::<Result<Vec<Tensor>>>()?;
    if selected.is_empty() {
        return Ok(Evaluation { value: 0.0, inputs: zeros, weights: Vec::new() });
    }
    let rows = Tensor::new(selected.as_slice(), &Device::Cpu)?;
    let chosen = |x: &Tensor| -> Result<Tensor> { Ok(x.contiguous()?.index_select(&rows, 0)?) };
    let students = students.iter().map(chosen).collect::<Result<Vec<_>>>()?;
    let teachers = teachers.iter().map(|t| chosen(t)).collect::<Result<Vec<_>>>()?;
    let share = count(selected.len()) / count(gate.len());
    let mut found = criterion(&students, &teachers, &selected)?.scaled(share)?;
    for (gradient, zero) in found.inputs.iter_mut().zip(zeros) {
        *gradient = zero.index_add(&rows, gradient, 0)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::papers::at::at;

    #[test]
    fn gates_are_hard_in_value_and_soft_in_gradient() {
        let logits =
            Tensor::new(&[[[2.0f64, -1.0], [0.0, 0.0]], [[-3.0, 4.0], [1e6, -1e6]]], &Device::Cpu)
                .unwrap();
        let noise = gumbel(&Tensor::full(0.5, (2, 2, 2), &Device::Cpu).unwrap()).unwrap();
        assert_eq!(
            gates(&logits, &noise, 5.0).unwrap().to_vec2::<f64>().unwrap(),
            [[1.0, 1.0], [0.0, 1.0]]
        );
        let upstream = tensor(&[2, 2], 1);
        let found = gates_pullback(&logits, &noise, 5.0, &upstream).unwrap();
        assert_finite(&found);
        // the gradient of the soft gate, y0 (1 − y0)/T
        let y = 1.0 / (1.0 + (-3.0f64 / 5.0).exp());
        let expected = upstream.to_vec2::<f64>().unwrap()[0][0] * y * (1.0 - y) / 5.0;
        let gradient = found.inputs[0].to_vec3::<f64>().unwrap();
        assert!(
            (gradient[0][0][0] - expected).abs() < 1e-12
                && (gradient[0][0][1] + expected).abs() < 1e-12
        );
        // u = 0 and u = 1 are finite
        assert_finite(
            &gates_pullback(
                &logits,
                &gumbel(&logits.ones_like().unwrap()).unwrap(),
                5.0,
                &upstream,
            )
            .unwrap(),
        );
        assert_finite(
            &gates_pullback(
                &logits,
                &gumbel(&logits.zeros_like().unwrap()).unwrap(),
                5.0,
                &upstream,
            )
            .unwrap(),
        );
    }

    #[test]
    fn routes_match_finite_differences() {
        let gate = Tensor::new(&[0.3f64, 1.0, 0.0], &Device::Cpu).unwrap();
        for (student, teacher) in [
            (&[2, 4, 6][..], &[3, 2, 3][..]),
            (&[2, 3, 3], &[2, 3, 3]),
            (&[2, 2, 3], &[1, 5, 3]),
            (&[4], &[3]),
        ] {
            let batched = |shape: &[usize], seed| tensor(&[&[3], shape].concat(), seed);
            let (s, t) = (batched(student, 1), batched(teacher, 2));
            let upstream = [&batched(student, 3), &batched(teacher, 4)];
            assert_gradients(&[&s, &t, &gate], &adapters(student, teacher, 1).unwrap(), |x, m| {
                route_pullback(x[0], x[1], x[2], m, upstream)
            });
        }
    }

    #[test]
    fn the_policy_loss_matches_finite_differences() {
        let [s, t, plain] = [1, 2, 3].map(|seed| (tensor(&[4, 3], seed) * 4.0).unwrap());
        for gates in [[0.3f64, 1.0, 0.0, 0.2], [0.9, 1.0, 0.8, 0.7]] {
            let gate = Tensor::new(&gates, &Device::Cpu).unwrap();
            assert_gradients(&[&s, &t, &gate], &Module::default(), |x, _| {
                policy_loss([x[0], x[1], &plain], x[2], &[0, 2, 1, 1], 2.0)
            });
        }
    }

    #[test]
    fn layers_that_join_are_selected_together() {
        let (s, t) = (
            [tensor(&[3, 2, 4, 4], 1), tensor(&[3, 2, 2, 2], 2)],
            [tensor(&[3, 2, 4, 4], 3), tensor(&[3, 2, 2, 2], 4)],
        );
        let teachers: Vec<&Tensor> = t.iter().collect();
        let run = |gates: [f64; 3], x: &[&Tensor]| {
            let students: Vec<Tensor> = x.iter().map(|&x| x.clone()).collect();
            gated_layers(
                &students,
                &teachers,
                &Tensor::new(&gates, &Device::Cpu).unwrap(),
                |s, t, _| {
                    crate::criterion::papers::fsp::fsp(
                        &s.iter().collect::<Vec<_>>(),
                        &t.iter().collect::<Vec<_>>(),
                    )
                },
            )
        };
        let both = [&s[0], &s[1]];
        assert_gradients(&both, &Module::default(), |x, _| run([0.0, 1.0, 1.0], x));
        assert_zero(&run([0.0; 3], &both).unwrap(), 0.0);
        let plain = crate::criterion::papers::fsp::fsp(&both, &teachers).unwrap();
        assert_eq!(run([1.0; 3], &both).unwrap().value.to_bits(), plain.value.to_bits());
    }

    #[test]
    fn a_spot_sees_what_it_selects() {
        let (s, t) = (tensor(&[3, 2, 3, 3], 1), tensor(&[3, 4, 3, 3], 2));
        let with = |gates: [f64; 3], s: &Tensor| {
            gated(s, &t, &Tensor::new(&gates, &Device::Cpu).unwrap(), |s, t, _| at(s, t, 2))
        };
        let plain = at(&s, &t, 2).unwrap();
        let all = with([1.0; 3], &s).unwrap();
        assert_eq!(all.value.to_bits(), plain.value.to_bits());
        assert_zero(&with([0.0; 3], &s).unwrap(), 0.0);
        assert_gradients(&[&s], &Module::default(), |x, _| with([1.0, 0.0, 1.0], x[0]));
        assert!(
            gated(&s, &t, &Tensor::new(&[1.0f64], &Device::Cpu).unwrap(), |s, t, _| at(s, t, 2))
                .is_err()
        );
    }
}
