//! A pair of tensors brought to one shape: pooled where the sizes of maps differ, and, if a
//! criterion's setting `projector` asks for it, led to the teacher's channels by a linear layer
//! that is trained with the student.

use super::chain::{self, Link};
use super::convolution::Geometry;
use super::evaluation::Evaluation;
use super::formula::common_size;
use super::init::Init;
use super::module::Module;
use super::operator::adaptive_pool_gradient;
use super::tensor::{dense, same_shape};
use crate::criterion::contract::{Setup, Shapes};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// The layer's name in a module.
pub(crate) const NAME: &str = "projector";

/// The axis of the channels of a tensor of this rank: 1 of vectors `[batch, channels]`, of maps
/// `[batch, channels, height, width]` and of volumes, the last of tokens `[batch, positions,
/// channels]`.
pub(crate) fn channel_axis(rank: usize) -> usize {
    if rank == 3 { 2 } else { 1 }
}

/// For each layer a projector, `projector.weight` `[channels_t, channels_s]` and `projector.bias`
/// `[channels_t]`, if `learned`, else a module without weights.
///
/// # Errors
/// When the tensors of a pair differ in kind or in positions, or, without a projector, in channels.
pub(crate) fn projectors(setup: &Setup<'_>, learned: bool) -> Result<Vec<Module>> {
    setup.modules(|shapes, seed| {
        let [student, teacher] = channels(shapes)?;
        if !learned && student != teacher {
            return Err(Error::input(format!(
                "channels: expected {teacher} of the student as of the teacher, found {student}"
            ))
            .hint("let a linear layer between them be learned: projector=true"));
        }
        let mut init = Init::new(seed);
        if learned {
            init.layer(NAME, &[teacher, student], Some(teacher))?;
        }
        init.finish()
    })
}

/// The channels of student and teacher.
fn channels(shapes: &Shapes<'_>) -> Result<[usize; 2]> {
    let (student, teacher) = (shapes.student, shapes.teacher);
    // a row lacks the batch axis
    let axis = channel_axis(student.len() + 1) - 1;
    let others = |shape: &[usize]| [&shape[..axis], &shape[axis + 1..]].concat();
    let misfit = || {
        Error::input(format!(
            "expected two vectors, two maps, or tokens of as many positions, found {student:?} of \
             the student and {teacher:?} of the teacher"
        ))
    };
    if student.is_empty() || student.len() != teacher.len() {
        return Err(misfit());
    }
    // maps are pooled
    if student.len() != 3 && others(student) != others(teacher) {
        return Err(misfit());
    }
    Ok([student[axis], teacher[axis]])
}

/// The loss of a pair in one shape, with the gradients of the student's tensor and of the
/// projector, if the module has one: maps are first adaptively average-pooled, each axis to the
/// smaller of both sizes, then the student's channels projected ([`channel_axis`]).
///
/// # Shapes
/// `student` and `teacher` as in [`channel_axis`], or of any one shape without a projector; `loss`
/// gets two tensors of one shape, the teacher's as stored unless it is pooled.
///
/// # Errors
/// When the shapes disagree.
pub(crate) fn compare(
    student: &Tensor,
    teacher: &Tensor,
    module: &Module,
    who: &str,
    loss: impl FnOnce(&Tensor, &Tensor) -> Result<Evaluation>,
) -> Result<Evaluation> {
    let s = dense(&student.detach())?;
    let (&[_, _, height, width], &[_, _, _, _]) = (s.dims(), teacher.dims()) else {
        return project(&s, teacher, module, who, loss);
    };
    let (s, t) = common_size(&s, teacher, who)?;
    project(&s, &t, module, who, loss)?.through(|g| Ok(adaptive_pool_gradient(g, [height, width])?))
}

