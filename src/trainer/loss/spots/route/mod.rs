//! Routes through student and teacher: both networks are cut at the spots, and at each spot a
//! sample continues with its own network's tensor or with the other's, converted by an adapter, as
//! its gate says. The label loss of the final outputs trains policy and adapters.
//!
//! The student's stages hold its parameters of the step, which the routed loss does not update;
//! they normalize with batch statistics and leave the running ones alone. The teacher's stages are
//! frozen and normalize with running statistics.

use super::Gradients;
use crate::array::Layout;
use crate::cache::Manifest;
use crate::criterion::math::module::Module;
use crate::criterion::sakd;
use crate::error::{Context, Error, Result};
use crate::student::{Mode, Stage, Student, TensorId};
use crate::trainer::pairing::Pair;
use candle_core::{Device, Tensor};

/// Both networks from each map to the next spot, and from the last one to the logits.
#[derive(Debug)]
pub(super) struct Route {
    /// The student's and the teacher's stages.
    stages: Vec<[Stage; 2]>,
}

/// What the end of a route is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge<'a> {
    /// The student's own logits, `[batch, classes]`.
    pub(super) plain: &'a Tensor,
    /// One label per sample.
    pub(super) labels: &'a [i64],
    /// γ of the policy's loss.
    pub(super) gamma: f64,
}

/// The result of a routed pass.
#[derive(Debug)]
pub(super) struct Routed {
    /// The policy's loss.
    pub(super) value: f64,
    /// Its gradients with respect to the gates of each spot.
    pub(super) gates: Vec<Tensor>,
    /// Its gradients with respect to the adapters of each map.
    pub(super) adapters: Gradients,
}

impl Route {
    /// Cuts both networks at the pairs, which must be in the student's order.
    ///
    /// # Errors
    /// When part of a network bypasses a tensor (names what does), the teacher's tensors are in a
    /// different order from the student's, or the cache holds a map in a different form from the
    /// graph's.
    pub(super) fn new(
        pairs: &[&Pair],
        student: &Student,
        teacher: &Student,
        manifest: &Manifest,
    ) -> Result<Self> {
        let end = match manifest
            .view_arrays
            .iter()
            .find(|array| array.path == "logits")
            .and_then(|array| array.tensor.as_deref())
        {
            Some(name) => find(teacher, name)?,
            None => teacher.logits(),
        };
        let inputs = teacher_inputs(teacher, manifest);
        let mut spots: Vec<(String, [TensorId; 2])> = Vec::new();
        for pair in pairs {
            let named = || format!("sakd exact: spot {}", pair.student);
            let tap = manifest
                .tap(&pair.teacher)
                .ok_or_else(|| Error::input(format!("tap {}: not in the cache", pair.teacher)))?;
            let theirs = find(teacher, &tap.tensor).context(named)?;
            check_form(pair, teacher, theirs, inputs.as_deref(), manifest).context(named)?;
            let own = student.tensor(&pair.student).ok_or_else(|| {
                Error::input(format!("tensor {}: not in the graph", pair.student))
            })?;
            spots.push((pair.student.clone(), [own, theirs]));
        }
        let ends =
            spots.iter().skip(1).map(|(_, tensors)| *tensors).chain([[student.logits(), end]]);
        let stage = |((name, from), to): (&(String, [TensorId; 2]), [TensorId; 2])| {
            let of = |graph: &Student, side: usize, whose: &str| {
                graph.stage(from[side], to[side]).map_err(|e| {
                    Error::input(format!(
                        "sakd exact: spot {name}: expected a tensor at which the {whose} can be \
                         cut"
                    ))
                    .because(e)
                    .hint(
                        "name pairs of tensors between blocks: --criterion \
                         'nst:pair=TEACHER>STUDENT', or use the cached mode",
                    )
                })
            };
            Ok([of(student, 0, "student")?, of(teacher, 1, "teacher")?])
        };
        Ok(Self { stages: spots.iter().zip(ends).map(stage).collect::<Result<_>>()? })
    }

    /// Takes a batch through both networks and differentiates the loss of the outputs,
    /// [`sakd::policy_loss`].
    ///
    /// # Shapes
    /// `first`: the student's and the teacher's tensor at the first spot, `[batch, …]`; `gates`:
    /// `[batch]` for each map and the logits.
    ///
    /// # Errors
    /// When shapes disagree or a label is outside the classes.
    pub(super) fn run(
        &self,
        first: [Tensor; 2],
        gates: &[&Tensor],
        adapters: &[&Module],
        judge: Judge<'_>,
        dropout_seed: u64,
    ) -> Result<Routed> {
        let Some((last, gates)) = gates
            .split_last()
            .filter(|(_, maps)| maps.len() == self.stages.len() && maps.len() == adapters.len())
        else {
            return Err(Error::input("sakd: expected a gate for each map and the logits"));
        };
        let [mut s, mut t] = first;
        let mut passed = Vec::with_capacity(self.stages.len());
        for (([student, teacher], gate), adapters) in self.stages.iter().zip(gates).zip(adapters) {
            let [to_student, to_teacher] = sakd::route(&s, &t, gate, adapters)?;
            let passes = [
                student.forward(&to_student, Mode::Train, dropout_seed)?,
                teacher.forward(&to_teacher, Mode::Eval, dropout_seed)?,
            ];
            let next = [
                passes[0].output()?.to_device(&Device::Cpu)?,
                passes[1].output()?.to_device(&Device::Cpu)?,
            ];
            passed.push(([s, t], *gate, *adapters, passes));
            [s, t] = next;
        }
        let end = sakd::policy_loss([&s, &t, judge.plain], last, judge.labels, judge.gamma)?;
        let [mut ds, mut dt, dlast] = three(end.inputs)?;
        let mut routed = Routed { value: end.value, gates: vec![dlast], adapters: Vec::new() };
        for ([s, t], gate, adapters, [student, teacher]) in passed.into_iter().rev() {
            let upstream = [
                student.backward(ds)?.to_device(&Device::Cpu)?,
                teacher.backward(dt)?.to_device(&Device::Cpu)?,
            ];
            let found = sakd::route_pullback(&s, &t, gate, adapters, [&upstream[0], &upstream[1]])?;
            let dgate;
            [ds, dt, dgate] = three(found.inputs)?;
            routed.gates.push(dgate);
            routed.adapters.push(found.weights);
        }
        routed.gates.reverse();
        routed.adapters.reverse();
        Ok(routed)
    }
}

/// Gradients with respect to student, teacher and gate.
fn three(gradients: Vec<Tensor>) -> Result<[Tensor; 3]> {
    gradients
        .try_into()
        .map_err(|_| Error::input("sakd: expected gradients by student, teacher and gate"))
}

fn find(teacher: &Student, name: &str) -> Result<TensorId> {
    teacher.tensor(name).ok_or_else(|| {
        Error::input(format!("teacher's tensor {name}: not in the graph that trains"))
    })
}

/// The input shapes for two of the teacher's samples; `None` if neither the cache nor the graph
/// states them.
fn teacher_inputs(teacher: &Student, manifest: &Manifest) -> Option<Vec<Vec<usize>>> {
    const BATCH: usize = 2;
    let sizes = |sizes: &[usize]| std::iter::once(BATCH).chain(sizes.iter().copied()).collect();
    if let Some(p) = &manifest.data.preprocess {
        let ([height, width], channels) = (p.size, p.channels.count());
        return Some(vec![match p.layout {
            Layout::Nchw => sizes(&[channels, height, width]),
            Layout::Nhwc => sizes(&[height, width, channels]),
        }]);
    }
    let stored = |name: &str| {
        let of_input = |path: &str| {
            path.strip_prefix("inputs/") == Some(name)
                || (path == "input" && teacher.inputs().len() == 1)
        };
        manifest
            .view_arrays
            .iter()
            .find(|array| of_input(&array.path))
            .map(|array| sizes(&array.row_shape))
    };
    teacher.inputs().iter().map(|input| stored(&input.name)).collect()
}

/// Rejects a map that the cache holds pooled or channels-last: the routes continue from the graph's
/// own form.
fn check_form(
    pair: &Pair,
    teacher: &Student,
    tensor: TensorId,
    inputs: Option<&[Vec<usize>]>,
    manifest: &Manifest,
) -> Result<()> {
    let nhwc = manifest.map(&pair.teacher).is_some_and(|map| map.layout == Layout::Nhwc);
    let found = match inputs {
        Some(inputs) => teacher.shape(tensor, inputs)?,
        None => None,
    };
    let same =
        found.as_ref().is_none_or(|shape| shape.get(1..) == Some(pair.teacher_shape.as_slice()));
    if same && !nhwc {
        return Ok(());
    }
    let found =
        found.map_or_else(|| "channels last".to_owned(), |shape| format!("{:?}", &shape[1..]));
    Err(Error::input(format!(
        "tap {}: expected {:?} of each sample in the teacher's graph, found {found}",
        pair.teacher, pair.teacher_shape
    ))
    .hint(
        "the exact mode takes maps [channels, height, width] as the graph has them, not pooled at \
         extraction",
    ))
}

#[cfg(test)]
mod tests;