/// The same for tensors that differ in channels at most.
fn project(
    s: &Tensor,
    t: &Tensor,
    module: &Module,
    who: &str,
    loss: impl FnOnce(&Tensor, &Tensor) -> Result<Evaluation>,
) -> Result<Evaluation> {
    let checked = |s: &Tensor| {
        same_shape(s, t, who)?;
        loss(s, t)
    };
    if !module.at(NAME).has("weight") {
        return checked(s);
    }
    let axis = channel_axis(s.rank());
    let maps = match *s.dims() {
        [_, _, _, _] => s.clone(),
        [.., channels] if s.rank() == axis + 1 => s.reshape(((), channels, 1, 1))?,
        [batch, channels, ref positions @ ..] => {
            s.reshape((batch, channels, positions.iter().product::<usize>(), 1))?
        }
        ref other => {
            return Err(Error::internal(format!("{who}: a projector of {other:?}")));
        }
    };
    let links = [Link::Convolution(NAME.to_owned(), Geometry::padded(0))];
    let found = chain::differentiate(module, &links, &maps, true, |y| {
        let mut shape = s.dims().to_vec();
        shape[axis] = y.dim(1)?;
        checked(&y.reshape(shape)?)?.through(|g| Ok(g.reshape(y.shape())?))
    })?;
    found.through(|g| Ok(g.reshape(s.shape())?))
}

#[cfg(test)]
mod tests {
    use super::super::autograd::tests::{assert_gradients, tensor};
    use super::*;
    use crate::criterion::math::pointwise::pointwise;

    fn projector(student: usize, teacher: usize) -> Module {
        let mut init = Init::new(1);
        init.layer(NAME, &[teacher, student], Some(teacher)).unwrap();
        init.finish().unwrap()
    }

    fn square(s: &Tensor, t: &Tensor) -> Result<Evaluation> {
        pointwise(s, t, "test", |s, t| ((s - t) * (s - t), 2.0 * (s - t)))
    }

    #[test]
    fn gradients_of_vectors_tokens_maps_and_volumes_match_finite_differences() {
        for (student, teacher) in [
            (&[3, 4][..], &[3, 2][..]),
            (&[2, 3, 4], &[2, 3, 2]),
            (&[2, 4, 3, 5], &[2, 2, 4, 3]),
            (&[2, 4, 2, 2], &[2, 2, 2, 2]),
            (&[2, 4, 2, 1, 3], &[2, 2, 2, 1, 3]),
        ] {
            let (s, t) = (tensor(student, 1), tensor(teacher, 2));
            assert_gradients(&[&s], &projector(4, 2), |x, m| compare(x[0], &t, m, "test", square));
        }
    }

    #[test]
    fn a_linear_layer_by_hand() {
        let weights = [("projector.weight", &[2.0, -1.0][..]), ("projector.bias", &[0.5][..])];
        let module = Module::new(weights.map(|(name, values)| {
            let shape = if values.len() == 2 { vec![1, 2] } else { vec![1] };
            (name.to_owned(), Tensor::new(values, s_device()).unwrap().reshape(shape).unwrap())
        }))
        .unwrap();
        // tokens: 2·3 − 4 + 0.5 = 2.5 and 2·1 − 1 + 0.5 = 1.5
        let s = Tensor::new(&[[[3.0, 4.0], [1.0, 1.0]]], s_device()).unwrap();
        let t = Tensor::new(&[[[0.5], [1.5]]], s_device()).unwrap();
        let found = compare(&s, &t, &module, "test", square).unwrap();
        assert!((found.value - 2.0).abs() < 1e-12, "{}", found.value);
        // d/ds = 2·(2.5 − 0.5)/2 · (2, −1)
        let gradient = found.inputs[0].flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(gradient, [4.0, -2.0, 0.0, 0.0]);
    }

    fn s_device() -> &'static candle_core::Device {
        &candle_core::Device::Cpu
    }

    #[test]
    fn other_channels_positions_and_kinds_are_refused() {
        let of = |student: &[usize], teacher: &[usize]| {
            channels(&Shapes { student, teacher }).map_err(|e| e.to_string())
        };
        assert_eq!(of(&[4], &[2]), Ok([4, 2]));
        assert_eq!(of(&[9, 4], &[9, 2]), Ok([4, 2]));
        assert_eq!(of(&[4, 8, 8], &[2, 4, 9]), Ok([4, 2]));
        for (student, teacher) in [(&[4][..], &[4, 1, 1][..]), (&[9, 4], &[8, 4]), (&[], &[])] {
            assert!(of(student, teacher).unwrap_err().contains("found"), "{student:?}");
        }
        let (s, t) = (tensor(&[2, 3], 1), tensor(&[2, 4], 2));
        assert!(compare(&s, &t, &Module::default(), "test", square).is_err());
        assert!(compare(&s, &t, &projector(3, 5), "test", square).is_err());
    }
}
